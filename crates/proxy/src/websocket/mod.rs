//! WebSocket between the two legs (RFC 6455).
//!
//! When no interceptor wants messages, frames are relayed as they come, in any size, and only their
//! headers are looked at; compression and other extensions pass.
//! When one does, messages are put together up to a limit, shown to the chain, and sent on as one
//! frame each; the offer of extensions has been taken out of the handshake before.

mod frame;
pub(crate) mod fuzzing;
mod handshake;
mod messages;
mod relay;

use sdk::{Chain, Exchange};

pub(crate) use handshake::{Handshake, Offer};

use crate::error::ProxyError;
use crate::limits::Limits;
use crate::tunnel::Legs;

/// Runs a WebSocket connection whose handshake is done.
pub(crate) async fn serve(
    legs: Legs,
    handshake: Handshake,
    chain: Chain,
    exchange: Exchange,
    limits: &Limits,
) -> Result<(), ProxyError> {
    if chain.wants_messages() {
        messages::serve(legs, &chain, exchange, limits).await
    } else {
        relay::serve(legs, handshake.has_extensions).await
    }
}
