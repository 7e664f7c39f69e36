//! The simplest appliance there is: everything passes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowdog_lab::netns::Namespace;
use flowdog_lab::sim::GENEVE_PORT;
use socket2::{Domain, Socket, Type};

/// Sends each datagram back as a pass-through appliance does: the GENEVE header untouched, from the
/// port it came from (or, to be caught, from and to the wrong ones).
pub(crate) struct Reflector {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Reflector {
    /// Listens on `address`, in a namespace or where the caller is.
    pub(crate) fn start(
        address: SocketAddrV4,
        namespace: Option<&Namespace>,
        swap_ports: bool,
    ) -> io::Result<Self> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_recv_buffer_size(4 << 20)?;
            socket.bind(&SocketAddr::from(address).into())?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(UdpSocket::from(socket))
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = match namespace {
            Some(namespace) => {
                let socket = namespace.run(open)?;
                let inner = namespace.spawn("reflector", move || {
                    reflect(&socket, address, swap_ports, &stopped)
                })?;
                std::thread::spawn(move || match inner.join() {
                    Ok(result) => result.flatten(),
                    Err(_) => Err(io::Error::other("the reflector panicked")),
                })
            }
            None => {
                let socket = open()?;
                std::thread::spawn(move || reflect(&socket, address, swap_ports, &stopped))
            }
        };
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("reflector: {error}");
        }
    }
}

fn reflect(
    socket: &UdpSocket,
    address: SocketAddrV4,
    swap_ports: bool,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut replies: HashMap<u16, UdpSocket> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, SocketAddr::V4(from))) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if swap_ports {
            socket.send_to(&buffer[..len], from)?;
            continue;
        }
        let reply = match replies.entry(from.port()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(UdpSocket::bind((*address.ip(), from.port()))?),
        };
        reply.send_to(&buffer[..len], SocketAddrV4::new(*from.ip(), GENEVE_PORT))?;
    }
    Ok(())
}
