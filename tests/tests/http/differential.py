"""Exchanges made from a seed: the same on every run, whoever runs them and over whatever path.

A client and an origin of their own, on raw sockets for HTTP/1 and on the package h2 for HTTP/2. Both
write down what they see; seen directly and through an intermediary, it must be the same."""

import json, pathlib, random, socket, ssl, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import h2.config, h2.connection, h2.events, h2.exceptions

FOLDER = pathlib.Path(sys.argv[0]).parent
H1, H2 = 8081, 8082
# Whether everything is inside TLS, with cert.pem and key.pem of the folder, and the name in it.
TLS, NAME = False, "v4only.lab.name"


def alpn(port):
    return ["http/1.1" if port == H1 else "h2"]


def connect(host, port):
    sock = socket.create_connection((host, port))
    sock.settimeout(30)
    if not TLS:
        return sock
    direct = host.startswith("127.")
    context = ssl.create_default_context(cafile=FOLDER / "cert.pem" if direct else None)
    context.set_alpn_protocols(alpn(port))
    sock = context.wrap_socket(sock, server_hostname=NAME)
    assert [sock.selected_alpn_protocol()] == alpn(port)
    return sock


def accepted(sock, port):
    if not TLS:
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "cert.pem", FOLDER / "key.pem")
    context.set_alpn_protocols(alpn(port))
    return context.wrap_socket(sock, server_side=True)


def end(sock):
    """A body without a length ends with the closure alert, where there is TLS."""
    try:
        if TLS:
            sock.settimeout(5)
            sock.unwrap()
    except (OSError, ValueError):
        pass
    sock.close()

NAMES = ["Accept", "X-Case", "x-case", "X-CASE", "X-Cookie", "Via", "If-None-Match", "User-Agent", "Priority", "X.odd|name"]
RESPONSE_NAMES = ["Server", "Set-Cookie", "set-cookie", "ETag", "X-Frame", "Vary", "Cache-Control", "x-lower", "Link"]
VALUES = ["", "a", "b, c", "\"quoted; text\"", "W/\"x\"", "caf\xe9", "a  b", "x" * 300, "=?", "%00"]


def fields(rng, names, most):
    return [(rng.choice(names), rng.choice(VALUES)) for _ in range(rng.randrange(most))]


def content(rng):
    size = rng.choice([0, 1, 2, 100, 4096, 16384, 70000])
    return rng.randbytes(size)


