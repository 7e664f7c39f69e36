//! The opening handshake (RFC 6455 §4): what the client offers, and whether the server's answer is one
//! to that offer.

use base64::Engine as _;
use http::{Method, StatusCode};
use sdk::{FieldName, HeaderValue, Request, Response};
use sha1::{Digest as _, Sha1};

use super::deflate::{self, Agreed};
use crate::error::Fault;

/// What RFC 6455 §1.3 appends to the key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request offers.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The Sec-WebSocket-Accept that answers the key.
    accept: String,
    protocols: Vec<String>,
    extensions: Vec<String>,
    /// Whether messages are read, so that no other extension may be agreed on.
    deflate_only: bool,
}

/// What both sides have agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handshake {
    /// Whether reserved bits may be set in frames.
    pub(crate) has_extensions: bool,
    /// What was agreed on about compression, if nothing else was.
    pub(super) deflate: Option<Agreed>,
}

impl Offer {
    /// The offer in a request that asks for WebSocket and has the fields of RFC 6455 §4.1.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let headers = &request.headers;
        let asks = request.method == Method::GET
            && headers
                .list("upgrade")
                .any(|token| token.eq_ignore_ascii_case("websocket"))
            && headers.get_str("sec-websocket-version") == Some("13");
        if !asks {
            return None;
        }
        let key = headers.get("sec-websocket-key")?;
        let mut hash = Sha1::new();
        hash.update(key.as_bytes());
        hash.update(GUID);
        let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
        Some(Self::with(accept, request))
    }

    /// The offer in an extended CONNECT of HTTP/2, whose messages will be read. It has no key
    /// (RFC 8441 §5).
    pub(crate) fn of_connect(request: &Request) -> Self {
        Self::with(String::new(), request).deflate_only()
    }

    fn with(accept: String, request: &Request) -> Self {
        let headers = &request.headers;
        Self {
            accept,
            protocols: headers
                .list("sec-websocket-protocol")
                .map(str::to_owned)
                .collect(),
            extensions: headers
                .list("sec-websocket-extensions")
                .map(|extension| extension_name(extension).to_owned())
                .collect(),
            deflate_only: false,
        }
    }

    /// The same offer, whose messages will be read.
    pub(crate) fn deflate_only(mut self) -> Self {
        self.deflate_only = true;
        self
    }

    /// Checks a 101 as the client has to (RFC 6455 §4.1), so that a connection which the client would
    /// refuse is not taken for a WebSocket.
    pub(crate) fn check(&self, response: &Response) -> Result<Handshake, Fault> {
        let headers = &response.headers;
        let accepts = response.status == StatusCode::SWITCHING_PROTOCOLS
            && headers.get_str("sec-websocket-accept") == Some(&self.accept)
            && headers.get_all("sec-websocket-accept").count() == 1
            && headers
                .list("connection")
                .any(|option| option.eq_ignore_ascii_case("upgrade"));
        if !accepts {
            return Err(Fault::Upgrade);
        }
        self.check_choice(response)
    }

    /// Checks the answer to an extended CONNECT, which agrees by its status alone (RFC 8441 §5).
    pub(crate) fn check_connect(&self, response: &Response) -> Result<Handshake, Fault> {
        if !response.status.is_success() {
            return Err(Fault::Upgrade);
        }
        self.check_choice(response)
    }

    /// Checks what the server has chosen from the offer.
    fn check_choice(&self, response: &Response) -> Result<Handshake, Fault> {
        let headers = &response.headers;
        let mut protocols = headers.list("sec-websocket-protocol");
        let protocol_offered = protocols
            .next()
            .is_none_or(|chosen| self.protocols.iter().any(|offered| offered == chosen))
            && protocols.next().is_none();
        let mut extensions = headers.list("sec-websocket-extensions").peekable();
        let has_extensions = extensions.peek().is_some();
        let extensions_offered = extensions.all(|chosen| {
            self.extensions
                .iter()
                .any(|offered| offered.eq_ignore_ascii_case(extension_name(chosen)))
        });
        if !(protocol_offered && extensions_offered) {
            return Err(Fault::Upgrade);
        }
        let deflate = match Agreed::of(headers) {
            Ok(deflate) => deflate,
            // Frames of extensions that are not known here can still be relayed unread.
            Err(_) if !self.deflate_only => None,
            Err(fault) => return Err(fault),
        };
        Ok(Handshake {
            has_extensions,
            deflate,
        })
    }
}

