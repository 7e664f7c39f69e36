//! Bounds on everything a peer can make the proxy hold or wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::respond::ErrorPage;

/// Limits of one proxied connection; [`Limits::default`] suits a public-facing appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest request or response head, in bytes, request line and empty line included.
    /// A larger request gets 431, a larger response 502.
    /// 64 KiB: an Application Load Balancer takes heads of up to 64 KB.
    pub head_bytes: usize,
    /// Longest request target, in bytes; a longer one gets 414.
    /// 16 KiB: an Application Load Balancer takes request lines of up to 16 KB.
    pub target_bytes: usize,
    /// Most header fields in a head or a trailer section; more gets 431. 256.
    pub header_count: usize,
    /// Largest trailer section, in bytes. 16 KiB.
    pub trailer_bytes: usize,
    /// Longest time from the first to the last byte of a request head; then 408 and the end. 30 s.
    pub head_time: Duration,
    /// Least bytes per second of a request body whose length was announced, over each
    /// [`body_time`](Self::body_time) that its sender was waited for; a slower one gets 408, or a
    /// reset (HTTP/2). 0 for no limit. 100: a modem of the last century is ten times as fast, and
    /// bodies without a length may be calls that last for days.
    pub body_rate: u64,
    /// How long the sender of a body is watched before its rate is judged. 30 s.
    pub body_time: Duration,
    /// Longest time in which neither side moves a byte; then the connection ends, at the latest after
    /// one and a half times as long. 1 h.
    /// This catches peers that only keep TCP alive; a flow without any packets ends much earlier by
    /// the idle time of its flow (350 s for TCP behind a Gateway Load Balancer by default).
    pub idle_time: Duration,
    /// Most interim (1xx) responses to one request. 32.
    pub interim_count: usize,
    /// Most bytes of a request body that are read and thrown away to keep a connection usable after
    /// an answer that did not need them; beyond it the connection is closed. 256 KiB.
    pub drain_bytes: u64,
    /// How long a silent client is given before its protocol is taken to be one in which the server
    /// speaks first, where nothing else has decided. Zero bytes from both sides are simply waited
    /// for; this bounds an undecided beginning, such as `G` and then nothing. 10 s.
    pub sniff_time: Duration,
    /// Most concurrent HTTP/2 streams of a client; the origin's own limit applies when it is lower.
    /// 256, above the 100 that RFC 9113 §6.5.2 recommends as the least.
    pub h2_streams: u32,
    /// Most streams that an HTTP/2 client may reset in one second; then the connection ends with
    /// ENHANCE_YOUR_CALM. 200: a browser that leaves a page resets some dozens at once.
    pub h2_resets: u32,
    /// HPACK table that HTTP/2 peers may use, in bytes (RFC 7541 §4.2). 4 KiB, the default of
    /// RFC 9113 §6.5.2.
    pub h2_header_table_bytes: u32,
    /// Largest decoded HTTP/2 header list, in bytes as RFC 9113 §10.5.1 counts them. 64 KiB.
    pub h2_header_list_bytes: u32,
    /// HTTP/2 flow-control window of a stream, in bytes. 1 MiB.
    pub h2_stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes: the most that a connection holds for a
    /// receiver that does not read. 2 MiB.
    pub h2_connection_window: u32,
    /// How long an HTTP/2 client's preface waits for the origin's SETTINGS, so that its limits can be
    /// mirrored. 250 ms.
    pub h2_settings_time: Duration,
    /// Largest WebSocket message that is put together for an interceptor, in bytes; a larger one
    /// ends the connection with close code 1009. 1 MiB.
    pub websocket_message_bytes: usize,
    /// How answers look that say what was over a limit or refused. Plain text.
    pub error_page: Option<Arc<ErrorPage>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            target_bytes: 16 * 1024,
            header_count: 256,
            trailer_bytes: 16 * 1024,
            head_time: Duration::from_secs(30),
            body_rate: 100,
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(3600),
            interim_count: 32,
            drain_bytes: 256 * 1024,
            sniff_time: Duration::from_secs(10),
            h2_streams: 256,
            h2_resets: 200,
            h2_header_table_bytes: 4096,
            h2_header_list_bytes: 64 * 1024,
            h2_stream_window: 1024 * 1024,
            h2_connection_window: 2 * 1024 * 1024,
            h2_settings_time: Duration::from_millis(250),
            websocket_message_bytes: 1024 * 1024,
            error_page: None,
        }
    }
}

/// A limit beyond which nothing is refused: the connection goes on in another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoftLimit {
    /// [`Limits::drain_bytes`]: a body that nobody needed was too long to be read to its end, so its
    /// connection is closed and not used again.
    Drain,
    /// An HTTP/2 client sent more than 100 SETTINGS and PING in a second: they are answered one at a time,
    /// and meanwhile nothing more of it is read.
    Http2Control,
    /// [`Limits::h2_streams`]: a stream of an HTTP/2 client was refused, or the server refused it.
    Http2Streams,
    /// [`Limits::sniff_time`]: a beginning told no protocol, so the connection is relayed unread.
    SniffTime,
}

static REACHED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

impl SoftLimit {
    fn counter(self) -> &'static AtomicU64 {
        let [drain, http2_control, http2_streams, sniff_time] = &REACHED;
        match self {
            Self::Drain => drain,
            Self::Http2Control => http2_control,
            Self::Http2Streams => http2_streams,
            Self::SniffTime => sniff_time,
        }
    }

    /// Counts that it was reached.
    pub fn count(self) {
        self.counter().fetch_add(1, Ordering::Relaxed);
    }

    /// The key of the limit, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Http2Control => "http2-control",
            Self::Http2Streams => "http2-streams",
            Self::SniffTime => "sniff-time",
        }
    }

    /// How often each was reached since the process began.
    pub fn counts() -> impl Iterator<Item = (Self, u64)> {
        let count = |limit: Self| (limit, limit.counter().load(Ordering::Relaxed));
        [
            Self::Drain,
            Self::Http2Control,
            Self::Http2Streams,
            Self::SniffTime,
        ]
        .into_iter()
        .map(count)
    }
}
