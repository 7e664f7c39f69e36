//! Tests for interceptors without sockets: say what comes in, look at what goes out.
//!
//! Messages are written as HTTP/1 text with plain line feeds; the body follows the first empty
//! line. What goes out is printed the same way, with the case and order of the fields, so that a
//! test is a transcript:
//!
//! ```
//! use flowdog_sdk::testing::Playbook;
//! # use flowdog_sdk::{Interceptor, async_trait};
//! # #[derive(Debug)] struct Nothing;
//! # #[async_trait(?Send)] impl Interceptor for Nothing {}
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let mut play = Playbook::new(Nothing);
//! let request = play.request("GET /a HTTP/1.1\nHost: lab.name\n\n").await.to_server();
//! assert_eq!(request, "GET /a HTTP/1.1\nHost: lab.name\n\n");
//! let response = play.response("HTTP/1.1 200 OK\nServer: x\n\nhello").await;
//! assert_eq!(response, "HTTP/1.1 200 OK\nServer: x\n\nhello");
//! # });
//! ```
#![expect(
    clippy::panic,
    reason = "an assertion of a test helper fails by panicking"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode, Version};

use crate::{
    AttachmentId, Body, Chain, Exchange, Failure, Field, FieldName, FlowCookie, FlowId, FlowInfo,
    Frame, Headers, Interceptor, Link, LinkStats, Message, MessageStep, OnError, Outcome, Protocol,
    Reason, Request, Response, Target, VpcEndpointId,
};

/// A chain of interceptors with a client before and a server behind it.
#[derive(Debug)]
pub struct Playbook {
    chain: Chain,
    flow: Arc<FlowInfo>,
    exchange: Option<Exchange>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The server gets this.
    ToServer(String),
    /// An interceptor answered; the client gets this.
    ToClient(String),
    /// The client gets a reset.
    Reset,
    /// The client gets an error of the proxy's.
    Failed(Failure),
}

impl Seen {
    /// The text of a request that went to the server.
    ///
    /// # Panics
    /// When something else became of it.
    #[must_use]
    #[track_caller]
    pub fn to_server(self) -> String {
        match self {
            Self::ToServer(text) => text,
            other => panic!("the request did not go to the server: {other:?}"),
        }
    }

    /// The text of the response with which an interceptor answered.
    ///
    /// # Panics
    /// When something else became of the request.
    #[must_use]
    #[track_caller]
    pub fn to_client(self) -> String {
        match self {
            Self::ToClient(text) => text,
            other => panic!("no interceptor answered: {other:?}"),
        }
    }
}

impl Playbook {
    /// A chain of this interceptor alone, which fails the exchange on errors, on [`flow`].
    pub fn new(interceptor: impl Interceptor + 'static) -> Self {
        Self::from_arc(Arc::new(interceptor))
    }

    /// As [`Playbook::new`], for an interceptor that a [`InterceptorKind`](crate::InterceptorKind)
    /// made.
    #[must_use]
    pub fn from_arc(interceptor: Arc<dyn Interceptor>) -> Self {
        Self::with_chain(Chain::new(vec![Link::new(
            "under-test",
            interceptor,
            OnError::Fail,
        )]))
    }

    /// Any chain.
    #[must_use]
    pub fn with_chain(chain: Chain) -> Self {
        Self {
            chain,
            flow: Arc::new(flow()),
            exchange: None,
        }
    }

    /// The same playbook on another flow.
    #[must_use]
    pub fn on_flow(mut self, flow: FlowInfo) -> Self {
        self.flow = Arc::new(flow);
        self
    }

    /// The client sends a request; an exchange begins.
    ///
    /// # Panics
    /// When the text is no request.
    pub async fn request(&mut self, text: &str) -> Seen {
        self.send(request(text)).await
    }

    /// As [`Playbook::request`], for what text cannot say: a streamed body, a binary one.
    pub async fn send(&mut self, mut request: Request) -> Seen {
        let exchange = self
            .exchange
            .insert(Exchange::new(self.flow.clone(), &request));
        match self.chain.on_request(&mut request, exchange).await {
            Outcome::Abort => Seen::Reset,
            Outcome::Fail(failure) => Seen::Failed(failure),
            Outcome::Forward => Seen::ToServer(print_request(request).await),
            Outcome::Respond(mut response) => {
                match self.chain.on_response(&mut response, exchange).await {
                    Ok(()) => Seen::ToClient(print_response(response).await),
                    Err(failure) => Seen::Failed(failure),
                }
            }
        }
    }

