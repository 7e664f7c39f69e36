//! What can go wrong between the two legs, and whose fault it is.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// The peer that an error comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client leg's peer.
    Client,
    /// The server leg's peer.
    Server,
}

impl Side {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// What a peer did that the proxy refuses to interpret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A CR that no LF follows.
    BareCarriageReturn,
    /// An LF that no CR precedes.
    BareLineFeed,
    /// A body that ended before its announced length or last chunk.
    BodyTruncated,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 §6.1).
    BothFramings,
    /// A chunk whose data is not followed by CRLF (RFC 9112 §7.1).
    ChunkEnd,
    /// A chunk extension with control bytes, or too much of it.
    ChunkExtension,
    /// A chunk size that is not 1 to 16 hexadecimal digits.
    ChunkSize,
    /// A Connection field that lists a field which frames or routes the message.
    ConnectionOption,
    /// A Content-Length that is not one plain decimal number (RFC 9112 §6.3).
    ContentLength,
    /// An Expect value other than `100-continue`.
    Expect,
    /// A header field without a colon, or with a name that is not a token.
    FieldName,
    /// A header field value with a control byte.
    FieldValue,
    /// A head that is longer than the limit.
    HeadTooLarge,
    /// A head that ended before its empty line.
    HeadTruncated,
    /// No Host, several, or one that is not an authority (RFC 9112 §3.2).
    Host,
    /// An HTTP/2 message or frame that RFC 9113 calls malformed.
    Http2,
    /// An HTTP/2 header block whose compression is wrong (RFC 7541).
    Http2Compression,
    /// A flood of HTTP/2 frames: CONTINUATION, empty DATA, resets before their streams are looked at.
    Http2Flood,
    /// More resets of HTTP/2 streams in a second than the limit.
    Http2Resets,
    /// More interim responses than the limit.
    InterimFlood,
    /// A line that begins with white space (RFC 9112 §5.2).
    ObsoleteFold,
    /// A request line that is not method, space, target, space, version.
    RequestLine,
    /// Bytes from the server that belong to no request.
    ResponseUnasked,
    /// A body that came slower than the limit.
    SlowBody,
    /// A head that did not arrive within the time limit.
    SlowHead,
    /// A status line that RFC 9112 §4 does not allow, or a status that does not fit the request.
    StatusLine,
    /// A request target in no form of RFC 9112 §3.2, or one that does not fit the method or the Host.
    Target,
    /// A request target that is longer than the limit.
    TargetTooLong,
    /// More header fields than the limit.
    TooManyFields,
    /// A trailer section with a field that frames, routes or authorises the message.
    Trailer,
    /// A Transfer-Encoding other than a single `chunked`, or one where none may be (RFC 9112 §6.1).
    TransferEncoding,
    /// A protocol switch that was not asked for, or whose handshake is wrong.
    Upgrade,
    /// An HTTP version other than 1.0 and 1.1 in a message of HTTP/1.
    Version,
    /// A WebSocket frame that RFC 6455 does not allow.
    WebSocketFrame,
    /// A WebSocket message that is longer than the limit.
    WebSocketMessageTooLarge,
    /// A WebSocket text that is not UTF-8 (RFC 6455 §8.1).
    WebSocketText,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::BareCarriageReturn,
        Self::BareLineFeed,
        Self::BodyTruncated,
        Self::BothFramings,
        Self::ChunkEnd,
        Self::ChunkExtension,
        Self::ChunkSize,
        Self::ConnectionOption,
        Self::ContentLength,
        Self::Expect,
        Self::FieldName,
        Self::FieldValue,
        Self::HeadTooLarge,
        Self::HeadTruncated,
        Self::Host,
        Self::Http2,
        Self::Http2Compression,
        Self::Http2Flood,
        Self::Http2Resets,
        Self::InterimFlood,
        Self::ObsoleteFold,
        Self::RequestLine,
        Self::ResponseUnasked,
        Self::SlowBody,
        Self::SlowHead,
        Self::StatusLine,
        Self::Target,
        Self::TargetTooLong,
        Self::TooManyFields,
        Self::Trailer,
        Self::TransferEncoding,
        Self::Upgrade,
        Self::Version,
        Self::WebSocketFrame,
        Self::WebSocketMessageTooLarge,
        Self::WebSocketText,
    ];

    /// The word used in `x-flowdog-error`, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BareCarriageReturn => "bare-carriage-return",
            Self::BareLineFeed => "bare-line-feed",
            Self::BodyTruncated => "body-truncated",
            Self::BothFramings => "both-framings",
            Self::ChunkEnd => "chunk-end",
            Self::ChunkExtension => "chunk-extension",
            Self::ChunkSize => "chunk-size",
            Self::ConnectionOption => "connection-option",
            Self::ContentLength => "content-length",
            Self::Expect => "expect",
            Self::FieldName => "field-name",
            Self::FieldValue => "field-value",
            Self::HeadTooLarge => "head-too-large",
            Self::HeadTruncated => "head-truncated",
            Self::Host => "host",
            Self::Http2 => "http2",
            Self::Http2Compression => "http2-compression",
            Self::Http2Flood => "http2-flood",
            Self::Http2Resets => "http2-resets",
            Self::InterimFlood => "interim-flood",
            Self::ObsoleteFold => "obsolete-fold",
            Self::RequestLine => "request-line",
            Self::ResponseUnasked => "response-unasked",
            Self::SlowBody => "slow-body",
            Self::SlowHead => "slow-head",
            Self::StatusLine => "status-line",
            Self::Target => "target",
            Self::TargetTooLong => "target-too-long",
            Self::TooManyFields => "too-many-fields",
            Self::Trailer => "trailer",
            Self::TransferEncoding => "transfer-encoding",
            Self::Upgrade => "upgrade",
            Self::Version => "version",
            Self::WebSocketFrame => "websocket-frame",
            Self::WebSocketMessageTooLarge => "websocket-message-too-large",
            Self::WebSocketText => "websocket-text",
        }
    }
}