def request_of(seed, version2=False):
    rng = random.Random(f"request {seed}")
    method = rng.choice(["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
    has_body = method in ("POST", "PUT", "PATCH", "PROPFIND", "DELETE")
    framing = rng.choice(["none", "length", "chunked"]) if has_body else "none"
    old = not version2 and rng.random() < 0.1 and framing != "chunked"
    return dict(
        seed=seed, method=method, target=f"/d/{seed}" + rng.choice(["", "?", "?a=b&c=%20", "?x=/../y", ";p=1"]),
        headers=fields(rng, NAMES, 8), framing=framing, body=content(rng) if framing != "none" else b"",
        trailers=fields(rng, ["X-Sum", "x-more"], 3) if framing == "chunked" else [],
        expect=framing != "none" and not old and rng.random() < 0.2, old=old,
    )


def response_of(seed, method, version2=False, old=False):
    rng = random.Random(f"response {seed}")
    status = rng.choice([200, 200, 200, 201, 204, 206, 304, 404, 418, 500, 599])
    bodiless = method == "HEAD" or status in (204, 304)
    framing = "none" if bodiless else rng.choice(["length", "length", "chunked", "close"])
    if framing == "chunked" and old:
        framing = "close"
    return dict(
        interim=[] if old else [(rng.choice([102, 103]), fields(rng, ["Link", "X-Early"], 3)) for _ in range(rng.choice([0, 0, 0, 1, 3]))],
        status=status, reason=rng.choice(["OK", "", "Fine by me", "Caf\xe9"]), headers=fields(rng, RESPONSE_NAMES, 8),
        framing=framing, body=b"" if bodiless else content(rng), length=rng.randrange(100) if status != 204 and (method == "HEAD" or status == 304) else None,
        trailers=fields(rng, ["X-Sum", "x-more"], 3) if framing == "chunked" else [],
        reset=version2 and rng.random() < 0.05,
    )


class Wire:
    """One HTTP/1 connection, read strictly; chunk boundaries and extensions are not kept."""

    def __init__(self, sock):
        self.sock, self.data = sock, b""
        sock.settimeout(30)

    def more(self):
        new = self.sock.recv(65536)
        self.data += new
        return bool(new)

    def until(self, mark):
        while mark not in self.data:
            if not self.more():
                raise EOFError
        found, self.data = self.data.split(mark, 1)
        return found

    def head(self):
        line, *rest = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return line, [self.field(one) for one in rest]

    @staticmethod
    def field(line):
        name, value = line.split(":", 1)
        return [name, value.strip(" \t")]

    def take(self, count):
        while len(self.data) < count:
            if not self.more():
                raise EOFError
        found, self.data = self.data[:count], self.data[count:]
        return found

    def body(self, headers, to_end):
        named = lambda want: [value for name, value in headers if name.lower() == want]
        trailers = []
        if named("transfer-encoding") == ["chunked"]:
            body = b""
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                body += self.take(size)
                assert self.take(2) == b"\r\n"
            while line := self.until(b"\r\n"):
                trailers.append(self.field(line.decode("latin-1")))
        elif named("content-length"):
            body = self.take(int(named("content-length")[0]))
        elif to_end:
            while self.more():
                pass
            body, self.data = self.data, b""
        else:
            body = b""
        return body, trailers


def lines(headers):
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


def chunks(rng, body, trailers):
    out, at = b"", 0
    while at < len(body):
        size = rng.randrange(1, 9000)
        piece = body[at:at + size]
        out += f"{len(piece):{rng.choice('xX')}}{rng.choice(['', ';ext=1', ';a'])}\r\n".encode() + piece + b"\r\n"
        at += size
    return out + b"0\r\n" + lines(trailers).encode("latin-1") + b"\r\n"


def send_pieces(sock, rng, data):
    """As TCP may cut it: some writes small, most large."""
    at = 0
    while at < len(data):
        size = rng.choice([1, 7, 1000, 1 << 20])
        sock.sendall(data[at:at + size])
        at += size


def show(body):
    import hashlib
    return [len(body), hashlib.sha1(body).hexdigest()]


LOG, LOG_LOCK = {"direct": {}, "through": {}}, threading.Lock()


def note(peer, key, what):
    """What the origin saw; a direct client is on the origin's own host."""
    with LOG_LOCK:
        LOG["direct" if peer.startswith("127.") else "through"][key] = what


def serve_h1(sock, peer):
    wire = Wire(sock)
    try:
        while True:
            line, headers = wire.head()
            if line.startswith("GET /log"):
                answer = json.dumps(LOG).encode()
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
                continue
            method, target, version = line.split(" ")
            seed = target.split("/")[2].split("?")[0].split(";")[0]
            rng = random.Random(f"wire {seed}")
            if any(name.lower() == "expect" for name, _ in headers):
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body, trailers = wire.body(headers, False)
            note(peer, "h1 " + seed, [line, headers, show(body), trailers])
            old = version == "HTTP/1.0"
            r = response_of(seed, method, old=old)
            for status, early in r["interim"]:
                sock.sendall(f"HTTP/1.1 {status} Early\r\n{lines(early)}\r\n".encode("latin-1"))
            head = list(r["headers"])
            if r["framing"] == "length":
                head.insert(len(head) // 2, ("content-length", len(r["body"])))
            elif r["framing"] == "chunked":
                head.insert(len(head) // 2, ("Transfer-Encoding", "chunked"))
            elif r["length"] is not None and rng.random() < 0.5:
                head.append(("Content-Length", r["length"]))
            closes = r["framing"] == "close" or old
            if r["framing"] == "close" and rng.random() < 0.5 and not old:
                head.append(("Connection", "close"))
            text = f"HTTP/1.{'0' if old else '1'} {r['status']} {r['reason']}\r\n{lines(head)}\r\n".encode("latin-1")
            data = chunks(rng, r["body"], r["trailers"]) if r["framing"] == "chunked" else r["body"]
            send_pieces(sock, rng, text + data)
            if closes:
                break
    except (EOFError, OSError):
        pass
    finally:
        end(sock)


def ask_h1(host, seeds):
    """One connection for some seeds; what the client sees of each."""
    seen = {}
    sock = connect(host, H1)
    wire = Wire(sock)
    for seed in seeds:
        q = request_of(seed)
        rng = random.Random(f"client {seed}")
        headers = [("Host", "differential.example")] + list(q["headers"])
        if q["framing"] == "length":
            headers.insert(rng.randrange(1, len(headers) + 1), ("content-Length", len(q["body"])))
        elif q["framing"] == "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
        if q["expect"]:
            headers.append(("Expect", "100-continue"))
        head = f"{q['method']} {q['target']} HTTP/1.{'0' if q['old'] else '1'}\r\n{lines(headers)}\r\n".encode("latin-1")
        data = chunks(rng, q["body"], q["trailers"]) if q["framing"] == "chunked" else q["body"]
        view, ended = [], False
        try:
            if q["expect"]:
                sock.sendall(head)
                view.append(wire.head())
                sock.sendall(data)
            else:
                send_pieces(sock, rng, head + data)
            while True:
                line, answer = wire.head()
                view.append([line, answer])
                if int(line.split(" ")[1]) >= 200:
                    break
            bodiless = q["method"] == "HEAD" or int(line.split(" ")[1]) in (204, 304)
            named = [name.lower() for name, _ in answer]
            to_end = "content-length" not in named and "transfer-encoding" not in named
            body, trailers = (b"", []) if bodiless else wire.body(answer, to_end)
            view.append([show(body), trailers])
            ended = to_end and not bodiless or q["old"]
        except (EOFError, OSError) as error:
            view.append(type(error).__name__)
            ended = True
        seen["h1 " + seed] = view
        if ended:
            sock.close()
            sock = connect(host, H1)
            wire = Wire(sock)
    sock.close()
    return seen


def h2_fields(headers):
    """RFC 9113 makes names lower case; the order of different names means nothing and may change."""
    text = [[n.decode("latin-1") if isinstance(n, bytes) else n, v.decode("latin-1") if isinstance(v, bytes) else v] for n, v in headers]
    return sorted(text, key=lambda one: one[0])


def lower(headers):
    return [(name.lower(), value.encode("latin-1")) for name, value in headers]


class Stream:
    def __init__(self):
        self.head, self.body, self.trailers, self.interim, self.sending = None, b"", [], [], None


def pump(conn, sock, streams):
    """Sends what windows allow of what waits."""
    for stream_id, stream in list(streams.items()):
        if stream.sending is None:
            continue
        data, trailers = stream.sending
        try:
            while data:
                room = min(conn.local_flow_control_window(stream_id), conn.max_outbound_frame_size, len(data))
                if room <= 0:
                    break
                conn.send_data(stream_id, data[:room])
                data = data[room:]
            stream.sending = (data, trailers)
            if not data:
                if trailers:
                    conn.send_headers(stream_id, lower(trailers), end_stream=True)
                else:
                    conn.end_stream(stream_id)
                stream.sending = None
        except h2.exceptions.H2Error:
            stream.sending = None
    out = conn.data_to_send()
    if out:
        sock.sendall(out)


def serve_h2(sock, peer):
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    conn.initiate_connection()
    sock.sendall(conn.data_to_send())
    streams = {}
    try:
        while data := sock.recv(65536):
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    streams[event.stream_id] = Stream()
                    streams[event.stream_id].head = event.headers
                elif isinstance(event, h2.events.DataReceived):
                    streams[event.stream_id].body += event.data
                    conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    streams[event.stream_id].trailers = event.headers
                elif isinstance(event, h2.events.StreamEnded):
                    answer_h2(conn, event.stream_id, streams[event.stream_id], peer)
            pump(conn, sock, streams)
    except (OSError, h2.exceptions.H2Error):
        pass
    finally:
        sock.close()


def answer_h2(conn, stream_id, stream, peer):
    pseudo = dict(stream.head)
    method, path = pseudo[b":method"].decode(), pseudo[b":path"].decode()
    seed = path.split("/")[2].split("?")[0].split(";")[0]
    note(peer, "h2 " + seed, [h2_fields(stream.head), show(stream.body), h2_fields(stream.trailers)])
    r = response_of(seed, method, version2=True)
    if r["reset"]:
        # A reset may overtake what came before it, so nothing does.
        conn.reset_stream(stream_id, error_code=11)
        return
    for status, early in r["interim"]:
        conn.send_headers(stream_id, [(":status", str(status))] + lower(early))
    head = [(":status", str(r["status"]))] + lower(r["headers"])
    if r["framing"] == "length":
        head.append(("content-length", str(len(r["body"]))))
    elif r["length"] is not None:
        head.append(("content-length", str(r["length"])))
    if r["framing"] == "none":
        conn.send_headers(stream_id, head, end_stream=True)
    else:
        conn.send_headers(stream_id, head)
        stream.sending = (r["body"], r["trailers"])


def ask_h2(host, seeds):
    sock = connect(host, H2)
    sock.settimeout(30)
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    conn.initiate_connection()
    streams, names, seen = {}, {}, {}
    for seed in seeds:
        q = request_of(seed, version2=True)
        stream_id = conn.get_next_available_stream_id()
        headers = [(":method", q["method"]), (":scheme", "https" if TLS else "http"), (":authority", "differential.example"), (":path", q["target"])]
        headers += lower(q["headers"])
        if q["framing"] == "length":
            headers.append(("content-length", str(len(q["body"]))))
        streams[stream_id], names[stream_id] = Stream(), "h2 " + seed
        conn.send_headers(stream_id, headers, end_stream=q["framing"] == "none")
        if q["framing"] != "none":
            streams[stream_id].sending = (q["body"], q["trailers"])
    pump(conn, sock, streams)
    while len(seen) < len(seeds):
        try:
            data = sock.recv(65536)
        except OSError as error:
            data = b""
        if not data:
            for stream_id, name in names.items():
                seen.setdefault(name, "connection ended")
            break
        for event in conn.receive_data(data):
            stream = streams.get(getattr(event, "stream_id", 0))
            if isinstance(event, h2.events.InformationalResponseReceived):
                stream.interim.append(h2_fields(event.headers))
            elif isinstance(event, h2.events.ResponseReceived):
                stream.head = h2_fields(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                stream.body += event.data
                conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                stream.trailers = event.headers
            elif isinstance(event, h2.events.StreamReset):
                seen[names[event.stream_id]] = [stream.interim, f"reset {int(event.error_code)}"]
            elif isinstance(event, h2.events.StreamEnded):
                seen[names[event.stream_id]] = [stream.interim, stream.head, show(stream.body), h2_fields(stream.trailers)]
        pump(conn, sock, streams)
    sock.close()
    return seen


def ask_all(host, count):
    """`count` exchanges of each version."""
    rng, work, at = random.Random("connections"), [], 0
    while at < count:
        size = rng.randrange(1, 5)
        work.append((ask_h1, [f"{one}" for one in range(at, min(at + size, count))]))
        at += size
    at = 0
    while at < count:
        size = rng.randrange(1, 24)
        work.append((ask_h2, [f"{one}" for one in range(at, min(at + size, count))]))
        at += size
    views = {}
    with ThreadPoolExecutor(8) as pool:
        for seen in pool.map(lambda one: one[0](host, one[1]), work):
            views.update(seen)
    return json.loads(json.dumps(views))


def listen(port, serve):
    server = socket.create_server(("0.0.0.0", port), backlog=512)

    def accept():
        while True:
            sock, peer = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=lambda sock=sock, peer=peer: serve(accepted(sock, port), peer[0]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def origin(count):
    listen(H1, serve_h1)
    listen(H2, serve_h2)
    views = ask_all("127.0.0.1", count)
    (FOLDER / "direct.part").write_text(json.dumps(views))
    (FOLDER / "direct.part").rename(FOLDER / "direct.json")
    threading.Event().wait()


def through_host():
    return NAME if TLS else "any.lab.name"


def compare(count):
    deadline = time.monotonic() + 120
    while not (FOLDER / "direct.json").exists():
        assert time.monotonic() < deadline, "the origin's own client did not come to an end"
        time.sleep(0.05)
    direct = json.loads((FOLDER / "direct.json").read_text())
    through = ask_all(through_host(), count)
    wire = Wire(connect(through_host(), H1))
    wire.sock.sendall(b"GET /log HTTP/1.1\r\nHost: log\r\n\r\n")
    _, headers = wire.head()
    log = json.loads(wire.body(headers, False)[0])
    differences = []
    for what, one, other in [("client", direct, through), ("origin", log["direct"], log["through"])]:
        assert len(one) == 2 * count, (what, len(one))
        for key in one:
            if one[key] != other.get(key):
                differences.append(f"{what} {key}\n  direct  {str(one[key])[:1500]}\n  through {str(other.get(key))[:1500]}")
    print(2 * count, "exchanges,", len(differences), "differences")
    print("\n".join(differences[:8]))
    if not differences:
        print("OK")
