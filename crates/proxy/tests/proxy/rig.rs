//! A client and an origin that talk through the proxy over in-memory streams.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowdog_proxy::{Limits, Protocol, ProxyError, Summary, serve};
use sdk::{
    Body, Chain, Direction, Exchange, FieldName, HeaderValue, InterceptError, Interceptor, Link,
    Message, MessageStep, OnError, Payload, Request, Response, StatusCode, Step, async_trait,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// Bytes that an in-memory stream holds.
const PIPE: usize = 64 * 1024;

/// Longer than anything takes that happens without a timer; the paused clock jumps over it.
const QUIET: Duration = Duration::from_millis(20);

/// What both ends saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) at_origin: String,
    pub(crate) at_client: String,
    pub(crate) result: Result<Summary, ProxyError>,
}

/// One conversation.
pub(crate) struct Bench {
    pub(crate) chain: Chain,
    pub(crate) limits: Limits,
    pub(crate) protocol: Protocol,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            chain: Chain::default(),
            limits: Limits::default(),
            protocol: Protocol::Http1,
        }
    }
}

impl Bench {
    pub(crate) fn with(interceptor: impl Interceptor + 'static) -> Self {
        let link = Link::new("test", Arc::new(interceptor), OnError::Fail);
        Self {
            chain: Chain::new(vec![link]),
            ..Self::default()
        }
    }

    /// The client sends `pieces`, each when everything has become quiet; the origin answers with the
    /// next of `replies` whenever bytes have come and nothing more follows, and ends after the last
    /// one if `origin_closes`. The client ends when nothing happens any more.
    pub(crate) async fn talk(
        self,
        pieces: &[&[u8]],
        replies: &[&[u8]],
        origin_closes: bool,
    ) -> Seen {
        let (mut client, client_leg) = tokio::io::duplex(PIPE);
        let (mut origin, server_leg) = tokio::io::duplex(PIPE);
        let flow = Arc::new(sdk::testing::flow());
        let served = serve(
            client_leg,
            server_leg,
            self.protocol,
            self.chain,
            flow,
            &self.limits,
        );
        let client_side = async {
            let mut seen = Vec::new();
            for piece in pieces {
                // The proxy may have hung up already.
                let _ = client.write_all(piece).await;
                read_until_quiet(&mut client, &mut seen, QUIET / 4).await;
            }
            if read_until_quiet(&mut client, &mut seen, QUIET * 50).await {
                let _ = client.shutdown().await;
                let _ = client.read_to_end(&mut seen).await;
            }
            drop(client);
            seen
        };
        let origin_side = async {
            let mut seen = Vec::new();
            let mut replies = replies.iter();
            let mut answered = 0;
            let mut next = replies.next();
            loop {
                let open = read_until_quiet(&mut origin, &mut seen, QUIET).await;
                if seen.len() > answered
                    && let Some(reply) = next
                {
                    answered = seen.len();
                    let _ = origin.write_all(reply).await;
                    next = replies.next();
                    if next.is_none() && origin_closes {
                        let _ = origin.shutdown().await;
                    }
                }
                if !open {
                    break;
                }
                if next.is_none() {
                    let _ = origin.read_to_end(&mut seen).await;
                    break;
                }
                let mut byte = [0];
                match origin.read(&mut byte).await {
                    Ok(1) => seen.push(byte[0]),
                    _ => break,
                }
            }
            drop(origin);
            seen
        };
        let (result, at_client, at_origin) = tokio::join!(served, client_side, origin_side);
        Seen {
            at_origin: String::from_utf8_lossy(&at_origin).into_owned(),
            at_client: String::from_utf8_lossy(&at_client).into_owned(),
            result,
        }
    }
}

