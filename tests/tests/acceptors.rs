//! A Lambda function decides about flows: a real function behind ministack's Invoke API, and a
//! proxy between that goes wrong in every way that is known of such services.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gatekeeper;
use flowdog_tests::gwlb::{Zone, udp_packet};
use flowdog_tests::ministack::Ministack;

/// Refuses port 25, throws on port 26, and otherwise accepts what comes from 10.0.0.0/8.
const FUNCTION: &str = r#"
def handler(event, context):
    assert set(event) == {"GeneveOptions", "NetworkProtocol", "TransportProtocol", "Source", "Destination"}, event
    assert event["GeneveOptions"]["VpcEndpointId"] == "vpce-00000000000000007", event
    port = event["Destination"]["Port"]
    if port == 26:
        raise RuntimeError("a bug")
    if port == 27:
        return {"action": "pass", "reason": "a richer answer", "context": {"team": "blue"}, "ttl": 5}
    return {"Accept": port != 25 and event["Source"]["IpAddress"].startswith("10.")}
"#;

/// What the proxy does with a request.
const FAULTS: [&str; 7] = [
    "none", "slow", "throttle", "broken", "odd", "giant", "refused",
];

/// Stands between the appliance and the service.
#[derive(Clone, Default)]
struct Proxy {
    mode: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(service: u16) -> Result<(u16, Self)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let proxy = Self::default();
        let shared = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fault = FAULTS[shared.mode.load(Ordering::Relaxed)];
                shared.connections().extend(client.try_clone());
                std::thread::spawn(move || serve(client, service, fault));
            }
        });
        Ok((port, proxy))
    }

    fn connections(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on this goes wrong, on connections that are kept open too.
    fn set(&self, fault: usize) {
        self.mode.store(fault, Ordering::Relaxed);
        for open in self.connections().drain(..) {
            // The other side may have closed it.
            let _ = open.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut client: TcpStream, service: u16, fault: &str) -> std::io::Result<()> {
    let answer = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let said = match fault {
        "refused" => return client.shutdown(Shutdown::Both),
        "slow" => {
            std::thread::sleep(Duration::from_secs(2));
            answer("200 OK", r#"{"Accept": true}"#)
        }
        "throttle" => answer("429 Too Many Requests", "{}"),
        "broken" => answer("503 Service Unavailable", "<html>"),
        "odd" => answer("200 OK", r#"{"Accept": "yes"}"#),
        "giant" => {
            let padding = "x".repeat(6_000_000);
            answer(
                "200 OK",
                &format!(r#"{{"Accept": true, "p": "{padding}"}}"#),
            )
        }
        _ => {
            let mut upstream = TcpStream::connect(("127.0.0.1", service))?;
            let (mut from_client, mut to_upstream) = (client.try_clone()?, upstream.try_clone()?);
            std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_upstream));
            std::io::copy(&mut upstream, &mut client)?;
            return client.shutdown(Shutdown::Both);
        }
    };
    let mut request = [0; 65536];
    let mut seen = Vec::new();
    while !seen.ends_with(b"}}") {
        let count = client.read(&mut request)?;
        if count == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&request[..count]);
    }
    client.write_all(said.as_bytes())
}

/// Asks about everything but port 54. Nothing is kept, so that each flow is a question.
fn config(port: u16) -> String {
    format!(
        "[[acceptor]]\nname = 'gate'\nuse = 'lambda-acceptor'\nfunction = 'gate'\nregion = 'eu-west-1'\n\
         endpoint = 'http://127.0.0.1:{port}'\ndeadline = '1s'\nttl = '0s'\nnegative-ttl = '0s'\nrefuse = 'drop'\n\
         [[rule]]\naction = 'pass'\nport = 54\n[[rule]]\naction = 'ask'\nacceptor = 'gate'\n"
    )
}

struct Bench {
    zone: Zone,
    next: u16,
}

impl Bench {
    /// Whether a new flow to this port gets through. What follows it on another flow must.
    fn passes(&mut self, from: Ipv4Addr, port: u16) -> Result<bool> {
        self.next += 1;
        let (from, server) = (
            SocketAddrV4::new(from, self.next),
            Ipv4Addr::new(192, 0, 2, 9),
        );
        let asked = udp_packet(7, 1, from, SocketAddrV4::new(server, port), b"asked");
        let other = udp_packet(7, 2, from, SocketAddrV4::new(server, 54), b"passed");
        self.zone.send(&asked)?;
        self.zone.send(&other)?;
        let (answer, _) = self.zone.receive()?;
        anyhow::ensure!(answer == other, "a waiting flow delays another");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1300) {
            self.zone.send(&other)?;
            let (answer, _) = self.zone.receive()?;
            if answer == asked {
                self.zone.receive()?;
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

#[test]
fn threat_63_a_lambda_function_decides_and_no_fault_on_the_way_is_an_acceptance() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("gate.py");
    std::fs::write(&file, FUNCTION)?;
    let stack = Ministack::start("python3.11", "gate.handler", "gate.py", &file)?;
    let (port, proxy) = Proxy::start(stack.port())?;
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let appliance =
        Appliance::start_with(Ipv4Addr::new(127, 77, 9, 1), &config(port), &credentials)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 9, 2), appliance.gwlb())?;
    let mut bench = Bench { zone, next: 1024 };
    let (inside, outside) = (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(172, 16, 0, 5));
    // The first run starts the function's process.
    let _ = bench.passes(inside, 53)?;
    assert!(bench.passes(inside, 53)?, "accepted");
    assert!(!bench.passes(inside, 25)?, "refused by port");
    assert!(!bench.passes(outside, 53)?, "refused by source");
    assert!(!bench.passes(inside, 26)?, "the function failed");
    assert!(bench.passes(inside, 27)?, "passed by a richer answer");
    for (number, fault) in FAULTS.iter().enumerate().skip(1) {
        proxy.set(number);
        assert!(!bench.passes(inside, 53)?, "{fault}");
    }
    proxy.set(0);
    assert!(bench.passes(inside, 53)?, "accepted again");
    let count = |kind| appliance.metric("flowdog_acceptor_answers_total", kind);
    assert!(count("\"accepted\"")? >= 3.0 && count("\"failed\"")? >= 3.0);
    assert!(count("\"late\"")? >= 2.0);
    Ok(())
}

/// An address at which nobody listens.
fn closed_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn threat_63_a_closed_port_is_no_answer_and_the_rule_says_what_then_holds() -> Result<()> {
    let port = closed_port()?;
    let mut text = "[[rule]]\naction = 'pass'\nport = 54\n".to_owned();
    for (name, place) in [
        (
            "lambda",
            format!(
                "use = 'lambda-acceptor'\nfunction = 'gate'\nregion = 'eu-west-1'\nendpoint = 'http://127.0.0.1:{port}'"
            ),
        ),
        (
            "http",
            format!("use = 'http-acceptor'\nurl = 'http://127.0.0.1:{port}/'"),
        ),
    ] {
        text.insert_str(
            0,
            &format!("[[acceptor]]\nname = '{name}'\n{place}\ndeadline = '600ms'\nttl = '0s'\nnegative-ttl = '0s'\nrefuse = 'drop'\n"),
        );
    }
    // The ports of the flows: which acceptor, and what holds without an answer.
    let cases = [
        (1001, "lambda", "refuse"),
        (1002, "lambda", "accept"),
        (1003, "http", "refuse"),
        (1004, "http", "accept"),
    ];
    for (port, acceptor, on_error) in cases {
        text.push_str(&format!(
            "[[rule]]\naction = 'ask'\nacceptor = '{acceptor}'\non-error = '{on_error}'\nport = {port}\n"
        ));
    }
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let appliance = Appliance::start_with(Ipv4Addr::new(127, 77, 9, 3), &text, &credentials)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 9, 4), appliance.gwlb())?;
    let mut bench = Bench { zone, next: 1024 };
    let inside = Ipv4Addr::new(10, 0, 0, 5);
    let count = |acceptor: &str| {
        let mut sum = 0.0;
        for kind in ["failed", "late"] {
            let label = format!("acceptor=\"{acceptor}\",kind=\"{kind}\"");
            sum += appliance.metric("flowdog_acceptor_answers_total", &label)?;
        }
        Result::<f64>::Ok(sum)
    };
    for (port, acceptor, on_error) in cases {
        let before = count(acceptor)?;
        let passes = bench.passes(inside, port)?;
        assert_eq!(passes, on_error == "accept", "{acceptor}, {on_error}");
        assert_eq!(count(acceptor)?, before + 1.0, "{acceptor} is counted");
        let label = format!("acceptor=\"{acceptor}\",kind=\"accepted\"");
        let accepted = appliance.metric("flowdog_acceptor_answers_total", &label)?;
        assert_eq!(accepted, 0.0, "no answer is an acceptance");
    }
    Ok(())
}

#[test]
fn the_sample_in_python_decides_gives_its_reasons_and_what_they_depend_on() -> Result<()> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/acceptor-python/gatekeeper.py");
    let stack = Ministack::start("python3.11", "gatekeeper.handler", "gatekeeper.py", &file)?;
    gatekeeper::check(&stack, 24)
}
