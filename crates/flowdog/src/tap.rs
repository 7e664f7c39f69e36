//! Where packets can be watched: as they arrive, and as they leave after rewriting.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::{Leg, Outer, VpcEndpointId};
use sdk::Ec2Host;

use crate::directory::Lookup;

/// Something that watches packets.
///
/// It is called on the shard's own thread between two packets, so it must copy what it wants into
/// a bounded queue and return; it can slow traffic down, and must not. Without a tap, or with one that
/// nobody watches through, the cost is one question per batch of datagrams.
pub trait Tap: Debug + Send + Sync {
    /// Whether datagrams are wanted at all. Asked once for each batch, before its datagrams are shown.
    fn is_watched(&self) -> bool {
        true
    }

    /// A datagram arrived: GENEVE header and inner packet, before anything was changed.
    fn on_received(&self, shard: usize, datagram: &[u8], outer: &Outer);

    /// A datagram leaves: after rewriting, or as it came if it was passed.
    fn on_sent(&self, shard: usize, datagram: &[u8], outer: &Outer);

    /// A flow was opened behind this endpoint.
    fn on_flow_opened(&self, endpoint: VpcEndpointId) {
        let _ = endpoint;
    }

    /// The appliance starts. `hosts` answers with what is known at the time of the question.
    fn on_start(&self, hosts: &Hosts) {
        let _ = hosts;
    }

    /// A connection was taken over, and its cleartext is about to be read on this leg. Whoever is
    /// returned is told what is said there; `None` costs nothing more.
    fn on_clear(&self, connection: &ClearConnection) -> Option<Box<dyn ClearText>> {
        let _ = connection;
        None
    }

    /// What the tap counts, for the metrics page.
    fn metrics(&self) -> Vec<TapMetric> {
        Vec::new()
    }
}

/// A leg of a connection that was taken over.
#[derive(Clone, Copy, Debug)]
pub struct ClearConnection {
    /// The VPC endpoint of its flow.
    pub endpoint: VpcEndpointId,
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// Which leg.
    pub leg: Leg,
    /// Whether it is inside TLS.
    pub tls: bool,
}

/// Is told what a leg of a connection says in clear, on the shard's own thread: it must not wait.
pub trait ClearText: Debug {
    /// The client, or the other one, said these bytes.
    fn said(&mut self, by_client: bool, bytes: &[u8]);

    /// It says no more.
    fn finished(&mut self, by_client: bool);
}

/// A number of a tap for the metrics page.
#[derive(Clone, Copy, Debug)]
pub struct TapMetric {
    /// Its name, as Prometheus wants it.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The number.
    pub value: u64,
}

/// What is known of the hosts behind addresses, and of endpoints.
#[derive(Clone, Debug)]
pub struct Hosts(Arc<Lookup>);

impl Hosts {
    pub(crate) fn new(lookup: Arc<Lookup>) -> Self {
        Self(lookup)
    }

    /// Calls `look` with the host that an endpoint means by an address, if it is known.
    pub fn host<T>(
        &self,
        endpoint: VpcEndpointId,
        address: IpAddr,
        look: impl FnOnce(&Ec2Host) -> T,
    ) -> Option<T> {
        self.0.view().host(endpoint, address).map(|host| look(host))
    }

    /// The tag `Name` of an endpoint.
    #[must_use]
    pub fn endpoint_name(&self, endpoint: VpcEndpointId) -> Option<String> {
        self.0.view().endpoint_name(endpoint).map(str::to_owned)
    }
}

/// A tap, or none.
pub(crate) type OptionalTap = Option<Arc<dyn Tap>>;

/// The tap, if datagrams are wanted.
pub(crate) fn watching(tap: &OptionalTap) -> Option<&dyn Tap> {
    tap.as_deref().filter(|tap| tap.is_watched())
}
