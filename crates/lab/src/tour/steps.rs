//! The steps of the tour, in order.

mod bulk;
mod untouched;
mod web;
mod websocket;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::client::{Echo, Family, Tour, check, said};
use super::http1::{Head, Http1};
use super::{ADDED_FIELD, BULK_LIMIT, Outcome, RENAMED_FIELD, STEP_LIMIT, Step, Told};

/// What the tour's requests say they come from.
const USER_AGENT: &str = "Flowdog-Tour/1.0";
/// The fields that the interceptor for GENEVE metadata adds.
const ENDPOINT_FIELD: &str = "X-Gwlb-Vpc-Endpoint-Id";
const ATTACHMENT_FIELD: &str = "X-Gwlb-Attachment-Id";
const COOKIE_FIELD: &str = "X-Gwlb-Flow-Cookie";
/// The local port of the two clients with one address.
const SHARED_PORT: u16 = 45_678;

/// Every step: its title, how long it may take, and what to do.
pub(super) fn all<'t>(tour: &'t Tour<'_>) -> Vec<(&'static str, Duration, Step<'t>)> {
    vec![
        (
            "Plain HTTP: a request is read, changed and answered",
            STEP_LIMIT,
            told(web::plain_http(tour)),
        ),
        (
            "HTTPS with TLS 1.3 and HTTP/2",
            STEP_LIMIT,
            told(web::https_http2(tour, Family::V4)),
        ),
        (
            "HTTPS with TLS 1.2 and HTTP/1.1 on port 8443",
            STEP_LIMIT,
            told(web::https_tls12(tour)),
        ),
        (
            "HTTPS over IPv6",
            STEP_LIMIT,
            told(web::https_http2(tour, Family::V6)),
        ),
        (
            "The server sees the client itself",
            STEP_LIMIT,
            told(web::transparency(tour)),
        ),
        (
            "A request longer than a packet",
            STEP_LIMIT,
            told(web::long_request(tour)),
        ),
        (
            "WebSocket through TLS",
            STEP_LIMIT,
            told(websocket::web_socket(tour)),
        ),
        (
            "Server-sent events arrive as they are sent",
            STEP_LIMIT,
            told(web::events(tour)),
        ),
        (
            "STS answers with another user",
            STEP_LIMIT,
            told(web::rickroll(tour)),
        ),
        (
            "A server that speaks first",
            STEP_LIMIT,
            told(untouched::server_first(tour)),
        ),
        (
            "A protocol that nobody knows",
            STEP_LIMIT,
            told(untouched::unknown_protocol(tour)),
        ),
        ("UDP", STEP_LIMIT, told(untouched::udp(tour))),
        (
            "A closed port",
            STEP_LIMIT,
            told(untouched::closed_port(tour)),
        ),
        (
            "Servers that prove nothing are refused",
            STEP_LIMIT,
            told(web::bad_certificates(tour)),
        ),
        ("20 MB down", BULK_LIMIT, told(bulk::download(tour))),
        ("20 MB up", BULK_LIMIT, told(bulk::upload(tour))),
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
