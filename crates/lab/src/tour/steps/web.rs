//! HTTP in clear and under TLS: read, changed, answered; and servers that are refused.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ProtocolVersion};

use super::{ENDPOINT_FIELD, USER_AGENT, answered, check_edits, check_metadata};
use crate::origins::{names, sts};
use crate::tour::client::{Echo, Family, Tour, check, said};
use crate::tour::http1::Http1;
use crate::tour::{ADDED_FIELD, RENAMED_FIELD, Told, http2};

pub(super) async fn plain_http(tour: &Tour<'_>) -> Told {
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

pub(super) async fn https_http2(tour: &Tour<'_>, family: Family) -> Told {
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

pub(super) async fn https_tls12(tour: &Tour<'_>) -> Told {
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

pub(super) async fn transparency(tour: &Tour<'_>) -> Told {
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

pub(super) async fn long_request(tour: &Tour<'_>) -> Told {
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

pub(super) async fn events(tour: &Tour<'_>) -> Told {
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

pub(super) async fn rickroll(tour: &Tour<'_>) -> Told {
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

pub(super) async fn bad_certificates(tour: &Tour<'_>) -> Told {
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
