//! Byte streams to HTTP/1, HTTP/2, WebSocket or opaque tunnels, through the interceptor chain.
//!
//! [`serve`] takes the two legs of an intercepted flow and moves exchanges between them until both
//! have ended. It opens nothing by itself and knows no sockets: a leg is anything that reads and
//! writes bytes.
//!
//! Messages are parsed strictly, shown to the [`Chain`], and written again from their parts; what can
//! be read in two ways is refused, never passed on. Bodies stream in both directions, and a side is
//! only read from while the other takes what it sends. [`Limits`] bounds everything else.
//!
//! A leg whose `poll_shutdown` was called ends with a FIN; a leg that is dropped without it is to be
//! reset by its owner. The proxy relies on that: a message that was cut off must not look complete.
//!
//! | module | what it does |
//! |---|---|
//! | [`detect`] | tells protocols apart by their first bytes |
//! | `http1` | HTTP/1.0 and HTTP/1.1 on its own codec |
//! | `http2` | HTTP/2, streams one to one |
//! | `websocket` | WebSocket frames and messages |
//! | [`starttls`] | follows protocols that change to TLS to the moment of the change |
//! | `tunnel` | bytes both ways, unread |
//! | [`respond`] | the answers that flowdog itself gives |
//!
//! Everything runs on one thread; nothing is `Send`, and no task is spawned: dropping the future of
//! [`serve`] ends the connection with all its streams.
#![forbid(unsafe_code)]

mod authority;
pub mod detect;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod http1;
mod http2;
mod limits;
mod pace;
pub mod respond;
mod serve;
pub mod starttls;
mod stream;
mod tunnel;
mod websocket;

pub use error::{Fault, ProxyError, Side, refused};
pub use limits::{Limits, SoftLimit};
pub use sdk::Chain;
pub use serve::{Protocol, Serving, Summary, serve, serve_detected};
