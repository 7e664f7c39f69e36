//! WebSocket over HTTP/1: relayed as it is, or message by message when an interceptor wants them.

use std::sync::Arc;

use flowdog_proxy::{Limits, ProxyError, Summary};
use sdk::{Chain, Link, OnError};
use tokio::io::{AsyncWriteExt as _, DuplexStream};

use crate::rig::{Bench, Messages, connect, read_until_quiet};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const QUIET: std::time::Duration = std::time::Duration::from_millis(10);

/// A frame as it stands on the wire.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(mask_bit | len as u8),
        len @ 126..=65535 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    if masked {
        out.extend_from_slice(&KEY);
        out.extend(
            payload
                .iter()
                .zip(KEY.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    } else {
        out.extend_from_slice(payload);
    }
    out
}

fn text(payload: &str, masked: bool) -> Vec<u8> {
    frame(0x81, payload.as_bytes(), masked)
}

/// Opens a WebSocket and runs `talk` on it.
async fn websocket<T>(
    bench: Bench,
    talk: impl AsyncFnOnce(&mut DuplexStream, &mut DuplexStream, &str) -> T,
) -> (Result<Summary, ProxyError>, T) {
    let (mut client, mut origin, served) = connect(bench);
    let session = async {
        client
            .write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
            .await
            .unwrap();
        let mut request = Vec::new();
        read_until_quiet(&mut origin, &mut request, QUIET).await;
        origin
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
            .await
            .unwrap();
        let mut response = Vec::new();
        read_until_quiet(&mut client, &mut response, QUIET).await;
        assert!(response.starts_with(b"HTTP/1.1 101 "));
        let request = String::from_utf8(request).unwrap();
        let out = talk(&mut client, &mut origin, &request).await;
        let _ = client.shutdown().await;
        let _ = origin.shutdown().await;
        out
    };
    tokio::join!(served, session)
}

async fn arrives(at: &mut DuplexStream, expected: &[u8]) {
    let mut seen = Vec::new();
    read_until_quiet(at, &mut seen, QUIET).await;
    assert_eq!(
        seen.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[tokio::test(start_paused = true)]
async fn frames_are_relayed_unchanged_when_nobody_wants_messages() {
    let (result, ()) = websocket(Bench::default(), async |client, origin, request| {
        assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate"));
        for bytes in [
            text("hello", true),
            frame(0x01, b"frag", true),
            frame(0x89, b"ping", true),
            frame(0x80, b"ment", true),
            frame(0x82, &[9; 70_000], true),
        ] {
            client.write_all(&bytes[..1]).await.unwrap();
            let send = client.write_all(&bytes[1..]);
            let mut seen = Vec::new();
            let (sent, _) = tokio::join!(send, read_until_quiet(origin, &mut seen, QUIET));
            sent.unwrap();
            assert!(seen == bytes);
        }
        origin.write_all(&text("back", false)).await.unwrap();
        arrives(client, &text("back", false)).await;
    })
    .await;
    assert!(result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn messages_are_edited_dropped_and_put_together_when_somebody_wants_them() {
    let messages = Messages::default();
    let log = Arc::clone(&messages.seen);
    let (result, ()) = websocket(Bench::with(messages), async |client, origin, request| {
        assert!(request.contains("Sec-WebSocket-Extensions: permessage-deflate\r\n"));
        client.write_all(&text("a cat", true)).await.unwrap();
        arrives(origin, &text("a tiger", true)).await;
        origin.write_all(&text("cats", false)).await.unwrap();
        arrives(client, &text("tigers", false)).await;
        client.write_all(&text("drop", true)).await.unwrap();
        arrives(origin, b"").await;
        // Fragments with a ping between them: the ping passes at once, the message as one frame.
        let pieces = [
            frame(0x01, b"c", true),
            frame(0x89, b"p", true),
            frame(0x80, b"at", true),
        ];
        client.write_all(&pieces.concat()).await.unwrap();
        arrives(
            origin,
            &[frame(0x89, b"p", true), text("tiger", true)].concat(),
        )
        .await;
        origin
            .write_all(&frame(0x82, &[0xff; 300], false))
            .await
            .unwrap();
        arrives(client, &frame(0x82, &[0xff; 300], false)).await;
        client
            .write_all(&frame(0x88, &1000u16.to_be_bytes(), true))
            .await
            .unwrap();
        arrives(origin, &frame(0x88, &1000u16.to_be_bytes(), true)).await;
        origin
            .write_all(&frame(0x88, &1000u16.to_be_bytes(), false))
            .await
            .unwrap();
        arrives(client, &frame(0x88, &1000u16.to_be_bytes(), false)).await;
    })
    .await;
    assert!(result.is_ok(), "{result:?}");
    let log = log.lock().unwrap();
    assert_eq!(log[0], "ToServer a cat");
    assert_eq!(log[1], "ToClient cats");
    assert_eq!(log.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_closes_both_sides_with_its_code() {
    let (result, ()) = websocket(
        Bench::with(Messages::default()),
        async |client, origin, _| {
            client.write_all(&text("close", true)).await.unwrap();
            arrives(origin, &frame(0x88, &4001u16.to_be_bytes(), true)).await;
            arrives(client, &frame(0x88, &4001u16.to_be_bytes(), false)).await;
        },
    )
    .await;
    assert!(result.is_ok());
    let (result, ()) = websocket(
        Bench::with(Messages::default()),
        async |client, origin, _| {
            origin.write_all(&text("fail", false)).await.unwrap();
            arrives(client, &frame(0x88, &1011u16.to_be_bytes(), false)).await;
        },
    )
    .await;
    assert!(matches!(result, Err(ProxyError::Intercepted { .. })));
}

#[tokio::test(start_paused = true)]
async fn threat_51_frames_that_break_the_rules_end_the_connection() {
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("unmasked", text("x", false), "websocket-frame"),
        ("reserved bit", frame(0xc1, b"x", true), "websocket-frame"),
        (
            "reserved opcode",
            frame(0x83, b"x", true),
            "websocket-frame",
        ),
        (
            "fragmented ping",
            frame(0x09, b"x", true),
            "websocket-frame",
        ),
        ("long ping", frame(0x89, &[0; 126], true), "websocket-frame"),
        (
            "continuation of nothing",
            frame(0x80, b"x", true),
            "websocket-frame",
        ),
        (
            "text within text",
            [frame(0x01, b"x", true), frame(0x81, b"y", true)].concat(),
            "websocket-frame",
        ),
        (
            "long form",
            vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0],
            "websocket-frame",
        ),
        (
            "close of one byte",
            frame(0x88, b"x", true),
            "websocket-frame",
        ),
        (
            "close code 1005",
            frame(0x88, &1005u16.to_be_bytes(), true),
            "websocket-frame",
        ),
        (
            "not UTF-8",
            frame(0x81, b"\xc3\x28", true),
            "websocket-text",
        ),
        (
            "not UTF-8 across fragments",
            [frame(0x01, b"\xc3", true), frame(0x80, b"\xc3", true)].concat(),
            "websocket-text",
        ),
        (
            "after close",
            [frame(0x88, b"", true), text("x", true)].concat(),
            "websocket-frame",
        ),
    ];
    for (name, bytes, outcome) in bad {
        let (result, ()) = websocket(Bench::with(Messages::default()), async |client, _, _| {
            client.write_all(&bytes).await.unwrap();
            let mut seen = Vec::new();
            read_until_quiet(client, &mut seen, QUIET).await;
            let code: u16 = if outcome == "websocket-text" {
                1007
            } else {
                1002
            };
            assert_eq!(seen, frame(0x88, &code.to_be_bytes(), false), "{name}");
        })
        .await;
        assert_eq!(result.unwrap_err().outcome(), outcome, "{name}");
    }
    // The header rules hold for relayed frames too.
    for bytes in [
        text("x", false),
        frame(0xc1, b"x", true),
        frame(0x83, b"x", true),
    ] {
        let (result, ()) = websocket(Bench::default(), async |client, origin, _| {
            client.write_all(&bytes).await.unwrap();
            arrives(origin, b"").await;
        })
        .await;
        assert_eq!(result.unwrap_err().outcome(), "websocket-frame");
    }
}

#[tokio::test(start_paused = true)]
async fn threat_51_characters_may_be_cut_by_fragments() {
    let (result, ()) = websocket(
        Bench::with(Messages::default()),
        async |client, origin, _| {
            let pieces = [frame(0x01, b"\xc3", true), frame(0x80, b"\xa9", true)];
            client.write_all(&pieces.concat()).await.unwrap();
            arrives(origin, &text("\u{e9}", true)).await;
        },
    )
    .await;
    assert!(result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn threat_52_giant_messages_end_the_connection_before_they_are_held() {
    let limit = Limits::default().websocket_message_bytes as u64;
    let giant = |length: u64| {
        let mut bytes = vec![0x82, 0xff];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&KEY);
        bytes
    };
    for length in [limit + 1, i64::MAX as u64] {
        let (result, ()) = websocket(Bench::with(Messages::default()), async |client, _, _| {
            client.write_all(&giant(length)).await.unwrap();
            arrives(client, &frame(0x88, &1009u16.to_be_bytes(), false)).await;
        })
        .await;
        assert_eq!(result.unwrap_err().outcome(), "websocket-message-too-large");
    }
    // A flood of fragments adds up.
    let bench = Bench {
        limits: Limits {
            websocket_message_bytes: 1000,
            ..Limits::default()
        },
        chain: Chain::new(vec![Link::new(
            "m",
            Arc::new(Messages::default()),
            OnError::Fail,
        )]),
        ..Bench::default()
    };
    let (result, ()) = websocket(bench, async |client, _, _| {
        let mut flood = frame(0x01, &[b'a'; 100], true);
        for _ in 0..10 {
            flood.extend(frame(0x00, &[b'a'; 100], true));
        }
        client.write_all(&flood).await.unwrap();
        arrives(client, &frame(0x88, &1009u16.to_be_bytes(), false)).await;
    })
    .await;
    assert!(result.is_err());
}

#[tokio::test(start_paused = true)]
async fn threat_53_wrong_handshakes_give_502() {
    let request = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    for fields in [
        "Sec-WebSocket-Accept: wrong",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate",
        "X-None: 1",
    ] {
        let reply = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\r\n\r\nsmuggled"
        );
        let seen = Bench::default()
            .talk(&[request], &[reply.as_bytes()], false)
            .await;
        assert!(seen.at_client.starts_with("HTTP/1.1 502 "), "{fields}");
        assert!(!seen.at_client.contains("smuggled"), "{fields}");
        assert_eq!(seen.result.unwrap_err().outcome(), "upgrade", "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_an_interceptors_own_are_sent_to_both_sides_in_their_order() {
    let (result, ()) = websocket(
        Bench::with(Messages::default()),
        async |client, origin, _| {
            client.write_all(&text("a cat", true)).await.unwrap();
            arrives(origin, &text("a tiger", true)).await;
            client.write_all(&text("inject", true)).await.unwrap();
            arrives(origin, &[text("up", true), text("up again", true)].concat()).await;
            arrives(client, &text("down", false)).await;
            // From the other side the masking key is still the client's.
            origin.write_all(&text("inject", false)).await.unwrap();
            arrives(origin, &[text("up", true), text("up again", true)].concat()).await;
            arrives(client, &text("down", false)).await;
        },
    )
    .await;
    assert!(result.is_ok(), "{result:?}");
}
