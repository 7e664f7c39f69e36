//! A small HTTP/1.1 client that shows every byte of an answer's head.

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};

use super::client::said;

/// The longest head of an answer.
const MAX_HEAD: u64 = 64 * 1024;
/// The longest line that announces a chunk.
const MAX_LINE: u64 = 1024;

/// An answer's head.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Field lines in order.
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    /// A field's value, whatever its name's case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// A connection that speaks HTTP/1.1.
pub(super) struct Http1<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
        }
    }

    /// The stream, for what follows a change of protocol.
    pub(super) fn stream(&mut self) -> &mut BufReader<S> {
        &mut self.stream
    }

    /// Asks with GET and reads the whole answer.
    pub(super) async fn get(
        &mut self,
        host: &str,
        target: &str,
        fields: &str,
    ) -> Result<(Head, Vec<u8>), String> {
        self.send(&format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
        ))
        .await?;
        let head = self.head().await?;
        let mut body = Vec::new();
        self.body(&head, |bytes| {
            body.extend_from_slice(bytes);
            Ok(())
        })
        .await?;
        Ok((head, body))
    }

    /// Writes bytes.
    pub(super) async fn send(&mut self, text: &str) -> Result<(), String> {
        self.write(text.as_bytes()).await?;
        self.stream
            .flush()
            .await
            .map_err(said("could not send the request"))
    }

    /// Writes a piece of a request's body.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream
            .write_all(bytes)
            .await
            .map_err(said("could not send the request"))
    }

    /// Reads an answer's head.
    pub(super) async fn head(&mut self) -> Result<Head, String> {
        let mut limited = (&mut self.stream).take(MAX_HEAD);
        let status_line = line(&mut limited).await?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| format!("the answer is not HTTP/1.1, it starts with {status_line:?}"))?;
        let mut fields = Vec::new();
        loop {
            let line = line(&mut limited).await?;
            if line.is_empty() {
                return Ok(Head { status, fields });
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("{line:?} is no field"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads an answer's body to its end, piece by piece.
    pub(super) async fn body(
        &mut self,
        head: &Head,
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<u64, String> {
        if head
            .field("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            let mut total = 0;
            loop {
                let size_line = line(&mut (&mut self.stream).take(MAX_LINE)).await?;
                let size = size_line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| format!("{size_line:?} announces no chunk"))?;
                self.exactly(size, &mut take).await?;
                total += size;
                let end = line(&mut (&mut self.stream).take(MAX_LINE)).await?;
                if size == 0 && end.is_empty() {
                    return Ok(total);
                }
                if !end.is_empty() {
                    return Err(format!("{end:?} stands where a chunk ends"));
                }
            }
        }
        let len = head
            .field("content-length")
            .and_then(|len| len.parse().ok())
            .ok_or("the answer does not say how long it is")?;
        self.exactly(len, &mut take).await?;
        Ok(len)
    }

    async fn exactly(
        &mut self,
        len: u64,
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut left = len;
        while left > 0 {
            let ready = self
                .stream
                .fill_buf()
                .await
                .map_err(said("the answer broke off"))?;
            let piece = ready
                .get(..ready.len().min(left as usize))
                .unwrap_or_default();
            if piece.is_empty() {
                return Err(format!("the answer ended {left} bytes early"));
            }
            take(piece)?;
            let used = piece.len();
            self.stream.consume(used);
            left -= used as u64;
        }
        Ok(())
    }
}

/// A line without its CRLF.
pub(super) async fn line<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<String, String> {
    let mut bytes = Vec::new();
    reader
        .read_until(b'\n', &mut bytes)
        .await
        .map_err(said("the answer broke off"))?;
    match bytes.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(format!(
            "the answer broke off after {:?}",
            String::from_utf8_lossy(&bytes)
        )),
    }
}
