//! Private network namespaces without root.
//!
//! [`enter`] makes the process the master of a user namespace of its own; it must run before any
//! other thread exists. After that [`Namespace::new`] makes network namespaces at will, and
//! [`Namespace::run`] runs code in one: sockets opened there stay there.

mod device;
mod netlink;
pub(crate) mod sys;

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

pub use device::{Device, DeviceKind};
use netlink::{Netlink, RouteKind, VethEnd};

/// Why this machine cannot make namespaces, and what to change.
#[derive(Debug)]
pub struct NamespaceError {
    what: String,
    source: io::Error,
}

impl NamespaceError {
    fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }

    /// What an administrator may enable, one line each, as far as this machine tells.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let mut advice = Vec::new();
        if read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
            advice.push("sysctl -w kernel.unprivileged_userns_clone=1".to_owned());
        }
        if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
            advice.push("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".to_owned());
        }
        if read("/proc/sys/user/max_user_namespaces") == "0" {
            advice.push("sysctl -w user.max_user_namespaces=10000".to_owned());
        }
        if read("/proc/sys/user/max_net_namespaces") == "0" {
            advice.push("sysctl -w user.max_net_namespaces=10000".to_owned());
        }
        if advice.is_empty() {
            advice.push(
                "allow unprivileged user namespaces (in a container: a seccomp profile that permits unshare), or run as root"
                    .to_owned(),
            );
        }
        advice
    }
}

impl std::fmt::Display for NamespaceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

impl std::error::Error for NamespaceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Makes this process able to create network namespaces: root already is, others get a user
/// namespace in which they are.
///
/// Must be called while the process has a single thread, hence before an async runtime starts.
///
/// # Errors
/// The system forbids user namespaces; [`NamespaceError::advice`] says what to enable.
pub fn enter() -> Result<(), NamespaceError> {
    let (user, group) = (geteuid(), getegid());
    if !user.is_root() {
        unshare(CloneFlags::CLONE_NEWUSER)
            .map_err(|error| NamespaceError::new("cannot make a user namespace", error))?;
        let write = |path: &str, text: String| {
            fs::write(path, text)
                .map_err(|error| NamespaceError::new(format!("cannot write {path}"), error))
        };
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("0 {user} 1"))?;
        write("/proc/self/gid_map", format!("0 {group} 1"))?;
    }
    // Some systems grant the user namespace but nothing inside it: find out now.
    Namespace::new("probe").map(drop)
}

/// A network namespace. It lives as long as this handle, its sockets or its processes do.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A new namespace with its loopback device up.
    ///
    /// # Errors
    /// The system forbids it.
    pub fn new(name: &str) -> Result<Self, NamespaceError> {
        let failed = |what: &str, error: io::Error| {
            NamespaceError::new(format!("{what} ({name} namespace)"), error)
        };
        let file = std::thread::scope(|scope| {
            let worker = scope.spawn(|| -> Result<File, NamespaceError> {
                unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(|error| failed("cannot make a network namespace", error.into()))?;
                let file = File::open("/proc/thread-self/ns/net")
                    .map_err(|error| failed("cannot open the network namespace", error))?;
                prepare_kernel();
                let raise = || Netlink::open()?.bring_up(if_nametoindex("lo")?);
                raise().map_err(|error| failed("cannot raise the loopback device", error))?;
                Ok(file)
            });
            worker.join().unwrap_or_else(|_| {
                Err(failed(
                    "cannot make a network namespace",
                    io::Error::other("its thread panicked"),
                ))
            })
        })?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Another handle on the same namespace.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            file: self.file.try_clone()?,
        })
    }

    /// What it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a function on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the function failed or panicked.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                function()
            });
            worker.join().unwrap_or_else(|_| {
                Err(io::Error::other(format!(
                    "a task in namespace {} panicked",
                    self.name
                )))
            })
        })
    }

    /// Starts a thread that lives in the namespace.
    ///
    /// # Errors
    /// The thread or the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<std::thread::JoinHandle<io::Result<T>>> {
        let file = self.file.try_clone()?;
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok(function())
            })
    }

    /// Gives the namespace a device with addresses, and routes everything else to it.
    ///
    /// # Errors
    /// The system refused a step.
    pub fn add_device(&self, addresses: &[IpNet], mtu: u32, allow_tun: bool) -> io::Result<Device> {
        self.run(|| {
            let mut netlink = Netlink::open()?;
            let device = Device::create(&mut netlink, mtu, allow_tun)?;
            for address in addresses {
                netlink.add_address(device.index(), address.addr(), address.prefix_len())?;
            }
            let everything_v4 = IpNet::from(ipnet::Ipv4Net::default());
            netlink.add_route(everything_v4, device.index(), RouteKind::Unicast)?;
            // The kernel has no IPv6 on a device with less (RFC 8200 §5).
            if mtu >= 1280 {
                let everything_v6 = IpNet::from(ipnet::Ipv6Net::default());
                netlink.add_route(everything_v6, device.index(), RouteKind::Unicast)?;
            }
            Ok(device)
        })
    }

    /// Lays an Ethernet cable to another namespace, and gives both ends their addresses.
    ///
    /// # Errors
    /// The system refused a step.
    pub fn join(
        &self,
        addresses: &[IpNet],
        other: &Self,
        other_addresses: &[IpNet],
        mtu: u32,
    ) -> io::Result<()> {
        const NAME: &str = "eth0";
        self.run(|| {
            let near = VethEnd {
                name: NAME,
                mac: None,
                namespace: None,
            };
            let far = VethEnd {
                namespace: Some(other.file.as_fd()),
                ..near
            };
            Netlink::open()?.add_veth(&near, &far)
        })?;
        for (namespace, addresses) in [(self, addresses), (other, other_addresses)] {
            namespace.run(|| {
                let mut netlink = Netlink::open()?;
                let index = if_nametoindex(NAME)?;
                netlink.bring_up_device(index, mtu, true)?;
                for address in addresses {
                    netlink.add_address(index, address.addr(), address.prefix_len())?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Makes sockets in the namespace answer for every address of a network.
    ///
    /// # Errors
    /// The system refused.
    pub fn own_network(&self, network: IpNet) -> io::Result<()> {
        self.run(|| {
            // IPv4 sockets may bind an address that a local route covers; IPv6 ones need telling.
            set_kernel("net/ipv6/ip_nonlocal_bind", "1");
            Netlink::open()?.add_route(network, if_nametoindex("lo")?, RouteKind::Local)
        })
    }

    /// Adds an address to the loopback device.
    ///
    /// # Errors
    /// The system refused.
    pub fn add_loopback_address(&self, address: IpAddr) -> io::Result<()> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        self.run(|| Netlink::open()?.add_address(if_nametoindex("lo")?, address, prefix))
    }
}

/// Kernel settings of a fresh namespace. A read-only `/proc/sys` leaves the defaults, which mostly do.
fn prepare_kernel() {
    for (path, value) in [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
        ("net/ipv6/conf/default/router_solicitations", "0"),
        ("net/ipv4/ping_group_range", "0 0"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
    ] {
        set_kernel(path, value);
    }
}

fn set_kernel(path: &str, value: &str) {
    if let Err(error) = fs::write(Path::new("/proc/sys").join(path), value) {
        tracing::debug!(path, %error, "kernel setting left as it was");
    }
}
