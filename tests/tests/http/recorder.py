"""An origin that writes down what it reads: one JSON line per request, one file per connection.

It parses strictly what an intermediary has written anew, so that anything odd shows as a fault."""

import json, pathlib, socket, sys, threading

FOLDER = pathlib.Path(sys.argv[0]).parent


class Fault(Exception):
    pass


class Connection:
    def __init__(self, sock, port):
        self.sock, self.data = sock, b""
        self.raw = open(FOLDER / f"raw-{port}", "wb", buffering=0)
        self.log = open(FOLDER / f"seen-{port}", "w", buffering=1)

    def more(self):
        new = self.sock.recv(65536)
        self.raw.write(new)
        self.data += new
        return bool(new)

    def until(self, mark):
        while mark not in self.data:
            if not self.more():
                raise Fault("ended early") if self.data else EOFError
        found, self.data = self.data.split(mark, 1)
        return found

    def take(self, count):
        while len(self.data) < count:
            if not self.more():
                raise Fault("ended early")
        found, self.data = self.data[:count], self.data[count:]
        return found

    def fields(self, lines):
        found = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name.strip() != name or b"\n" in line or b"\r" in line:
                raise Fault(f"field {line!r}")
            found.append((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")))
        return found

    def request(self):
        head = self.until(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ")
        headers = self.fields(lines)
        named = lambda want: [value for name, value in headers if name.lower() == want]
        lengths, codings = named("content-length"), named("transfer-encoding")
        body, trailers = b"", []
        if codings and lengths or len(codings) > 1 or len(lengths) > 1:
            raise Fault("framing")
        if codings:
            while True:
                size = int(self.until(b"\r\n"), 16)
                if size == 0:
                    break
                body += self.take(size)
                if self.take(2) != b"\r\n":
                    raise Fault("chunk end")
            while line := self.until(b"\r\n"):
                trailers += self.fields([line])
        elif lengths:
            body = self.take(int(lengths[0]))
        self.log.write(json.dumps({
            "method": method, "target": target, "version": version, "headers": headers,
            "body": body.decode("latin-1"), "trailers": trailers,
        }) + "\n")
        if method == "CONNECT":
            self.sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif method == "HEAD":
            self.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        else:
            self.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def serve(self):
        try:
            while True:
                self.request()
        except EOFError:
            pass
        except (Fault, ValueError, OSError) as fault:
            self.log.write(json.dumps({"fault": str(fault)}) + "\n")
        finally:
            self.sock.close()


server = socket.create_server(("0.0.0.0", 8081), backlog=512)
(FOLDER / "ready").touch()
while True:
    accepted, peer = server.accept()
    threading.Thread(target=Connection(accepted, peer[1]).serve, daemon=True).start()
