//! The steps of the tour, in order.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use futures_util::future::{join, try_join_all};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ProtocolVersion};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::client::{Echo, Family, Tour, check, said};
use super::http1::{Head, Http1, line};
use super::{ADDED_FIELD, BULK_LIMIT, Outcome, RENAMED_FIELD, STEP_LIMIT, Step, Told, http2};
use crate::origins::plain::{SMTP_GREETING, SSH_GREETING};
use crate::origins::routes::hex;
use crate::origins::websocket::{self, FrameHeader, opcode};
use crate::origins::{Service, names, pattern, sts};

/// What the tour's requests say they come from.
const USER_AGENT: &str = "Flowdog-Tour/1.0";
/// The fields that the interceptor for GENEVE metadata adds.
const ENDPOINT_FIELD: &str = "X-Gwlb-Vpc-Endpoint-Id";
const ATTACHMENT_FIELD: &str = "X-Gwlb-Attachment-Id";
const COOKIE_FIELD: &str = "X-Gwlb-Flow-Cookie";
/// How much is moved down and up.
const BULK: u64 = 20_000_000;
const BULK_SEED: u64 = 11;
/// The local port of the two clients with one address.
const SHARED_PORT: u16 = 45_678;

/// Every step: its title, how long it may take, and what to do.
pub(super) fn all<'t>(tour: &'t Tour<'_>) -> Vec<(&'static str, Duration, Step<'t>)> {
    vec![
        (
            "Plain HTTP: a request is read, changed and answered",
            STEP_LIMIT,
            told(plain_http(tour)),
        ),
        (
            "HTTPS with TLS 1.3 and HTTP/2",
            STEP_LIMIT,
            told(https_http2(tour, Family::V4)),
        ),
        (
            "HTTPS with TLS 1.2 and HTTP/1.1 on port 8443",
            STEP_LIMIT,
            told(https_tls12(tour)),
        ),
        (
            "HTTPS over IPv6",
            STEP_LIMIT,
            told(https_http2(tour, Family::V6)),
        ),
        (
            "The server sees the client itself",
            STEP_LIMIT,
            told(transparency(tour)),
        ),
        (
            "A request longer than a packet",
            STEP_LIMIT,
            told(long_request(tour)),
        ),
        ("WebSocket through TLS", STEP_LIMIT, told(web_socket(tour))),
        (
            "Server-sent events arrive as they are sent",
            STEP_LIMIT,
            told(events(tour)),
        ),
        (
            "STS answers with another user",
            STEP_LIMIT,
            told(rickroll(tour)),
        ),
        (
            "A server that speaks first",
            STEP_LIMIT,
            told(server_first(tour)),
        ),
        (
            "A protocol that nobody knows",
            STEP_LIMIT,
            told(unknown_protocol(tour)),
        ),
        ("UDP", STEP_LIMIT, told(udp(tour))),
        ("A closed port", STEP_LIMIT, told(closed_port(tour))),
        (
            "Servers that prove nothing are refused",
            STEP_LIMIT,
            told(bad_certificates(tour)),
        ),
        ("20 MB down", BULK_LIMIT, told(download(tour))),
        ("20 MB up", BULK_LIMIT, told(upload(tour))),
        (
            "Two endpoints, one client address",
            STEP_LIMIT,
            Box::pin(two_endpoints(tour)),
        ),
        (
            "The load balancer's verdict",
            STEP_LIMIT,
            Box::pin(async { violations(tour) }),
        ),
    ]
}

fn told<'t>(step: impl Future<Output = Told> + 't) -> Step<'t> {
    Box::pin(async {
        match step.await {
            Ok(text) => Outcome::Right(text),
            Err(text) => Outcome::Wrong(text),
        }
    })
}

async fn plain_http(tour: &Tour<'_>) -> Told {
    let host = "plain.lab.name";
    let mut http = Http1::new(tour.tcp(host, 80).await?);
    let (head, body) = http
        .get(host, "/echo", &format!("User-Agent: {USER_AGENT}\r\n"))
        .await?;
    let echo = answered(&head, &body)?;
    let endpoint = check_metadata(tour, 0, |name| echo.field(name), "The request arrived")?;
    check_metadata(tour, 0, |name| head.field(name), "The answer arrived")?;
    check_edits(&echo, true)?;
    Ok(format!(
        "The server got the request with {ENDPOINT_FIELD}: {endpoint} and {}: {}, and User-Agent \
         written as {RENAMED_FIELD}. The answer came back with the endpoint's name too.",
        ADDED_FIELD.0, ADDED_FIELD.1,
    ))
}

