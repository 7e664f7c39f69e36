"""The agent, with a real shell."""

import fcntl, os, pty, select, termios, threading
import requests
from websockets.sync.client import connect


def channel(path):
    for _ in range(100):
        try:
            return connect(f"wss://{HOST}:9443/v1/{path}", ssl=ssl.create_default_context(), compression=None, max_size=None)
        except OSError:
            time.sleep(0.1)


def handshake(stream, actions):
    stream.send({"AgentVersion": "3.3.0.0", "RequestedClientActions": actions}, REQUEST)
    while not ((message := stream.take(stream.socket.recv())) and message.payload_type == RESPONSE):
        pass
    stream.send({"HandshakeTimeToComplete": 1, "CustomerMessage": ""}, COMPLETE)


def opening(socket):
    socket.send(json.dumps({"MessageSchemaVersion": "1.0", "RequestId": "r", "TokenValue": "token-of-data",
                            "ClientInstanceId": "i-0lab", "ClientId": "c"}))


def control():
    socket, heard = channel("control-channel/i-0lab?role=subscribe&stream=input"), []
    socket.send(json.dumps({"Cookie": "", "MessageSchemaVersion": "1.0", "RequestId": "r", "TokenValue": "token-of-control",
                            "AgentVersion": "3.3.0.0", "PlatformType": "Linux"}))
    while True:
        message = Message(socket.recv())
        heard.append(message.kind)
        if message.kind == "agent_job":
            job = message.json()["JobId"]
            socket.send(encode("agent_job_ack", {"jobId": job, "acknowledgedMessageId": message.name, "statusCode": "200"}))
            reply = {"documentStatus": "Success", "runtimeStatus": {"p": {"output": "hi\n"}}}
            socket.send(encode("agent_job_reply", {"schemaVersion": 1, "jobId": job, "content": json.dumps(reply), "topic": "t"}))
        if message.kind == "message_of_tomorrow":
            assert message.payload == b"\0\xff"
        if message.kind == "channel_closed":
            break
    # One job of two, and the acknowledgement of one reply of two: the others are the appliance's.
    assert heard == ["agent_job", "interactive_shell", "message_of_tomorrow", "agent_job_reply_ack", "channel_closed"], heard


def shell():
    socket = channel("data-channel/ann-0a1b?role=publish_subscribe")
    opening(socket)
    stream = Stream(socket, "output_stream_data")
    handshake(stream, [{"ActionType": "SessionType", "ActionParameters": {"SessionType": "Standard_Stream"}}])
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PS1="$ ", TERM="xterm")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])

    def read():
        try:
            # Small pieces, so that characters are cut.
            while piece := os.read(terminal, 7):
                stream.send(piece)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    while True:
        message = stream.take(socket.recv())
        if message and message.kind == "channel_closed":
            break
        if message and message.payload_type == SIZE:
            size = message.json()
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["rows"], size["cols"], 0, 0))
        elif message and message.payload_type == OUTPUT:
            os.write(terminal, message.payload)
    reader.join()


def secret():
    socket = channel("data-channel/bob-secret?role=publish_subscribe")
    opening(socket)
    stream = Stream(socket, "output_stream_data")
    key = {"KMSKeyId": "arn:aws:kms:eu-west-1:1:key/k", "Challenge": "c"}
    handshake(stream, [{"ActionType": "KMSEncryption", "ActionParameters": key}])
    stream.send(b"CIPHERTEXT")
    while not ((message := stream.take(socket.recv())) and message.kind == "channel_closed"):
        pass


def delivery():
    def call(operation, body):
        target = {"X-Amz-Target": "EC2WindowsMessageDeliveryService." + operation}
        return requests.post(f"https://{HOST}:9444/", json=body, headers=target, timeout=20).json()
    fine, blocked = call("GetMessages", {"Destination": "i-0lab"})["Messages"]
    assert json.loads(fine["Payload"])["Parameters"]["commands"] == ["echo hi"], fine
    assert json.loads(blocked["Payload"])["DocumentContent"]["schemaVersion"] == "ask us first", blocked
    assert blocked["PayloadDigest"] == hashlib.sha256(blocked["Payload"].encode()).hexdigest()
    call("SendReply", {"MessageId": "aws.ssm.c-1.i-0lab", "ReplyId": "r", "Payload": json.dumps({"documentStatus": "Success"})})


control()
shell()
secret()
delivery()
print("OK")
