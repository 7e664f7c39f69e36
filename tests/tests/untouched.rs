//! What flowdog does not understand, or was not asked to touch, passes as if it were not there.

use anyhow::Result;
use flowdog_tests::lab::Lab;

/// Python that all programs here begin with.
const PRELUDE: &str = r#"
import errno, os, socket, struct, time

def connect(port, name="any.lab.name", timeout=10, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    s.connect((socket.getaddrinfo(name, port, family)[0][4]))
    return s
"#;

fn python(program: &str) -> Result<String> {
    let outcome = Lab::new()?.python(&format!("{PRELUDE}\n{program}\nprint('DONE')\n"))?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    Ok(outcome.stdout)
}

#[test]
fn servers_that_speak_first_are_heard() -> Result<()> {
    let output = python(
        r#"
for family in (socket.AF_INET, socket.AF_INET6):
    for port in (25, 2222):
        s = connect(port, family=family)
        banner = s.recv(200)
        print(port, banner)
        assert banner.startswith(b"220 ") if port == 25 else banner.startswith(b"SSH-2.0"), banner
        if port == 25:
            s.sendall(b"EHLO client\r\n")
            assert s.recv(500).startswith(b"250")
            s.sendall(b"QUIT\r\n")
            assert s.recv(500).startswith(b"221")
        s.close()
"#,
    )?;
    assert!(output.contains("220 "));
    Ok(())
}

#[test]
fn an_unknown_protocol_is_relayed_unchanged() -> Result<()> {
    python(
        r#"
for family in (socket.AF_INET, socket.AF_INET6):
    s = connect(9999, family=family)
    for size in (1, 3, 1460, 100000):
        sent = b"\x00\xfe" + os.urandom(size)
        s.sendall(sent)
        got = b""
        while len(got) < len(sent):
            part = s.recv(65536)
            assert part, "closed early"
            got += part
        assert got == sent
    # The half-closed connection still carries the answer.
    s.sendall(b"last words")
    s.shutdown(socket.SHUT_WR)
    got = b""
    while part := s.recv(65536):
        got += part
    assert got == b"last words", got
"#,
    )?;
    Ok(())
}

#[test]
fn a_closed_port_refuses_at_once_and_a_silent_host_stays_silent() -> Result<()> {
    python(
        r#"
for family in (socket.AF_INET, socket.AF_INET6):
    start = time.monotonic()
    try:
        connect(4444, family=family)
        raise SystemExit("connected to a closed port")
    except ConnectionRefusedError:
        assert time.monotonic() - start < 1, "refused late"

# Nobody has this address: only the client's own patience ends the attempt.
s = socket.socket()
s.settimeout(2)
try:
    s.connect(("203.0.113.1", 443))
    raise SystemExit("connected to nobody")
except TimeoutError:
    pass
except OSError as e:
    assert e.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH), e
"#,
    )?;
    Ok(())
}

#[test]
fn datagrams_echo_and_fragments_and_unknown_protocols_pass() -> Result<()> {
    python(
        r#"
for family in (socket.AF_INET, socket.AF_INET6):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    address = socket.getaddrinfo("any.lab.name", 7777, family)[0][4]
    # The last two are larger than the interface: the kernel sends them in fragments.
    for size in (0, 1, 1400, 8000, 20000, 60000):
        sent = os.urandom(size)
        s.sendto(sent, address)
        got, source = s.recvfrom(65535)
        assert got == sent, (family, size, len(got))
        assert source[:2] == address[:2], source

def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

# ICMP echo, answered by the server's kernel.
address = socket.getaddrinfo("any.lab.name", 0, socket.AF_INET)[0][4]
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(5)
body = os.urandom(1000)
header = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
header = struct.pack("!BBHHH", 8, 0, checksum(header + body), 77, 1)
s.sendto(header + body, address)
while True:
    answer, source = s.recvfrom(65535)
    if answer[20] == 0:
        break
assert answer[28:] == body and source[0] == address[0]

# GRE: the server's kernel knows no such protocol and says so, which shows that the packet went there
# and that the error, a flow of its own, came back.
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
errors = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
errors.settimeout(5)
s.sendto(b"\0\0\x08\0" + b"gre", address)
while True:
    answer, source = errors.recvfrom(65535)
    if answer[20:22] == b"\x03\x02":
        break
assert b"gre" in answer, answer
"#,
    )?;
    Ok(())
}
