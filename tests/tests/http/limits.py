"""Peers that are slow on purpose, and messages of too much: each is ended in time and told why."""

import socket, ssl, threading, time

HOST = "any.lab.name"
failed = []


def connect(port=80):
    sock = socket.create_connection((HOST, port))
    sock.settimeout(20)
    return sock


def until_end(sock):
    """All that comes, and how long it took to the end."""
    start, got = time.monotonic(), b""
    try:
        while more := sock.recv(65536):
            got += more
    except ConnectionResetError:
        got += b"<reset>"
    return got, time.monotonic() - start


def case(name, want, least, most, talk):
    def run():
        try:
            got, took = talk()
            ok = want in got and least <= took <= most
            detail = f"{took:.1f} s, {got[:60]!r}"
        except Exception as error:
            ok, detail = False, repr(error)
        print(f"{'OK' if ok else 'BAD'} {name} {detail}\n", end="", flush=True)
        if not ok:
            failed.append(name)
    return threading.Thread(target=run)


def send(data, port=80):
    def talk():
        sock = connect(port)
        sock.sendall(data)
        return until_end(sock)
    return talk


def drip(data, piece, pause):
    """Sends `data`, then `piece` again and again until the other side ends."""
    def talk():
        sock, start, got = connect(), time.monotonic(), b""
        sock.sendall(data)
        sock.settimeout(pause)
        while time.monotonic() - start < 20:
            try:
                sock.sendall(piece)
                more = sock.recv(65536)
                got += more
                if not more:
                    break
            except TimeoutError:
                continue
            except OSError:
                got += b"<reset>"
                break
        return got, time.monotonic() - start
    return talk


def unread():
    """Asks for much and reads none of it until the appliance has given the connection up as idle."""
    sock = connect()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    start = time.monotonic()
    sock.sendall(f"GET /bytes/50000000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    time.sleep(9)
    sock.settimeout(1)
    got, _ = until_end(sock)
    return b"told " + got[-20:], time.monotonic() - start


def half_hello():
    """The first half of a real ClientHello, then nothing."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    got, took = send(hello[:len(hello) // 2], 443)()
    return b"ended " + got, took


def silent_handshake():
    """A whole ClientHello, then no answer to the server's flight."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=HOST)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    got, took = send(outgoing.read(), 443)()
    return b"ended " + got, took


def head(line=f"GET / HTTP/1.1", extra=""):
    return f"{line}\r\nHost: {HOST}\r\n{extra}".encode()


POST = head("POST /echo HTTP/1.1", "Content-Length: 100000\r\n\r\n")
CASES = [
    # Slow on purpose.
    case("threat_27 half a head", b" 408 ", 0.5, 5, send(head())),
    case("threat_27 a head byte by byte", b" 408 ", 0.5, 5, drip(head(), b"a", 0.2)),
    case("threat_27 no body", b" 408 ", 0.5, 5, send(POST)),
    case("threat_27 a body byte by byte", b" 408 ", 0.5, 5, drip(POST, b"a", 0.2)),
    case("threat_27 a reader that does not", b"<reset>", 0, 20, unread),
    case("threat_27 half a ClientHello", b"ended", 0.5, 12, half_hello),
    case("threat_27 half a handshake", b"ended", 0.5, 16, silent_handshake),
    case("threat_27 a beginning that says nothing", b"ended", 0.5, 9, lambda: (lambda got, took: (b"ended " + got, took))(*send(b"G")())),
    case("threat_27 an origin that does not answer", b"", 2, 8, send(head("GET /slow?ms=30000 HTTP/1.1", "\r\n"))),
    # Too much.
    case("threat_28 fields", b" 431 ", 0, 5, send(head(extra="a: b\r\n" * 40 + "\r\n"))),
    case("threat_28 one field", b" 431 ", 0, 5, send(head(extra="a: " + "b" * 8000 + "\r\n\r\n"))),
    case("threat_28 a head", b" 431 ", 0, 5, send(head(extra=("a: " + "b" * 900 + "\r\n") * 6 + "\r\n"))),
    case("threat_28 a target", b" 414 ", 0, 5, send(head(f"GET /{'a' * 2000} HTTP/1.1", "\r\n"))),
    case("threat_28 a target without an end", b" 414 ", 0, 5, send(b"GET /" + b"a" * 3000)),
]
for one in CASES:
    one.start()
for one in CASES:
    one.join()
# A good client, after all of them.
sock = connect()
sock.sendall(head("GET /status/204 HTTP/1.1", "Connection: close\r\n\r\n"))
got, _ = until_end(sock)
assert b" 204 " in got, got
assert not failed, failed
print("ALL", len(CASES))
