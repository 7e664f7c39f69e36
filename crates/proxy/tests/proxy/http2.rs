//! HTTP/2 between two peers of the `h2` crate, with the proxy in the middle.

use std::future::{Future, poll_fn};
use std::time::Duration;

use bytes::Bytes;
use flowdog_proxy::{Fault, Limits, Protocol, ProxyError, Side};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use crate::rig::{Bench, Local, Mark, Shout, connect};

fn h2_bench(bench: Bench) -> Bench {
    Bench {
        protocol: Protocol::Http2,
        ..bench
    }
}

/// Sends all of `data`, as the window opens, and optionally ends the stream.
async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(Ok(granted)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let part = data.split_to(granted.min(data.len()));
        let last = end && data.is_empty();
        stream.send_data(part, last).unwrap();
    }
}

async fn read_all(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// What the origin does with every request: see [`origin_answer`].
async fn origin_answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let marks = request.headers().get_all("x-seen").iter().count();
    let mut body = request.into_body();
    match path.as_str() {
        "/reset" => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
        "/early" => {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            out.send_data(Bytes::from_static(b"early"), true).unwrap();
            // Keeps the stream until the client has gone, without reading.
            let _ = poll_fn(|cx| out.poll_reset(cx)).await;
        }
        "/hints" => {
            let mut hints = Response::new(());
            *hints.status_mut() = http::StatusCode::EARLY_HINTS;
            hints.headers_mut().insert("link", "x".parse().unwrap());
            respond.send_informational(hints).unwrap();
            // The interim response is on its way before the final one is made.
            tokio::time::sleep(Duration::from_millis(5)).await;
            respond.send_response(Response::new(()), true).unwrap();
        }
        "/half" => {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            out.send_data(Bytes::from_static(b"half"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            out.send_reset(Reason::INTERNAL_ERROR);
        }
        "/wait" => {
            let reset = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            assert_eq!(reset, Reason::CANCEL);
        }
        "/big" => {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            send_all(&mut out, Bytes::from(vec![5; 5 << 20]), true).await;
        }
        "/space" => {
            let mut response = Response::new(());
            response.headers_mut().insert("x", " y".parse().unwrap());
            respond.send_response(response, true).unwrap();
        }
        _ => {
            // Echo, with what the request's trailers said.
            let mut response = Response::new(());
            response.headers_mut().insert("x-marks", marks.into());
            let mut out = respond.send_response(response, false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send_all(&mut out, data, false).await;
            }
            let mut trailers = HeaderMap::new();
            if let Ok(Some(from_client)) = body.trailers().await {
                trailers.extend(from_client);
            }
            trailers.insert("x-path", path.parse().unwrap());
            let _ = out.send_trailers(trailers);
        }
    }
}

/// Runs `talk` as a client of [`origin_answer`] through the proxy.
async fn through<T, F>(bench: Bench, talk: impl FnOnce(SendRequest<Bytes>) -> F) -> T
where
    F: Future<Output = T>,
{
    let (client, origin, served) = connect(h2_bench(bench));
    let origin = async {
        let mut connection = h2::server::Builder::new()
            .max_concurrent_streams(7)
            .handshake::<_, Bytes>(origin)
            .await
            .unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(accepted) = connection.accept().await {
            let Ok((request, respond)) = accepted else {
                break;
            };
            tasks.spawn_local(origin_answer(request, respond));
        }
        tasks.join_all().await;
    };
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let session = async {
                let (sender, connection) = h2::client::handshake(client).await.unwrap();
                let driver = tokio::task::spawn_local(connection);
                let out = talk(sender).await;
                let _ = driver.await;
                out
            };
            let (result, (), out) = tokio::join!(served, origin, session);
            result.unwrap();
            out
        })
        .await
}

