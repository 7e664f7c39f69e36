//! Each service as a client meets it, over in-memory pipes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::websocket::{FrameHeader, opcode};
use super::*;

#[test]
fn the_greeting_tells_peer_protocol_and_fields_as_they_came() {
    run(async {
        let answer = ask(
            Service::Http,
            b"GET / HTTP/1.1\r\nHost: any.lab.name\r\nX-CaSe: Kept\r\nconnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("You are 10.0.0.10:50000, you reached 198.18.7.7:80 over HTTP/1.1."),
            "{answer}"
        );
        assert!(
            answer.contains("\nHost: any.lab.name\nX-CaSe: Kept\nconnection: close\n"),
            "{answer}"
        );
    });
}

#[test]
fn fields_are_told_apart_on_a_reused_connection_with_bodies() {
    run(async {
        let answer = ask(
            Service::Http,
            b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-One: 1\r\n\r\nhello\
              GET /echo HTTP/1.1\r\nHost: a\r\nX-Two: 2\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            answer.contains("{\"bytes\":5,\"sha1\":\"aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d\"}"),
            "{answer}"
        );
        let (_, echo) = answer.rsplit_once("\r\n\r\n").unwrap();
        let echo: serde_json::Value = serde_json::from_str(echo).unwrap();
        assert_eq!(
            echo["headers"],
            serde_json::json!([["Host", "a"], ["X-Two", "2"], ["Connection", "close"]])
        );
        assert_eq!(echo["peer"], "10.0.0.10:50000");
    });
}

#[test]
fn http2_with_prior_knowledge_is_told_from_http1() {
    run(async {
        let stream = connect(Service::Http);
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        let request = ::http::Request::get("http://any.lab.name/echo")
            .body(())
            .unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend_from_slice(&data.unwrap());
        }
        let echo: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(echo["protocol"], "HTTP/2");
        assert_eq!(echo["tls"], serde_json::Value::Null);
    });
}

#[test]
fn paths_answer_what_the_table_says() {
    run(async {
        for (target, status, holds) in [
            ("/status/503", "503", "503 Service Unavailable"),
            ("/status/99", "400", "no such status"),
            ("/nowhere", "404", "nothing here"),
            ("/bytes/x", "400", "how many bytes"),
            ("/bytes/0", "200", "content-length: 0"),
            ("/ws", "426", "WebSocket handshake"),
            ("/slow?ms=10", "200", "slowly "),
            ("/sse?count=2&interval-ms=1", "200", "data: {\"n\":1}"),
            ("/gzip", "200", "content-encoding: gzip"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = ask(Service::Http, request.as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{target}: {answer}"
            );
            assert!(answer.contains(holds), "{target}: {answer}");
        }
    });
}

#[test]
fn sts_answers_on_its_hosts_only() {
    run(async {
        for (host, is_sts) in [
            ("sts.amazonaws.com", true),
            ("sts.eu-west-1.lab.name", true),
            ("any.lab.name", false),
        ] {
            let form = "Action=GetCallerIdentity&Version=2011-06-15";
            let request = format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
                form.len()
            );
            let answer = ask(Service::Http, request.as_bytes()).await;
            assert_eq!(
                answer.contains("<UserId>AIDACKCEVSQ6C2EXAMPLE</UserId>"),
                is_sts,
                "{host}: {answer}"
            );
        }
    });
}

#[test]
fn frames_that_break_the_websocket_protocol_end_it_with_1002() {
    run(async {
        let mask = Some([0; 4]);
        let good = FrameHeader {
            fin: true,
            reserved: 0,
            opcode: opcode::TEXT,
            mask,
            len: 0,
        };
        for bad in [
            FrameHeader { mask: None, ..good },
            FrameHeader {
                reserved: 4,
                ..good
            },
            FrameHeader { opcode: 3, ..good },
            FrameHeader {
                opcode: opcode::CONTINUATION,
                ..good
            },
            FrameHeader {
                opcode: opcode::PING,
                fin: false,
                ..good
            },
            FrameHeader {
                opcode: opcode::PING,
                len: 126,
                ..good
            },
        ] {
            let mut request = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: one, two\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                .to_vec();
            request.extend(bad.to_bytes());
            let answer = ask(Service::Http, &request).await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            assert!(
                answer.contains("sec-websocket-protocol: one\r\n"),
                "{answer}"
            );
            assert!(
                answer.ends_with("\r\n\r\n\u{fffd}\u{2}\u{3}\u{fffd}"),
                "{bad:?}: {answer:?}"
            );
        }
    });
}

#[test]
fn servers_that_greet_do_so_unasked_and_the_silent_one_never() {
    run(async {
        for (service, greeting) in [
            (Service::Smtp, plain::SMTP_GREETING),
            (Service::Ssh, plain::SSH_GREETING),
        ] {
            let mut stream = connect(service);
            let mut buffer = vec![0; greeting.len()];
            stream.read_exact(&mut buffer).await.unwrap();
            assert_eq!(buffer, greeting.as_bytes());
        }
        let mut stream = connect(Service::Silent);
        stream.write_all(b"hello?").await.unwrap();
        assert!(
            timeout(Duration::from_millis(50), stream.read_u8())
                .await
                .is_err()
        );
    });
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    run(async {
        for service in [Service::Http, Service::Https] {
            let mut noise = vec![0; 4000];
            pattern::fill(9, 0, &mut noise);
            let answer = ask(service, &noise).await;
            assert!(!answer.contains("200"), "{answer}");
        }
    });
}

#[test]
fn kernel_sockets_serve_connections_with_both_ends_known() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let origins = Rc::new(Origins::new().unwrap());
        tokio::task::spawn_local(origins.serve(Service::Http, listener));
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let own = stream.local_addr().unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains(&format!("You are {own}, you reached {addr} over")),
            "{answer}"
        );
    });
}

#[test]
fn a_listener_that_runs_out_of_descriptors_goes_on_when_there_are_some() {
    struct Flaky(u32);
    impl Listener for Flaky {
        type Stream = DuplexStream;
        async fn accept(&mut self) -> io::Result<(DuplexStream, SocketAddr, SocketAddr)> {
            self.0 += 1;
            match self.0 {
                1 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                2 => Err(io::ErrorKind::ConnectionAborted.into()),
                _ => Err(io::Error::other("the third is for good")),
            }
        }
    }
    run(async {
        let origins = Rc::new(Origins::new().unwrap());
        let error = origins.serve(Service::Http, Flaky(0)).await.unwrap_err();
        assert_eq!(error.to_string(), "the third is for good");
    });
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(20), test)
            .await
            .expect("the test hangs");
    });
}

fn connect(service: Service) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let ends = Ends {
        peer: "10.0.0.10:50000".parse().unwrap(),
        local: "198.18.7.7:80".parse().unwrap(),
    };
    tokio::task::spawn_local(async move {
        let origins = Origins::new().unwrap();
        let _ = origins.serve_connection(service, server, ends).await;
    });
    client
}

/// Sends bytes and reads to the end.
async fn ask(service: Service, request: &[u8]) -> String {
    let mut stream = connect(service);
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
