"""TLS over memory, so that ends and records are the test's own: what is sent before a FIN, and in records of
which size."""

import socket, ssl


class Tls:
    def __init__(self, sock, context, **more):
        self.sock, self.incoming, self.outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **more)
        self.step(self.tls.do_handshake)

    def pump(self):
        data = self.outgoing.read()
        if data:
            self.sock.sendall(data)

    def step(self, call):
        while True:
            try:
                result = call()
                self.pump()
                return result
            except ssl.SSLWantReadError:
                self.pump()
                data = self.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()

    def write(self, data):
        """In records as large as TLS has them."""
        for at in range(0, len(data), 16384):
            self.step(lambda: self.tls.write(data[at:at + 16384]))

    def write_records(self, data, size):
        """Many records of one size, and not one segment for each."""
        for at in range(0, len(data), size):
            self.tls.write(data[at:at + size])
            if self.outgoing.pending > 50_000:
                self.pump()
        self.pump()

    def read_exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.step(lambda: self.tls.read(count - len(data)))
            assert part, f"ended after {len(data)} of {count}"
            data += part
        return data

    def read_to_end(self):
        """Everything, and how it ended."""
        data = b""
        try:
            while True:
                part = self.step(lambda: self.tls.read(65536))
                if not part:
                    return data, "announced"
                data += part
        except ssl.SSLZeroReturnError:
            return data, "announced"
        except ssl.SSLEOFError:
            return data, "cut"
        except ConnectionResetError:
            return data, "reset"

    def end(self, how):
        if how == "announced":
            try:
                self.tls.unwrap()
            except ssl.SSLWantReadError:
                pass
            self.pump()
        if how == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.sock.close()
        else:
            self.sock.shutdown(socket.SHUT_WR)


def context(side, version, certificate=None):
    made = ssl.SSLContext(side)
    made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    if certificate:
        made.load_cert_chain(certificate)
    else:
        made.load_default_certs()
    return made
