//! What flowdog leaves alone: servers that speak first, strange protocols, UDP, closed ports.

use std::io;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::origins::plain::{SMTP_GREETING, SSH_GREETING};
use crate::origins::{Service, pattern};
use crate::tour::Told;
use crate::tour::client::{Family, Tour, check, said};
use crate::tour::http1::line;

pub(super) async fn server_first(tour: &Tour<'_>) -> Told {
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

pub(super) async fn unknown_protocol(tour: &Tour<'_>) -> Told {
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

pub(super) async fn udp(tour: &Tour<'_>) -> Told {
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

pub(super) async fn closed_port(tour: &Tour<'_>) -> Told {
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
