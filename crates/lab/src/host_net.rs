//! The way out to the host's network: address translation in user space, no rights needed.
//!
//! A connection is first dialled from the host's own network. Only when that succeeds is the lab's
//! client answered, so a refused or silent server looks refused or silent in the lab too.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};

use crate::addresses::{DNS_V4, DNS_V6};
use crate::stack::{Datagram, Incoming, LabEnd, Stack};

/// How long a server may take to answer a dial; the lab's client has its own patience.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// A UDP association ends after so long without a datagram.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// UDP associations at most; more are not answered.
const MAX_ASSOCIATIONS: usize = 4096;
/// Datagrams that may wait for one association.
const MAX_WAITING: usize = 64;

/// The running translation; dropping it ends it.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HostNetwork {
    /// Starts it in the caller's network namespace and returns its end of the cable.
    pub(crate) fn start(mtu: usize) -> io::Result<(Self, LabEnd)> {
        // Its own addresses only matter for what it would start by itself, which is nothing.
        let addresses = [
            IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc612, 0, 0, 0, 0, 0, 1)),
        ];
        let (stack, mut arrivals, end) = Stack::new(&addresses, mtu, 17)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let resolver = host_resolver();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("lab-host-net".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(stack.clone().run());
                let associations = Associations { stack, resolver, open: Arc::default() };
                let serve = async {
                    loop {
                        tokio::select! {
                            Some(incoming) = arrivals.connections.recv() => {
                                tokio::spawn(relay(incoming, resolver));
                            }
                            Some(datagram) = arrivals.datagrams.recv() => associations.pass(datagram),
                            else => return,
                        }
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok((
            Self {
                stop: Some(stop),
                thread: Some(thread),
            },
            end,
        ))
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the host's network panicked");
        }
    }
}

/// Where a destination of the lab really is: the lab's name server is the host's.
fn real_address(destination: SocketAddr, resolver: SocketAddr) -> SocketAddr {
    let is_resolver =
        destination.ip() == IpAddr::V4(DNS_V4) || destination.ip() == IpAddr::V6(DNS_V6);
    if is_resolver && destination.port() == 53 {
        resolver
    } else {
        destination
    }
}

/// The first name server of the host.
fn host_resolver() -> SocketAddr {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let address = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .find_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    SocketAddr::new(address, 53)
}

async fn relay(incoming: Incoming, resolver: SocketAddr) {
    let target = real_address(incoming.server, resolver);
    let mut outside = match tokio::time::timeout(DIAL_LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            incoming.refuse();
            return;
        }
        // Unreachable or silent: the client finds out by its own time-out.
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "not reachable from the host");
            return;
        }
        Err(_) => return,
    };
    if let Err(error) = outside.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    match incoming.accept().await {
        Ok(mut inside) => {
            if let Err(error) = copy_bidirectional(&mut inside, &mut outside).await {
                tracing::debug!(%target, %error, "connection ended");
                inside.abort();
            }
        }
        Err(error) => tracing::debug!(%target, %error, "the client gave up"),
    }
}

type Open = Arc<Mutex<HashMap<(SocketAddr, SocketAddr), mpsc::Sender<Vec<u8>>>>>;

struct Associations {
    stack: Stack,
    resolver: SocketAddr,
    open: Open,
}

impl Associations {
    fn pass(&self, datagram: Datagram) {
        let key = (datagram.source, datagram.destination);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = open.get(&key) {
            // A full queue drops the datagram, as a socket would.
            let _ = sender.try_send(datagram.payload);
            return;
        }
        if open.len() >= MAX_ASSOCIATIONS {
            return;
        }
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let _ = sender.try_send(datagram.payload);
        open.insert(key, sender);
        let (stack, open, target) = (
            self.stack.clone(),
            Arc::clone(&self.open),
            real_address(datagram.destination, self.resolver),
        );
        tokio::spawn(async move {
            if let Err(error) = associate(&stack, key, target, receiver).await {
                tracing::debug!(%target, %error, "UDP association ended");
            }
            open.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
        });
    }
}

async fn associate(
    stack: &Stack,
    (client, server): (SocketAddr, SocketAddr),
    target: SocketAddr,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    let mut buffer = vec![0; 65_536];
    loop {
        tokio::select! {
            payload = outgoing.recv() => match payload {
                Some(payload) => {
                    socket.send(&payload).await?;
                }
                None => return Ok(()),
            },
            received = socket.recv(&mut buffer) => {
                let payload = buffer.get(..received?).unwrap_or_default().to_vec();
                stack.send_datagram(&Datagram { source: server, destination: client, payload })?;
            }
            () = tokio::time::sleep(UDP_IDLE) => return Ok(()),
        }
    }
}
