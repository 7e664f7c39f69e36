//! HTTP/1 exchanges: what goes in at one end and must come out at the other.

use flowdog_proxy::{Limits, ProxyError};

use crate::rig::{Bench, Local, Mark, Shout};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test(start_paused = true)]
async fn an_exchange_passes_byte_for_byte_in_case_order_and_duplicates() {
    let request = "GET /a?b=%20c HTTP/1.1\r\nhOsT: a.example\r\nX-B: 1\r\naccept: */*\r\nX-b: 2\r\nX-Empty: \r\n\r\n";
    let reply = "HTTP/1.1 200 Fine by me\r\nSet-Cookie: a=1\r\nsErVeR: x\r\nSet-Cookie: b=2\r\nContent-length: 2\r\n\r\nhi";
    let seen = Bench::default()
        .talk(&[request.as_bytes()], &[reply.as_bytes()], false)
        .await;
    assert_eq!(seen.at_origin, request);
    assert_eq!(seen.at_client, reply);
    let summary = seen.result.unwrap();
    assert_eq!(summary.exchanges, 1);
    assert_eq!(summary.bytes_from_client, request.len() as u64);
    assert_eq!(summary.bytes_from_server, reply.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn interceptors_see_and_change_both_heads() {
    let seen = Bench::with(Mark)
        .talk(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], &[OK], false)
        .await;
    assert_eq!(
        seen.at_origin,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Seen: request\r\n\r\n"
    );
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Seen: response\r\n\r\nhi"
    );
}

