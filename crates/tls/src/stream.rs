//! A leg with TLS on it, that holds no buffer while nothing is on its way.
//!
//! The TLS library is driven through its interface without buffers. Records are read into a buffer that
//! is borrowed from the thread and decrypted in it; they are encrypted into another and written from
//! there. A leg keeps for itself only what it could not get rid of: a record that came in part, content
//! that the caller had no room for, records that the leg below did not take.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffers::{self, Incoming};

/// Content of one record, at most (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// Either kind of connection of the TLS library.
pub trait Session: Unpin {
    /// What the library keeps beside what both kinds have.
    type Data;

    /// Takes in one record, or says what is to be done.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What was agreed on.
    fn common(&self) -> &CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// A byte stream inside TLS, on the leg `L`.
///
/// `shutdown` sends `close_notify` and then shuts down the leg. An end of data that comes without
/// `close_notify` is read as the error `UnexpectedEof`.
pub struct TlsStream<L, S> {
    leg: L,
    session: S,
    /// Records that are not taken in yet.
    incoming: Incoming,
    /// Content that the caller had no room for, and how much of it he has taken since.
    content: (Vec<u8>, usize),
    /// Records that the leg did not take yet.
    unsent: Vec<u8>,
    /// What the peer did wrong.
    failed: Option<Box<rustls::Error>>,
    /// The peer has said that it ends its direction.
    is_closed: bool,
    /// We have.
    is_shut: bool,
}

/// On which flowdog is the server.
pub type ClientLeg<L> = TlsStream<L, UnbufferedServerConnection>;
/// On which flowdog is the client.
pub type ServerLeg<L> = TlsStream<L, UnbufferedClientConnection>;

impl<L, S> fmt::Debug for TlsStream<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

/// What one step of the library led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There may be more to do.
    Again,
    /// Content has come.
    Content,
    /// All that has come is taken in.
    Idle,
}

/// What to do while content may be written.
type Write<'w, D> = &'w mut dyn FnMut(WriteTraffic<'_, D>);

impl<L, S: Session> TlsStream<L, S> {
    /// What the handshake agreed on.
    pub fn session(&self) -> &CommonState {
        self.session.common()
    }

    /// Lets the library take in one record of what has come, or do what it has to.
    fn step(
        &mut self,
        space: &mut ReadBuf<'_>,
        write: Write<'_, S::Data>,
    ) -> Result<Step, rustls::Error> {
        let UnbufferedStatus { mut discard, state } = self.session.process(self.incoming.filled());
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    None => break Ok(Step::Content),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        let here = record.payload.len().min(space.remaining());
                        let (here, rest) = record.payload.split_at(here);
                        space.put_slice(here);
                        self.content.0.extend_from_slice(rest);
                    }
                }
            },
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut self.unsent).map(|()| Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It waits in `unsent`.
                data.done();
                Ok(Step::Again)
            }
            Ok(ConnectionState::PeerClosed) => {
                self.is_closed = true;
                Ok(Step::Again)
            }
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                write(traffic);
                Ok(Step::Idle)
            }
            Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => Ok(Step::Idle),
            // Early data is neither offered nor taken.
            Ok(_) => Err(rustls::Error::General(
                "the TLS library is in a state that was not asked for".to_owned(),
            )),
            Err(error) => Err(error),
        };
        self.incoming.discard(discard);
        step
    }

    /// Steps until content has come or there is nothing more to do. What the library has to say is
    /// queued, the alert after a fault as well.
    fn advance(
        &mut self,
        space: &mut ReadBuf<'_>,
        write: Write<'_, S::Data>,
    ) -> Result<Step, rustls::Error> {
        // The library would look at the same record again, and complain again.
        if let Some(error) = &self.failed {
            return Err(rustls::Error::clone(error));
        }
        loop {
            match self.step(space, write) {
                Ok(Step::Again) => {}
                Ok(step) => return Ok(step),
                Err(error) => {
                    self.failed = Some(Box::new(error.clone()));
                    // As long as there is something to send, nothing else is looked at.
                    while self.session().wants_write() {
                        self.step(space, write)?;
                    }
                    return Err(error);
                }
            }
        }
    }
}