async fn https_http2(tour: &Tour<'_>, family: Family) -> Told {
    let host = "any.lab.name";
    let to = tour.address(0, host, 443, family).await?;
    let stream = tour
        .client(0)?
        .tcp(to, None)
        .await
        .map_err(said("no connection"))?;
    let stream = tour
        .handshake(stream, host, &["h2", "http/1.1"], &[&TLS13])
        .await
        .map_err(said("no TLS handshake"))?;
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    check(
        alpn.as_deref() == Some(b"h2"),
        "HTTP/2 was offered, and it was not chosen",
    )?;
    let (status, fields, body) =
        http2::get(stream, &format!("https://{host}/echo"), USER_AGENT).await?;
    check(status == 200, format!("the server answered {status}"))?;
    let echo = Echo::parse(&body)?;
    check(
        echo.text("protocol") == "HTTP/2",
        format!("the server was spoken to in {}", echo.text("protocol")),
    )?;
    check(
        echo.text("tls") == "TLSv1.3",
        format!("the server was spoken to in {}", echo.text("tls")),
    )?;
    check(
        echo.text("server-name") == host,
        format!("the server was called {}", echo.text("server-name")),
    )?;
    let upper = echo
        .fields()
        .find(|(name, _)| name.chars().any(|c| c.is_ascii_uppercase()));
    check(
        upper.is_none(),
        format!("HTTP/2 has lower-case names only, and there was {upper:?}"),
    )?;
    let endpoint = check_metadata(tour, 0, |name| echo.field(name), "The request arrived")?;
    let of_answer = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    check_metadata(tour, 0, of_answer, "The answer arrived")?;
    check_edits(&echo, false)?;
    Ok(format!(
        "{to} proved to flowdog who it is, flowdog proved it to the client with a certificate of its \
         own; TLS 1.3 and HTTP/2 on both sides. Request and answer carry {}: {endpoint}.",
        ENDPOINT_FIELD.to_ascii_lowercase(),
    ))
}

async fn https_tls12(tour: &Tour<'_>) -> Told {
    let host = names::TLS12;
    let stream = tour
        .tls(host, 8443, &["http/1.1"], &[&TLS13, &TLS12])
        .await?;
    let client_version = stream.get_ref().1.protocol_version();
    let mut http = Http1::new(stream);
    let (head, body) = http
        .get(host, "/echo", &format!("User-Agent: {USER_AGENT}\r\n"))
        .await?;
    let echo = answered(&head, &body)?;
    check(
        echo.text("tls") == "TLSv1.2",
        format!("the server was spoken to in {}", echo.text("tls")),
    )?;
    check_metadata(tour, 0, |name| echo.field(name), "The request arrived")?;
    check_metadata(tour, 0, |name| head.field(name), "The answer arrived")?;
    check_edits(&echo, true)?;
    let client_version = match client_version {
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "of unknown version",
    };
    Ok(format!(
        "The server knows TLS 1.2 only and was spoken to in that (the client: TLS {client_version}). Its \
         port, 8443, makes no difference: what is inside decides."
    ))
}

async fn transparency(tour: &Tour<'_>) -> Told {
    let mut seen = Vec::new();
    for (host, port) in [("plain.lab.name", 8080), ("any.lab.name", 443)] {
        let stream = tour.tcp(host, port).await?;
        let own = stream
            .local_addr()
            .map_err(said("the client does not know its address"))?;
        let (head, body) = if port == 443 {
            let stream = tour
                .handshake(stream, host, &["http/1.1"], &[&TLS13])
                .await
                .map_err(said("no TLS handshake"))?;
            Http1::new(stream).get(host, "/echo", "").await?
        } else {
            Http1::new(stream).get(host, "/echo", "").await?
        };
        let echo = answered(&head, &body)?;
        check(
            echo.text("peer") == own.to_string(),
            format!(
                "the client is {own}, and the server saw {}",
                echo.text("peer")
            ),
        )?;
        seen.push(own.to_string());
    }
    Ok(format!(
        "Its own address and port, in clear and under TLS: {}.",
        seen.join(" and ")
    ))
}

