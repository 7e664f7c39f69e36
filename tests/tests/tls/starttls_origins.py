"""Origins of the six protocols that change to TLS: just enough of each for real clients to be content.
Inside TLS each answers a line `PROBE` with its own name."""

import pathlib, socket, ssl, struct, sys, threading

FOLDER = pathlib.Path(__file__).parent
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(FOLDER / "mail.lab.name.pem")


class Stream:
    """Lines and counted bytes of a socket that may become TLS."""

    def __init__(self, sock):
        self.sock = sock

    def take(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def line(self):
        data = b""
        while not data.endswith(b"\n"):
            data += self.take(1)
        return data.strip()

    def say(self, data):
        self.sock.sendall(data)

    def secure(self):
        self.sock = CONTEXT.wrap_socket(self.sock, server_side=True)


def inside(stream, name):
    while line := stream.line():
        if line == b"PROBE":
            stream.say(f"inside {name} {stream.sock.version()}\r\n".encode())


def smtp(stream):
    stream.say(b"220-lab\r\n220 ready\r\n")
    secure, mail = False, False
    while True:
        line = stream.line()
        verb = line.split(b" ")[0].upper()
        if line == b"PROBE":
            stream.say(f"inside smtp {stream.sock.version()}\r\n".encode())
        elif verb in (b"EHLO", b"HELO"):
            stream.say(b"250-lab\r\n250-PIPELINING\r\n" + (b"250 HELP\r\n" if secure else b"250 STARTTLS\r\n"))
        elif verb == b"STARTTLS":
            stream.say(b"220 go\r\n")
            stream.secure()
            secure = True
        elif verb == b"DATA":
            stream.say(b"354 go on\r\n")
            body = []
            while (text := stream.line()) != b".":
                body.append(text)
            stream.say(b"250 " + (b"secret" if secure else b"clear") + b" mail of %d lines\r\n" % len(body))
        elif verb == b"QUIT":
            stream.say(b"221 bye\r\n")
            return
        else:
            stream.say(b"250 ok\r\n")


def imap(stream):
    stream.say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] lab\r\n")
    while True:
        line = stream.line()
        if line == b"PROBE":
            stream.say(f"inside imap {stream.sock.version()}\r\n".encode())
            continue
        tag, command = line.split(b" ")[:2]
        if command.upper() == b"STARTTLS":
            stream.say(tag + b" OK go\r\n")
            stream.secure()
            continue
        if command.upper() == b"CAPABILITY":
            stream.say(b"* CAPABILITY IMAP4rev1 STARTTLS\r\n")
        if command.upper() == b"LOGOUT":
            stream.say(b"* BYE\r\n")
        stream.say(tag + b" OK done\r\n")


def pop3(stream):
    stream.say(b"+OK lab\r\n")
    while True:
        line = stream.line()
        if line == b"PROBE":
            stream.say(f"inside pop3 {stream.sock.version()}\r\n".encode())
        elif line.upper() == b"CAPA":
            stream.say(b"+OK\r\nSTLS\r\nUSER\r\n.\r\n")
        elif line.upper() == b"STLS":
            stream.say(b"+OK go\r\n")
            stream.secure()
        else:
            stream.say(b"+OK 0 0\r\n")


def ldap(stream):
    message = stream.take(2)
    message += stream.take(message[1])
    assert b"1.3.6.1.4.1.1466.20037" in message, message
    stream.say(b"\x30\x0c\x02\x01" + message[4:5] + b"\x78\x07\x0a\x01\0\x04\0\x04\0")
    stream.secure()
    inside(stream, "ldap")


def postgres(stream):
    def packet(kind, payload):
        return kind + struct.pack(">I", len(payload) + 4) + payload

    length, code = struct.unpack(">II", stream.take(8))
    assert code == 80877103, code
    stream.say(b"S")
    stream.secure()
    first = stream.take(1)
    if first == b"P":
        # `PROBE`, of a client that speaks no PostgreSQL.
        stream.line()
        stream.say(f"inside postgres {stream.sock.version()}\r\n".encode())
        return
    length, = struct.unpack(">I", first + stream.take(3))
    stream.take(length - 4)
    ready = packet(b"Z", b"I")
    stream.say(packet(b"R", struct.pack(">I", 0)) + packet(b"S", b"server_version\x0014.0\0") + packet(b"S", b"client_encoding\0UTF8\0") + ready)
    while (kind := stream.take(1)) == b"Q":
        stream.take(struct.unpack(">I", stream.take(4))[0] - 4)
        value = f"inside postgres {stream.sock.version()}".encode()
        row = packet(b"T", struct.pack(">H", 1) + b"v\0" + struct.pack(">IHIhiH", 0, 0, 25, -1, -1, 0))
        row += packet(b"D", struct.pack(">HI", 1, len(value)) + value) + packet(b"C", b"SELECT 1\0")
        stream.say(row + ready)


def mysql(stream):
    payload = b"\x0a8.0.1\0\x01\0\0\0saltsalt\0\xff\xff\x08\x02\0\xff\xc1\x15" + bytes(10) + b"saltsaltsalt\0mysql_native_password\0"
    stream.say(struct.pack("<I", len(payload)) + payload)
    header = stream.take(4)
    stream.take(header[0])
    assert header == b"\x20\0\0\x01", header
    stream.secure()
    inside(stream, "mysql")


def serve(port, protocol):
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock, protocol), daemon=True).start()


def one(sock, protocol):
    stream = Stream(sock)
    try:
        sock.settimeout(20)
        protocol(stream)
    except (EOFError, OSError) as error:
        print(protocol.__name__, repr(error), file=sys.stderr)
    try:
        stream.sock.unwrap() if isinstance(stream.sock, ssl.SSLSocket) else None
    except OSError:
        pass
    stream.sock.close()


for number, protocol in enumerate([smtp, imap, pop3, ldap, postgres, mysql]):
    threading.Thread(target=serve, args=(9300 + number, protocol)).start()
