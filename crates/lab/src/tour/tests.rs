//! The tour with nothing between client and origins: what needs an appliance must fail.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{DuplexStream, ReadBuf};
use tokio::task::LocalSet;

use super::*;
use crate::dns;
use crate::origins::{Ends, Origins, Service};

/// The steps that hold without an appliance: the origins do what the tour expects of them.
const RIGHT_WITHOUT_APPLIANCE: [&str; 9] = [
    "The server sees the client itself",
    "Server-sent events arrive as they are sent",
    "A server that speaks first",
    "A protocol that nobody knows",
    "UDP",
    "A closed port",
    "20 MB down",
    "20 MB up",
    "The load balancer's verdict",
];

/// The steps that need one, with what they must miss.
const WRONG_WITHOUT_APPLIANCE: [(&str, &str); 9] = [
    (
        "Plain HTTP: a request is read, changed and answered",
        "The request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "HTTPS with TLS 1.3 and HTTP/2",
        "The request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "HTTPS with TLS 1.2 and HTTP/1.1 on port 8443",
        "The request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "HTTPS over IPv6",
        "The request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "A request longer than a packet",
        "The request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "WebSocket through TLS",
        "The answer to the handshake arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
    (
        "STS answers with another user",
        "still says AIDACKCEVSQ6C2EXAMPLE",
    ),
    (
        "Servers that prove nothing are refused",
        "was not refused by an alert",
    ),
    (
        "Two endpoints, one client address",
        "A request arrived without X-Gwlb-Vpc-Endpoint-Id",
    ),
];

#[test]
fn without_an_appliance_exactly_the_steps_that_need_one_fail() {
    let environment = Direct::new(2);
    let told = tour(&environment, Style::Json);
    let lines: Vec<serde_json::Value> = told
        .1
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let (verdict, steps) = lines.split_last().expect("a verdict");
    let of = |title: &str| {
        let step = steps.iter().find(|step| step["step"] == title);
        step.unwrap_or_else(|| panic!("no step {title:?} among {steps:#?}"))
    };
    for title in RIGHT_WITHOUT_APPLIANCE {
        assert_eq!(of(title)["outcome"], "right", "{:#?}", of(title));
    }
    for (title, fault) in WRONG_WITHOUT_APPLIANCE {
        let step = of(title);
        assert_eq!(step["outcome"], "wrong", "{step:#?}");
        assert!(
            step["text"].as_str().expect("a text").contains(fault),
            "{step:#?}"
        );
    }
    assert_eq!(
        steps.len(),
        RIGHT_WITHOUT_APPLIANCE.len() + WRONG_WITHOUT_APPLIANCE.len(),
        "{steps:#?}"
    );
    assert!(!told.0);
    assert_eq!(verdict["all-right"], false);
    assert_eq!(verdict["wrong"], WRONG_WITHOUT_APPLIANCE.len());
}

#[test]
fn violations_of_the_load_balancers_rules_make_the_tour_fail() {
    let mut environment = Direct::new(1);
    environment.violations = 3;
    let (_, text) = tour(&environment, Style::Plain);
    assert!(
        text.contains("✗ The load balancer's verdict\n    3 packets broke"),
        "{text}"
    );
    assert!(
        text.contains("- Two endpoints, one client address\n    There is one endpoint only."),
        "{text}"
    );
    assert!(
        !text.contains('\x1b'),
        "no colours where none are asked for"
    );
}

#[test]
fn colours_come_only_when_asked_for() {
    let mut out = Vec::new();
    let mut teller = Teller {
        style: Style::Colour,
        out: &mut out,
        right: 0,
        wrong: 0,
        skipped: 0,
    };
    teller
        .tell(
            "A step",
            &Outcome::Right("It went well.\nVery.".to_owned()),
            Duration::ZERO,
        )
        .unwrap();
    assert!(teller.end().unwrap());
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("\x1b[32m✓\x1b[0m"), "{text:?}");
    assert!(
        text.contains("\n    It went well.\n    Very.\n"),
        "{text:?}"
    );
    assert!(text.ends_with("All 1 steps were right.\n"), "{text:?}");
}

#[test]
fn long_lines_break_between_words() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("überlanges wort", 4), ["überlanges", "wort"]);
    assert_eq!(wrapped("", 4), [""]);
}

#[test]
fn a_tour_of_nothing_is_not_right() {
    let mut out = Vec::new();
    let teller = Teller {
        style: Style::Plain,
        out: &mut out,
        right: 0,
        wrong: 0,
        skipped: 2,
    };
    assert!(!teller.end().unwrap());
}

fn tour(environment: &Direct, style: Style) -> (bool, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut out = Vec::new();
    let right = LocalSet::new()
        .block_on(&runtime, run(environment, style, &mut out))
        .unwrap();
    (right, String::from_utf8(out).unwrap())
}

/// Clients whose connections are pipes straight to the origins.
struct Direct {
    hosts: Vec<Host>,
    root: String,
    violations: u64,
}

struct Host {
    origins: Rc<Origins>,
    next_port: Cell<u16>,
}

impl Direct {
    fn new(clients: usize) -> Self {
        let origins = Rc::new(Origins::new().unwrap());
        let root = origins.root_pem().to_owned();
        let hosts = (0..clients)
            .map(|_| Host {
                origins: Rc::clone(&origins),
                next_port: Cell::new(50_000),
            })
            .collect();
        Self {
            hosts,
            root,
            violations: 0,
        }
    }
}

impl Environment for Direct {
    fn clients(&self) -> Vec<&dyn Connect> {
        self.hosts.iter().map(|host| host as &dyn Connect).collect()
    }

    fn endpoint(&self, client: usize) -> VpcEndpointId {
        VpcEndpointId(client as u64 + 1)
    }

    fn trusted_pem(&self) -> &str {
        &self.root
    }

    fn violations(&self) -> Option<u64> {
        Some(self.violations)
    }
}

#[async_trait(?Send)]
impl Connect for Host {
    async fn tcp(&self, to: SocketAddr, from_port: Option<u16>) -> io::Result<Box<dyn Stream>> {
        let service = Service::on_port(to.port()).ok_or(io::ErrorKind::ConnectionRefused)?;
        let port = from_port.unwrap_or_else(|| self.next_port.replace(self.next_port.get() + 1));
        let ip: IpAddr = if to.is_ipv4() {
            [10, 0, 0, 10].into()
        } else {
            [0xfd00, 10, 0, 0, 0, 0, 0, 0x10].into()
        };
        let (client, server) = tokio::io::duplex(64 * 1024);
        let ends = Ends {
            peer: SocketAddr::new(ip, port),
            local: to,
        };
        let origins = Rc::clone(&self.origins);
        tokio::task::spawn_local(async move {
            // Clients that break off are part of the tour.
            let _ = origins.serve_connection(service, server, ends).await;
        });
        Ok(Box::new(Pipe {
            stream: client,
            local: ends.peer,
        }))
    }

    async fn udp(&self, _to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
        Ok(payload.to_vec())
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        dns::addresses(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct Pipe {
    stream: DuplexStream,
    local: SocketAddr,
}

impl Stream for Pipe {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
