//! HTTP/1.1 and HTTP/2 connections, in clear and behind TLS.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::record::{Prefixed, Recording};
use super::routes::{self, Reply, Seen};
use super::{Ends, TlsFacts, websocket};

/// How an HTTP/2 connection starts (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request head: longer than what clients of the lab send, cookies included.
const MAX_HEAD: usize = 256 * 1024;

type ReplyFuture = Pin<Box<dyn Future<Output = Result<Reply, Infallible>>>>;

/// Serves HTTP on a stream. `http2` is what ALPN settled, if anything did.
pub(super) async fn serve<S>(
    mut stream: S,
    ends: Ends,
    tls: Option<TlsFacts>,
    http2: Option<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (prefix, http2) = match http2 {
        Some(http2) => (Bytes::new(), http2),
        None => read_preface(&mut stream).await?,
    };
    let stream = Prefixed::new(prefix, stream);
    if http2 {
        serve_http2(stream, ends, tls).await
    } else {
        serve_http1(stream, ends, tls).await
    }
}

/// Reads as long as the bytes look like the start of HTTP/2.
async fn read_preface<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Bytes, bool)> {
    let mut seen = Vec::with_capacity(PREFACE.len());
    while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
        let mut buffer = [0; 24];
        let room = buffer
            .get_mut(..PREFACE.len() - seen.len())
            .unwrap_or_default();
        match stream.read(room).await? {
            0 => break,
            read => seen.extend(buffer.iter().take(read)),
        }
    }
    let http2 = seen == PREFACE;
    Ok((seen.into(), http2))
}

async fn serve_http2<S>(stream: Prefixed<S>, ends: Ends, tls: Option<TlsFacts>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| -> ReplyFuture {
        let fields = request
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str().to_owned(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let seen = Seen {
            ends,
            tls: tls.clone(),
            fields,
        };
        Box::pin(async move { Ok(routes::answer(request, seen).await) })
    });
    hyper::server::conn::http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

async fn serve_http1<S>(stream: Prefixed<S>, ends: Ends, tls: Option<TlsFacts>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let recording = Recording::default();
    let stream = stream.recorded(recording.clone());
    let upgraded = Rc::new(Cell::new(false));
    let service = service_fn({
        let upgraded = Rc::clone(&upgraded);
        move |request: Request<Incoming>| -> ReplyFuture {
            let target = request.uri().to_string();
            let fields = recording
                .take_fields(request.method().as_str(), &target)
                .unwrap_or_default();
            let seen = Seen {
                ends,
                tls: tls.clone(),
                fields,
            };
            if request.version() == Version::HTTP_11
                && request.uri().path() == "/ws"
                && let Some(reply) = websocket::accept(&request)
            {
                upgraded.set(true);
                let reply = reply.map(routes::full);
                return Box::pin(async move { Ok(reply) });
            }
            Box::pin(async move { Ok(routes::answer(request, seen).await) })
        }
    });
    let parts = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown()
        .await
        .map_err(io::Error::other)?;
    let mut stream = parts.io.into_inner();
    if upgraded.get() {
        stream.recording_off();
        return websocket::echo(Prefixed::new(parts.read_buf, stream)).await;
    }
    stream.shutdown().await
}

/// Runs a connection's streams as tasks of this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
