//! QUIC through the appliance: aioquic as client and server, blocked, passed, and by name.

use anyhow::Result;
use flowdog_tests::lab::{Lab, Outcome};
use serde_json::Value;

/// An HTTP/0.9-like server over QUIC, and one over TCP on the same port that says another word.
const SERVER: &str = r#"
import asyncio, datetime, ssl
from aioquic.asyncio import serve, QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "quic")])
now = datetime.datetime.now(datetime.timezone.utc)
certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    .sign(key, hashes.SHA256()))

class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, b"over quic: " + event.data, end_stream=event.end_stream)
            self.transmit()

async def tcp(reader, writer):
    line = await reader.readline()
    writer.write(b"over tcp: " + line)
    await writer.drain()
    writer.close()

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.certificate, configuration.private_key = certificate, key
    for host in ("198.18.0.53",):
        await serve(host, 4433, configuration=configuration, create_protocol=Echo)
        await asyncio.start_server(tcp, host, 4433)
    await asyncio.Future()

asyncio.run(main())
"#;

/// Asks over QUIC and, when that fails, over TCP, as browsers do. `big` is a hello of two datagrams.
const CLIENT: &str = r#"
import asyncio, socket, ssl, sys, time
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion as Version

async def ask(name, version=Version.VERSION_1, big=False):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], server_name=name)
    configuration.verify_mode = ssl.CERT_NONE
    configuration.original_version = version
    configuration.supported_versions = [version]
    configuration.idle_timeout = 3
    if big:
        configuration.alpn_protocols = ["echo"] + ["x%0200d" % n for n in range(9)]
    async with connect("198.18.0.53", 4433, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(b"hello")
        writer.write_eof()
        return (await asyncio.wait_for(reader.read(), 3)).decode()

def fall_back():
    with socket.create_connection(("198.18.0.53", 4433), timeout=5) as s:
        s.sendall(b"hello\n")
        return s.makefile().readline().strip()

def fetch(name, **more):
    began = time.monotonic()
    try:
        answer = asyncio.run(ask(name, **more))
    except (ConnectionError, OSError, asyncio.TimeoutError) as error:
        answer = fall_back()
    print("CASE", name, sorted(more), answer, "%.1f" % (time.monotonic() - began))

for attempt in range(50):
    try:
        fall_back()
        break
    except OSError:
        time.sleep(0.1)
"#;

fn run(rules: &str, cases: &str) -> Result<(Outcome, Vec<Value>)> {
    let lab = Lab::new()?.server(SERVER)?;
    let log = lab.folder().join("flows.jsonl");
    let config = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\noutput = '{}'\n{rules}",
        log.display()
    );
    let lab = lab.config(&config)?;
    let outcome = lab.python(&format!("{CLIENT}\n{cases}\ntime.sleep(1.5)\n"))?;
    let text = std::fs::read_to_string(log)?;
    let flows: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let quic = |flow: &Value| flow["application"] == "quic";
    Ok((outcome, flows.into_iter().filter(quic).collect()))
}

fn cases(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.stdout.lines();
    lines
        .filter_map(|line| line.strip_prefix("CASE "))
        .map(|line| {
            line.rsplit_once(' ')
                .map_or(line, |(case, _)| case)
                .to_owned()
        })
        .collect()
}

#[test]
fn blocked_quic_falls_back_to_tcp() -> Result<()> {
    let (outcome, flows) = run(
        "[[rule]]\nname = 'no-quic'\naction = 'reset'\napplication = 'quic'\n",
        "fetch('any.lab.name'); fetch('any.lab.name', version=Version.VERSION_2)",
    )?;
    assert_eq!(
        cases(&outcome),
        [
            "any.lab.name [] over tcp: hello",
            "any.lab.name ['version'] over tcp: hello"
        ]
    );
    assert_eq!(flows.len(), 2, "{flows:?}");
    for flow in &flows {
        assert_eq!(
            (&flow["verdict"], &flow["rule"]),
            (&"reset".into(), &"no-quic".into())
        );
        assert_eq!(flow["serverName"], "any.lab.name");
    }
    assert!(outcome.metric("flowdog_dataplane_icmp_sent_total", "") >= 1.0);
    Ok(())
}

#[test]
fn quic_is_passed_or_blocked_by_the_name_in_its_hello() -> Result<()> {
    let (outcome, flows) = run(
        "[[rule]]\nname = 'bad'\naction = 'reset'\nserver-name = '*.bad.example'\n\
         [[rule]]\nname = 'rest'\naction = 'pass'\napplication = 'quic'\n",
        "fetch('good.example'); fetch('x.bad.example')\n\
         fetch('good.example', big=True); fetch('x.bad.example', big=True)\n\
         fetch('good.example', version=Version.VERSION_2)",
    )?;
    assert_eq!(
        cases(&outcome),
        [
            "good.example [] over quic: hello",
            "x.bad.example [] over tcp: hello",
            "good.example ['big'] over quic: hello",
            "x.bad.example ['big'] over tcp: hello",
            "good.example ['version'] over quic: hello",
        ]
    );
    let told = |name: &str, rule: &str| {
        let is = |flow: &&Value| flow["serverName"] == name && flow["rule"] == rule;
        flows.iter().filter(is).count()
    };
    assert_eq!(
        (told("good.example", "rest"), told("x.bad.example", "bad")),
        (3, 2)
    );
    let ja4 = flows[0]["ja4"].as_str().unwrap_or_default();
    assert!(ja4.starts_with("q13d") && ja4.len() == 36, "{ja4}");
    Ok(())
}
