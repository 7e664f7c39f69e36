//! Much data, down and up.

use std::time::{Duration, Instant};

use rustls::version::TLS13;
use sha1::{Digest, Sha1};

use crate::origins::pattern;
use crate::origins::routes::hex;
use crate::tour::Told;
use crate::tour::client::{Echo, Tour, check};
use crate::tour::http1::Http1;

/// How much is moved each way, in bytes.
const BULK: u64 = 20_000_000;
const BULK_SEED: u64 = 11;

pub(super) async fn download(tour: &Tour<'_>) -> Told {
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

pub(super) async fn upload(tour: &Tour<'_>) -> Told {
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
