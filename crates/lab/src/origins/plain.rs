//! Services that are not HTTP: two that greet first, one that echoes, one that says nothing.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// What the mail server says first (RFC 5321 §4.2).
pub(crate) const SMTP_GREETING: &str = "220 mail.lab.name ESMTP ready\r\n";
/// What the SSH server says first (RFC 4253 §4.2).
pub(crate) const SSH_GREETING: &str = "SSH-2.0-FlowdogLab_1.0\r\n";

/// The longest line a mail client may send (RFC 5321 §4.5.3.1.6).
const MAX_LINE: u64 = 1000;
/// How long a silent connection is held open.
const SILENCE: Duration = Duration::from_secs(3600);

pub(super) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            // The client is done; so are we, after all it sent is back.
            0 => return stream.shutdown().await,
            read => {
                stream
                    .write_all(buffer.get(..read).unwrap_or_default())
                    .await?
            }
        }
    }
}

pub(super) async fn silence<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut buffer = [0; 1024];
    let until_closed = async {
        while stream.read(&mut buffer).await? != 0 {}
        Ok(())
    };
    timeout(SILENCE, until_closed).await.unwrap_or(Ok(()))
}

pub(super) async fn ssh<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    stream.write_all(SSH_GREETING.as_bytes()).await?;
    // What follows the client's identification comes back as it is.
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream)
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .await?;
    if !line.starts_with(b"SSH-") {
        stream.write_all(b"Protocol mismatch.\r\n").await?;
        return stream.shutdown().await;
    }
    stream.write_all(&line).await?;
    let ahead = stream.buffer().to_vec();
    let mut stream = stream.into_inner();
    stream.write_all(&ahead).await?;
    echo(stream).await
}

pub(super) async fn smtp<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    stream.write_all(SMTP_GREETING.as_bytes()).await?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = (&mut stream)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        let verb: Vec<u8> = line.iter().take(4).map(u8::to_ascii_uppercase).collect();
        let (answer, last): (&[u8], bool) = match verb.as_slice() {
            b"EHLO" | b"HELO" => (b"250 mail.lab.name\r\n", false),
            b"NOOP" | b"RSET" => (b"250 OK\r\n", false),
            b"QUIT" => (b"221 Bye\r\n", true),
            _ => (b"502 Command not implemented\r\n", false),
        };
        stream.write_all(answer).await?;
        if last {
            return stream.shutdown().await;
        }
    }
}