#[tokio::test(start_paused = true)]
async fn chunked_bodies_keep_trailers_and_lose_extensions() {
    let seen = Bench::default()
        .talk(
            &[b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nTrailer: x-sum\r\n\r\n2\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(
        seen.at_origin,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    );
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nTrailer: x-sum\r\n\r\n2\r\nde\r\n0\r\nX-Sum: 9\r\n\r\n"
    );
    assert!(seen.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bodies_that_interceptors_rewrite_get_the_right_framing() {
    let seen = Bench::with(Shout)
        .talk(
            &[b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Last: 1\r\n\r\nhi"],
            false,
        )
        .await;
    assert_eq!(
        seen.at_origin,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nABCDE!"
    );
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Last: 1\r\n\r\nHI!"
    );
}

#[tokio::test(start_paused = true)]
async fn expect_100_continue_is_answered_by_the_origin_only() {
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let seen = Bench::default()
        .talk(
            &[head.as_bytes()],
            &[b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, head);
    // Nobody knows whether the body will come, so the connection ends.
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"
    );
    let (mut client, mut origin, served) = crate::rig::connect(Bench::default());
    let talk = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        client.write_all(head.as_bytes()).await.unwrap();
        let mut at_origin = vec![0; head.len()];
        origin.read_exact(&mut at_origin).await.unwrap();
        origin
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            .await
            .unwrap();
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        let mut at_client = vec![0; interim.len()];
        client.read_exact(&mut at_client).await.unwrap();
        assert_eq!(String::from_utf8(at_client).unwrap(), interim);
        client.write_all(b"body").await.unwrap();
        let mut body = [0; 4];
        origin.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        origin.write_all(OK).await.unwrap();
        let mut answer = vec![0; OK.len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, OK);
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        origin.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    };
    let (result, ()) = tokio::join!(served, talk);
    assert_eq!(result.unwrap().exchanges, 1);
}

#[tokio::test(start_paused = true)]
async fn answers_without_bodies_keep_their_fields_and_the_connection() {
    let requests = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    let replies = [
        "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    ];
    let bytes: Vec<&[u8]> = replies.iter().map(|reply| reply.as_bytes()).collect();
    let seen = Bench::default()
        .talk(&[requests.as_bytes()], &bytes, false)
        .await;
    assert_eq!(seen.at_origin, requests);
    assert_eq!(seen.at_client, replies.concat());
    assert_eq!(seen.result.unwrap().exchanges, 4);
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_reach_the_origin_one_after_the_other() {
    // The second reply is only given when the second request has come.
    let seen = Bench::with(Mark)
        .talk(
            &[b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"],
            &[OK, OK, OK],
            false,
        )
        .await;
    assert_eq!(
        seen.at_origin,
        "GET /1 HTTP/1.1\r\nHost: a\r\nX-Seen: request\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Seen: request\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\nX-Seen: request\r\n\r\n"
    );
    assert_eq!(seen.at_client.matches("200 OK").count(), 3);
    assert_eq!(seen.result.unwrap().exchanges, 3);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_end_with_the_connection_do_so_for_the_client_too() {
    let reply = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end";
    let seen = Bench::default()
        .talk(
            &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n"],
            &[reply.as_bytes()],
            true,
        )
        .await;
    assert_eq!(seen.at_client, reply);
    assert_eq!(seen.at_origin, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(seen.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn threat_09_http10_has_no_persistence_unless_both_sides_ask_for_it() {
    let seen = Bench::default()
        .talk(
            &[b"GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n"],
            &[b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, "GET /1 HTTP/1.0\r\n\r\n");
    assert!(seen.at_client.ends_with("\r\n\r\nhi"));
    let keep = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi";
    let seen = Bench::default()
        .talk(
            &[b"GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET /2 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"],
            &[keep, keep],
            false,
        )
        .await;
    assert_eq!(seen.result.unwrap().exchanges, 2);
}

#[tokio::test(start_paused = true)]
async fn chunked_answers_to_http10_clients_are_sent_until_the_end() {
    let seen = Bench::default()
        .talk(
            &[b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"],
            &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
            false,
        )
        .await;
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    );
}

#[tokio::test(start_paused = true)]
async fn connection_close_from_either_side_ends_the_connection() {
    for (request, reply) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nhi",
        ),
    ] {
        let pieces = [request.as_bytes(), b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n"];
        let seen = Bench::default()
            .talk(&pieces[..1], &[reply.as_bytes()], false)
            .await;
        assert_eq!(seen.at_client, reply);
        assert_eq!(seen.at_origin, request);
        assert!(seen.result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_respond_answers_without_the_origin_and_keeps_the_connection() {
    let seen = Bench::with(Local)
        .talk(
            &[b"POST /local HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nHost: a\r\n\r\n"],
            &[OK],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 418 I'm a teapot\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nteaHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    );
    assert_eq!(seen.result.unwrap().exchanges, 2);
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_both_legs_without_an_answer() {
    let seen = Bench::with(Local)
        .talk(&[b"GET /abort HTTP/1.1\r\nHost: a\r\n\r\n"], &[OK], false)
        .await;
    assert_eq!((&*seen.at_origin, &*seen.at_client), ("", ""));
    assert!(matches!(seen.result, Err(ProxyError::Aborted)));
}

#[tokio::test(start_paused = true)]
async fn a_failing_interceptor_gives_502_without_its_reason() {
    let seen = Bench::with(Local)
        .talk(&[b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n"], &[OK], false)
        .await;
    assert_eq!(seen.at_origin, "");
    assert!(seen.at_client.starts_with("HTTP/1.1 502 "));
    assert!(
        seen.at_client
            .contains("x-flowdog-error: interceptor-failed\r\n")
    );
    assert!(!seen.at_client.contains("secret"));
    assert!(matches!(seen.result, Err(ProxyError::Intercepted { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_without_an_answer_is_seen_to_go() {
    let seen = Bench::default()
        .talk(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], &[b""], true)
        .await;
    assert_eq!(seen.at_client, "");
    assert!(seen.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn upgrades_to_other_protocols_become_tunnels_after_the_101() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other/1\r\n\r\n";
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other/1\r\n\r\n";
    let seen = Bench::default()
        .talk(
            &[request.as_bytes(), b"", b"", b"", b"", b"\x00\x01tunnel"],
            &[format!("{switched}\x02hello").as_bytes(), b"\x03bye"],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, format!("{request}\x00\x01tunnel"));
    assert_eq!(seen.at_client, format!("{switched}\x02hello\x03bye"));
    assert!(seen.result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn connect_becomes_a_tunnel_when_the_origin_agrees() {
    let request = "CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n";
    let seen = Bench::default()
        .talk(
            &[request.as_bytes(), b"", b"", b"", b"", b"\x16\x03\x01"],
            &[
                b"HTTP/1.1 200 Connection established\r\n\r\n",
                b"\x16\x03\x03",
            ],
            false,
        )
        .await;
    assert_eq!(seen.at_origin, format!("{request}\x16\x03\x01"));
    assert_eq!(
        seen.at_client,
        "HTTP/1.1 200 Connection established\r\n\r\n\x16\x03\x03"
    );
}

#[tokio::test(start_paused = true)]
async fn threat_12_bytes_before_the_101_wait_for_it_and_are_requests_if_it_is_refused() {
    let upgrade = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other/1\r\n\r\n";
    let smuggled = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    let seen = Bench::with(Mark)
        .talk(
            &[format!("{upgrade}{smuggled}").as_bytes()],
            &[OK, OK],
            false,
        )
        .await;
    // The interceptor has seen the second request: it did not slip through as tunnelled bytes.
    assert_eq!(seen.at_origin.matches("X-Seen: request").count(), 2);
    assert_eq!(seen.result.unwrap().exchanges, 2);
}

#[tokio::test(start_paused = true)]
async fn threat_27_slow_heads_and_silence_end_the_connection() {
    let limits = Limits::default();
    let start = tokio::time::Instant::now();
    let (mut client, origin, served) = crate::rig::connect(Bench::default());
    let talk = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        client.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        seen
    };
    let (result, seen) = tokio::join!(served, talk);
    assert!(seen.starts_with("HTTP/1.1 408 "));
    assert_eq!(result.unwrap_err().outcome(), "slow-head");
    assert!(start.elapsed() <= limits.head_time * 2);
    drop(origin);

    let start = tokio::time::Instant::now();
    let (client, origin, served) = crate::rig::connect(Bench::default());
    assert!(matches!(served.await, Err(ProxyError::Idle)));
    assert!(start.elapsed() >= limits.idle_time);
    assert!(start.elapsed() <= limits.idle_time * 2);
    drop((client, origin));
}

#[tokio::test(start_paused = true)]
async fn threat_27_slow_bodies_get_408_and_steady_ones_and_slow_origins_do_not() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let refused = || {
        flowdog_proxy::refused()
            .find(|(fault, _)| *fault == flowdog_proxy::Fault::SlowBody)
            .map_or(0, |(_, count)| count)
    };
    // Bytes in each step of ten seconds, and whether that is too slow for 100 bytes a second.
    for (step, is_slow) in [(1, true), (900, true), (1600, false)] {
        let before = refused();
        let (mut client, mut origin, served) = crate::rig::connect(Bench::default());
        let upload = async {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..60 {
                tokio::time::sleep(std::time::Duration::from_secs(10)).await;
                if client.write_all(&vec![b'x'; step]).await.is_err() {
                    break;
                }
            }
            let _ = client.shutdown().await;
            let mut seen = String::new();
            let _ = client.read_to_string(&mut seen).await;
            seen
        };
        let read = async {
            let mut seen = Vec::new();
            let _ = origin.read_to_end(&mut seen).await;
        };
        let (result, seen, ()) = tokio::join!(served, upload, read);
        let outcome = result.unwrap_err().outcome();
        if is_slow {
            assert!(seen.starts_with("HTTP/1.1 408 "), "{step}: {seen}");
            assert_eq!((outcome, refused()), ("slow-body", before + 1));
        } else {
            assert_eq!((outcome, refused()), ("body-truncated", before));
        }
    }
    // An origin that takes a body slowly is not its sender's fault.
    let (mut client, mut origin, served) = crate::rig::connect(Bench::default());
    let body = 1 << 20;
    let upload = async {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; body]).await.unwrap();
        let mut seen = vec![0; 15];
        client.read_exact(&mut seen).await.unwrap();
        drop(client);
        seen
    };
    let take = async {
        let mut taken = 0;
        let mut space = vec![0; 16 << 10];
        while taken < body {
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
            taken += origin.read(&mut space).await.unwrap();
        }
        origin
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        let _ = origin.read(&mut space).await;
    };
    let (_, seen, ()) = tokio::join!(served, upload, take);
    assert_eq!(seen, b"HTTP/1.1 204 No");
}
