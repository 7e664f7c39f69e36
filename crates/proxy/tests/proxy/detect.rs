//! Choosing the protocol after TLS: by ALPN, by the client's bytes, or by who speaks first.

use std::sync::Arc;
use std::time::Duration;

use flowdog_proxy::{Limits, Protocol, serve_detected};
use sdk::Chain;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn detected(
    alpn: Option<&'static [u8]>,
    from_client: &[u8],
    from_server: &[u8],
) -> (Protocol, Vec<u8>, Vec<u8>) {
    let (mut client, client_leg) = tokio::io::duplex(4096);
    let (mut origin, server_leg) = tokio::io::duplex(4096);
    let flow = Arc::new(sdk::testing::flow());
    let limits = Limits::default();
    let served = serve_detected(
        client_leg,
        server_leg,
        alpn,
        Chain::default(),
        flow,
        &limits,
    );
    let talk = async {
        let (mut at_client, mut at_origin) = (Vec::new(), Vec::new());
        origin.write_all(from_server).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        client.write_all(from_client).await.unwrap();
        let quiet = Duration::from_secs(15);
        crate::rig::read_until_quiet(&mut origin, &mut at_origin, quiet).await;
        crate::rig::read_until_quiet(&mut client, &mut at_client, quiet).await;
        client.shutdown().await.unwrap();
        origin.shutdown().await.unwrap();
        let _ = origin.read_to_end(&mut at_origin).await;
        let _ = client.read_to_end(&mut at_client).await;
        (at_client, at_origin)
    };
    let (summary, (at_client, at_origin)) = tokio::join!(served, talk);
    (summary.unwrap().protocol, at_client, at_origin)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_relayed() {
    let (protocol, at_client, at_origin) =
        detected(None, b"EHLO me\r\n", b"220 mail.example\r\n").await;
    assert_eq!(protocol, Protocol::Opaque);
    assert_eq!(at_client, b"220 mail.example\r\n");
    assert_eq!(at_origin, b"EHLO me\r\n");
}

#[tokio::test(start_paused = true)]
async fn unknown_bytes_and_unknown_names_are_relayed() {
    let (protocol, _, at_origin) = detected(None, b"\x00\x01\x02", b"").await;
    assert_eq!(
        (protocol, &at_origin[..]),
        (Protocol::Opaque, &b"\x00\x01\x02"[..])
    );
    let (protocol, _, at_origin) = detected(Some(b"imap"), b"GET / HTTP/1.1\r\n", b"").await;
    assert_eq!(
        (protocol, &at_origin[..]),
        (Protocol::Opaque, &b"GET / HTTP/1.1\r\n"[..])
    );
    let (protocol, _, at_origin) = detected(Some(b"http/1.1"), b"SSH-2.0-x\r\n", b"").await;
    assert_eq!(
        (protocol, &at_origin[..]),
        (Protocol::Opaque, &b"SSH-2.0-x\r\n"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_never_decides_is_relayed_after_the_time_limit() {
    let (protocol, _, at_origin) = detected(None, b"GET", b"").await;
    assert_eq!((protocol, &at_origin[..]), (Protocol::Opaque, &b"GET"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_request_line_is_http1() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (protocol, _, at_origin) = detected(None, request, b"").await;
    assert_eq!((protocol, &at_origin[..]), (Protocol::Http1, &request[..]));
}

#[tokio::test(start_paused = true)]
async fn settings_before_the_preface_do_not_hide_http2() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let preface = [flowdog_proxy::detect::HTTP2_PREFACE, &settings].concat();
    let (mut client, client_leg) = tokio::io::duplex(4096);
    let (mut origin, server_leg) = tokio::io::duplex(4096);
    let flow = Arc::new(sdk::testing::flow());
    let limits = Limits::default();
    let chain = Chain::default();
    let served = serve_detected(client_leg, server_leg, None, chain, flow, &limits);
    let talk = async {
        origin.write_all(&settings).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        client.write_all(&preface).await.unwrap();
        let (mut at_client, mut at_origin) = (Vec::new(), Vec::new());
        let quiet = Duration::from_millis(100);
        crate::rig::read_until_quiet(&mut origin, &mut at_origin, quiet).await;
        crate::rig::read_until_quiet(&mut client, &mut at_client, quiet).await;
        client.shutdown().await.unwrap();
        origin.shutdown().await.unwrap();
        // The proxy speaks HTTP/2 of its own: its windows are not the peers'.
        assert!(at_origin.starts_with(flowdog_proxy::detect::HTTP2_PREFACE));
        assert_ne!(at_origin, preface);
        assert_eq!(at_client.get(3), Some(&4));
    };
    let (result, ()) = tokio::join!(served, talk);
    assert_eq!(result.unwrap().protocol, Protocol::Http2);
}
