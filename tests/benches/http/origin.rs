//! The server behind whatever stands in the middle.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Either;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::load::{BULK_BYTES, SMALL_BYTES};
use crate::{reverse, secure};

static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// So many zeroes, in pieces of 64 KiB.
struct Zeroes(u64);

impl Body for Zeroes {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let piece = self.0.min(ZEROES.len() as u64);
        self.0 -= piece;
        let bytes = Bytes::from_static(ZEROES.get(..piece as usize).unwrap_or_default());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

/// Answers like a server: a handful of fields, and what the path asks for.
fn answer(request: &Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Zeroes>>> {
    let response = Response::builder()
        .header("Server", "origin/1.0")
        .header("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
        .header("Content-Type", "application/octet-stream")
        .header("Cache-Control", "max-age=0, private, must-revalidate")
        .header("ETag", "\"5d41402abc4b2a76b9719d911017c592\"");
    let body = if request.uri().path() == "/bulk" {
        Either::Right(Zeroes(BULK_BYTES))
    } else {
        let small = ZEROES.get(..SMALL_BYTES).unwrap_or_default();
        Either::Left(Full::new(Bytes::from_static(small)))
    };
    Ok(response.body(body)?)
}

/// Serves until it is ended.
pub(crate) fn run(folder: &Path, address: SocketAddr) -> Result<()> {
    let acceptor = secure::acceptor(folder)?;
    reverse::on_one_thread(async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                stream.set_nodelay(true)?;
                let stream = acceptor.accept(stream).await?;
                let service = service_fn(|request| async move { answer(&request) });
                reverse::serve(TokioIo::new(stream), service).await
            });
        }
    })
}
