"""HTTP/2 peers that do not keep to the rules. Each attack gets a connection of its own; beside it
another connection asks for something now and then and must be answered."""

import os, pathlib, socket, struct, time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = [(":method", "GET"), (":scheme", "http"), (":authority", "any.lab.name"), (":path", "/slow?ms=20000")]
PID = int(pathlib.Path(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read_text())


def resident():
    for line in pathlib.Path(f"/proc/{PID}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024


def raw(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head(stream, flags=0x4, headers=HEADERS, kind=1):
    return raw(kind, flags, stream, hpack.Encoder().encode(headers, huffman=False))


def literal(name, value):
    """Without indexing, without Huffman."""
    def string(data):
        size = len(data)
        if size < 127:
            return bytes([size]) + data
        out, size = b"\x7f", size - 127
        while size >= 128:
            out += bytes([size & 127 | 128])
            size >>= 7
        return out + bytes([size]) + data
    return b"\x00" + string(name) + string(value)


def connect():
    sock = socket.create_connection(("any.lab.name", 80))
    sock.settimeout(5)
    sock.sendall(PREFACE + raw(4, 0, 0, b"") + raw(4, 1, 0, b""))
    return sock


def frames_of(data):
    at = 0
    while len(data) >= at + 9:
        size = int.from_bytes(data[at:at + 3], "big")
        yield data[at + 3], data[at + 4], int.from_bytes(data[at + 5:at + 9], "big") & 0x7FFFFFFF, data[at + 9:at + 9 + size]
        at += 9 + size


def attack(name, send, count=20000, read=True, expect=("goaway", "reset", "closed")):
    """Sends what `send(n)` gives until the connection ends, the writer is held back, or `count` is up."""
    if name != "control" and not name.startswith("@THREAT@ "):
        return
    before = resident()
    sock = connect()
    sock.settimeout(3)
    outcome, got = "accepted", b""
    try:
        for n in range(count):
            sock.sendall(send(n))
            if read and n % 64 == 0:
                sock.settimeout(0.001)
                try:
                    got += (more := sock.recv(1 << 20))
                    if not more:
                        outcome = "closed"
                        break
                except TimeoutError:
                    pass
                sock.settimeout(3)
    except TimeoutError:
        outcome = "held back"
    except OSError:
        outcome = "closed"
    sock.settimeout(1)
    try:
        while more := sock.recv(1 << 20):
            got += more
            if len(got) > 8 << 20:
                break
        if outcome == "accepted":
            outcome = "closed"
    except (TimeoutError, OSError) as error:
        if outcome == "accepted" and not isinstance(error, TimeoutError):
            outcome = "closed"
    kinds = [kind for kind, *_ in frames_of(got)]
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in frames_of(got) if kind == 7]
    if any(codes):
        outcome = "goaway"
    elif 3 in kinds and outcome == "accepted":
        outcome = "reset"
    statuses = [payload for kind, flags, stream, payload in frames_of(got) if kind == 1]
    if outcome == "accepted" and statuses:
        outcome = "answered"
    sock.close()
    grown = resident() - before
    ok = outcome in expect and grown < 24 << 20
    print("OK" if ok else "BAD", name, outcome, f"{n + 1} sent, grown by {grown >> 10} kB", flush=True)
    neighbour()


def neighbour():
    with socket.create_connection(("any.lab.name", 80)) as sock:
        sock.settimeout(10)
        sock.sendall(b"GET /status/204 HTTP/1.1\r\nHost: any.lab.name\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 204"), "the connection beside it was disturbed"


def continuation(n):
    return head(1, flags=0) if n == 0 else raw(9, 0, 1, literal(b"x-%d" % n, b"v" * 8000))


def bomb(n):
    # One entry of 4,000 bytes in the table, named by one byte each 16,000 times.
    if n:
        return b""
    block = hpack.Encoder().encode(HEADERS, huffman=False) + b"\x40" + literal(b"bomb", b"v" * 4000)[1:]
    block += b"\xbe" * 16000
    return raw(1, 0, 1, block[:16000]) + raw(9, 4, 1, block[16000:])


# A good client first, so that what follows is not refused for another reason.
attack("control", lambda n: head(1, 5, HEADERS[:3] + [(":path", "/echo")]), count=1, expect=("answered",))
# threat_20: header blocks without an end.
attack("threat_20 continuation flood", continuation)
attack("threat_20 empty continuations", lambda n: head(1, flags=0) if n == 0 else raw(9, 0, 1, b""))
# threat_21: frames that want an answer, from a peer that reads none and from one that does.
bounded = ("goaway", "closed", "held back")
attack("threat_21 settings, unread", lambda n: raw(4, 0, 0, b"") * 500, count=2000, read=False, expect=bounded)
attack("threat_21 pings, unread", lambda n: raw(6, 0, 0, b"01234567") * 500, count=2000, read=False, expect=bounded)
harmless = bounded + ("accepted", "answered", "reset")
attack("threat_21 priorities", lambda n: raw(2, 0, 1, b"\0\0\0\0\0") * 100, count=2000, expect=harmless)
attack("threat_21 window updates", lambda n: raw(8, 0, 0, b"\0\0\0\1") * 100, count=2000, expect=harmless)
attack("threat_21 empty data", lambda n: head(1) if n == 0 else raw(0, 0, 1, b"") * 100, count=2000, expect=harmless)
attack("threat_21 streams beyond the limit", lambda n: head(2 * n + 1), count=300, expect=("reset",))
# threat_22: compression.
attack("threat_22 bomb", bomb, count=1, expect=("goaway", "reset", "closed", "answered"))
for name, block in [
    ("index 0", b"\x80"), ("index beyond the table", b"\xff\xff\x01"), ("integer overflow", b"\xff" + b"\xff" * 12 + b"\x01"),
    ("table size over the limit", b"\x3f\xe1\xff\x03"), ("huffman padding", b"\x00\x81\x00\x81\x00"),
    ("string beyond the block", b"\x00\x7f\xff\x7fabc"),
]:
    attack(f"threat_22 {name}", lambda n, block=block: raw(1, 5, 1, block), count=1)
# threat_24: frames where they must not be, and of sizes that they must not have.
for name, data in [
    ("data on an idle stream", raw(0, 1, 1, b"x")), ("data on stream 0", raw(0, 1, 0, b"x")),
    ("headers on stream 0", head(0, 5)), ("even stream", head(2, 5)), ("stream ids that fall", head(5, 5) + head(3, 5)),
    ("reset of an idle stream", raw(3, 0, 9, b"\0\0\0\0")), ("short reset", raw(3, 0, 1, b"\0")),
    ("short ping", raw(6, 0, 0, b"x")), ("ping on a stream", raw(6, 0, 1, b"01234567")),
    ("settings of five bytes", raw(4, 0, 0, b"12345")), ("settings on a stream", raw(4, 0, 1, b"")),
    ("acknowledgement with content", raw(4, 1, 0, b"123456")), ("window of zero", raw(8, 0, 0, b"\0\0\0\0")),
    ("window overflow", raw(8, 0, 0, b"\x7f\xff\xff\xff")), ("padding beyond the frame", head(1) + raw(0, 8, 1, b"\xffx")),
    ("frame over the size", raw(0, 0, 1, b"x" * 20000)), ("continuation alone", raw(9, 4, 1, b"")),
    ("frame inside a header block", head(1, 0) + raw(6, 0, 0, b"01234567")), ("push from a client", raw(5, 4, 1, b"\0\0\0\2")),
]:
    attack(f"threat_24 {name}", lambda n, data=data: data, count=1)
