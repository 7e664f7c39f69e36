//! Bodies that flow: bounded memory, no delay, both directions at once.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Bench, Mark, connect};

const MEGABYTES: usize = 8;

#[tokio::test(start_paused = true)]
async fn a_large_upload_stops_when_the_origin_does_not_read() {
    let (mut client, mut origin, served) = connect(Bench::with(Mark));
    let length = MEGABYTES << 20;
    let talk = async {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![7u8; 16 * 1024];
        let mut sent = 0;
        // Write until the pipe, the proxy and the other pipe are full.
        while tokio::time::timeout(Duration::from_millis(50), client.write_all(&chunk))
            .await
            .is_ok()
        {
            sent += chunk.len();
        }
        assert!(sent < 512 * 1024, "{sent} bytes were taken from the client");
        let mut seen = Vec::new();
        let upload = async {
            // The write that timed out may have written a part; go on by what is missing in all.
            let more = vec![7u8; 16 * 1024];
            loop {
                if client.write(&more).await.is_err() {
                    break;
                }
            }
        };
        let read = async {
            let mut total = 0;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = origin.read(&mut buffer).await.unwrap();
                if seen.len() < 200 {
                    seen.extend_from_slice(&buffer[..count]);
                }
                total += count;
                let head_len = seen
                    .windows(4)
                    .position(|w| w == b"\r\n\r\n")
                    .map(|at| at + 4);
                if head_len.is_some_and(|head| total >= head + length) {
                    return total - head_len.unwrap();
                }
            }
        };
        let got = tokio::select! { got = read => got, () = upload => 0 };
        assert_eq!(got, length);
    };
    tokio::select! {
        () = talk => {}
        result = served => panic!("{result:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_download_arrives_whole_and_stops_when_the_client_does_not_read() {
    let (mut client, mut origin, served) = connect(Bench::with(Mark));
    let length = MEGABYTES << 20;
    let talk = async {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut request = [0; 1024];
        let _ = origin.read(&mut request).await.unwrap();
        let mut body = Vec::with_capacity(length);
        body.extend((0..length).map(|at| (at / 251 % 256) as u8));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let whole = [head.as_bytes(), &body].concat();
        let mut sent = 0;
        while let Ok(count) =
            tokio::time::timeout(Duration::from_millis(50), origin.write(&whole[sent..])).await
        {
            sent += count.unwrap();
        }
        assert!(sent < 512 * 1024, "{sent} bytes were taken from the origin");
        let send = async {
            origin.write_all(&whole[sent..]).await.unwrap();
        };
        let receive = async {
            let mut seen = Vec::new();
            loop {
                client.read_buf(&mut seen).await.unwrap();
                let head = seen.windows(4).take(200).position(|w| w == b"\r\n\r\n");
                if head.is_some_and(|at| seen.len() >= at + 4 + length) {
                    break;
                }
            }
            seen
        };
        let ((), seen) = tokio::join!(send, receive);
        assert!(seen.ends_with(&body));
        assert!(seen.len() < length + 200);
    };
    tokio::select! {
        () = talk => {}
        result = served => panic!("{result:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn server_sent_events_pass_one_by_one_without_delay() {
    let (mut client, mut origin, served) = connect(Bench::with(Mark));
    let talk = async {
        client
            .write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut request = [0; 1024];
        let _ = origin.read(&mut request).await.unwrap();
        origin
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
            .await
            .unwrap();
        let mut head = vec![0; 1024];
        let count = client.read(&mut head).await.unwrap();
        assert!(
            head[..count].ends_with(b"\r\n\r\n"),
            "the head waits for nothing"
        );
        for number in 0..5 {
            let start = tokio::time::Instant::now();
            origin.write_all(b"9\r\ndata: 1\n\n\r\n").await.unwrap();
            let mut event = [0; 14];
            client.read_exact(&mut event).await.unwrap();
            assert_eq!(&event, b"9\r\ndata: 1\n\n\r\n", "event {number}");
            assert_eq!(start.elapsed(), Duration::ZERO, "event {number}");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    tokio::select! {
        () = talk => {}
        result = served => panic!("{result:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_reaches_the_client_while_its_request_still_flows() {
    let (mut client, mut origin, served) = connect(Bench::default());
    let talk = async {
        client
            .write_all(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            )
            .await
            .unwrap();
        let mut buffer = [0; 1024];
        let _ = origin.read(&mut buffer).await.unwrap();
        origin
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nAB\r\n")
            .await
            .unwrap();
        let count = client.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].ends_with(b"2\r\nAB\r\n"));
        client.write_all(b"2\r\ncd\r\n0\r\n\r\n").await.unwrap();
        let count = origin.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"2\r\ncd\r\n0\r\n\r\n");
        origin.write_all(b"0\r\n\r\n").await.unwrap();
        let count = client.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"0\r\n\r\n");
        client.shutdown().await.unwrap();
    };
    let (result, ()) = tokio::join!(served, talk);
    assert_eq!(result.unwrap().exchanges, 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_exchange_leaves_in_one_write() {
    // One write of the proxy is one read at the other end, as long as nothing else is in the pipe.
    let (mut client, mut origin, served) = connect(Bench::with(Mark));
    let talk = async {
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        client.write_all(request).await.unwrap();
        let mut buffer = [0; 1024];
        let count = origin.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].ends_with(b"\r\n\r\nbody"));
    };
    tokio::select! {
        () = talk => {}
        result = served => panic!("{result:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_takes_the_server_leg_with_it() {
    let (mut client, mut origin, served) = connect(Bench::default());
    let talk = async {
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
            .await
            .unwrap();
        let mut buffer = [0; 1024];
        let _ = origin.read(&mut buffer).await.unwrap();
        drop(client);
        origin.read(&mut buffer).await
    };
    let (result, end) = tokio::join!(served, talk);
    assert_eq!(end.unwrap(), 0);
    assert_eq!(result.unwrap_err().outcome(), "body-truncated");
}

/// A stream that ends without a closure alert, as rustls reports it.
struct Unclean(tokio::io::DuplexStream);

impl tokio::io::AsyncRead for Unclean {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        space: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = space.filled().len();
        std::task::ready!(std::pin::Pin::new(&mut self.0).poll_read(cx, space))?;
        std::task::Poll::Ready(if space.filled().len() == before {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(())
        })
    }
}

impl tokio::io::AsyncWrite for Unclean {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_closure_alert_ends_a_connection_but_not_a_body() {
    for (reply, outcome) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", None),
        ("HTTP/1.1 200 OK\r\n\r\nis this all", Some("body-truncated")),
    ] {
        let (mut client, client_leg) = tokio::io::duplex(4096);
        let (mut origin, server_leg) = tokio::io::duplex(4096);
        let limits = flowdog_proxy::Limits::default();
        let served = flowdog_proxy::serve(
            client_leg,
            Unclean(server_leg),
            flowdog_proxy::Protocol::Http1,
            sdk::Chain::default(),
            std::sync::Arc::new(sdk::testing::flow()),
            &limits,
        );
        let talk = async {
            let mut buffer = [0; 1024];
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let _ = origin.read(&mut buffer).await.unwrap();
            origin.write_all(reply.as_bytes()).await.unwrap();
            drop(origin);
            let mut seen = String::new();
            client.read_to_string(&mut seen).await.unwrap();
            seen
        };
        let (result, seen) = tokio::join!(served, talk);
        assert_eq!(seen, reply);
        assert_eq!(result.err().map(|error| error.outcome()), outcome);
    }
}