/// Reads until nothing has come for `quiet`; says whether the stream is still open.
pub(crate) async fn read_until_quiet(
    stream: &mut DuplexStream,
    into: &mut Vec<u8>,
    quiet: Duration,
) -> bool {
    loop {
        match tokio::time::timeout(quiet, stream.read_buf(into)).await {
            Err(_) => return true,
            Ok(Ok(0) | Err(_)) => return false,
            Ok(Ok(_)) => {}
        }
    }
}

/// A connected client and origin with the proxy between them, for tests that need the ends themselves.
pub(crate) fn connect(
    bench: Bench,
) -> (
    DuplexStream,
    DuplexStream,
    impl Future<Output = Result<Summary, ProxyError>>,
) {
    let (client, client_leg) = tokio::io::duplex(PIPE);
    let (origin, server_leg) = tokio::io::duplex(PIPE);
    let flow = Arc::new(sdk::testing::flow());
    let served = async move {
        let Bench {
            chain,
            limits,
            protocol,
        } = bench;
        serve(client_leg, server_leg, protocol, chain, flow, &limits).await
    };
    (client, origin, served)
}

/// Marks requests and responses.
#[derive(Debug)]
pub(crate) struct Mark;

#[async_trait(?Send)]
impl Interceptor for Mark {
    async fn on_request(
        &self,
        request: &mut Request,
        _: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let seen = FieldName::from_static("X-Seen");
        request
            .headers
            .append(seen, HeaderValue::from_static("request"));
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        _: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let seen = FieldName::from_static("X-Seen");
        response
            .headers
            .append(seen, HeaderValue::from_static("response"));
        Ok(())
    }
}

/// Answers by itself whatever is asked for under `/local`, gives up `/abort`, fails on `/fail`.
#[derive(Debug)]
pub(crate) struct Local;

#[async_trait(?Send)]
impl Interceptor for Local {
    async fn on_request(
        &self,
        request: &mut Request,
        _: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        match request.path() {
            "/local" => Ok(Step::Respond(Response::text(
                StatusCode::IM_A_TEAPOT,
                "tea",
            ))),
            "/abort" => Ok(Step::Abort),
            "/fail" => Err(InterceptError::new("secret detail")),
            _ => Ok(Step::Continue),
        }
    }
}

/// Puts a body in upper case in both directions, after reading all of it.
#[derive(Debug)]
pub(crate) struct Shout;

async fn shout(body: &mut Body) -> Result<(), InterceptError> {
    let whole = body.buffer(1 << 20).await?;
    *body = Body::from(format!(
        "{}!",
        String::from_utf8_lossy(&whole.data).to_uppercase()
    ));
    Ok(())
}

#[async_trait(?Send)]
impl Interceptor for Shout {
    async fn on_request(
        &self,
        request: &mut Request,
        _: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        if !request.body.is_empty() {
            shout(&mut request.body).await?;
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        _: &mut Exchange,
    ) -> Result<(), InterceptError> {
        shout(&mut response.body).await
    }
}

/// Edits, drops and closes by what messages say, and keeps what it saw.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

#[async_trait(?Send)]
impl Interceptor for Messages {
    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let text = String::from_utf8_lossy(message.payload.as_bytes()).into_owned();
        self.seen
            .lock()
            .unwrap()
            .push(format!("{:?} {text}", message.direction));
        match text.as_str() {
            "drop" => return Ok(MessageStep::Drop),
            "close" => return Ok(MessageStep::Close(4001)),
            "inject" => {
                for (direction, text) in [
                    (Direction::ToServer, "up"),
                    (Direction::ToClient, "down"),
                    (Direction::ToServer, "up again"),
                ] {
                    let payload = Payload::Text(text.to_owned());
                    assert!(exchange.inject(Message { direction, payload }));
                }
                return Ok(MessageStep::Drop);
            }
            "fail" => return Err(InterceptError::fail("on purpose")),
            _ => {}
        }
        if let Payload::Text(text) = &mut message.payload {
            *text = text.replace("cat", "tiger");
        }
        Ok(MessageStep::Forward)
    }

    fn wants_messages(&self) -> bool {
        true
    }
}
