//! The lab's address plan, the same behind every endpoint.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::sim::GENEVE_PORT;

/// The client's IPv4 address, behind each endpoint the same.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// The client's IPv6 address, behind each endpoint the same.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x000a, 0, 0, 0, 0, 0, 0x0010);
/// The lab's name server: every name of the lab resolves here.
pub const DNS_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 53);
/// The lab's name server over IPv6.
pub const DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc612, 0, 0, 0, 0, 0, 0x0053);
/// Where the appliance gets GENEVE in its namespace: the address of its only network device.
pub const APPLIANCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(100, 64, 0, 10), GENEVE_PORT);
/// The load balancer's address in each zone.
pub const ZONES: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 64, 1, 1), Ipv4Addr::new(100, 64, 2, 1)];

/// The networks in which clients live; all else is the server side.
#[must_use]
pub fn client_networks() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x000a, 0, 0, 0, 0, 0, 0), 32).into(),
    ]
}

/// The networks whose every address the lab's servers answer for: 198.18.0.0/15 (RFC 2544, for
/// tests) and a unique local IPv6 network (RFC 4193).
#[must_use]
pub fn server_networks() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15).into(),
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xc612, 0, 0, 0, 0, 0, 0), 32).into(),
    ]
}

/// The client's addresses with their networks.
pub(crate) fn client_interface() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(CLIENT_V4, 24).into(),
        Ipv6Net::new_assert(CLIENT_V6, 64).into(),
    ]
}

/// Addresses that a server host uses as its own, among all those it answers for.
pub(crate) fn server_addresses() -> [IpAddr; 2] {
    [DNS_V4.into(), DNS_V6.into()]
}

/// An address in the network between load balancer and appliance.
pub(crate) fn in_appliance_network(address: Ipv4Addr) -> IpNet {
    Ipv4Net::new_assert(address, 10).into()
}
