//! The functions of [`Interface`]: C on the outside, `Stack` inside.
//!
//! packetdrill runs calls that a script lets block on a second thread; they wait here until the
//! first one has injected what they wait for.
#![expect(
    unsafe_code,
    reason = "the functions are called from C, with C's pointers"
)]

use core::ffi::{c_int, c_long, c_void};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use libc::{sockaddr, sockaddr_in, sockaddr_in6, socklen_t, ssize_t, timeval};

use crate::abi::{Interface, Missing};
use crate::stack::{Refusal, Stack};

/// How long a call may block, in real time, before the script has surely gone wrong.
const PATIENCE: Duration = Duration::from_secs(5);

struct Plugin {
    stack: Mutex<Stack>,
    changed: Condvar,
}

/// Fills in the table; packetdrill looks it up by this name.
///
/// # Safety
/// `interface` is valid for writing a table; `flags` is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(
    _flags: *const core::ffi::c_char,
    interface: *mut Interface,
) {
    let plugin = Box::new(Plugin {
        stack: Mutex::new(Stack::new()),
        changed: Condvar::new(),
    });
    let missing: Missing = missing;
    let table = Interface {
        userdata: Box::into_raw(plugin).cast(),
        free,
        socket,
        bind,
        listen,
        accept,
        connect: missing,
        read,
        readv: missing,
        recv: missing,
        recvfrom: missing,
        recvmsg: missing,
        write,
        writev: missing,
        send: missing,
        sendto: missing,
        sendmsg: missing,
        fcntl,
        ioctl: missing,
        close,
        shutdown,
        getsockopt: missing,
        setsockopt,
        poll: missing,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create: missing,
        epoll_ctl: missing,
        epoll_wait: missing,
        pipe: missing,
        splice: missing,
    };
    // SAFETY: the caller gives a place for a table.
    unsafe { interface.write(table) };
}

/// The plug-in behind a `userdata` pointer.
///
/// # Safety
/// `userdata` comes from [`packetdrill_interface_init`] and was not freed.
unsafe fn plugin<'a>(userdata: *mut c_void) -> &'a Plugin {
    // SAFETY: it points to the `Plugin` that was leaked there.
    unsafe { &*userdata.cast::<Plugin>() }
}

impl Plugin {
    fn with<T>(&self, act: impl FnOnce(&mut Stack) -> T) -> T {
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut stack);
        drop(stack);
        self.changed.notify_all();
        result
    }

    /// Repeats a call until it does not block.
    fn wait<T>(&self, mut act: impl FnMut(&mut Stack) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        let mut result = Err(Refusal::WouldBlock);
        let (stack, _) = self
            .changed
            .wait_timeout_while(stack, PATIENCE, |stack| {
                result = act(stack);
                matches!(result, Err(Refusal::WouldBlock))
            })
            .unwrap_or_else(PoisonError::into_inner);
        drop(stack);
        self.changed.notify_all();
        result
    }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the address of this thread's errno is always valid.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *place = errno };
    -1
}

fn answer<T>(result: Result<T, Refusal>, value: impl FnOnce(T) -> c_int) -> c_int {
    match result {
        Ok(result) => value(result),
        Err(Refusal::WouldBlock) => fail(libc::EAGAIN),
        Err(Refusal::BadDescriptor) => fail(libc::EBADF),
        Err(Refusal::BrokenPipe) => fail(libc::EPIPE),
    }
}

/// A descriptor of this process that nothing else uses: packetdrill closes what it was given.
fn descriptor() -> Option<c_int> {
    File::open("/dev/null").ok().map(IntoRawFd::into_raw_fd)
}

unsafe extern "C" fn missing() -> c_long {
    fail(libc::ENOSYS).into()
}

unsafe extern "C" fn free(userdata: *mut c_void) {
    // SAFETY: it was leaked from this kind of box, and packetdrill frees it once.
    drop(unsafe { Box::from_raw(userdata.cast::<Plugin>()) });
}

unsafe extern "C" fn socket(userdata: *mut c_void, _: c_int, _: c_int, _: c_int) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    let Some(fd) = descriptor() else {
        return fail(libc::EMFILE);
    };
    plugin.with(|stack| stack.open(fd));
    fd
}

unsafe extern "C" fn bind(
    userdata: *mut c_void,
    fd: c_int,
    address: *const sockaddr,
    _: socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    // SAFETY: in both families' addresses the port's two bytes follow the family's, and packetdrill
    // passes a whole one; bytes need no alignment.
    let port = unsafe { address.cast::<[[u8; 2]; 2]>().read() }[1];
    answer(
        plugin.with(|stack| stack.bind(fd, u16::from_be_bytes(port))),
        |()| 0,
    )
}

unsafe extern "C" fn listen(userdata: *mut c_void, fd: c_int, _backlog: c_int) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    answer(plugin.with(|stack| stack.listen(fd)), |()| 0)
}

