//! The host side of a link: a device in a namespace whose packets the lab reads and writes.
//!
//! A TUN device where `/dev/net/tun` may be opened; otherwise a virtual Ethernet pair with a packet
//! socket on its far end, which needs no device node. Both carry plain IP packets to the caller.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::net::if_::if_nametoindex;

use super::netlink::{Netlink, VethEnd};
use super::sys;

/// Name of the device that hosts see.
const NAME: &str = "gwlbe0";
/// The far end of an Ethernet pair.
const FAR: &str = "lab0";
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const FAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
const ETHERNET: usize = 14;

/// How packets leave and enter a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `/dev/net/tun`.
    Tun,
    /// A virtual Ethernet pair read through a packet socket.
    Veth,
}

/// One device of a namespace.
#[derive(Debug)]
pub struct Device {
    kind: DeviceKind,
    file: File,
    index: u32,
    frame: Vec<u8>,
}

impl Device {
    /// Makes and raises a device in the calling thread's namespace: a TUN if the system lets us and
    /// `allow_tun`, else an Ethernet pair.
    ///
    /// # Errors
    /// What the system refused, in words.
    pub(super) fn create(netlink: &mut Netlink, mtu: u32, allow_tun: bool) -> io::Result<Self> {
        if allow_tun {
            match Self::tun(netlink, mtu) {
                Ok(device) => return Ok(device),
                Err(error) => {
                    tracing::debug!(%error, "no TUN device; using a virtual Ethernet pair");
                }
            }
        }
        Self::veth(netlink, mtu)
    }

    fn tun(netlink: &mut Netlink, mtu: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        sys::attach_tun(&file, NAME)?;
        let index = if_nametoindex(NAME)?;
        raise(netlink, index, mtu)?;
        Ok(Self {
            kind: DeviceKind::Tun,
            file,
            index,
            frame: Vec::new(),
        })
    }

    fn veth(netlink: &mut Netlink, mtu: u32) -> io::Result<Self> {
        let end = |name, mac| VethEnd {
            name,
            mac: Some(mac),
            namespace: None,
        };
        netlink.add_veth(&end(NAME, MAC), &end(FAR, FAR_MAC))?;
        let index = if_nametoindex(NAME)?;
        let far = if_nametoindex(FAR)?;
        sys::disable_offloads(NAME)?;
        sys::disable_offloads(FAR)?;
        raise(netlink, far, mtu)?;
        raise(netlink, index, mtu)?;
        let file = File::from(sys::packet_socket(far)?);
        Ok(Self {
            kind: DeviceKind::Veth,
            file,
            index,
            frame: vec![0; 65_536 + ETHERNET],
        })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The next IP packet that the namespace sent, or `None` if there is none now.
    ///
    /// # Errors
    /// The device is gone.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.kind {
            DeviceKind::Tun => {
                let mut packet = vec![0; 9_216];
                let Some(len) = nothing_yet(self.file.read(&mut packet))? else {
                    return Ok(None);
                };
                packet.truncate(len);
                Ok(Some(packet))
            }
            DeviceKind::Veth => loop {
                let Some(len) = nothing_yet(self.file.read(&mut self.frame))? else {
                    return Ok(None);
                };
                let frame = self.frame.get(..len).unwrap_or_default();
                // Frames that we injected ourselves come back marked with the near end's address.
                if frame.get(..6) == Some(&MAC) && frame.get(6..12) == Some(&FAR_MAC) {
                    continue;
                }
                if let Some(packet) = frame.get(ETHERNET..).and_then(without_padding) {
                    return Ok(Some(packet.to_vec()));
                }
            },
        }
    }

    /// Gives the namespace an IP packet; a full queue drops it, as a network would.
    ///
    /// # Errors
    /// The device is gone.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let sent = match self.kind {
            DeviceKind::Tun => self.file.write(packet),
            DeviceKind::Veth => {
                let ether_type: [u8; 2] = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
                    [0x86, 0xdd]
                } else {
                    [0x08, 0]
                };
                let mut frame = Vec::with_capacity(ETHERNET + packet.len());
                frame.extend_from_slice(&MAC);
                frame.extend_from_slice(&FAR_MAC);
                frame.extend_from_slice(&ether_type);
                frame.extend_from_slice(packet);
                self.file.write(&frame)
            }
        };
        match sent {
            Ok(_) => Ok(()),
            // EINVAL: not an IP packet at all, as a corrupting link may make it.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::EINVAL)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn raise(netlink: &mut Netlink, index: u32, mtu: u32) -> io::Result<()> {
    if let Err(error) = netlink.no_link_local(index) {
        tracing::debug!(%error, "the device keeps its link-local address");
    }
    netlink.bring_up_device(index, mtu, false)
}

fn nothing_yet(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// The IP packet at the start of a frame's payload; short frames are padded.
fn without_padding(payload: &[u8]) -> Option<&[u8]> {
    let len = match payload.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?])),
        6 => 40 + usize::from(u16::from_be_bytes([*payload.get(4)?, *payload.get(5)?])),
        _ => return None,
    };
    payload.get(..len)
}
