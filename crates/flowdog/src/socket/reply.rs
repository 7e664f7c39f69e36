//! Sockets to answer from: one per (local address, source port of the load balancer), bounded.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::config::ReplyMode;

/// The sockets that replies leave from.
#[derive(Debug)]
pub(crate) struct ReplySockets {
    bound: HashMap<(Ipv4Addr, u16), Slot>,
    limit: usize,
    send_buffer: usize,
    raw: Option<OwnedFd>,
    uses: u64,
    counters: ReplyCounters,
}

/// How the set of reply sockets fares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReplyCounters {
    /// Sockets opened.
    pub(crate) opened: u64,
    /// Sockets closed to make room for another.
    pub(crate) evicted: u64,
    /// Sockets that could not be bound.
    pub(crate) failed: u64,
}

/// What to send a reply with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'s> {
    /// A socket that has the right address and port.
    Bound(BorrowedFd<'s>),
    /// A raw socket: the caller writes the IPv4 and UDP headers.
    Raw(BorrowedFd<'s>),
}

#[derive(Debug)]
struct Slot {
    fd: OwnedFd,
    last_use: u64,
}

impl ReplySockets {
    /// Opens the raw socket where the mode wants one.
    ///
    /// # Errors
    /// When the mode is [`ReplyMode::Raw`] and the process may not have a raw socket.
    pub(crate) fn new(mode: ReplyMode, limit: usize, send_buffer: usize) -> io::Result<Self> {
        let raw = match mode {
            ReplyMode::Bound => None,
            ReplyMode::Auto => raw(send_buffer).ok(),
            ReplyMode::Raw => Some(raw(send_buffer)?),
        };
        Ok(Self {
            bound: HashMap::new(),
            limit: limit.max(1),
            send_buffer,
            raw,
            uses: 0,
            counters: ReplyCounters::default(),
        })
    }

    /// The way out for a reply from this address and port of ours.
    ///
    /// # Errors
    /// When there is no raw socket and the port cannot be had, because it is below 1024 and the
    /// process has no right to it or because another program has it.
    pub(crate) fn way(&mut self, local: Ipv4Addr, port: u16) -> io::Result<Way<'_>> {
        if self.raw.is_some() {
            return self
                .raw
                .as_ref()
                .map(|raw| Way::Raw(raw.as_fd()))
                .ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let key = (local, port);
        self.uses += 1;
        if !self.bound.contains_key(&key) {
            if self.bound.len() >= self.limit {
                self.evict();
            }
            let opened = self.open(local, port).or_else(|error| {
                // Out of descriptors: an old socket's place serves as well.
                if error.raw_os_error() == Some(libc::EMFILE) && self.evict() {
                    self.open(local, port)
                } else {
                    Err(error)
                }
            });
            match opened {
                Ok(fd) => {
                    self.counters.opened += 1;
                    self.bound.insert(key, Slot { fd, last_use: 0 });
                }
                Err(error) => {
                    self.counters.failed += 1;
                    return Err(error);
                }
            }
        }
        match self.bound.get_mut(&key) {
            Some(slot) => {
                slot.last_use = self.uses;
                Ok(Way::Bound(slot.fd.as_fd()))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn counters(&self) -> ReplyCounters {
        self.counters
    }

    /// Sockets held.
    pub(crate) fn len(&self) -> usize {
        self.bound.len()
    }

    /// Most sockets held.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn open(&self, local: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
        let fd = super::udp()?;
        // Every shard answers from the same ports. Nothing arrives here: the load balancer sends
        // to our port, and this one is its own.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        super::ask_for_buffers(&fd, 1, self.send_buffer);
        super::bind_to(&fd, SocketAddrV4::new(local, port))?;
        Ok(fd)
    }

    fn evict(&mut self) -> bool {
        // Use numbers are unique, so the order of the map does not show.
        let oldest = self
            .bound
            .iter()
            .min_by_key(|(_, slot)| slot.last_use)
            .map(|(key, _)| *key);
        let Some(oldest) = oldest else { return false };
        self.bound.remove(&oldest);
        self.counters.evicted += 1;
        true
    }
}

fn raw(send_buffer: usize) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?;
    super::ask_for_buffers(&fd, 1, send_buffer);
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_socket_makes_room() {
        let mut sockets = ReplySockets::new(ReplyMode::Bound, 2, 65_536).unwrap();
        let local = Ipv4Addr::new(127, 9, 0, 1);
        for port in [42_001, 42_002, 42_001, 42_003] {
            sockets.way(local, port).unwrap();
        }
        assert_eq!(sockets.len(), 2);
        assert!(
            sockets.bound.contains_key(&(local, 42_001)),
            "it was used again"
        );
        assert!(!sockets.bound.contains_key(&(local, 42_002)));
        assert_eq!(sockets.counters().opened, 3);
        assert_eq!(sockets.counters().evicted, 1);
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error_and_is_counted() {
        let mut sockets = ReplySockets::new(ReplyMode::Bound, 2, 65_536).unwrap();
        assert!(sockets.way(Ipv4Addr::new(198, 51, 100, 1), 42_001).is_err());
        assert_eq!(sockets.counters().failed, 1);
        assert_eq!(sockets.len(), 0);
    }
}
