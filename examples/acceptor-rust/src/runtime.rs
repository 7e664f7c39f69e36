//! Lambda's runtime interface: the next event, the answer, and again. Plain HTTP on the same machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// Whatever goes wrong ends the process; Lambda starts another.
pub(crate) type Error = Box<dyn std::error::Error>;

/// Answers events for as long as Lambda wants.
pub(crate) fn serve(handler: impl Fn(&Value) -> Value) -> Result<(), Error> {
    let host = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    loop {
        let (id, event) = call(&host, "GET", "invocation/next", "")?;
        let answer = handler(&serde_json::from_str(&event)?);
        let path = format!("invocation/{id}/response");
        call(&host, "POST", &path, &answer.to_string())?;
    }
}

/// One request; gives the request id, where there is one, and the body.
fn call(host: &str, method: &str, path: &str, body: &str) -> Result<(String, String), Error> {
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "{method} /2018-06-01/runtime/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let (mut id, mut length, mut line) = (String::new(), None, String::new());
    reader.read_line(&mut line)?;
    if line
        .split(' ')
        .nth(1)
        .is_none_or(|status| !status.starts_with('2'))
    {
        return Err(format!("{method} {path}: {}", line.trim()).into());
    }
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "lambda-runtime-aws-request-id" => value.trim().clone_into(&mut id),
            "content-length" => length = Some(value.trim().parse()?),
            _ => {}
        }
    }
    let mut content = Vec::new();
    match length {
        Some(length) => {
            content.resize(length, 0);
            reader.read_exact(&mut content)?;
        }
        None => {
            reader.read_to_end(&mut content)?;
        }
    }
    Ok((id, String::from_utf8(content)?))
}