async fn long_request(tour: &Tour<'_>) -> Told {
    let host = "any.lab.name";
    let mut http = Http1::new(tour.tls(host, 443, &["http/1.1"], &[&TLS13]).await?);
    let long = "0123456789".repeat(600);
    let fields = format!("Cookie: {long}\r\nUser-Agent: {USER_AGENT}\r\n");
    // Twice on one connection: lengths must be right for the second to be found.
    let mut echoes = Vec::new();
    for _ in 0..2 {
        let (head, body) = http.get(host, "/echo", &fields).await?;
        let echo = answered(&head, &body)?;
        check(
            echo.field("cookie") == Some(long.as_str()),
            "the long field did not arrive as it was sent",
        )?;
        echoes.push(echo);
    }
    for echo in echoes {
        check_metadata(tour, 0, |name| echo.field(name), "The request arrived")?;
    }
    Ok(format!(
        "A field of {} bytes arrived whole, twice on one connection, the additions beside it.",
        long.len()
    ))
}

async fn web_socket(tour: &Tour<'_>) -> Told {
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

async fn events(tour: &Tour<'_>) -> Told {
    let host = "events.lab.name";
    let mut http = Http1::new(tour.tls(host, 443, &["http/1.1"], &[&TLS13]).await?);
    http.send(&format!("GET /sse?count=4&interval-ms=150 HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"))
        .await?;
    let head = http.head().await?;
    check(
        head.status == 200,
        format!("the server answered {}", head.status),
    )?;
    let start = Instant::now();
    let mut arrivals = Vec::new();
    let mut text = Vec::new();
    http.body(&head, |bytes| {
        arrivals.push(start.elapsed());
        text.extend_from_slice(bytes);
        Ok(())
    })
    .await?;
    let text = String::from_utf8_lossy(&text);
    check(
        text.matches("event: tick\n").count() == 4,
        format!("four events were sent, and this came: {text}"),
    )?;
    let (first, last) = (
        arrivals.first().copied().unwrap_or_default(),
        arrivals.last().copied().unwrap_or_default(),
    );
    check(
        last.saturating_sub(first) >= Duration::from_millis(300),
        "the events were held back and came all at once",
    )?;
    Ok(format!(
        "Four events over {} ms, each when it happened.",
        last.saturating_sub(first).as_millis()
    ))
}

async fn rickroll(tour: &Tour<'_>) -> Told {
    let host = "sts.amazonaws.com";
    let mut ids = Vec::new();
    for coding in ["identity", "gzip"] {
        let mut http = Http1::new(
            tour.tls(host, 443, &["http/1.1"], &[&TLS13, &TLS12])
                .await?,
        );
        let target = "/?Action=GetCallerIdentity&Version=2011-06-15";
        let (head, body) = http
            .get(host, target, &format!("Accept-Encoding: {coding}\r\n"))
            .await?;
        check(
            head.status == 200,
            format!("the server answered {}", head.status),
        )?;
        let body = match head.field("content-encoding") {
            Some("gzip") => gunzip(&body).map_err(said("the compressed answer is broken"))?,
            None | Some("identity") => body,
            Some(other) => return Err(format!("the answer has the unasked coding {other}")),
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        let id = text
            .split_once("<UserId>")
            .and_then(|(_, rest)| rest.split_once("</UserId>"))
            .map(|(id, _)| id.to_owned())
            .ok_or_else(|| format!("the answer names no user: {text}"))?;
        check(
            text.trim_end().ends_with("</GetCallerIdentityResponse>"),
            "the answer was cut",
        )?;
        ids.push(id);
    }
    ids.dedup();
    check(
        !ids.iter().any(|id| id == sts::USER_ID),
        format!(
            "the answer still says {}, as the server sent it",
            sts::USER_ID
        ),
    )?;
    Ok(format!(
        "GetCallerIdentity says <UserId>{}</UserId>, where the server said {}; plain and in gzip, with the \
         lengths right.",
        ids.join(", "),
        sts::USER_ID,
    ))
}

fn gunzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).take(1 << 20).read_to_end(&mut out)?;
    Ok(out)
}

