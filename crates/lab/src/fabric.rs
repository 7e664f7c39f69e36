//! Links and load balancer together, sans-IO: what lies between the hosts and the appliance.
//!
//! Each endpoint has a client side and a server side, each side a link up (from the host) and a link
//! down (to the host). [`crate::driver`] moves the packets of real devices and sockets through it;
//! deterministic tests do the same by hand.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::link::{Link, LinkConfig, LinkStats};
use crate::sim::{Gwlb, GwlbConfig, Side, ToAppliance, Violation};

/// What the fabric wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this datagram to the appliance.
    ToAppliance(ToAppliance),
    /// Give this packet to the host on a side of an endpoint.
    ToHost {
        /// Index of the endpoint.
        endpoint: usize,
        /// Which host.
        side: Side,
        /// The IP packet.
        packet: Vec<u8>,
    },
}

struct Sided {
    up: Link,
    down: Link,
}

/// Load balancer and links of all endpoints.
pub struct Fabric {
    gwlb: Gwlb,
    endpoints: Vec<[Sided; 2]>,
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fabric")
            .field("gwlb", &self.gwlb)
            .finish_non_exhaustive()
    }
}

impl Fabric {
    /// A fabric for the endpoints of `gwlb`; every link gets its own seed derived from the given ones.
    #[must_use]
    pub fn new(gwlb: GwlbConfig, client: &LinkConfig, server: &LinkConfig) -> Self {
        let endpoints = (0..gwlb.endpoints.len() as u64)
            .map(|endpoint| {
                [client, server].map(|config| {
                    let seed = config.seed.wrapping_add(endpoint.wrapping_mul(4));
                    Sided {
                        up: Link::new(config.with_seed(seed.wrapping_mul(2))),
                        down: Link::new(config.with_seed(seed.wrapping_mul(2).wrapping_add(1))),
                    }
                })
            })
            .collect();
        Self {
            gwlb: Gwlb::new(gwlb),
            endpoints,
        }
    }

    /// The load balancer, for its numbers.
    #[must_use]
    pub fn gwlb(&self) -> &Gwlb {
        &self.gwlb
    }

    /// The load balancer, for its switches.
    pub fn gwlb_mut(&mut self) -> &mut Gwlb {
        &mut self.gwlb
    }

    /// All links' numbers added up.
    #[must_use]
    pub fn link_stats(&self) -> LinkStats {
        let mut total = LinkStats::default();
        for sided in self.endpoints.iter().flatten() {
            total.add(&sided.up.stats());
            total.add(&sided.down.stats());
        }
        total
    }

    /// Takes a packet that a host sent.
    pub fn from_host(&mut self, endpoint: usize, side: Side, packet: Vec<u8>, now: Duration) {
        if let Some(sides) = self.endpoints.get_mut(endpoint) {
            sides[index(side)].up.push(packet, now);
        }
    }

    /// Takes a datagram that the appliance sent to `target`, an address of the load balancer.
    ///
    /// # Errors
    /// The rule that the datagram broke; it has been counted and dropped.
    pub fn from_appliance(
        &mut self,
        source: SocketAddrV4,
        target: SocketAddrV4,
        datagram: &[u8],
        now: Duration,
    ) -> Result<(), Violation> {
        if let Some(delivery) = self.gwlb.from_appliance(source, target, datagram, now)?
            && let Some(sides) = self.endpoints.get_mut(delivery.endpoint)
        {
            sides[index(delivery.side)].down.push(delivery.packet, now);
        }
        Ok(())
    }

    /// The next thing to do now; call until `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        for (endpoint, sides) in self.endpoints.iter_mut().enumerate() {
            for (sided, side) in sides.iter_mut().zip([Side::Client, Side::Server]) {
                while let Some(packet) = sided.up.pop(now) {
                    if let Some(datagram) = self.gwlb.from_host(endpoint, &packet, now) {
                        return Some(Action::ToAppliance(datagram));
                    }
                }
                if let Some(packet) = sided.down.pop(now) {
                    return Some(Action::ToHost {
                        endpoint,
                        side,
                        packet,
                    });
                }
            }
        }
        None
    }

    /// When [`Fabric::poll`] has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.endpoints
            .iter()
            .flatten()
            .flat_map(|sided| [sided.up.next_due(), sided.down.next_due()])
            .flatten()
            .min()
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}
