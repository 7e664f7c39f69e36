//! Where packets can be watched: as they arrive, and as they leave after rewriting.

use std::fmt::Debug;
use std::sync::Arc;

use dataplane::{Outer, VpcEndpointId};

/// Something that watches packets.
///
/// It is called on the shard's own thread between two packets, so it must copy what it wants into
/// a bounded queue and return; it can slow traffic down, and must not. Without a tap the cost is
/// one branch per datagram.
pub trait Tap: Debug + Send + Sync {
    /// A datagram arrived: GENEVE header and inner packet, before anything was changed.
    fn on_received(&self, shard: usize, datagram: &[u8], outer: &Outer);

    /// A datagram leaves: after rewriting, or as it came if it was passed.
    fn on_sent(&self, shard: usize, datagram: &[u8], outer: &Outer);

    /// A flow was opened behind this endpoint.
    fn on_flow_opened(&self, endpoint: VpcEndpointId) {
        let _ = endpoint;
    }
}

/// A tap, or none.
pub(crate) type OptionalTap = Option<Arc<dyn Tap>>;
