//! The entry points: which protocol runs, and what all of them share.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sdk::{Chain, FlowInfo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::detect::{ServerFirst, Sniff, sniff, sniff_server};
use crate::error::{ProxyError, Side, count_refused};
use crate::limits::{Limits, SoftLimit};
use crate::stream::{self, Progress};
use crate::tunnel::{self, Legs};
use crate::{http1, http2};

/// The protocol between two legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Anything else: relayed unread.
    Opaque,
}

impl Protocol {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
        }
    }
}

/// What a connection did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The protocol that was spoken.
    pub protocol: Protocol,
    /// Exchanges that began.
    pub exchanges: u64,
    /// Bytes read from the client.
    pub bytes_from_client: u64,
    /// Bytes read from the server.
    pub bytes_from_server: u64,
}

/// Serves two legs whose protocol is known, until both have ended.
///
/// # Errors
/// [`ProxyError`] says why the connection ended otherwise than by its peers' own will, and whose fault
/// it was. The legs are dropped then; those that were not shut down are to be reset.
pub fn serve<C, S>(
    client: C,
    server: S,
    protocol: Protocol,
    chain: Chain,
    flow: Arc<FlowInfo>,
    limits: &Limits,
) -> Serving
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = Connection::new(client, server, limits);
    connection.serve(protocol, chain, flow)
}

/// Serves two legs after their TLS handshakes.
///
/// `alpn` is what both sides have agreed on. `h2` and `http/1.1` decide the protocol, and another name
/// makes it opaque. Without ALPN the client's first bytes decide; if the server speaks first, and not
/// with the SETTINGS of HTTP/2, the connection is relayed unread.
///
/// # Errors
/// As [`serve`].
pub fn serve_detected<C, S>(
    client: C,
    server: S,
    alpn: Option<&[u8]>,
    chain: Chain,
    flow: Arc<FlowInfo>,
    limits: &Limits,
) -> Serving
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = Connection::new(client, server, limits);
    match alpn {
        Some(b"h2") => connection.serve(Protocol::Http2, chain, flow),
        // The client may still speak something else that both sides know (RFC 7301 §3.1 leaves it to
        // them), so its bytes have the last word.
        Some(b"http/1.1" | b"http/1.0") | None => Box::pin(async move {
            let (protocol, connection) = Box::pin(connection.detect()).await?;
            connection.serve(protocol, chain, flow).await
        }),
        Some(_) => connection.serve(Protocol::Opaque, chain, flow),
    }
}

/// A connection that is being served.
///
/// In a box, and so is each of its stages: a future is as large as the largest of its states, and most
/// connections are in a small one most of the time.
pub type Serving = Pin<Box<dyn Future<Output = Result<Summary, ProxyError>>>>;

/// Both legs, split, and what is counted on them.
struct Connection {
    legs: Legs,
    progress: Rc<Progress>,
    limits: Rc<Limits>,
}

