//! Switching protocols: what a request offers, and whether the response may accept it.

use http::{Method, StatusCode, Version};
use sdk::{Request, Response};

use crate::error::Fault;
use crate::websocket::{Handshake, Offer, offer_deflate_only};

/// What a request offers to switch to (RFC 9110 §7.8).
#[derive(Debug)]
pub(super) enum Upgrade {
    /// Nothing.
    None,
    /// Protocols that are relayed without being read.
    Other,
    /// WebSocket (RFC 6455 §4.1).
    WebSocket(Offer),
}

/// What the connection has become.
#[derive(Debug)]
pub(super) enum Switch {
    /// Bytes to relay.
    Tunnel,
    /// WebSocket.
    WebSocket(Handshake),
}

/// Reads what a request offers, as it is sent to the server.
///
/// When an interceptor wants messages, extensions that it could not read through are taken out of the
/// offer.
pub(super) fn prepare(request: &mut Request, wants_messages: bool) -> Upgrade {
    let asks = request.version == Version::HTTP_11
        && request
            .headers
            .list("connection")
            .any(|option| option.eq_ignore_ascii_case("upgrade"))
        && request.headers.contains("upgrade");
    if !asks {
        return Upgrade::None;
    }
    match Offer::of(request) {
        Some(_) if wants_messages => {
            offer_deflate_only(request);
            Offer::of(request).map_or(Upgrade::Other, |offer| {
                Upgrade::WebSocket(offer.deflate_only())
            })
        }
        Some(offer) => Upgrade::WebSocket(offer),
        None => Upgrade::Other,
    }
}

/// Judges a final response or a 101: `Some` when the connection switches.
pub(super) fn judge(
    upgrade: &Upgrade,
    method: &Method,
    response: &Response,
) -> Result<Option<Switch>, Fault> {
    if method == Method::CONNECT && response.status.is_success() {
        return Ok(Some(Switch::Tunnel));
    }
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let says_websocket = response
        .headers
        .list("upgrade")
        .any(|token| token.eq_ignore_ascii_case("websocket"));
    match upgrade {
        Upgrade::WebSocket(offer) if says_websocket => {
            offer.check(response).map(Switch::WebSocket).map(Some)
        }
        Upgrade::Other if !says_websocket && response.headers.contains("upgrade") => {
            Ok(Some(Switch::Tunnel))
        }
        Upgrade::None | Upgrade::Other | Upgrade::WebSocket(_) => Err(Fault::Upgrade),
    }
}
