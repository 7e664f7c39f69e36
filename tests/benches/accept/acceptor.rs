//! A web service that accepts every flow, after a while.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;

/// Starts it; gives its URL. Each connection has a thread: the appliance opens as many as it asks
/// questions at once.
pub(crate) fn start(takes: Duration) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/flow", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&stream, takes));
        }
    });
    Ok(url)
}

fn serve(stream: &TcpStream, takes: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    stream.set_nodelay(true)?;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut question = vec![0; length];
        reader.read_exact(&mut question)?;
        std::thread::sleep(takes);
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"Accept\":true}")?;
    }
}
