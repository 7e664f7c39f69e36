//! The yardstick: a reverse proxy as one would write it with hyper, on kernel sockets and one thread.
//!
//! Like the appliance it opens one connection to the server for each of the client, in the same version
//! of HTTP, and streams bodies.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;

use crate::{HOST, secure};

/// Runs tasks of hyper that are not sent between threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

/// Runs a future and what it spawns on this thread.
pub(crate) fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Serves a connection in the version that was agreed on.
pub(crate) async fn serve<S, B>(stream: TokioIo<TlsStream<TcpStream>>, service: S) -> Result<()>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") {
        hyper::server::conn::http2::Builder::new(Local)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
            .serve_connection(stream, service)
            .await?;
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(stream, service)
            .await?;
    }
    Ok(())
}

/// Serves until it is ended.
pub(crate) fn run(folder: &Path, address: SocketAddr, origin: SocketAddr) -> Result<()> {
    let acceptor = secure::acceptor(folder)?;
    let root = folder.join(secure::ROOT);
    let http1 = secure::connector(&root, b"http/1.1")?;
    let http2 = secure::connector(&root, b"h2")?;
    on_one_thread(async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            let (http1, http2) = (http1.clone(), http2.clone());
            tokio::task::spawn_local(async move {
                stream.set_nodelay(true)?;
                let stream = acceptor.accept(stream).await?;
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    over_http2(stream, origin, &http2).await
                } else {
                    over_http1(stream, origin, &http1).await
                }
            });
        }
    })
}

async fn to_origin(
    address: SocketAddr,
    connector: &TlsConnector,
) -> Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = connector
        .connect(ServerName::try_from(HOST)?, stream)
        .await?;
    Ok(TokioIo::new(stream))
}

async fn over_http1(
    client: TlsStream<TcpStream>,
    origin: SocketAddr,
    connector: &TlsConnector,
) -> Result<()> {
    let (sender, connection) = http1::handshake(to_origin(origin, connector).await?).await?;
    tokio::task::spawn_local(connection);
    let sender = Rc::new(tokio::sync::Mutex::new(sender));
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = Rc::clone(&sender);
        async move {
            let mut sender = sender.lock().await;
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    serve(TokioIo::new(client), service).await
}

async fn over_http2(
    client: TlsStream<TcpStream>,
    origin: SocketAddr,
    connector: &TlsConnector,
) -> Result<()> {
    let (sender, connection) = http2::Builder::new(Local)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .handshake::<_, Incoming>(to_origin(origin, connector).await?)
        .await?;
    tokio::task::spawn_local(connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut sender = sender.clone();
        async move {
            let response: Result<Response<Incoming>, hyper::Error> =
                sender.send_request(request).await;
            response
        }
    });
    serve(TokioIo::new(client), service).await
}
