//! WebSocket between the two legs (RFC 6455).
//!
//! When no interceptor wants messages, frames are relayed as they come, in any size, and only their
//! headers are looked at; compression and other extensions pass.
//! When one does, messages are put together up to a limit, shown to the chain, and sent on as one
//! frame each. Of extensions only permessage-deflate is left in the handshake then (RFC 7692).

mod deflate;
mod frame;
pub(crate) mod fuzzing;
mod handshake;
mod messages;
mod relay;

use sdk::{Chain, Exchange};

pub(crate) use handshake::{Handshake, Offer, offer_deflate_only};

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
        messages::serve(legs, handshake.deflate, &chain, exchange, limits).await
    } else {
        relay::serve(legs, handshake.has_extensions).await
    }
}
