//! A message stays in the version it came in: what one leg says in another version than the other leg
//! speaks is refused, never translated.

use flowdog_proxy::Protocol;

use crate::rig::Bench;

/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// What an HTTP/2 server says first: empty SETTINGS, then the head `:status: 200`.
const ANSWER: &[u8] =
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88";

#[tokio::test(start_paused = true)]
async fn threat_18_an_http2_answer_to_an_http1_request_is_refused() {
    for request in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n0\r\nx: y\r\n\r\n",
    ] {
        let seen = Bench::default().talk(&[request], &[ANSWER], true).await;
        assert!(
            seen.at_client.starts_with("HTTP/1.1 502 "),
            "{}",
            seen.at_client
        );
        let request = String::from_utf8_lossy(request);
        let (line, _) = request.split_once("\r\n").unwrap();
        assert!(seen.at_origin.starts_with(line), "{}", seen.at_origin);
        assert!(seen.result.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn threat_18_an_http1_connection_does_not_become_http2_on_the_way() {
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    for first in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], upgrade] {
        let seen = Bench::default().talk(&[first, PREFACE], &[ok], false).await;
        assert!(
            seen.at_client.contains("HTTP/1.1 400 "),
            "{}",
            seen.at_client
        );
        assert!(!seen.at_origin.contains("PRI"), "{}", seen.at_origin);
    }
    // As the first request of a connection that was taken for HTTP/1.
    let seen = Bench::default().talk(&[PREFACE], &[ok], false).await;
    assert!(
        seen.at_client.starts_with("HTTP/1.1 400 "),
        "{}",
        seen.at_client
    );
    assert_eq!(seen.at_origin, "");
}

#[tokio::test(start_paused = true)]
async fn threat_18_an_http1_answer_to_an_http2_connection_ends_it() {
    let bench = Bench {
        protocol: Protocol::Http2,
        ..Bench::default()
    };
    let request = [
        PREFACE,
        // GET / of http://a/, all in the static table but the authority.
        b"\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x01a",
    ]
    .concat();
    let evil = b"HTTP/1.1 200 Evil\r\nContent-Length: 0\r\n\r\n";
    let seen = bench.talk(&[&request], &[evil], true).await;
    assert!(!seen.at_client.contains("Evil"), "{}", seen.at_client);
    assert!(!seen.at_client.contains("HTTP/1"), "{}", seen.at_client);
    assert!(!seen.at_origin.contains("HTTP/1"), "{}", seen.at_origin);
    assert!(seen.result.is_err());
}
