"""HTTP/2 origins that do not keep to the rules, one on each port from 9101 on. Started with `serve` it
is all of them; else it is a good client that asks each of them and looks at what comes of it."""

import os, pathlib, socket, struct, sys, threading, time

import hpack


def raw(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(*fields):
    """Literals without indexing and without Huffman, so that nothing is put right on the way."""
    out = b""
    for name, value in fields:
        out += b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return out


OK = (b":status", b"200")
GOOD = raw(1, 4, 1, block(OK)) + raw(0, 1, 1, b"good")
SECRET = b"must-not-arrive"
ONE = lambda data: lambda n: data if n == 0 else None
# Name, what the origin sends (piece by piece, until None), and what the client may see.
BAD = ("goaway", "reset", "closed", "502")
ORIGINS = [
    ("a good one", ONE(GOOD), ("200",)),
    ("a good one after interim responses", ONE(raw(1, 4, 1, block((b":status", b"103"))) * 3 + GOOD), ("200",)),
    ("continuation flood", lambda n: raw(1, 0, 1, block(OK)) if n == 0 else raw(9, 0, 1, block((b"x", b"v" * 100)) * 100), BAD),
    ("interim flood", lambda n: raw(1, 4, 1, block((b":status", b"103"))) if n < 5000 else None, BAD),
    ("settings flood", lambda n: raw(4, 0, 0, b"") * 500 if n < 2000 else None, BAD + ("nothing",)),
    ("ping flood", lambda n: raw(6, 0, 0, b"01234567") * 500 if n < 2000 else None, BAD + ("nothing",)),
    ("reset flood", lambda n: raw(3, 0, 1, b"\0\0\0\x08") * 100 if n < 100 else None, BAD),
    ("compression bomb", ONE(raw(1, 0, 1, b"\x40\x04bomb\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 9000) + raw(9, 4, 1, b"\xbe" * 9000)), BAD),
    ("index 0", ONE(raw(1, 5, 1, b"\x80")), BAD),
    ("data before a head", ONE(raw(0, 1, 1, SECRET)), BAD),
    ("data on an idle stream", ONE(raw(0, 1, 3, SECRET)), BAD),
    ("a response that nobody asked for", ONE(raw(1, 4, 3, block(OK)) + raw(0, 1, 3, SECRET)), BAD),
    ("a push that was switched off", ONE(raw(5, 4, 1, b"\0\0\0\2" + block((b":method", b"GET"), (b":path", b"/")))), BAD),
    ("no status", ONE(raw(1, 4, 1, block((b"x", b"y"))) + raw(0, 1, 1, SECRET)), BAD),
    ("a status of letters", ONE(raw(1, 4, 1, block((b":status", b"abc"))) + raw(0, 1, 1, SECRET)), BAD),
    ("status 101", ONE(raw(1, 4, 1, block((b":status", b"101"))) + raw(0, 1, 1, SECRET)), BAD),
    ("two statuses", ONE(raw(1, 4, 1, block(OK, OK)) + raw(0, 1, 1, SECRET)), BAD),
    ("a status after a field", ONE(raw(1, 4, 1, block((b"a", b"b"), OK)) + raw(0, 1, 1, SECRET)), BAD),
    ("an upper-case name", ONE(raw(1, 4, 1, block(OK, (b"X-A", b"b"))) + raw(0, 1, 1, SECRET)), BAD),
    ("a line end in a value", ONE(raw(1, 4, 1, block(OK, (b"a", b"b\r\nc: d"))) + raw(0, 1, 1, SECRET)), BAD),
    ("a connection field", ONE(raw(1, 4, 1, block(OK, (b"connection", b"close"))) + raw(0, 1, 1, SECRET)), BAD),
    ("a transfer coding", ONE(raw(1, 4, 1, block(OK, (b"transfer-encoding", b"chunked"))) + raw(0, 1, 1, SECRET)), BAD),
    ("blanks around a value", ONE(raw(1, 4, 1, block(OK, (b"a", b" b"))) + raw(0, 1, 1, SECRET)), BAD),
    ("more than it announced", ONE(raw(1, 4, 1, block(OK, (b"content-length", b"2"))) + raw(0, 1, 1, SECRET)), BAD),
    ("a frame over the size", ONE(raw(1, 4, 1, block(OK)) + raw(0, 1, 1, SECRET * 2000)), BAD),
    ("an end in the middle", ONE(raw(1, 4, 1, block(OK)) + raw(0, 0, 1, b"part")), BAD),
    ("no HTTP/2 at all", ONE(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nno h2 "), BAD),
]


def serve(port, send):
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock, send), daemon=True).start()


def one(sock, send):
    try:
        sock.settimeout(5)
        # A server that speaks before its client is no server for HTTP, and its flow is passed unread.
        got, at = sock.recv(65536), 24
        sock.sendall(raw(4, 0, 0, b"") + raw(4, 1, 0, b"") if send(0)[:4] != b"HTTP" else b"")
        while True:
            while len(got) >= at + 9 and got[at + 3] != 1:
                at += 9 + int.from_bytes(got[at:at + 3], "big")
            if len(got) >= at + 9:
                break
            got += sock.recv(65536)
        n = 0
        while (data := send(n)) is not None and n < 20000:
            sock.sendall(data)
            n += 1
        time.sleep(0.3)
    except OSError:
        pass
    finally:
        sock.close()


def ask(port):
    sock = socket.create_connection(("any.lab.name", port))
    sock.settimeout(4)
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "any.lab.name"), (":path", "/")]
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(4, 0, 0, b"") + raw(1, 5, 1, hpack.Encoder().encode(fields)))
    decoder, got, at, status, body, outcome = hpack.Decoder(), b"", 0, None, b"", "nothing"
    try:
        while True:
            more = sock.recv(65536)
            if not more:
                break
            got += more
            while len(got) >= at + 9 and len(got) >= at + 9 + int.from_bytes(got[at:at + 3], "big"):
                size, kind, flags = int.from_bytes(got[at:at + 3], "big"), got[at + 3], got[at + 4]
                payload, at = got[at + 9:at + 9 + size], at + 9 + size
                if kind == 1:
                    status = dict(decoder.decode(payload)).get(":status", status)
                elif kind == 0:
                    body += payload
                elif kind == 3:
                    return "reset", body
                elif kind == 7 and int.from_bytes(payload[4:8], "big"):
                    outcome = "goaway"
                if kind in (0, 1) and flags & 1:
                    return status, body
        return ("closed" if outcome == "nothing" else outcome), body
    except TimeoutError:
        return outcome, body
    except OSError:
        return "closed", body
    finally:
        sock.close()


if sys.argv[1:] == ["serve"]:
    for number, (_, send, _) in enumerate(ORIGINS):
        threading.Thread(target=serve, args=(9101 + number, send), daemon=True).start()
    threading.Event().wait()

pid = int(pathlib.Path(os.environ["FLOWDOG_LAB_APPLIANCE_PID"]).read_text())
resident = lambda: int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
time.sleep(0.5)
for number, (name, _, expect) in enumerate(ORIGINS):
    before = resident()
    outcome, body = ask(9101 + number)
    grown = resident() - before
    ok = outcome in expect and SECRET not in body and grown < 24 << 20
    print("OK" if ok else "BAD", f"threat_24 origin: {name}:", outcome, body[:20], f"grown by {grown >> 10} kB", flush=True)
    # Another connection, to a good origin, is served as before.
    assert ask(9101) == ("200", b"good"), name