/// Takes every extension out of an offer but the one that messages can be read through.
pub(crate) fn offer_deflate_only(request: &mut Request) {
    const EXTENSIONS: FieldName = FieldName::from_static("Sec-WebSocket-Extensions");
    let kept: Vec<&str> = request
        .headers
        .list("sec-websocket-extensions")
        .filter(|extension| extension_name(extension).eq_ignore_ascii_case(deflate::NAME))
        .collect();
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(value) if !kept.is_empty() => request.headers.set_value(&EXTENSIONS, value),
        _ => {
            request.headers.remove("sec-websocket-extensions");
        }
    }
}

/// An extension without its parameters.
fn extension_name(extension: &str) -> &str {
    extension.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use sdk::Target;

    use super::*;

    fn offer(extra: &[(&'static str, &'static str)]) -> Offer {
        let target = Target::parse(&Method::GET, b"/chat").unwrap();
        let mut request = Request::new(Method::GET, target);
        let base = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ];
        for (name, value) in base.iter().chain(extra) {
            request.headers.append(
                FieldName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Offer::of(&request).unwrap()
    }

    fn response(accept: &'static str, extra: &[(&'static str, &'static str)]) -> Response {
        let mut response = Response::new(StatusCode::SWITCHING_PROTOCOLS);
        let base = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
        ];
        for (name, value) in base.iter().chain(extra) {
            response.headers.append(
                FieldName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        response
    }

    /// The example of RFC 6455 §1.3.
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    #[test]
    fn example_of_the_rfc_is_accepted() {
        let offer = offer(&[("Sec-WebSocket-Protocol", "chat, superchat")]);
        assert!(!offer.check(&response(ACCEPT, &[])).unwrap().has_extensions);
        let chosen = [("Sec-WebSocket-Protocol", "superchat")];
        assert!(offer.check(&response(ACCEPT, &chosen)).is_ok());
    }

    #[test]
    fn threat_53_a_connect_is_answered_by_what_it_offers() {
        let target = Target::parse(&Method::GET, b"/chat").unwrap();
        let mut request = Request::new(Method::CONNECT, target);
        request.headers.append(
            FieldName::from_static("sec-websocket-protocol"),
            HeaderValue::from_static("chat"),
        );
        let offer = Offer::of_connect(&request);
        let mut answer = Response::new(StatusCode::OK);
        assert!(offer.check_connect(&answer).is_ok());
        answer.headers.append(
            FieldName::from_static("sec-websocket-protocol"),
            HeaderValue::from_static("chat"),
        );
        assert!(offer.check_connect(&answer).is_ok());
        answer.status = StatusCode::FOUND;
        assert_eq!(offer.check_connect(&answer).unwrap_err(), Fault::Upgrade);
        answer.status = StatusCode::OK;
        answer.headers.append(
            FieldName::from_static("sec-websocket-extensions"),
            HeaderValue::from_static("permessage-deflate"),
        );
        assert_eq!(offer.check_connect(&answer).unwrap_err(), Fault::Upgrade);
    }

    #[test]
    fn threat_53_answers_that_do_not_fit_the_offer_are_refused() {
        let plain = offer(&[]);
        let wrong_key = response("x3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &[]);
        assert_eq!(plain.check(&wrong_key).unwrap_err(), Fault::Upgrade);
        let protocol = response(ACCEPT, &[("Sec-WebSocket-Protocol", "chat")]);
        assert_eq!(plain.check(&protocol).unwrap_err(), Fault::Upgrade);
        let extension = response(
            ACCEPT,
            &[("Sec-WebSocket-Extensions", "permessage-deflate")],
        );
        assert_eq!(plain.check(&extension).unwrap_err(), Fault::Upgrade);
        let offered = offer(&[(
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits",
        )]);
        assert!(offered.check(&extension).unwrap().has_extensions);
    }
}