impl<L: AsyncRead + AsyncWrite + Unpin, S: Session> TlsStream<L, S> {
    /// Makes the handshake; `received` was read from the leg already. A leg on which it failed is given
    /// back after the alert was written to it.
    pub(crate) async fn handshake(
        leg: L,
        session: S,
        received: Vec<u8>,
    ) -> Result<Self, (io::Error, L)> {
        let mut stream = Self {
            leg,
            session,
            incoming: Incoming::from(received),
            content: (Vec::new(), 0),
            unsent: Vec::new(),
            failed: None,
            is_closed: false,
            is_shut: false,
        };
        match poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(error) => {
                // The alert that says why. If it cannot be told, the first error counts.
                let _ = poll_fn(|cx| stream.poll_send(cx)).await;
                Err((error, stream.leg))
            }
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let step = self
                .advance(&mut ReadBuf::new(&mut []), &mut |_| {})
                .map_err(invalid)?;
            ready!(Pin::new(&mut *self).poll_flush(cx))?;
            if step != Step::Idle {
                continue;
            }
            if !self.session().is_handshaking() {
                self.incoming.rest();
                return Poll::Ready(Ok(()));
            }
            if self.is_closed || ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads records from the leg.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.incoming.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a TLS message is longer than any may be",
            )));
        }
        let mut room = ReadBuf::new(room);
        let polled = Pin::new(&mut self.leg).poll_read(cx, &mut room);
        let count = room.filled().len();
        match polled {
            Poll::Ready(Ok(())) => {
                self.incoming.fill(count);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                self.incoming.rest();
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.incoming.rest();
                Poll::Pending
            }
        }
    }

    /// Writes what is left of earlier records.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            let rest = self.unsent.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.leg).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..sent);
        }
        result
    }

    /// Encrypts content, or `close_notify` with `None`, and writes what the leg takes of it now.
    fn put(&mut self, cx: &mut Context<'_>, content: Option<&[u8]>) -> io::Result<()> {
        buffers::with_outgoing(|outgoing| {
            let mut written = None;
            let mut write = |mut traffic: WriteTraffic<'_, S::Data>| {
                written = Some(write_records(&mut traffic, content, outgoing));
            };
            while self
                .advance(&mut ReadBuf::new(&mut []), &mut write)
                .map_err(invalid)?
                == Step::Content
            {}
            let count = match written {
                Some(written) => written.map_err(io::Error::other)?,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            let mut records = outgoing.get(..count).unwrap_or_default();
            if !self.unsent.is_empty() {
                // Such as new keys, in which these records are encrypted.
                self.unsent.extend_from_slice(records);
                return match self.poll_send(cx) {
                    Poll::Ready(Err(error)) => Err(error),
                    _ => Ok(()),
                };
            }
            while !records.is_empty() {
                match Pin::new(&mut self.leg).poll_write(cx, records) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        records = records.get(count..).unwrap_or_default();
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => break,
                }
            }
            self.unsent.extend_from_slice(records);
            Ok(())
        })
    }

    /// Writes content in as many records as the leg takes. It has taken all that was sent before.
    fn put_all(&mut self, cx: &mut Context<'_>, content: &[u8]) -> io::Result<usize> {
        let mut count = 0;
        for piece in content.chunks(RECORD_BYTES) {
            if count > 0 && !self.unsent.is_empty() {
                break;
            }
            self.put(cx, Some(piece))?;
            count += piece.len();
        }
        Ok(count)
    }

    /// What comes before anything is written.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.poll_send(cx)
    }

    /// Ends the leg after what was written, without `close_notify`.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.leg).poll_shutdown(cx)
    }
}

impl<L: AsyncRead + AsyncWrite + Unpin, S: Session> AsyncRead for TlsStream<L, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if space.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let (content, taken) = &mut this.content;
            let rest = content.get(*taken..).unwrap_or_default();
            if !rest.is_empty() {
                let count = rest.len().min(space.remaining());
                space.put_slice(rest.get(..count).unwrap_or_default());
                *taken += count;
                if *taken == content.len() {
                    this.content = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            let before = space.filled().len();
            let step = match this.advance(space, &mut |_| {}) {
                Ok(step) => step,
                Err(error) => {
                    // The alert leaves now or with the next write; the error is what counts.
                    let _ = this.poll_send(cx);
                    this.incoming.rest();
                    return Poll::Ready(Err(invalid(error)));
                }
            };
            if !this.unsent.is_empty() {
                // An answer to what came, such as new keys. If the leg takes it later, the next write
                // or flush brings it on its way.
                if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            if space.filled().len() > before {
                if this.incoming.is_empty() {
                    this.incoming.rest();
                }
                return Poll::Ready(Ok(()));
            }
            if step == Step::Content {
                continue;
            }
            if this.is_closed {
                this.incoming.rest();
                return Poll::Ready(Ok(()));
            }
            if ready!(this.poll_receive(cx))? == 0 {
                this.incoming.rest();
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<L: AsyncRead + AsyncWrite + Unpin, S: Session> AsyncWrite for TlsStream<L, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_writable(cx))?;
        Poll::Ready(this.put_all(cx, content))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_writable(cx))?;
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if total <= RECORD_BYTES {
            // One record costs less than several.
            return Poll::Ready(buffers::with_gathered(|gathered| {
                for piece in pieces {
                    gathered.extend_from_slice(piece);
                }
                this.put_all(
                    cx,
                    gathered.get(buffers::CONTENT_OFFSET..).unwrap_or_default(),
                )
            }));
        }
        let mut count = 0;
        for piece in pieces {
            if count > 0 && !this.unsent.is_empty() {
                break;
            }
            let taken = this.put_all(cx, piece)?;
            count += taken;
            if taken < piece.len() {
                break;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.leg).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(this.poll_send(cx))?;
            this.is_shut = true;
            // A session that has failed has said so in its alert.
            let _ = this.put(cx, None);
        }
        this.poll_end(cx)
    }
}

/// Adds what the library has to say to what is sent next.
fn encode<D>(mut data: EncodeTlsData<'_, D>, unsent: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let before = unsent.len();
    let mut needed = 0;
    loop {
        unsent.resize(before + needed, 0);
        match data.encode(unsent.get_mut(before..).unwrap_or_default()) {
            Ok(count) => {
                unsent.truncate(before + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > needed => {
                needed = size.required_size;
            }
            Err(error) => return Err(rustls::Error::General(error.to_string())),
        }
    }
}

/// Encrypts content, or `close_notify` with `None`, into a buffer that grows where it has to.
fn write_records<D>(
    traffic: &mut WriteTraffic<'_, D>,
    content: Option<&[u8]>,
    outgoing: &mut Vec<u8>,
) -> Result<usize, EncryptError> {
    loop {
        let written = match content {
            Some(content) => traffic.encrypt(content, outgoing),
            None => traffic.queue_close_notify(outgoing),
        };
        match written {
            Err(EncryptError::InsufficientSize(size)) if size.required_size > outgoing.len() => {
                outgoing.resize(size.required_size, 0);
            }
            written => return written,
        }
    }
}

/// What the library found wrong, as the error of a stream.
fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
