"""WebSocket over a stream of HTTP/2 (RFC 8441) with h2 and wsproto on both sides; with the argument
`server` the echo server, otherwise the client and its checks."""

import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate


class Peer:
    """One HTTP/2 connection on a socket."""

    def __init__(self, sock, is_client):
        self.sock = sock
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=is_client, header_encoding="utf-8"))
        if not is_client:
            self.h2.local_settings = h2.settings.Settings(
                client=False, initial_values={h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def events(self):
        data = self.sock.recv(65536)
        if not data:
            return None
        events = self.h2.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return events

    def send(self, stream, data, queues):
        """Sends what the windows allow; the rest waits in `queues`."""
        queue = queues.setdefault(stream, bytearray())
        queue += data
        while queue:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(queue))
            if room <= 0:
                break
            self.h2.send_data(stream, bytes(queue[:room]))
            del queue[:room]
            self.flush()


def serve(sock):
    peer, sockets, partial, queues, closing = Peer(sock, False), {}, {}, {}, set()
    while True:
        events = peer.events()
        if events is None:
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                fields = dict(event.headers)
                if fields.get(":protocol") != "websocket" or fields[":path"] == "/no":
                    peer.h2.send_headers(event.stream_id, [(":status", "403")], end_stream=True)
                    peer.flush()
                    continue
                assert fields[":method"] == "CONNECT", fields
                answer, extensions = [(":status", "200")], []
                if "permessage-deflate" in fields.get("sec-websocket-extensions", ""):
                    deflate = PerMessageDeflate()
                    chosen = deflate.accept(fields["sec-websocket-extensions"])
                    answer.append(("sec-websocket-extensions", "permessage-deflate" + ("; " + chosen if chosen else "")))
                    extensions = [deflate]
                if "sec-websocket-protocol" in fields:
                    answer.append(("sec-websocket-protocol", fields["sec-websocket-protocol"].split(",")[-1].strip()))
                peer.h2.send_headers(event.stream_id, answer)
                sockets[event.stream_id] = Connection(ConnectionType.SERVER, extensions)
                partial[event.stream_id] = []
            elif isinstance(event, h2.events.DataReceived) and event.data and event.stream_id in sockets:
                stream, ws = event.stream_id, sockets[event.stream_id]
                ws.receive_data(event.data)
                for said in ws.events():
                    if isinstance(said, Message):
                        partial[stream].append(said.data)
                        if said.message_finished:
                            whole = (b"" if isinstance(said, BytesMessage) else "").join(partial[stream])
                            partial[stream] = []
                            peer.send(stream, ws.send(type(said)(data=whole)), queues)
                    elif isinstance(said, Ping):
                        peer.send(stream, ws.send(said.response()), queues)
                    elif isinstance(said, CloseConnection):
                        peer.send(stream, ws.send(said.response()), queues)
                        closing.add(stream)
            elif isinstance(event, h2.events.WindowUpdated):
                for stream in list(queues):
                    peer.send(stream, b"", queues)
            elif isinstance(event, h2.events.StreamReset):
                sockets.pop(event.stream_id, None)
            for stream in list(closing):
                if not queues.get(stream):
                    closing.discard(stream)
                    peer.h2.end_stream(stream)
            peer.flush()


def server():
    listener = socket.create_server(("0.0.0.0", 8081))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


class Client:
    """The client's side of one connection, with any number of WebSockets."""

    def __init__(self, address):
        for _ in range(100):
            try:
                self.peer = Peer(socket.create_connection(address, timeout=10), True)
                break
            except OSError:
                time.sleep(0.05)
        self.sockets, self.heads, self.said, self.partial = {}, {}, {}, {}
        self.queues, self.ended, self.resets = {}, set(), {}
        while not self.peer.h2.remote_settings.enable_connect_protocol:
            self.step()

    def step(self):
        events = self.peer.events()
        assert events is not None, "the connection ended"
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.resets[event.stream_id] = event.error_code
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated):
                for stream in list(self.queues):
                    self.peer.send(stream, b"", self.queues)
            elif isinstance(event, h2.events.DataReceived) and event.data:
                ws = self.sockets[event.stream_id]
                ws.receive_data(event.data)
                for said in ws.events():
                    if isinstance(said, Message):
                        self.partial[event.stream_id].append(said.data)
                        if said.message_finished:
                            empty = b"" if isinstance(said, BytesMessage) else ""
                            self.said[event.stream_id].append(empty.join(self.partial[event.stream_id]))
                            self.partial[event.stream_id] = []
                    else:
                        self.said[event.stream_id].append(said)

    def open(self, path, *fields, deflate=False):
        stream = self.peer.h2.get_next_available_stream_id()
        extension = PerMessageDeflate()
        offered = [("sec-websocket-extensions", "permessage-deflate; " + extension.offer() if isinstance(extension.offer(), str) else "permessage-deflate")] if deflate else []
        self.peer.h2.send_headers(stream, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path),
            (":authority", "v4only.lab.name:8081"), ("sec-websocket-version", "13"), *offered, *fields])
        self.peer.flush()
        while stream not in self.heads and stream not in self.ended:
            self.step()
        head = self.heads.get(stream, {})
        extensions = []
        if "sec-websocket-extensions" in head:
            extension.finalize(head["sec-websocket-extensions"])
            extensions = [extension]
        self.sockets[stream] = Connection(ConnectionType.CLIENT, extensions)
        self.said[stream], self.partial[stream] = [], []
        return stream

    def send(self, stream, event):
        self.peer.send(stream, self.sockets[stream].send(event), self.queues)

    def next(self, stream):
        while not self.said[stream]:
            assert stream not in self.ended, ("the stream ended", self.resets.get(stream))
            self.step()
        return self.said[stream].pop(0)


