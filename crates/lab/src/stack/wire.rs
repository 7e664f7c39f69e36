//! The cable between a user-space host and the lab's fabric thread: two bounded packet queues.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Packets that may wait in one direction; more are dropped, as by any network.
const MAX_QUEUED: usize = 4096;

#[derive(Debug, Default)]
struct Queue(Mutex<VecDeque<Vec<u8>>>);

impl Queue {
    fn push(&self, packet: Vec<u8>) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < MAX_QUEUED {
            queue.push_back(packet);
        }
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

/// The host's end.
#[derive(Debug)]
pub(super) struct HostEnd {
    to_lab: Arc<Queue>,
    to_host: Arc<Queue>,
    /// A byte in it wakes the fabric thread.
    doorbell: UnixStream,
    /// Wakes the host's task.
    pub(super) notify: Arc<Notify>,
}

impl HostEnd {
    pub(super) fn send(&self, packet: Vec<u8>) {
        self.to_lab.push(packet);
        // A full doorbell is ringing already; a closed one has nobody to wake.
        let _ = (&self.doorbell).write(&[1]);
    }

    pub(super) fn receive(&self) -> Option<Vec<u8>> {
        self.to_host.pop()
    }
}

/// The fabric's end; pollable like a device.
#[derive(Debug)]
pub(crate) struct LabEnd {
    to_lab: Arc<Queue>,
    to_host: Arc<Queue>,
    doorbell: UnixStream,
    notify: Arc<Notify>,
}

impl LabEnd {
    pub(crate) fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(packet) = self.to_lab.pop() {
            return Ok(Some(packet));
        }
        // Silence the bell only when the queue looked empty, then look again: a packet queued in
        // between rings anew or is found now.
        let mut rung = [0; 256];
        match self.doorbell.read(&mut rung) {
            Ok(_) => Ok(self.to_lab.pop()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn send(&self, packet: Vec<u8>) {
        self.to_host.push(packet);
        self.notify.notify_one();
    }
}

impl AsFd for LabEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

/// A new cable.
pub(super) fn pair() -> io::Result<(HostEnd, LabEnd)> {
    let (host, lab) = UnixStream::pair()?;
    host.set_nonblocking(true)?;
    lab.set_nonblocking(true)?;
    let (to_lab, to_host) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let notify = Arc::new(Notify::new());
    let host = HostEnd {
        to_lab: Arc::clone(&to_lab),
        to_host: Arc::clone(&to_host),
        doorbell: host,
        notify: Arc::clone(&notify),
    };
    Ok((
        host,
        LabEnd {
            to_lab,
            to_host,
            doorbell: lab,
            notify,
        },
    ))
}