fn get(path: &str) -> Request<()> {
    Request::builder()
        .uri(format!("https://a.example{path}"))
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn streams_run_at_the_same_time_with_bodies_and_trailers() {
    through(Bench::with(Mark), |sender| async move {
        let mut pending = Vec::new();
        for number in 0..5 {
            let mut sender = sender.clone().ready().await.unwrap();
            let (response, mut body) = sender
                .send_request(get(&format!("/{number}")), false)
                .unwrap();
            body.send_data(Bytes::from(vec![number; 1000]), false)
                .unwrap();
            pending.push((number, response, body));
        }
        for (number, response, mut body) in pending {
            let response = response.await.unwrap();
            assert_eq!(response.headers()["x-marks"], "1");
            assert_eq!(response.headers()["x-seen"], "response");
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            body.send_trailers(trailers).unwrap();
            let mut echoed = response.into_body();
            assert_eq!(read_all(&mut echoed).await.unwrap(), vec![number; 1000]);
            let trailers = echoed.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["x-sum"], "7");
            assert_eq!(trailers["x-path"], format!("/{number}"));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_origins_stream_limit_is_mirrored() {
    through(Bench::default(), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        response.await.unwrap();
        assert_eq!(sender.current_max_send_streams(), 7);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_bodies_pass_both_ways() {
    through(Bench::with(Mark), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, mut body) = sender.send_request(get("/up"), false).unwrap();
        let upload = async {
            send_all(&mut body, Bytes::from(vec![3; 5 << 20]), true).await;
        };
        let download = async {
            let mut echoed = response.await.unwrap().into_body();
            read_all(&mut echoed).await.unwrap()
        };
        let ((), echoed) = tokio::join!(upload, download);
        assert!(echoed == vec![3; 5 << 20]);
        let (response, _) = sender.send_request(get("/big"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert!(read_all(&mut body).await.unwrap() == vec![5; 5 << 20]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_23_an_upload_stops_when_the_origin_does_not_read() {
    let sent = through(Bench::default(), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, mut body) = sender.send_request(get("/early"), false).unwrap();
        let early = response.await.unwrap();
        assert_eq!(read_all(&mut early.into_body()).await.unwrap(), b"early");
        let mut sent = 0;
        loop {
            body.reserve_capacity(1 << 16);
            let capacity = poll_fn(|cx| body.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_secs(1), capacity).await {
                Ok(Some(Ok(granted))) => {
                    body.send_data(Bytes::from(vec![0; granted]), false)
                        .unwrap();
                    sent += granted;
                }
                _ => break,
            }
        }
        body.send_reset(Reason::CANCEL);
        sent
    })
    .await;
    let limits = Limits::default();
    assert!(sent > 0);
    assert!(sent <= limits.h2_connection_window as usize * 2, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn resets_keep_their_codes_in_both_directions() {
    through(Bench::default(), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(get("/reset"), true).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        let (response, _) = sender.send_request(get("/half"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = read_all(&mut body).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        // The origin asserts the code of this one.
        let (response, mut body) = sender.send_request(get("/wait"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        body.send_reset(Reason::CANCEL);
        drop(response);
        // Other streams go on.
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert!(response.await.is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_pass() {
    through(Bench::default(), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (mut response, _) = sender.send_request(get("/hints"), true).unwrap();
        let hints = poll_fn(|cx| response.poll_informational(cx))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(hints.status(), 103);
        assert_eq!(hints.headers()["link"], "x");
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interceptors_answer_abort_and_fail_single_streams() {
    through(Bench::with(Local), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(get("/local"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 418);
        assert_eq!(response.headers()["content-length"], "3");
        assert_eq!(read_all(&mut response.into_body()).await.unwrap(), b"tea");
        let (response, _) = sender.send_request(get("/abort"), true).unwrap();
        assert_eq!(response.await.unwrap_err().reason(), Some(Reason::CANCEL));
        let (response, _) = sender.send_request(get("/fail"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers()["x-flowdog-error"], "interceptor-failed");
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn rewritten_bodies_have_the_right_length() {
    through(Bench::with(Shout), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let mut request = get("/");
        request.headers_mut().insert("content-length", 3.into());
        let (response, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-length"], "5");
        assert_eq!(read_all(&mut response.into_body()).await.unwrap(), b"ABC!!");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_17_malformed_messages_are_refused_by_stream() {
    through(Bench::default(), |sender| async move {
        let mut sender = sender.ready().await.unwrap();
        let mut refused = Vec::new();
        for (name, value) in [
            ("x", " y"),
            ("x", "y\t"),
            ("host", "b.example"),
            ("host", "a, b"),
        ] {
            let mut request = get("/");
            request.headers_mut().insert(name, value.parse().unwrap());
            let (response, _) = sender.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 400, "{name}: {value}");
            refused.push(
                response.headers()["x-flowdog-error"]
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
        assert_eq!(refused, ["field-value", "field-value", "host", "host"]);
        let (response, _) = sender.send_request(get("/space"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 502);
        let mut request = get("/");
        request
            .headers_mut()
            .insert("host", "A.EXAMPLE:443".parse().unwrap());
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn threat_25_goaway_of_the_origin_reaches_the_client_and_open_streams_end_well() {
    let (client, origin, served) = connect(h2_bench(Bench::default()));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let origin = async {
                let mut connection = h2::server::handshake(origin).await.unwrap();
                let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                connection.graceful_shutdown();
                let finish = async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    respond.send_response(Response::new(()), true).unwrap();
                };
                let rest = async { while connection.accept().await.is_some() {} };
                tokio::join!(finish, rest);
            };
            let session = async {
                let (mut sender, connection) = h2::client::handshake::<_>(client).await.unwrap();
                let driver = tokio::task::spawn_local(connection);
                let (response, _) = sender.send_request(get("/"), true).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                let refused = poll_fn(|cx| sender.poll_ready(cx)).await.unwrap_err();
                assert!(refused.is_go_away());
                assert_eq!(response.await.unwrap().status(), 200);
                driver.await.unwrap().unwrap();
            };
            let (result, (), ()) = tokio::join!(served, origin, session);
            assert_eq!(result.unwrap().exchanges, 1);
        })
        .await;
}

/// Opens a WebSocket by extended CONNECT through the proxy; `None` when it was not offered.
async fn extended_connect(bench: Bench) -> Option<Vec<u8>> {
    let (client, origin, served) = connect(h2_bench(bench));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let origin = async {
                let mut connection = h2::server::Builder::new()
                    .enable_connect_protocol()
                    .handshake::<_, Bytes>(origin)
                    .await
                    .unwrap();
                let mut tasks = tokio::task::JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let protocol = request.extensions().get::<h2::ext::Protocol>();
                    assert_eq!(protocol.map(h2::ext::Protocol::as_str), Some("websocket"));
                    tasks.spawn_local(origin_answer(request, respond));
                }
            };
            let session = async {
                let (sender, connection) = h2::client::handshake(client).await.unwrap();
                tokio::task::spawn_local(connection);
                tokio::time::sleep(Duration::from_millis(5)).await;
                let mut sender = sender.ready().await.unwrap();
                if !sender.is_extended_connect_protocol_enabled() {
                    return None;
                }
                let mut request = get("/chat");
                *request.method_mut() = http::Method::CONNECT;
                let websocket = h2::ext::Protocol::from_static("websocket");
                request.extensions_mut().insert(websocket);
                let (response, mut up) = sender.send_request(request, false).unwrap();
                let mut down = response.await.unwrap().into_body();
                up.send_data(Bytes::from_static(b"\x81\x80abcd"), false)
                    .unwrap();
                let echoed = down.data().await.unwrap().unwrap();
                up.send_data(Bytes::new(), true).unwrap();
                Some(echoed.to_vec())
            };
            let (result, (), out) = tokio::join!(served, origin, session);
            result.unwrap();
            out
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn threat_26_extended_connect_is_relayed_where_nobody_reads_messages() {
    let echoed = extended_connect(Bench::default()).await;
    assert_eq!(echoed.as_deref(), Some(&b"\x81\x80abcd"[..]));
}

/// A WebSocket over a stream whose messages an interceptor reads: frames the client sends, by what
/// they say, and what comes back until its stream ends. The origin echoes.
async fn messages_over_a_stream(texts: &[&str]) -> Vec<u8> {
    let bench = Bench::with(crate::rig::Messages::default());
    let (client, origin, served) = connect(h2_bench(bench));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let origin = async {
                let mut connection = h2::server::Builder::new()
                    .enable_connect_protocol()
                    .handshake::<_, Bytes>(origin)
                    .await
                    .unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::task::spawn_local(async move {
                        let mut body = request.into_body();
                        let mut out = respond.send_response(Response::new(()), false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            // The key is zero: a frame is unmasked by leaving the key out.
                            let mut rest = &data[..];
                            while let [first, second, _, _, _, _, more @ ..] = rest {
                                let (payload, next) = more.split_at(usize::from(second & 0x7f));
                                let frame = [&[*first, second & 0x7f], payload].concat();
                                out.send_data(frame.into(), false).unwrap();
                                rest = next;
                            }
                        }
                        let _ = out.send_data(Bytes::new(), true);
                    });
                }
            };
            let session = async {
                let (sender, connection) = h2::client::handshake(client).await.unwrap();
                tokio::task::spawn_local(connection);
                tokio::time::sleep(Duration::from_millis(5)).await;
                let mut sender = sender.ready().await.unwrap();
                assert!(sender.is_extended_connect_protocol_enabled());
                let mut request = get("/chat");
                *request.method_mut() = http::Method::CONNECT;
                let websocket = h2::ext::Protocol::from_static("websocket");
                request.extensions_mut().insert(websocket);
                let (response, mut up) = sender.send_request(request, false).unwrap();
                let mut down = response.await.unwrap().into_body();
                for text in texts {
                    let length = u8::try_from(text.len()).unwrap();
                    let head = [0x81, 0x80 | length, 0, 0, 0, 0];
                    let frame = [&head, text.as_bytes()].concat();
                    up.send_data(frame.into(), false).unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let _ = up.send_data(Bytes::new(), true);
                read_all(&mut down).await.unwrap()
            };
            let (result, (), seen) = tokio::join!(served, origin, session);
            result.unwrap();
            seen
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn messages_over_a_stream_are_edited_dropped_injected_and_closed() {
    let frame = |text: &str| [&[0x81, text.len() as u8], text.as_bytes()].concat();
    let close = |code: u16| [&[0x88, 2][..], &code.to_be_bytes()].concat();
    let seen = messages_over_a_stream(&["a cat", "drop", "cats"]).await;
    assert_eq!(seen, [frame("a tiger"), frame("tigers")].concat());
    let mut seen = messages_over_a_stream(&["inject"]).await;
    seen.sort_unstable();
    let mut expected = [frame("down"), frame("up"), frame("up again")].concat();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let seen = messages_over_a_stream(&["a cat", "close"]).await;
    assert_eq!(seen, [frame("a tiger"), close(4001)].concat());
    let seen = messages_over_a_stream(&["fail"]).await;
    assert_eq!(seen, close(1011));
}

#[tokio::test(start_paused = true)]
async fn threat_19_rapid_resets_end_the_connection() {
    let (client, origin, served) = connect(h2_bench(Bench::default()));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let origin = async {
                let mut connection = h2::server::handshake(origin).await.unwrap();
                let mut tasks = tokio::task::JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tasks.spawn_local(origin_answer(request, respond));
                }
            };
            let session = async {
                let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
                let driver = tokio::task::spawn_local(connection);
                for _ in 0..200 {
                    // Requests and their resets in one burst, before anybody can answer.
                    for _ in 0..50 {
                        let Ok((_, mut body)) = sender.send_request(get("/wait"), false) else {
                            break;
                        };
                        body.send_reset(Reason::CANCEL);
                    }
                    tokio::task::yield_now().await;
                }
                drop(sender);
                driver.await.unwrap()
            };
            let (result, (), ended) = tokio::join!(served, origin, session);
            // The client may see a GOAWAY or, still writing, the end of its connection.
            assert!(ended.is_err());
            match result {
                Err(ProxyError::Peer { side, fault }) => {
                    assert_eq!((side, fault), (Side::Client, Fault::Http2Flood));
                }
                other => panic!("{other:?}"),
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn threat_19_resets_one_by_one_end_the_connection_beyond_so_many_a_second() {
    for (pause, is_ended) in [
        (Duration::from_millis(1), true),
        (Duration::from_millis(20), false),
    ] {
        let limits = Limits {
            h2_resets: 100,
            ..Limits::default()
        };
        let bench = Bench {
            limits,
            ..Bench::default()
        };
        let (client, origin, served) = connect(h2_bench(bench));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let origin = async {
                    let mut connection = h2::server::handshake(origin).await.unwrap();
                    let mut tasks = tokio::task::JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tasks.spawn_local(origin_answer(request, respond));
                    }
                };
                let session = async {
                    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
                    let driver = tokio::task::spawn_local(connection);
                    for _ in 0..300 {
                        let Ok((_, mut body)) = sender.send_request(get("/wait"), false) else {
                            break;
                        };
                        // The origin has it before it is taken back.
                        tokio::time::sleep(pause).await;
                        body.send_reset(Reason::CANCEL);
                    }
                    tokio::time::sleep(pause).await;
                    drop(sender);
                    driver.await.unwrap()
                };
                let (result, (), ended) = tokio::join!(served, origin, session);
                let outcome = result.map(|_| ()).map_err(|error| error.outcome());
                if is_ended {
                    assert_eq!(outcome, Err("http2-resets"));
                    let reason = ended.unwrap_err().reason();
                    assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM));
                } else {
                    assert_eq!(outcome, Ok(()));
                }
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn threat_27_a_slow_upload_over_http2_is_reset_and_a_call_without_length_is_not() {
    for has_length in [true, false] {
        let outcome = through(Bench::default(), |mut sender| async move {
            let mut request = Request::post("http://a/echo");
            if has_length {
                request = request.header("content-length", "1000000");
            }
            let (response, mut body) = sender
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_secs(10)).await;
                if body.send_data(Bytes::from_static(b"x"), false).is_err() {
                    break;
                }
            }
            if !has_length {
                body.send_data(Bytes::new(), true).unwrap();
            }
            let mut answer = response.await?.into_body();
            read_all(&mut answer).await
        })
        .await;
        if has_length {
            let reason = outcome.unwrap_err().reason();
            assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM));
        } else {
            assert_eq!(outcome.unwrap().len(), 60);
        }
    }
}