async fn server_first(tour: &Tour<'_>) -> Told {
    let greeting_limit = Duration::from_secs(5);
    let mut greetings = Vec::new();
    for (host, port, greeting, says, answer) in [
        (
            "mail.lab.name",
            25,
            SMTP_GREETING,
            "EHLO tour\r\n",
            "250 mail.lab.name",
        ),
        (
            "ssh.lab.name",
            2222,
            SSH_GREETING,
            "SSH-2.0-Tour\r\n",
            "SSH-2.0-Tour",
        ),
    ] {
        let mut stream = BufReader::new(tour.tcp(host, port).await?);
        let first = timeout(greeting_limit, line(&mut stream))
            .await
            .map_err(|_| format!("the server on port {port} greets, and no greeting came"))??;
        check(
            first == greeting.trim_end(),
            format!("the greeting arrived as {first:?}"),
        )?;
        stream
            .write_all(says.as_bytes())
            .await
            .map_err(said("could not answer the greeting"))?;
        let reply = line(&mut stream).await?;
        check(
            reply == answer,
            format!("{says:?} was answered by {reply:?}"),
        )?;
        greetings.push(format!("\"{first}\""));
    }
    Ok(format!(
        "{} arrived untouched, and the conversations went on.",
        greetings.join(" and ")
    ))
}

async fn unknown_protocol(tour: &Tour<'_>) -> Told {
    let mut stream = tour.tcp("binary.lab.name", 9999).await?;
    let mut sent = vec![0; 200_000];
    pattern::fill(5, 0, &mut sent);
    // Neither TLS nor HTTP starts like this.
    if let Some(first) = sent.first_mut() {
        *first = 0xfe;
    }
    let mut received = Vec::new();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let send = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    let (sending, receiving) = join(send, read.read_to_end(&mut received)).await;
    sending.map_err(said("could not send"))?;
    receiving.map_err(said("could not receive"))?;
    check(
        received == sent,
        format!(
            "{} bytes were sent, {} came back, not the same",
            sent.len(),
            received.len()
        ),
    )?;
    Ok(format!(
        "{},000 bytes went there and back unchanged, the end of the stream with them.",
        sent.len() / 1000
    ))
}

async fn udp(tour: &Tour<'_>) -> Told {
    let mut told = Vec::new();
    for family in [Family::V4, Family::V6] {
        let to = tour
            .address(0, "any.lab.name", Service::UDP_ECHO_PORT, family)
            .await?;
        let mut payload = vec![0; 1200];
        pattern::fill(6, 0, &mut payload);
        let answer = tour
            .client(0)?
            .udp(to, &payload)
            .await
            .map_err(said("the datagram was not answered"))?;
        check(
            answer == payload,
            format!("the datagram to {to} came back changed"),
        )?;
        told.push(to.to_string());
    }
    Ok(format!(
        "A datagram of 1,200 bytes came back unchanged from {}.",
        told.join(" and from ")
    ))
}

