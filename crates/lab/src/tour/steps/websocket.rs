//! A WebSocket, and the frames of its client.

use rustls::version::TLS13;
use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::check_metadata;
use crate::origins::pattern;
use crate::origins::websocket::{self, FrameHeader, opcode};
use crate::tour::Told;
use crate::tour::client::{Tour, check, said};
use crate::tour::http1::Http1;

pub(super) async fn web_socket(tour: &Tour<'_>) -> Told {
    let host = "ws.lab.name";
    let mut http = Http1::new(tour.tls(host, 443, &["http/1.1"], &[&TLS13]).await?);
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    http.send(&format!(
        "GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ))
    .await?;
    let head = http.head().await?;
    check(
        head.status == 101,
        format!(
            "the server answered {} and did not change protocol",
            head.status
        ),
    )?;
    check(
        head.field("sec-websocket-accept") == Some(&websocket::accept_key(key)),
        "the answer to the WebSocket key is wrong",
    )?;
    let stream = http.stream();
    let mut long = vec![0; 70_000];
    pattern::fill(3, 0, &mut long);
    let messages: [&[(u8, &[u8])]; 4] = [
        &[(opcode::TEXT, "Grüße".as_bytes())],
        &[(opcode::BINARY, &long)],
        // One message in three fragments, a ping between them.
        &[
            (opcode::TEXT, b"one "),
            (opcode::PING, b"?"),
            (opcode::CONTINUATION, b"two "),
            (opcode::CONTINUATION, b"three"),
        ],
        &[(opcode::BINARY, b"")],
    ];
    for frames in messages {
        let last = frames.len() - 1;
        for (n, (opcode, payload)) in frames.iter().enumerate() {
            let control = *opcode & 8 != 0;
            send_frame(stream, *opcode, control || n == last, payload).await?;
        }
        let expected: Vec<u8> = frames
            .iter()
            .filter(|(op, _)| op & 8 == 0)
            .flat_map(|(_, payload)| *payload)
            .copied()
            .collect();
        let pings = frames.iter().filter(|(op, _)| *op == opcode::PING).count();
        let (opcode, message, pongs) = receive_message(stream, pings).await?;
        check(
            frames.first().is_some_and(|(sent, _)| *sent == opcode),
            "a message came back as another kind",
        )?;
        check(
            message == expected,
            format!("a message of {} bytes came back changed", expected.len()),
        )?;
        check(pongs == pings, "a ping was not answered")?;
    }
    send_frame(stream, opcode::CLOSE, true, &1000u16.to_be_bytes()).await?;
    let (opcode, payload) = receive_frame(stream)
        .await
        .map(|(header, payload)| (header.opcode, payload))?;
    check(
        opcode == opcode::CLOSE && payload == 1000u16.to_be_bytes(),
        "the closing handshake was not answered",
    )?;
    check_metadata(
        tour,
        0,
        |name| head.field(name),
        "The answer to the handshake arrived",
    )?;
    Ok("Text, 70,000 bytes of binary, a message in three fragments with a ping between them, and the closing \
        handshake all came back."
        .to_owned())
}

async fn send_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    opcode: u8,
    fin: bool,
    payload: &[u8],
) -> Result<(), String> {
    let failed = said("the WebSocket broke");
    let header = FrameHeader {
        fin,
        reserved: 0,
        opcode,
        mask: Some([0x12, 0x34, 0x56, 0x78]),
        len: payload.len() as u64,
    };
    let mut bytes = payload.to_vec();
    header.apply_mask(0, &mut bytes);
    stream
        .write_all(&header.to_bytes())
        .await
        .map_err(&failed)?;
    stream.write_all(&bytes).await.map_err(&failed)?;
    stream.flush().await.map_err(&failed)
}

async fn receive_frame<S: AsyncBufRead + Unpin>(
    stream: &mut S,
) -> Result<(FrameHeader, Vec<u8>), String> {
    let failed = said("the WebSocket broke");
    let header = FrameHeader::read(stream)
        .await
        .map_err(&failed)?
        .ok_or("the WebSocket ended")?;
    check(header.len <= 1 << 20, "a frame longer than anything sent")?;
    check(header.mask.is_none(), "a frame of the server is masked")?;
    let mut payload = vec![0; header.len as usize];
    stream.read_exact(&mut payload).await.map_err(&failed)?;
    Ok((header, payload))
}

/// The next message, put together, and how many pongs came with it.
async fn receive_message<S: AsyncBufRead + Unpin>(
    stream: &mut S,
    pings: usize,
) -> Result<(u8, Vec<u8>, usize), String> {
    let (mut kind, mut message, mut pongs, mut complete) = (None, Vec::new(), 0, false);
    while !complete || pongs < pings {
        let (header, payload) = receive_frame(stream).await?;
        match header.opcode {
            opcode::PONG => pongs += 1,
            opcode::CLOSE => return Err("the server closed the WebSocket".to_owned()),
            opcode => {
                kind.get_or_insert(opcode);
                message.extend(payload);
                complete = header.fin;
            }
        }
    }
    Ok((kind.unwrap_or(opcode::CONTINUATION), message, pongs))
}
