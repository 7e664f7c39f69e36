//! A host whose TCP is the kernel's: a namespace, its device, and an application on threads.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use lab::netns::{Device, Namespace};
use socket2::{Domain, Socket, Type};

use crate::sim::app::{App, pattern};
use crate::sim::{Host, PORT};
use crate::world::Clock;

/// What may be chosen about the kernel's TCP.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Largest packet of the device, in bytes.
    pub mtu: u16,
    /// `cubic` or `bbr`.
    pub congestion: &'static str,
    /// Selective acknowledgments.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// Window scaling.
    pub window_scaling: bool,
    /// Bytes of each socket buffer; without, the kernel tunes them.
    pub buffers: Option<usize>,
}

/// What an application does with its connection.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Which of the two streams it sends: 0 or 1.
    pub stream: u8,
    /// Bytes it sends.
    pub to_send: u64,
    /// Bytes it expects.
    pub expects: u64,
    /// Whether bytes are made and compared; measurements save the time.
    pub checks: bool,
}

/// How far an application has come.
#[derive(Debug, Default)]
pub struct Progress {
    received: AtomicU64,
    written: AtomicU64,
    /// When the connection was established; 0 before.
    begun_at: AtomicU64,
    /// When the last expected byte was read; 0 before.
    complete_at: AtomicU64,
    saw_end: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Progress {
    /// Bytes read so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// When the connection was established, by the world's clock; 0 if it was not.
    #[must_use]
    pub fn begun_at(&self) -> u64 {
        self.begun_at.load(Ordering::Relaxed)
    }

    /// What went wrong.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("{what}: {error}"));
    }
}

/// The kernel on one end of a link.
pub struct Kernel {
    namespace: Namespace,
    device: Device,
    address: Ipv4Addr,
    settings: Settings,
    app: App,
    connections: Vec<Arc<Progress>>,
    pub(crate) sent_packets: u64,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("address", &self.address)
            .field("settings", &self.settings)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// The congestion controllers that this kernel has.
#[must_use]
pub fn controllers() -> Vec<String> {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

impl Kernel {
    /// A namespace with the address on its only device.
    ///
    /// # Errors
    /// The system refuses a namespace, a device or a setting.
    pub fn new(address: Ipv4Addr, settings: Settings) -> io::Result<Self> {
        let namespace = Namespace::new("kernel").map_err(io::Error::other)?;
        let network = IpNet::new(address.into(), 24).map_err(io::Error::other)?;
        let device = namespace.add_device(&[network], settings.mtu.into(), true)?;
        namespace.run(|| {
            let on = |on: bool| if on { "1" } else { "0" };
            for (name, value) in [
                ("tcp_sack", on(settings.sack)),
                ("tcp_timestamps", on(settings.timestamps)),
                ("tcp_window_scaling", on(settings.window_scaling)),
                ("tcp_no_metrics_save", "1"),
            ] {
                let path = Path::new("/proc/sys/net/ipv4").join(name);
                std::fs::write(&path, value)
                    .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            }
            Ok(())
        })?;
        Ok(Self {
            namespace,
            device,
            address,
            settings,
            app: App::new(0, 0, 0),
            connections: Vec::new(),
            sent_packets: 0,
        })
    }

    /// What becomes readable when the kernel has sent something.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn wakes(&self) -> io::Result<OwnedFd> {
        self.device.as_fd().try_clone_to_owned()
    }

    pub(crate) fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// The connection opened `index`-th.
    #[must_use]
    pub fn connection(&self, index: usize) -> &Arc<Progress> {
        &self.connections[index]
    }

    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let buffers = self.settings.buffers;
        let socket = self
            .namespace
            .run(|| Socket::new(Domain::IPV4, Type::STREAM, None))?;
        socket.set_reuse_address(true)?;
        // By socket: the namespace's default may only be one that everybody may choose.
        socket.set_tcp_congestion(self.settings.congestion.as_bytes())?;
        if let Some(bytes) = buffers {
            socket.set_send_buffer_size(bytes)?;
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(socket)
    }

    /// Begins a connection to `peer`, with a task on it.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn connect(&mut self, peer: Ipv4Addr, task: Task, clock: Clock) -> io::Result<()> {
        let socket = self.socket()?;
        socket.bind(&SocketAddr::new(self.address.into(), PORT).into())?;
        let progress = self.add(task);
        std::thread::spawn(move || {
            match socket.connect(&SocketAddr::new(peer.into(), PORT).into()) {
                Ok(()) => serve(socket.into(), task, &progress, clock),
                Err(error) => progress.fail("connect", &error),
            }
        });
        Ok(())
    }