def client():
    client = Client(("v4only.lab.name", 8081))
    for deflate in (False, True):
        one = client.open("/a", ("sec-websocket-protocol", "chat, superchat"), ("sec-websocket-extensions", "x-other"), deflate=deflate)
        two = client.open("/b", deflate=deflate)
        head = client.heads[one]
        assert head[":status"] == "200" and head["sec-websocket-protocol"] == "superchat", head
        assert ("sec-websocket-extensions" in head) == deflate, head
        for text in ("a cat", "cat " * 5000, "", "plain", "x" * 40 + "cat"):
            client.send(one, TextMessage(data=text))
            client.send(two, TextMessage(data=text + "!"))
            assert client.next(one) == text.replace("cat", "dog")
            assert client.next(two) == text.replace("cat", "dog") + "!"
        data = bytes(range(256)) * 900
        client.send(one, BytesMessage(data=data))
        assert client.next(one) == data
        client.send(one, TextMessage(data="in two c", message_finished=False))
        client.send(one, Ping(payload=b"between"))
        client.send(one, TextMessage(data="at frames"))
        answers = [client.next(one), client.next(one)]
        assert any(isinstance(answer, Pong) and bytes(answer.payload) == b"between" for answer in answers), answers
        assert "in two dog frames" in answers, answers
        client.send(two, CloseConnection(code=1000, reason="bye"))
        closed = client.next(two)
        assert isinstance(closed, CloseConnection) and closed.code == 1000, closed
        client.peer.h2.end_stream(two); client.peer.flush()
        while two not in client.ended: client.step()
        assert two not in client.resets, client.resets
        # Over the limit of messages that are read, one stream ends and no other.
        three = client.open("/c", deflate=deflate)
        client.send(three, TextMessage(data="a" * 300000))
        closed = client.next(three)
        assert isinstance(closed, CloseConnection) and closed.code == 1009, closed
        client.send(one, TextMessage(data="still a cat"))
        assert client.next(one) == "still a dog"
    # A frame that RFC 6455 forbids: unmasked.
    four = client.open("/d")
    client.peer.send(four, b"\x81\x03cat", client.queues)
    closed = client.next(four)
    assert isinstance(closed, CloseConnection) and closed.code == 1002, closed
    # A reset goes through to the server and touches no other stream.
    five = client.open("/e")
    client.peer.h2.reset_stream(five, 8); client.peer.flush()
    refused = client.open("/no")
    assert client.heads[refused][":status"] == "403"
    client.send(one, TextMessage(data="a last cat"))
    assert client.next(one) == "a last dog"
    print("DONE")


server() if sys.argv[1:] == ["server"] else client()
