//! The table of functions that packetdrill calls (`struct packetdrill_interface`): field by field
//! what its shared-object mode asks for. All fields are pointers.

use core::ffi::{c_int, c_long, c_void};

use libc::{sockaddr, socklen_t, ssize_t, timeval};

/// A function that this plug-in does not have: it fails with ENOSYS, whatever it is given.
pub type Missing = unsafe extern "C" fn() -> c_long;

/// The functions, in the order in which packetdrill declares them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the system calls of the same names")]
pub struct Interface {
    pub userdata: *mut c_void,
    pub free: unsafe extern "C" fn(*mut c_void),
    pub socket: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(*mut c_void, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(*mut c_void, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: Missing,
    pub read: unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, usize) -> ssize_t,
    pub readv: Missing,
    pub recv: Missing,
    pub recvfrom: Missing,
    pub recvmsg: Missing,
    pub write: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> ssize_t,
    pub writev: Missing,
    pub send: Missing,
    pub sendto: Missing,
    pub sendmsg: Missing,
    /// Variadic in C; an integer argument arrives in the same place.
    pub fcntl: unsafe extern "C" fn(*mut c_void, c_int, c_int, c_long) -> c_int,
    pub ioctl: Missing,
    pub close: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    pub shutdown: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int,
    pub getsockopt: Missing,
    pub setsockopt:
        unsafe extern "C" fn(*mut c_void, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: Missing,
    pub netdev_send: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int,
    pub netdev_receive:
        unsafe extern "C" fn(*mut c_void, *mut c_void, *mut usize, *mut i64) -> c_int,
    pub usleep: unsafe extern "C" fn(*mut c_void, u32) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(*mut c_void, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: Missing,
    pub epoll_ctl: Missing,
    pub epoll_wait: Missing,
    pub pipe: Missing,
    pub splice: Missing,
}
