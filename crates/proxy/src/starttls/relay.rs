//! Moves what is said in clear, up to the change to TLS.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Refusal, StartTls, Verdict, Watch};
use crate::error::{ProxyError, Side};
use crate::limits::Limits;

/// How the part in clear ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clear {
    /// Both ends have agreed on TLS, and each knows it.
    Tls {
        /// What they speak.
        protocol: StartTls,
        /// What was read of the client's ClientHello.
        client: Bytes,
    },
    /// It goes on in clear: relay the rest as it is. With what is spoken, as far as it was understood.
    Goes(Option<StartTls>),
    /// Somebody sent bytes where none may be: reset both ends.
    Refused(StartTls, Refusal),
}

/// Forwards both ways what is said in clear, until it is decided whether TLS follows.
///
/// Protocols take turns before TLS, so one chunk is moved at a time.
///
/// # Errors
/// When a leg fails, or nothing moves for the idle time.
pub async fn until_tls<C, S>(
    client: &mut C,
    server: &mut S,
    mut watch: Watch,
    limits: &Limits,
) -> Result<Clear, ProxyError>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut from_client = vec![0; 4096];
    let mut from_server = vec![0; 4096];
    loop {
        let turn = async {
            let (from, bytes) = tokio::select! {
                biased;
                read = server.read(&mut from_server) => (Side::Server, chunk(read, &from_server)),
                read = client.read(&mut from_client) => (Side::Client, chunk(read, &from_client)),
            };
            let bytes = bytes.map_err(|error| ProxyError::Io { side: from, error })?;
            if bytes.is_empty() {
                // The relay meets the end again and passes it on.
                return Ok(Some(Clear::Goes(watch.protocol())));
            }
            let verdict = watch.feed(from, bytes);
            let (forward, outcome) = match verdict {
                Verdict::Forward => (bytes.len(), None),
                Verdict::Clear => (bytes.len(), Some(Clear::Goes(watch.protocol()))),
                Verdict::Tls { clear } => {
                    let rest = bytes.get(clear..).unwrap_or_default();
                    let outcome = watch.protocol().map(|protocol| Clear::Tls {
                        protocol,
                        client: Bytes::copy_from_slice(rest),
                    });
                    (clear, outcome)
                }
                Verdict::Refuse(refusal) => {
                    return Ok(watch
                        .protocol()
                        .map(|protocol| Clear::Refused(protocol, refusal)));
                }
            };
            let bytes = bytes.get(..forward).unwrap_or_default();
            let (side, written) = match from {
                Side::Client => (Side::Server, write(server, bytes).await),
                Side::Server => (Side::Client, write(client, bytes).await),
            };
            written.map_err(|error| ProxyError::Io { side, error })?;
            Ok(outcome)
        };
        match tokio::time::timeout(limits.idle_time, turn).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(outcome))) => return Ok(outcome),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Err(ProxyError::Idle),
        }
    }
}

fn chunk(read: io::Result<usize>, buffer: &[u8]) -> io::Result<&[u8]> {
    read.map(|count| buffer.get(..count).unwrap_or_default())
}

async fn write<L: AsyncWrite + Unpin>(leg: &mut L, bytes: &[u8]) -> io::Result<()> {
    leg.write_all(bytes).await?;
    leg.flush().await
}