    /// The server answers the last request; this is what the client gets.
    ///
    /// # Panics
    /// When the text is no response, there was no request, or the chain failed.
    pub async fn response(&mut self, text: &str) -> String {
        match self.answer(response(text)).await {
            Ok(response) => print_response(response).await,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// As [`Playbook::response`], for what text cannot say.
    ///
    /// # Errors
    /// The [`Failure`] of the chain.
    ///
    /// # Panics
    /// When there was no request.
    pub async fn answer(&mut self, mut response: Response) -> Result<Response, Failure> {
        let Some(exchange) = &mut self.exchange else {
            panic!("a response needs a request before it")
        };
        self.chain.on_response(&mut response, exchange).await?;
        Ok(response)
    }

    /// A WebSocket message travels; `None` when it was dropped or the WebSocket closed.
    ///
    /// # Panics
    /// When there was no request, or the chain failed.
    pub async fn message(&mut self, mut message: Message) -> Option<Message> {
        let Some(exchange) = &mut self.exchange else {
            panic!("a message needs a request before it")
        };
        match self.chain.on_message(&mut message, exchange).await {
            Ok(MessageStep::Forward) => Some(message),
            Ok(MessageStep::Close(_) | MessageStep::Drop) => None,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The messages that interceptors sent of their own after the last message.
    pub fn injected(&mut self) -> Vec<Message> {
        let exchange = self.exchange.as_mut();
        exchange.map(Exchange::take_injected).unwrap_or_default()
    }

    /// What the first interceptor of the chain did so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.chain
            .links()
            .next()
            .map(Link::stats)
            .unwrap_or_default()
    }
}

/// A flow from 10.0.0.10:40000 to 192.0.2.80:443 through `vpce-00123456789abcdef`.
#[must_use]
pub fn flow() -> FlowInfo {
    FlowInfo {
        id: FlowId {
            index: 1,
            generation: 1,
        },
        endpoint: VpcEndpointId(0x0123_4567_89ab_cdef),
        attachment: AttachmentId(0),
        cookie: FlowCookie(0xfeed_0001),
        protocol: Protocol::TCP,
        client: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 10), 40000)),
        server: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 80), 443)),
        client_ec2: None,
        server_ec2: None,
        opened_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        recognised: None,
        tls: None,
        context: serde_json::Map::new(),
    }
}

/// Reads a request written as text.
///
/// # Panics
/// When the text is no request.
#[must_use]
#[track_caller]
pub fn request(text: &str) -> Request {
    let (line, headers, body) = split(text);
    let mut parts = line.splitn(3, ' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next())
    else {
        panic!("not a request line: {line:?}")
    };
    let method: Method = must(method.parse(), line);
    let target = must(Target::parse(&method, target.as_bytes()), line);
    Request {
        method,
        target,
        version: version_of(version),
        headers,
        body,
    }
}

/// Reads a response written as text.
///
/// # Panics
/// When the text is no response.
#[must_use]
#[track_caller]
pub fn response(text: &str) -> Response {
    let (line, headers, body) = split(text);
    let mut parts = line.splitn(3, ' ');
    let (Some(version), Some(status)) = (parts.next(), parts.next()) else {
        panic!("not a status line: {line:?}")
    };
    let reason = parts
        .next()
        .map(|reason| must(Reason::parse(reason.as_bytes()), line));
    let status: StatusCode = must(status.parse(), line);
    Response {
        status,
        reason,
        version: version_of(version),
        headers,
        body,
    }
}

#[track_caller]
fn must<T, E: core::fmt::Display>(result: Result<T, E>, line: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{line:?}: {error}"),
    }
}

#[track_caller]
fn version_of(text: &str) -> Version {
    match text {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/1.1" => Version::HTTP_11,
        "HTTP/2" => Version::HTTP_2,
        _ => panic!("not an HTTP version: {text:?}"),
    }
}

#[track_caller]
fn split(text: &str) -> (&str, Headers, Body) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.trim_end_matches('\n').split('\n');
    let first = lines.next().unwrap_or_default();
    let headers = lines
        .map(|line| {
            let Some((name, value)) = line.split_once(':') else {
                panic!("not a field: {line:?}")
            };
            Field {
                name: must(FieldName::parse(name.as_bytes()), line),
                value: must(HeaderValue::from_bytes(value.trim().as_bytes()), line),
            }
        })
        .collect();
    (first, headers, body.to_owned().into())
}

/// Prints a request with its whole body.
pub async fn print_request(request: Request) -> String {
    let Request {
        method,
        target,
        version,
        headers,
        body,
    } = request;
    print(format!("{method} {target} {version:?}"), &headers, body).await
}

/// Prints a response with its whole body.
pub async fn print_response(response: Response) -> String {
    let Response {
        status,
        reason,
        version,
        headers,
        body,
    } = response;
    let reason = match &reason {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    // The `http` crate prints HTTP/2.0.
    print(
        format!("{version:?} {} {reason}", status.as_u16()),
        &headers,
        body,
    )
    .await
}

async fn print(first: String, headers: &Headers, mut body: Body) -> String {
    let mut text = first.replace("HTTP/2.0", "HTTP/2");
    text.push('\n');
    let fields = |text: &mut String, fields: &Headers| {
        for field in fields {
            text.push_str(&format!(
                "{}: {}\n",
                field.name,
                String::from_utf8_lossy(field.value.as_bytes())
            ));
        }
    };
    fields(&mut text, headers);
    text.push('\n');
    while let Some(frame) = body.next().await {
        match frame {
            Ok(Frame::Data(data)) => text.push_str(&String::from_utf8_lossy(&data)),
            Ok(Frame::Trailers(trailers)) => {
                text.push('\n');
                fields(&mut text, &trailers);
            }
            Err(error) => {
                text.push_str(&format!("\n[{error}]"));
                break;
            }
        }
    }
    text
}