/// What was refused so far, on all connections of the process.
static REFUSED: [AtomicU64; Fault::ALL.len()] = [const { AtomicU64::new(0) }; Fault::ALL.len()];

/// Counts something that was refused, whether it ended its connection or a stream alone.
pub(crate) fn count_refused(fault: Fault) {
    let at = Fault::ALL.iter().position(|known| *known == fault);
    if let Some(counter) = at.and_then(|at| REFUSED.get(at)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often each fault was refused since the process began, whoever was at fault.
pub fn refused() -> impl Iterator<Item = (Fault, u64)> {
    let counts = REFUSED.iter().map(|count| count.load(Ordering::Relaxed));
    Fault::ALL.into_iter().zip(counts)
}

/// Why a proxied connection ended other than by its peers' own will.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// An interceptor gave the exchange up: both legs are reset.
    #[error("an interceptor gave the exchange up")]
    Aborted,
    /// An interceptor failed, and its policy is to fail closed.
    #[error("{reason}")]
    Intercepted {
        /// What the chain said.
        reason: String,
        /// The status of the answer, if none was sent yet.
        status: StatusCode,
    },
    /// Neither side moved a byte for the idle time.
    #[error("no byte from either side for the idle time")]
    Idle,
    /// A stream failed below the protocol: a reset, a time-out, or a TLS error.
    #[error("{} leg failed: {error}", side.as_str())]
    Io {
        /// The leg.
        side: Side,
        /// What the stream said.
        #[source]
        error: io::Error,
    },
    /// A body made by an interceptor did not keep its own announced length, or failed.
    #[error("a rewritten body failed: {reason}")]
    Body {
        /// What was wrong.
        reason: String,
    },
    /// A peer sent something that is refused.
    #[error("refused what the {} sent: {}", side.as_str(), fault.as_str())]
    Peer {
        /// Who sent it.
        side: Side,
        /// What it was.
        fault: Fault,
    },
}

impl ProxyError {
    /// The counter label of this outcome.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Intercepted { .. } => "intercepted",
            Self::Idle => "idle",
            Self::Io { .. } => "io",
            Self::Body { .. } => "body",
            Self::Peer { fault, .. } => fault.as_str(),
        }
    }

    /// The side at fault, where it is a peer's.
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Io { side, .. } | Self::Peer { side, .. } => Some(*side),
            Self::Aborted | Self::Intercepted { .. } | Self::Idle | Self::Body { .. } => None,
        }
    }
}
