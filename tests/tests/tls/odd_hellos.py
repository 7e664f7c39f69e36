"""First flights and hellos that are odd but allowed, and such as must be refused.

Prints `name: outcome` a line for the parts named on the command line.
"""

import os, socket, ssl, struct, sys
from tlslite import messages, tlsconnection
from tlslite.api import TLSConnection, HandshakeSettings
from tlslite.errors import TLSRemoteAlert, TLSAbruptCloseError, TLSLocalAlert
from tlslite.extensions import TLSExtension

HOST, PORT = os.environ.get("HOST", "any.lab.name"), 443
REQUEST = f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()

def connect():
    s = socket.create_connection((HOST, PORT), timeout=15)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

# --- whole handshakes, with the library's bytes framed in another way -------------------------

def reframe(flight, size):
    """The handshake messages of the first flight in records of `size` bytes."""
    message, rest = b"", flight
    while rest:
        kind, version, length = struct.unpack(">BHH", rest[:5])
        assert kind == 22
        message += rest[5:5 + length]
        rest = rest[5 + length:]
    parts = [message[i:i + size] for i in range(0, len(message), size)]
    return b"".join(struct.pack(">BHH", 22, 0x0301, len(p)) + p for p in parts)

def over_memory(context, record, segment):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    s = connect()
    first = True
    def pump():
        nonlocal first
        data = outgoing.read()
        if data and first:
            first = False
            if record:
                data = reframe(data, record)
            for i in range(0, len(data), segment or len(data)):
                s.sendall(data[i:i + (segment or len(data))])
        elif data:
            s.sendall(data)
    def step(call):
        while True:
            try:
                result = call()
                pump()
                return result
            except ssl.SSLWantReadError:
                pump()
                data = s.recv(65536)
                if not data:
                    incoming.write_eof()
                incoming.write(data)
    step(tls.do_handshake)
    step(lambda: tls.write(REQUEST))
    answer = b""
    while b"}" not in answer:
        answer += step(lambda: tls.read(65536))
    s.close()
    issuer = tls.getpeercert()['issuer'][0][0][1]
    return f"{tls.version()} {answer.split(b' ')[1].decode()} {'flowdog' if issuer.startswith('flowdog intermediate') else 'other'}"

def splits():
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for record, segment in ((1, None), (1, 7), (3, None), (100, 50), (None, 1), (None, 5), (250, 251)):
            context = ssl.create_default_context()
            context.maximum_version = version
            yield f"split {record} {segment}", over_memory(context, record, segment)

# --- whole handshakes with other hellos ------------------------------------------------------

def with_extensions(*extra, front=()):
    """The library's hello with more extensions and suites in it."""
    original = messages.ClientHello
    class Odd(original):
        def write(self):
            if not getattr(self, "odd", False) and self.extensions is not None:
                self.odd = True
                at = len(self.extensions)
                # pre_shared_key would have to stay the last.
                self.extensions = list(front) + self.extensions[:at] + list(extra)
                self.cipher_suites = [0x0a0a] + self.cipher_suites
            return super().write()
    return Odd

def tlslite_get(odd=None, version=(3, 4), before=None, go_on=False):
    settings = HandshakeSettings()
    settings.minVersion = settings.maxVersion = version
    original = tlsconnection.ClientHello
    if odd:
        tlsconnection.ClientHello = odd
    try:
        tls = TLSConnection(connect())
        tls.handshakeClientCert(serverName=HOST, settings=settings)
    finally:
        tlsconnection.ClientHello = original
    if before:
        # The answer is an alert. Whoever writes on meets the reset behind it first.
        before(tls)
        if not go_on:
            return f"data {tls.read(min=1)}"
    tls.write(REQUEST)
    answer = b""
    while b"}" not in answer:
        data = tls.read(min=1)
        if not data:
            break
        answer += data
    issuer = b"flowdog intermediate" in tls.session.serverCertChain.x509List[0].bytes
    return f"{tls.version} {answer.split(b' ')[1].decode() if answer else 'nothing'} {'flowdog' if issuer else 'other'}"

def attempt(call):
    try:
        return call()
    except TLSRemoteAlert as alert:
        return f"alert {alert.description}"
    except TLSAbruptCloseError:
        return "closed"
    except TLSLocalAlert as alert:
        return f"broken {alert}"
    except (ConnectionError, socket.timeout) as error:
        return type(error).__name__

def raw(kind, data):
    return TLSExtension().create(kind, bytearray(data))

def hellos():
    for version in ((3, 3), (3, 4)):
        for size in (500, 16 * 1024, 40 * 1024):
            yield f"padded {version[1]} {size}", attempt(lambda: tlslite_get(with_extensions(raw(21, bytes(size))), version))
        grease = with_extensions(raw(0x1a1a, b""), raw(0xfafa, b"\0"), front=[raw(0x2a2a, b"")])
        yield f"grease {version[1]}", attempt(lambda: tlslite_get(grease, version))

def ech():
    """Encrypted ClientHello as a browser's decoy has it (RFC 9849 §6.2), and a hello without."""
    outer = struct.pack(">BHHB", 0, 1, 1, 7) + struct.pack(">H", 32) + os.urandom(32) + struct.pack(">H", 208) + os.urandom(208)
    yield "ech", attempt(lambda: tlslite_get(with_extensions(raw(0xfe0d, outer))))
    yield "none", attempt(lambda: tlslite_get())

# --- first flights made by hand --------------------------------------------------------------