unsafe extern "C" fn accept(
    userdata: *mut c_void,
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    let Some(new) = descriptor() else {
        return fail(libc::EMFILE);
    };
    match plugin.wait(|stack| stack.accept(fd, new)) {
        Ok(peer) => {
            if !address.is_null() && !length.is_null() {
                // SAFETY: both point to what accept(2) asks for: room of `*length` bytes.
                unsafe { write_address(peer, address, length) };
            }
            new
        }
        Err(refusal) => {
            // SAFETY: `new` was made above and nobody else knows it.
            drop(unsafe { File::from_raw_fd(new) });
            answer(Err(refusal), |()| 0)
        }
    }
}

/// Writes as much of a socket address as there is room for.
///
/// # Safety
/// `length` is valid, and `address` has room for `*length` bytes.
unsafe fn write_address(peer: SocketAddr, address: *mut sockaddr, length: *mut socklen_t) {
    let mut bytes = [0; size_of::<sockaddr_in6>()];
    let family = if peer.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&peer.port().to_be_bytes());
    let size = match peer.ip() {
        IpAddr::V4(ip) => {
            bytes[4..8].copy_from_slice(&ip.octets());
            size_of::<sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            bytes[8..24].copy_from_slice(&ip.octets());
            size_of::<sockaddr_in6>()
        }
    };
    // SAFETY: the caller gives a valid place.
    let room = unsafe { length.read() } as usize;
    let count = size.min(room);
    // SAFETY: `count` bytes fit both.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast(), count) };
    // SAFETY: as above.
    unsafe { length.write(size as socklen_t) };
}

unsafe extern "C" fn read(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *mut c_void,
    count: usize,
) -> ssize_t {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    let mut bytes = vec![0; count];
    let result = plugin.wait(|stack| stack.read(fd, &mut bytes));
    if let Ok(got) = result {
        // SAFETY: the caller's buffer has room for `count` bytes, and `got` is no more.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), got) };
    }
    answer(result, |got| got as c_int) as ssize_t
}

unsafe extern "C" fn write(
    userdata: *mut c_void,
    fd: c_int,
    buffer: *const c_void,
    count: usize,
) -> ssize_t {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    // SAFETY: the caller's buffer holds `count` bytes.
    let bytes = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), count) };
    answer(plugin.wait(|stack| stack.write(fd, bytes)), |got| {
        got as c_int
    }) as ssize_t
}

unsafe extern "C" fn fcntl(_: *mut c_void, _fd: c_int, command: c_int, _: c_long) -> c_int {
    if command == libc::F_GETFL {
        libc::O_RDWR
    } else {
        0
    }
}

unsafe extern "C" fn close(userdata: *mut c_void, fd: c_int) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    let result = plugin.with(|stack| stack.close(fd));
    if result.is_ok() {
        // SAFETY: `fd` was opened for this socket, which is gone.
        drop(unsafe { File::from_raw_fd(fd) });
    }
    answer(result, |()| 0)
}

unsafe extern "C" fn shutdown(userdata: *mut c_void, fd: c_int, how: c_int) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    if how == libc::SHUT_RD {
        return 0;
    }
    answer(plugin.with(|stack| stack.shutdown(fd)), |()| 0)
}

unsafe extern "C" fn setsockopt(
    _: *mut c_void,
    _fd: c_int,
    _level: c_int,
    _option: c_int,
    _: *const c_void,
    _: socklen_t,
) -> c_int {
    0
}

unsafe extern "C" fn netdev_send(
    userdata: *mut c_void,
    buffer: *const c_void,
    count: usize,
) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    // SAFETY: the caller's buffer holds `count` bytes.
    let packet = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), count) };
    plugin.with(|stack| stack.inject(packet));
    0
}

unsafe extern "C" fn netdev_receive(
    userdata: *mut c_void,
    buffer: *mut c_void,
    count: *mut usize,
    micros: *mut i64,
) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    // SAFETY: `count` is valid and holds the size of the buffer.
    let room = unsafe { count.read() };
    let (at, packet) = plugin.with(Stack::sniff).unwrap_or_default();
    let length = packet.len().min(room);
    // SAFETY: the buffer has room for `length` bytes.
    unsafe { core::ptr::copy_nonoverlapping(packet.as_ptr(), buffer.cast(), length) };
    // SAFETY: valid for writing, by the interface's contract.
    unsafe { count.write(length) };
    // SAFETY: the same.
    unsafe { micros.write(at as i64) };
    0
}

unsafe extern "C" fn usleep(userdata: *mut c_void, micros: u32) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    plugin.with(|stack| stack.sleep(micros));
    0
}

unsafe extern "C" fn gettimeofday(
    userdata: *mut c_void,
    time: *mut timeval,
    _: *mut c_void,
) -> c_int {
    // SAFETY: packetdrill passes what `init` gave it.
    let plugin = unsafe { plugin(userdata) };
    let micros = plugin.with(Stack::look_at_clock);
    let value = timeval {
        tv_sec: (micros / 1_000_000) as libc::time_t,
        tv_usec: (micros % 1_000_000) as libc::suseconds_t,
    };
    // SAFETY: valid for writing, by the interface's contract.
    unsafe { time.write(value) };
    0
}