    /// Accepts one connection for each task, by the peer's address.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(&mut self, tasks: &[(Ipv4Addr, Task)], clock: Clock) -> io::Result<()> {
        let socket = self.socket()?;
        socket.bind(&SocketAddr::new(self.address.into(), PORT).into())?;
        socket.listen(16)?;
        let expected: Vec<(IpAddr, Task, Arc<Progress>)> = tasks
            .iter()
            .map(|&(peer, task)| (peer.into(), task, self.add(task)))
            .collect();
        std::thread::spawn(move || {
            for _ in 0..expected.len() {
                let Ok((stream, peer)) = socket.accept() else {
                    return;
                };
                let peer = peer.as_socket().map(|peer| peer.ip());
                let known = expected.iter().find(|(address, ..)| Some(*address) == peer);
                if let Some((_, task, progress)) = known {
                    let (task, progress) = (*task, Arc::clone(progress));
                    std::thread::spawn(move || serve(stream.into(), task, &progress, clock));
                }
            }
        });
        Ok(())
    }

    fn add(&mut self, task: Task) -> Arc<Progress> {
        if self.connections.is_empty() {
            self.app = App::new(task.stream, task.to_send, task.expects);
        }
        let progress = Arc::new(Progress::default());
        self.connections.push(Arc::clone(&progress));
        progress
    }
}

/// Writes and reads at the same time, each until it is done.
fn serve(stream: TcpStream, task: Task, progress: &Arc<Progress>, clock: Clock) {
    progress.begun_at.store(clock.now(), Ordering::Relaxed);
    let finished = || -> io::Result<()> {
        // Nothing may wait for ever if a test gives up.
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.set_write_timeout(Some(Duration::from_secs(120)))?;
        let writing = stream.try_clone()?;
        let of_writer = Arc::clone(progress);
        let writer = std::thread::spawn(move || write_all(writing, task, &of_writer));
        read_all(&stream, task, progress, clock)?;
        writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
    };
    if let Err(error) = finished() {
        progress.fail("transfer", &error);
    }
}

fn write_all(mut stream: TcpStream, task: Task, progress: &Progress) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut written = 0;
    while written < task.to_send {
        let count = (task.to_send - written).min(buffer.len() as u64) as usize;
        if task.checks {
            for (index, byte) in buffer[..count].iter_mut().enumerate() {
                *byte = pattern(task.stream, written + index as u64);
            }
        }
        stream.write_all(&buffer[..count])?;
        written += count as u64;
        progress.written.store(written, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Write)
}

fn read_all(
    mut stream: &TcpStream,
    task: Task,
    progress: &Progress,
    clock: Clock,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut received = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let compared = if task.checks { count } else { 0 };
        for (index, &byte) in buffer[..compared].iter().enumerate() {
            let at = received + index as u64;
            if byte != pattern(1 - task.stream, at) {
                return Err(io::Error::other(format!("byte {at} differs")));
            }
        }
        received += count as u64;
        progress.received.store(received, Ordering::Relaxed);
        if received == task.expects {
            progress.complete_at.store(clock.now(), Ordering::Relaxed);
        }
    }
    if received != task.expects {
        return Err(io::Error::other(format!(
            "{received} bytes and an end instead of {}",
            task.expects
        )));
    }
    progress.saw_end.store(true, Ordering::Relaxed);
    Ok(())
}

impl Host for Kernel {
    fn receive(&mut self, packet: &[u8], _now: u64) {
        // A device that is gone shows in the transfer that does not end.
        let _ = self.device.send(packet);
    }

    fn turn(&mut self, _now: u64, out: &mut Vec<Vec<u8>>) {
        while let Ok(Some(packet)) = self.device.receive() {
            self.sent_packets += 1;
            out.push(packet);
        }
        if let Some(first) = self.connections.first() {
            self.app.received = first.received();
            self.app.written = first.written.load(Ordering::Relaxed);
            self.app.saw_end = first.saw_end.load(Ordering::Relaxed);
            let complete_at = first.complete_at.load(Ordering::Relaxed);
            self.app.complete_at = (complete_at > 0).then_some(complete_at);
        }
    }

    fn wake_at(&mut self, _now: u64) -> Option<u64> {
        None
    }

    fn is_closed(&self) -> bool {
        let over =
            |one: &Arc<Progress>| one.saw_end.load(Ordering::Relaxed) || one.failure().is_some();
        self.connections.iter().all(over)
    }

    fn app(&self) -> &App {
        &self.app
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}
