//! The system calls that no safe wrapper offers: attach a TUN device, switch off a device's
//! offloads, bind a packet socket to an interface, tie a child's life to its parent's.
#![expect(
    unsafe_code,
    reason = "ioctl, sockaddr_ll and the time between fork and exec have no safe wrapper"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// An interface request with a name, as `struct ifreq` lays it out (40 bytes on 64-bit Linux).
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all bytes zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "interface name is too long",
        ));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    Ok(request)
}

/// Makes a TUN interface of this name in the calling thread's namespace; `tun` is `/dev/net/tun`.
pub(super) fn attach_tun(tun: &File, name: &str) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let request = &raw const request;
    // SAFETY: TUNSETIFF reads (and writes back) one `ifreq`, which lives until the call returns.
    unsafe { tun_set_interface(tun.as_raw_fd(), request as libc::c_ulong) }?;
    Ok(())
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Makes an interface finish its checksums and segments in the bytes: nothing behind a packet
/// socket would do it later.
pub(super) fn disable_offloads(name: &str) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // Receive and transmit checksums, scatter-gather, TCP segmentation, generic segmentation, generic receive.
    const SETTERS: [u32; 6] = [0x15, 0x17, 0x19, 0x1f, 0x24, 0x2c];
    let control = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    for command in SETTERS {
        let mut value = EthtoolValue { command, data: 0 };
        let mut request = interface_request(name)?;
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads the `ifreq` and the `ethtool_value` it points to; both outlive the call.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 {
            let error = io::Error::last_os_error();
            // A kernel without one of the features has nothing to switch off.
            if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// A packet socket that receives every frame of one interface.
pub(super) fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    // SAFETY: `sockaddr_ll` is plain data for which all bytes zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let pointer = (&raw const address).cast();
    // SAFETY: `pointer` addresses `len` bytes of an initialised `sockaddr_ll` that outlives the call.
    let result = unsafe { libc::bind(fd.as_raw_fd(), pointer, len) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(fd)
    }
}

/// Makes the command's process get `signal` when the thread that starts it ends, however it ends.
pub(crate) fn end_with_starter(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(move || set_pdeathsig(signal).map_err(io::Error::from)) };
}
