//! Many connections at once, and connections that last: limits hold, nothing grows.

use anyhow::Result;
use flowdog_tests::lab::Lab;

/// Opens more connections than may be intercepted, keeps all of them, and uses each.
const MANY: &str = r#"
import socket, time

HEAD = b"GET /status/204 HTTP/1.1\r\nHost: any.lab.name\r\n\r\n"
kept = []
for n in range(300):
    sock = socket.create_connection(("any.lab.name", 80))
    sock.settimeout(20)
    kept.append(sock)
for _ in range(2):
    for sock in kept:
        sock.sendall(HEAD)
    for sock in kept:
        assert sock.recv(4096).startswith(b"HTTP/1.1 204"), "a connection was not served"
print("OK", len(kept))
"#;

#[test]
fn threat_31_connections_beyond_the_limit_are_passed_and_counted_and_all_are_served() -> Result<()>
{
    let outcome = Lab::new()?
        .config("[flows]\nmax-intercepted = 100\n[[rule]]\naction = \"intercept\"\n")?
        .python(MANY)?;
    assert!(outcome.stdout.contains("OK 300"), "{}", outcome.stdout);
    let taken_over = outcome.metric("flowdog_dataplane_takeovers_total", "");
    assert!((1.0..=100.0).contains(&taken_over), "{taken_over}");
    let passed = outcome.metric("flowdog_dataplane", "too_many_intercepted");
    assert!(passed >= 200.0, "{passed}");
    Ok(())
}

/// Uses one connection for exchanges, and one for events, for long enough that growth would show.
const LONG: &str = r#"
import os, pathlib, socket

PID = int(pathlib.Path(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read_text())


def resident():
    for line in pathlib.Path(f"/proc/{PID}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])


HEAD = b"POST /echo HTTP/1.1\r\nHost: any.lab.name\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
sock = socket.create_connection(("any.lab.name", 80))
sock.settimeout(20)


def exchange():
    sock.sendall(HEAD)
    got = b""
    while b"\r\n\r\n" not in got:
        got += sock.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += sock.recv(65536)


sizes = []
for n in range(4000):
    exchange()
    if n % 1000 == 999:
        sizes.append(resident())
assert sizes[-1] - sizes[0] < 1024, sizes
print("OK", sizes)
"#;

#[test]
fn threat_35_a_connection_of_thousands_of_exchanges_does_not_grow() -> Result<()> {
    let outcome = Lab::new()?
        .config(
            "[[interceptor]]\nname = \"who\"\nuse = \"geneve-headers\"\n\
             [[rule]]\naction = \"intercept\"\ninterceptors = [\"who\"]\n",
        )?
        .python(LONG)?;
    assert!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    Ok(())
}

/// Opens connections inside TLS, has one exchange on each and keeps them; says what one took.
const IDLE: &str = r#"
import os, pathlib, socket, ssl, sys, time
import h2.connection

PID = int(pathlib.Path(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read_text())
HTTP2 = os.environ["SPEAK"] == "h2"
BEFORE, MEASURED = 200, 500

context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
context.set_alpn_protocols([os.environ["SPEAK"]])


def resident():
    for line in pathlib.Path(f"/proc/{PID}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024


def exchange(sock):
    if not HTTP2:
        sock.sendall(b"GET /status/204 HTTP/1.1\r\nHost: any.lab.name\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 204"), "a connection was not served"
        return
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.send_headers(1, [
        (":method", "GET"), (":scheme", "https"),
        (":authority", "any.lab.name"), (":path", "/status/204"),
    ], end_stream=True)
    sock.sendall(connection.data_to_send())
    ended = False
    while not ended:
        data = sock.recv(65536)
        assert data, "a connection was not served"
        for event in connection.receive_data(data):
            ended = ended or type(event).__name__ == "StreamEnded"
        sock.sendall(connection.data_to_send())


kept = []
for n in range(BEFORE + MEASURED):
    if n == BEFORE:
        time.sleep(2)
        before = resident()
    sock = context.wrap_socket(
        socket.create_connection(("any.lab.name", 443)), server_hostname="any.lab.name")
    assert sock.selected_alpn_protocol() == os.environ["SPEAK"]
    sock.settimeout(20)
    exchange(sock)
    kept.append(sock)
time.sleep(2)
each = (resident() - before) / MEASURED
print("EACH", each)
assert each < int(os.environ["MOST"]), each
"#;

fn idle(protocol: &str, most: u32) -> Result<()> {
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .env("SPEAK", protocol)
        .env("MOST", &most.to_string())
        .python(IDLE)?;
    assert!(outcome.stdout.contains("EACH"), "{}", outcome.stdout);
    Ok(())
}

#[test]
fn an_idle_connection_takes_little_memory_with_both_sessions() -> Result<()> {
    idle("http/1.1", 20_000)
}

#[test]
fn an_idle_http2_connection_takes_little_memory_with_both_sessions() -> Result<()> {
    idle("h2", 68_000)
}