impl Connection {
    fn new<C, S>(client: C, server: S, limits: &Limits) -> Box<Self>
    where
        C: AsyncRead + AsyncWrite + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let progress = Rc::new(Progress::default());
        let (client_in, client_out) = stream::split(Box::new(client), Rc::clone(&progress), true);
        let (server_in, server_out) = stream::split(Box::new(server), Rc::clone(&progress), false);
        Box::new(Self {
            legs: Legs {
                client_in,
                client_out,
                server_in,
                server_out,
            },
            progress,
            limits: Rc::new(limits.clone()),
        })
    }

    /// Reads until the client's first bytes decide, or the server speaks.
    async fn detect(mut self: Box<Self>) -> Result<(Protocol, Box<Self>), ProxyError> {
        let progress = Rc::clone(&self.progress);
        let limits = Rc::clone(&self.limits);
        let sniff_time = limits.sniff_time;
        {
            let legs = &mut self.legs;
            // The clock runs from the first byte on: before it there is nothing to decide.
            let waited = pin!(legs.client_in.wait_for_either(&mut legs.server_in));
            with_idle_limit(&progress, &limits, waited).await?;
        }
        let legs = &mut self.legs;
        let decided = poll_fn(|cx| {
            let client = loop {
                match sniff(&legs.client_in.buffer) {
                    Sniff::NeedMore => {}
                    decided => break Some(decided),
                }
                match legs.client_in.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => break Some(Sniff::Opaque),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(io(Side::Client, error))),
                    Poll::Pending => break None,
                }
            };
            let server = loop {
                let bytes = &legs.server_in.buffer;
                match sniff_server(bytes) {
                    ServerFirst::NeedMore => {}
                    decided => break decided,
                }
                // A request line or a preface is enough when the server is silent.
                if bytes.is_empty() && client.is_some() {
                    break ServerFirst::NeedMore;
                }
                match legs.server_in.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => break ServerFirst::Opaque,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(io(Side::Server, error))),
                    Poll::Pending => break ServerFirst::NeedMore,
                }
            };
            let has_spoken = !legs.server_in.buffer.is_empty();
            match (client, server) {
                (_, ServerFirst::Opaque) => Poll::Ready(Ok(Protocol::Opaque)),
                (None, _) => Poll::Pending,
                (Some(Sniff::Http2PriorKnowledge), _) => Poll::Ready(Ok(Protocol::Http2)),
                (Some(Sniff::Http1), _) if !has_spoken => Poll::Ready(Ok(Protocol::Http1)),
                // TLS inside TLS is nobody's business here.
                (Some(_), _) => Poll::Ready(Ok(Protocol::Opaque)),
            }
        });
        let protocol = match tokio::time::timeout(sniff_time, decided).await {
            Ok(decided) => decided?,
            // Whatever it is, it is not a request line: those come at once.
            Err(_) => {
                SoftLimit::SniffTime.count();
                Protocol::Opaque
            }
        };
        Ok((protocol, self))
    }

    fn serve(self: Box<Self>, protocol: Protocol, chain: Chain, flow: Arc<FlowInfo>) -> Serving {
        let Self {
            legs,
            progress,
            limits,
        } = *self;
        let exchanges = Rc::new(Cell::new(0));
        let count = Rc::clone(&exchanges);
        let work: Work = match protocol {
            Protocol::Http1 => {
                let session = http1::Session::new(legs, chain, flow, Rc::clone(&limits), count);
                Box::pin(session.serve())
            }
            Protocol::Http2 => http2::serve(legs, chain, flow, Rc::clone(&limits), count),
            Protocol::Opaque => Box::pin(tunnel::relay(legs)),
        };
        Box::pin(async move {
            let result = with_idle_limit(&progress, &limits, work).await;
            if let Err(error) = &result {
                if let ProxyError::Peer { fault, .. } = error {
                    count_refused(*fault);
                }
                tracing::debug!(
                    protocol = protocol.as_str(),
                    outcome = error.outcome(),
                    %error,
                    "connection ended early"
                );
            }
            result.map(|()| Summary {
                protocol,
                exchanges: exchanges.get(),
                bytes_from_client: progress.from_client.get(),
                bytes_from_server: progress.from_server.get(),
            })
        })
    }
}

/// What moves exchanges or bytes until the connection ends.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<(), ProxyError>>>>;

fn io(side: Side, error: std::io::Error) -> ProxyError {
    ProxyError::Io { side, error }
}

/// Runs `work` until it is done or no byte has moved for the idle time.
///
/// One timer serves the whole connection: it looks at the byte counts when it fires, and nothing
/// touches it when bytes move.
async fn with_idle_limit<T>(
    progress: &Progress,
    limits: &Limits,
    mut work: impl Future<Output = Result<T, ProxyError>> + Unpin,
) -> Result<T, ProxyError> {
    // Twice per idle time: a silence is noticed after one to one and a half of it.
    let period = limits.idle_time / 2;
    let mut seen = progress.total();
    let mut silent_periods = 0;
    let mut timer = pin!(tokio::time::sleep(period));
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut work).poll(cx) {
            return Poll::Ready(result);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let total = progress.total();
            silent_periods = if total == seen { silent_periods + 1 } else { 0 };
            seen = total;
            if silent_periods >= 2 {
                return Poll::Ready(Err(ProxyError::Idle));
            }
            timer.set(tokio::time::sleep(period));
        }
        Poll::Pending
    })
    .await
}