async fn closed_port(tour: &Tour<'_>) -> Told {
    let to = tour.address(0, "any.lab.name", 81, Family::V4).await?;
    let start = Instant::now();
    match tour.client(0)?.tcp(to, None).await {
        Ok(_) => Err(format!(
            "nothing listens on {to}, and yet the client was connected"
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let took = start.elapsed();
            check(
                took < Duration::from_secs(2),
                format!("refused, but only after {} ms", took.as_millis()),
            )?;
            Ok(format!(
                "Refused at once ({} ms), as by the server itself.",
                took.as_millis()
            ))
        }
        Err(error) => Err(format!(
            "the connection to {to} should be refused, and it failed otherwise: {error}"
        )),
    }
}

async fn bad_certificates(tour: &Tour<'_>) -> Told {
    for (host, fault) in [
        (names::EXPIRED, "has expired"),
        (names::SELF_SIGNED, "is signed by itself"),
        (names::WRONG_HOST, "names another host"),
        (names::UNTRUSTED_ROOT, "leads to an unknown root"),
    ] {
        let stream = tour.tcp(host, 443).await?;
        let shaken = tour
            .handshake(stream, host, &["h2", "http/1.1"], &[&TLS13, &TLS12])
            .await;
        let Err(error) = shaken else {
            return Err(format!(
                "{host} was accepted, though its certificate {fault}"
            ));
        };
        // The refusal must come from the middle: a client that is left to find the fault itself sees
        // flowdog's certificate, which has none.
        let alert = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match alert {
            Some(rustls::Error::AlertReceived(alert))
                if *alert != AlertDescription::CloseNotify => {}
            _ => {
                return Err(format!(
                    "{host}, whose certificate {fault}, was not refused by an alert: {error}"
                ));
            }
        }
    }
    Ok("An expired certificate, a self-signed one, one for another host and one from an unknown root: the \
        client got a TLS alert for each, and not a byte more."
        .to_owned())
}

async fn download(tour: &Tour<'_>) -> Told {
    let host = "bulk.lab.name";
    let mut http = Http1::new(tour.tls(host, 443, &["http/1.1"], &[&TLS13]).await?);
    let start = Instant::now();
    http.send(&format!(
        "GET /bytes/{BULK}?seed={BULK_SEED} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ))
    .await?;
    let head = http.head().await?;
    check(
        head.status == 200,
        format!("the server answered {}", head.status),
    )?;
    let mut offset = 0;
    let mut expected = Vec::new();
    let len = http
        .body(&head, |bytes| {
            expected.resize(bytes.len(), 0);
            pattern::fill(BULK_SEED, offset, &mut expected);
            check(
                bytes == expected,
                format!("a byte after {offset} is not what was sent"),
            )?;
            offset += bytes.len() as u64;
            Ok(())
        })
        .await?;
    check(
        len == BULK,
        format!("{BULK} bytes were asked for, and {len} came"),
    )?;
    Ok(format!("Every byte is right. {}", rate(start.elapsed())))
}

async fn upload(tour: &Tour<'_>) -> Told {
    let host = "bulk.lab.name";
    let mut http = Http1::new(tour.tls(host, 443, &["http/1.1"], &[&TLS13]).await?);
    let start = Instant::now();
    http.send(&format!(
        "POST /upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BULK}\r\n\r\n"
    ))
    .await?;
    let mut sha1 = Sha1::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < BULK {
        let len = (BULK - offset).min(chunk.len() as u64) as usize;
        let piece = chunk.get_mut(..len).unwrap_or_default();
        pattern::fill(BULK_SEED, offset, piece);
        sha1.update(&*piece);
        http.write(piece).await?;
        offset += len as u64;
    }
    http.send("").await?;
    let head = http.head().await?;
    let mut body = Vec::new();
    http.body(&head, |bytes| {
        body.extend_from_slice(bytes);
        Ok(())
    })
    .await?;
    check(
        head.status == 200,
        format!("the server answered {}", head.status),
    )?;
    let report = Echo::parse(&body)?;
    let expected = hex(&sha1.finalize());
    check(
        report.text("sha1") == expected,
        format!(
            "SHA-1 {expected} was sent, and {} arrived",
            report.text("sha1")
        ),
    )?;
    Ok(format!(
        "The server's SHA-1 is the client's. {}",
        rate(start.elapsed())
    ))
}

fn rate(took: Duration) -> String {
    let megabits = BULK as f64 * 8.0 / took.as_secs_f64().max(0.001) / 1e6;
    format!(
        "{} MB in {:.2} s, {megabits:.0} Mbit/s.",
        BULK / 1_000_000,
        took.as_secs_f64()
    )
}

/// The same client address and port, behind two endpoints, to the same server at the same time.
async fn two_endpoints(tour: &Tour<'_>) -> Outcome {
    let clients = tour.environment.clients().len();
    if clients < 2 {
        return Outcome::Skipped("There is one endpoint only.".to_owned());
    }
    match two_endpoints_at_once(tour).await {
        Ok(text) => Outcome::Right(text),
        Err(text) => Outcome::Wrong(text),
    }
}

async fn two_endpoints_at_once(tour: &Tour<'_>) -> Told {
    let host = "shared.lab.name";
    let mut own = Vec::new();
    let mut connections = Vec::new();
    for client in 0..2 {
        let to: SocketAddr = tour.address(client, host, 80, Family::V4).await?;
        let stream = tour
            .client(client)?
            .tcp(to, Some(SHARED_PORT))
            .await
            .map_err(said("no connection"))?;
        own.push(
            stream
                .local_addr()
                .map_err(said("the client does not know its address"))?,
        );
        connections.push(Http1::new(stream));
    }
    let same = own.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
    check(
        same,
        format!("the two clients should have one address, and they have {own:?}"),
    )?;
    // Both connections stay open, and take turns.
    let exchanges = connections
        .iter_mut()
        .enumerate()
        .map(|(client, http)| async move {
            let mut seen = Vec::new();
            for turn in 0..20 {
                let target = format!("/echo?client={client}&turn={turn}");
                let (head, body) = http.get(host, &target, "").await?;
                let echo = answered(&head, &body)?;
                check(
                    echo.text("target") == target,
                    format!("the answer to {} came", echo.text("target")),
                )?;
                seen.push((head, echo));
            }
            Ok::<_, String>((client, seen))
        });
    for (client, seen) in try_join_all(exchanges).await? {
        for (head, echo) in seen {
            check_metadata(tour, client, |name| echo.field(name), "A request arrived")?;
            check_metadata(tour, client, |name| head.field(name), "An answer arrived")?;
        }
    }
    let address = own.first().map(ToString::to_string).unwrap_or_default();
    Ok(format!(
        "Twenty requests each from {address} behind {} and from {address} behind {}, at the same time: every answer \
         went to the one who asked.",
        tour.environment.endpoint(0),
        tour.environment.endpoint(1),
    ))
}

fn violations(tour: &Tour<'_>) -> Outcome {
    match tour.environment.violations() {
        None => Outcome::Skipped("Nobody counts.".to_owned()),
        Some(0) => Outcome::Right("Not one packet broke the load balancer's rules.".to_owned()),
        Some(count) => Outcome::Wrong(format!("{count} packets broke the load balancer's rules.")),
    }
}

/// An origin's echo, if the answer is one.
fn answered(head: &Head, body: &[u8]) -> Result<Echo, String> {
    check(
        head.status == 200,
        format!("the server answered {}", head.status),
    )?;
    Echo::parse(body)
}

/// Checks the three metadata fields of a message; answers the endpoint's.
fn check_metadata<'f>(
    tour: &Tour<'_>,
    client: usize,
    field: impl Fn(&str) -> Option<&'f str>,
    what: &str,
) -> Told {
    let expected = tour.environment.endpoint(client).to_string();
    let endpoint =
        field(ENDPOINT_FIELD).ok_or_else(|| format!("{what} without {ENDPOINT_FIELD}"))?;
    check(
        endpoint == expected,
        format!("{what} with {ENDPOINT_FIELD}: {endpoint}, not {expected}"),
    )?;
    for (name, digits) in [(ATTACHMENT_FIELD, 16), (COOKIE_FIELD, 8)] {
        let value = field(name).ok_or_else(|| format!("{what} without {name}"))?;
        let is_hex =
            value.len() == digits && value.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        check(
            is_hex,
            format!("{what} with {name}: {value}, not {digits} hexadecimal digits"),
        )?;
    }
    Ok(expected)
}

/// Checks that the configured edits of a request happened.
fn check_edits(echo: &Echo, keeps_case: bool) -> Result<(), String> {
    let (name, value) = ADDED_FIELD;
    let added = echo.field(name);
    check(
        added == Some(value),
        format!("the request should have got {name}: {value}, and has {added:?}"),
    )?;
    let agent = echo
        .fields()
        .find(|(name, _)| name.eq_ignore_ascii_case(RENAMED_FIELD));
    match agent {
        Some((name, USER_AGENT)) if !keeps_case || name == RENAMED_FIELD => Ok(()),
        found => Err(format!(
            "User-Agent should have arrived as {RENAMED_FIELD}, and came as {found:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(fields: &[(&str, &str)]) -> Echo {
        Echo::parse(
            serde_json::json!({ "headers": fields })
                .to_string()
                .as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn edits_are_right_only_with_the_added_field_and_the_name_in_lower_case() {
        let right = echo(&[("user-agent", USER_AGENT), ADDED_FIELD]);
        assert_eq!(check_edits(&right, true), Ok(()));
        let upper = echo(&[("User-Agent", USER_AGENT), ADDED_FIELD]);
        assert!(check_edits(&upper, true).is_err_and(|fault| fault.contains("came as")));
        assert_eq!(
            check_edits(&upper, false),
            Ok(()),
            "HTTP/2 has one case only"
        );
        let not_added = echo(&[("user-agent", USER_AGENT)]);
        assert!(
            check_edits(&not_added, true).is_err_and(|fault| fault.contains("should have got"))
        );
        let changed = echo(&[("user-agent", "else"), ADDED_FIELD]);
        assert!(check_edits(&changed, false).is_err());
    }
}
