"""The agent's binary messages and channels, written after the layout of the public agent."""

import hashlib, json, pathlib, ssl, struct, time, uuid

HOST = "ssmmessages.eu-west-1.lab.name"
FOLDER = pathlib.Path(__file__).parent
OUTPUT, SIZE, REQUEST, RESPONSE, COMPLETE = 1, 3, 5, 6, 7


def encode(kind, payload, number=0, flags=0, payload_type=0):
    if not isinstance(payload, bytes):
        payload = json.dumps(payload).encode()
    name = uuid.uuid4()
    head = struct.pack(">I32sIQqQ", 116, kind.encode().ljust(32), 1, int(time.time() * 1000), number, flags)
    digest = hashlib.sha256(payload).digest()
    return head + name.bytes[8:] + name.bytes[:8] + digest + struct.pack(">II", payload_type, len(payload)) + payload


class Message:
    def __init__(self, raw):
        length, kind, self.schema, self.created, self.number, self.flags = struct.unpack(">I32sIQqQ", raw[:64])
        self.kind = kind.strip(b" \0").decode()
        self.name = str(uuid.UUID(bytes=raw[72:80] + raw[64:72]))
        self.payload_type, size = struct.unpack(">II", raw[112:120])
        self.payload = raw[120:]
        assert (length, self.schema, size) == (116, 1, len(self.payload)), raw
        assert raw[80:112] == hashlib.sha256(self.payload).digest(), raw

    def json(self):
        return json.loads(self.payload)


def acknowledge(message):
    return encode("acknowledge", {
        "AcknowledgedMessageType": message.kind, "AcknowledgedMessageId": message.name,
        "AcknowledgedMessageSequenceNumber": message.number, "IsSequentialMessage": True})


class Stream:
    """One end of a data channel: numbers what it sends, takes what comes in order and once."""

    def __init__(self, socket, kind):
        self.socket, self.kind, self.sent, self.expected, self.unacknowledged = socket, kind, 0, 0, {}

    def send(self, payload, payload_type=OUTPUT):
        raw = encode(self.kind, payload, self.sent, int(self.sent == 0), payload_type)
        self.unacknowledged[self.sent] = raw
        self.sent += 1
        self.socket.send(raw)

    def take(self, raw):
        """The message if it is the next of the other side's stream."""
        message = Message(raw)
        if message.kind == "acknowledge":
            self.unacknowledged.pop(message.json()["AcknowledgedMessageSequenceNumber"], None)
        elif message.kind.endswith("_stream_data"):
            self.socket.send(acknowledge(message))
            if message.number == self.expected:
                self.expected += 1
                return message
            assert message.number < self.expected, message.number
        else:
            return message