def ext(kind, data):
    return struct.pack(">HH", kind, len(data)) + data

def vec16(data):
    return struct.pack(">H", len(data)) + data

NAME = ext(0, vec16(b"\0" + vec16(HOST.encode())))
GROUPS = ext(10, vec16(struct.pack(">HH", 29, 23)))
SCHEMES = ext(13, vec16(struct.pack(">HHH", 0x0403, 0x0804, 0x0401)))

def hello(suites=(0xc02b, 0xc02f), extensions=(NAME, GROUPS, SCHEMES), compression=b"\0", version=0x0303):
    body = struct.pack(">H", version) + os.urandom(32) + b"\0"
    body += vec16(b"".join(struct.pack(">H", s) for s in suites))
    body += bytes([len(compression)]) + compression
    body += vec16(b"".join(extensions))
    return b"\1" + struct.pack(">I", len(body))[1:] + body

def record(data, kind=22, version=0x0301):
    return struct.pack(">BHH", kind, version, len(data)) + data

def first_answer(data):
    s = connect()
    s.sendall(data)
    received = b""
    try:
        while True:
            while len(received) >= 5 and len(received) >= 5 + struct.unpack(">H", received[3:5])[0]:
                kind, length = received[0], struct.unpack(">H", received[3:5])[0]
                payload = received[5:5 + length]
                if kind == 21:
                    return f"alert {payload[0]} {payload[1]}"
                if kind == 22 and payload[0] == 2:
                    at = 4 + 2 + 32
                    at += 1 + payload[at]
                    suite, compression = struct.unpack(">HB", payload[at:at + 3])
                    kinds, at = [], at + 5
                    end = 4 + int.from_bytes(payload[1:4], "big")
                    while at < end:
                        k, n = struct.unpack(">HH", payload[at:at + 4])
                        kinds.append(k)
                        at += 4 + n
                    return f"hello {suite:#x} compression {compression} heartbeat {15 in kinds}"
                return f"record {kind} {payload[0]}"
            more = s.recv(65536)
            if not more:
                return "closed"
            received += more
    except ConnectionResetError:
        return "reset"
    except socket.timeout:
        return "silence"
    finally:
        s.close()

def flights():
    good = hello()
    yield "good", first_answer(record(good))
    yield "two hellos in one record", first_answer(record(good + hello()))
    yield "two hellos in two records", first_answer(record(good) + record(hello()))
    yield "something else inside a hello", first_answer(record(good[:50]) + record(b"x", kind=23) + record(good[50:]))
    yield "empty record first", first_answer(record(b"") + record(good))
    yield "alert first", first_answer(record(b"\1\0", kind=21) + record(good))
    yield "record over 16 KiB", first_answer(struct.pack(">BHH", 22, 0x0301, 17000) + good + bytes(17000 - len(good)))
    yield "hello of 16 MB announced", first_answer(record(b"\1\xff\xff\xff" + good[4:]))
    yield "lengths that do not fit", first_answer(record(hello(extensions=(NAME, GROUPS, SCHEMES[:-2] + b"\xff"))))
    yield "twice the same extension", first_answer(record(hello(extensions=(NAME, GROUPS, GROUPS, SCHEMES))))
    yield "compression offered", first_answer(record(hello(compression=b"\1\0")))
    yield "compression only", first_answer(record(hello(compression=b"\1")))
    yield "heartbeat offered", first_answer(record(hello(extensions=(NAME, GROUPS, SCHEMES, ext(15, b"\1")))))
    yield "export suites", first_answer(record(hello(suites=(0x0003, 0x0006, 0x0008, 0x000e, 0x0014, 0x0019))))
    yield "null and anonymous suites", first_answer(record(hello(suites=(0x0001, 0x0002, 0x003b, 0x0018, 0xc019))))
    yield "static RSA and 3DES", first_answer(record(hello(suites=(0x002f, 0x000a, 0x0005))))
    yield "TLS 1.0", first_answer(record(hello(version=0x0301)))
    yield "SSL 3", first_answer(record(hello(version=0x0300), version=0x0300))
    ssl2 = b"\x01\x03\x03" + struct.pack(">HHH", 9, 0, 16) + b"\x00\x00\x2f\x00\xc0\x2b\x00\x00\x05" + os.urandom(16)
    yield "SSL 2 hello", first_answer(struct.pack(">H", 0x8000 | len(ssl2)) + ssl2)
    yield "heartbeat instead of a hello", first_answer(record(b"\1\x40\0" + bytes(3), kind=24))

# --- inside a connection ---------------------------------------------------------------------

def inside():
    def renegotiate(tls):
        for _ in tls._sendMsg(messages.ClientHello().create((3, 3), bytearray(32), bytearray(0), [0xc02b])):
            pass
    # A warning; it comes with the next data.
    yield "renegotiation 1.2", attempt(lambda: tlslite_get(version=(3, 3), before=renegotiate, go_on=True))
    yield "a second hello in 1.3", attempt(lambda: tlslite_get(version=(3, 4), before=renegotiate))
    def bleed(tls):
        data = bytearray(b"\1\x40\0") + bytearray(20)
        for _ in tls._recordLayer.sendRecord(messages.Message(24, data)):
            pass
    for version in ((3, 3), (3, 4)):
        yield f"heartbeat that asks for more than it sent {version[1]}", attempt(lambda: tlslite_get(version=version, before=bleed))

for part in sys.argv[1:]:
    for name, outcome in globals()[part]():
        print(f"{name}: {outcome}", flush=True)
