//! What the author of an extension sees: flows, exchanges, messages, bodies, and the traits to
//! implement.
//!
//! An [`Interceptor`] sees and changes HTTP exchanges and WebSocket messages. It is made from the
//! config by an [`InterceptorKind`] and run by a [`Chain`]. The built-in interceptors use nothing
//! that is not in this crate. To test one without sockets, see the module `testing` (feature `testing`).
//!
//! ```
//! use flowdog_sdk::{Exchange, FieldName, HeaderValue, InterceptError, Interceptor, Request, Step, async_trait};
//!
//! /// Tells the server which way the request came.
//! #[derive(Debug)]
//! struct Hello;
//!
//! const HELLO: FieldName = FieldName::from_static("X-Hello");
//!
//! #[async_trait(?Send)]
//! impl Interceptor for Hello {
//!     async fn on_request(&self, request: &mut Request, _: &mut Exchange) -> Result<Step, InterceptError> {
//!         request.headers.set(HELLO, HeaderValue::from_static("flowdog"));
//!         Ok(Step::Continue)
//!     }
//! }
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod acceptor;
mod body;
mod chain;
mod coding;
mod content;
mod ec2;
mod end_json;
mod filter;
mod flow;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod headers;
mod hook;
mod interceptor;
mod kind;
mod leftovers;
mod message;
mod name_glob;
mod outlet;
mod packet;
mod signature;
mod sink;
mod size;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod websocket;

pub use async_trait::async_trait;
pub use bytes::Bytes;
/// What [`Body::stream`] takes.
pub use futures_util::Stream;
pub use http::{HeaderValue, Method, StatusCode, Version};
/// The keys of one `[[interceptor]]`.
pub use toml::Table as ConfigTable;

pub use acceptor::{AcceptError, Acceptor, Acceptors, Decision};
pub use body::{Body, BodyError, BodyStream, Buffered, Frame};
pub use chain::{Chain, Failure, Link, LinkStats, OnError, Outcome};
pub use coding::Coding;
pub use content::{Content, ContentError, ContentLimits};
pub use dataplane::Verdict;
pub use ec2::{Ec2Host, Ec2Interface, Ec2Listing};
pub use end_json::EndJson;
pub use filter::{Filter, FilterError, Subject};
pub use flow::{
    AttachmentId, FlowCookie, FlowId, FlowInfo, Leg, Protocol, Recognised, TlsInfo, VpcEndpointId,
};
pub use headers::{Field, FieldName, Headers, InvalidName};
pub use hook::{
    Held, HookContext, HookKind, HookLink, HookSight, HookStats, Hooks, PacketHook, PacketStep,
    Shown, StreamHook, StreamHooks, StreamOutput, StreamStep,
};
pub use interceptor::{Exchange, Extensions, InterceptError, Interceptor, Step};
pub use kind::{ConfigFault, InterceptorKind, from_table};
pub use leftovers::Leftovers;
pub use message::{Reason, Request, RequestHead, Response};
pub use name_glob::{InvalidNameGlob, NameGlob};
pub use outlet::{Outlet, OutletStats};
pub use packet::{EditError, InnerPacket, UdpView};
pub use signature::Signature;
pub use sink::{Record, RecordQueue, Sink, SinkError};
pub use size::{ByteSize, InvalidSize};
pub use target::{Authority, InvalidTarget, PathAndQuery, Scheme, Target};
pub use websocket::{Direction, Message, MessageStep, Payload};
/// What is wrong with an IP packet.
pub use wire::ip::Malformed as MalformedPacket;
