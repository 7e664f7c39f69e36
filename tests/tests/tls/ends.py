"""Ends of TLS connections, made by either host: python ends.py serve FOLDER, and python ends.py ask."""

import pathlib, socket, ssl, sys, threading

from memory_tls import Tls, context

NAME, PORT = "ends.lab.name", 9601
BULK = b"\x01bulk" * 20_000
VERSIONS = ["TLSv1_2", "TLSv1_3"]


def serve(folder):
    certificate = folder / "ends.lab.name.pem"
    last = {}
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)

    def one(sock):
        sock.settimeout(30)
        tls = Tls(sock, made, server_side=True)
        # Binary: nothing that anybody reads as HTTP.
        who, how, key = (word.decode() for word in tls.read_exactly(60).strip(b"\0 ").split())
        # A reset right behind the request, or behind the answer, may overtake it.
        tls.write(b"!")
        tls.read_exactly(1)
        if who == "report":
            tls.write(last.get(key, "nothing yet").encode())
            tls.end("announced")
        elif who == "client":
            data, end = tls.read_to_end()
            last[key] = f"{data == BULK} {end}"
            if end != "announced":
                # OpenSSL says nothing more after another end.
                return
            # The other direction goes on after the end of the one.
            tls.write(BULK)
            tls.end("announced")
        else:
            tls.write(BULK)
            tls.end(how)
            if how == "announced":
                data, end = tls.read_to_end()
                last[key] = f"{data == BULK} {end}"

    def guarded(sock):
        try:
            one(sock)
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
        finally:
            sock.close()

    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        threading.Thread(target=guarded, args=(listener.accept()[0],), daemon=True).start()


def connect(version, first):
    sock = socket.create_connection((NAME, PORT), timeout=30)
    tls = Tls(sock, context(ssl.PROTOCOL_TLS_CLIENT, version), server_hostname=NAME)
    assert tls.tls.version() == version.replace("_", "."), tls.tls.version()
    tls.write(b"\0" + first.encode().ljust(59))
    assert tls.read_exactly(1) == b"!"
    tls.write(b"?")
    return tls


def report(version, key):
    import time
    for _ in range(100):
        said = connect(version, f"report - {key}").read_to_end()[0].decode()
        if said != "nothing yet":
            return said
        time.sleep(0.1)
    return "nothing"


def ask():
    for version in VERSIONS:
        for how in ("announced", "cut", "reset"):
            key = f"client-{version}-{how}"
            tls = connect(version, f"client {how} {key}")
            tls.write(BULK)
            tls.end(how)
            answer = ""
            if how == "announced":
                data, end = tls.read_to_end()
                answer = f", then {data == BULK} {end}"
            print(f"{version} client {how}: {report(version, key)}{answer}", flush=True)
            key = f"server-{version}-{how}"
            tls = connect(version, f"server {how} {key}")
            data, end = tls.read_to_end()
            said = f"{data == BULK or how == 'reset'} {end}"
            if how == "announced":
                tls.write(BULK)
                tls.end("announced")
                said += f", then {report(version, key)}"
            print(f"{version} server {how}: {said}", flush=True)


if sys.argv[1] == "serve":
    serve(pathlib.Path(sys.argv[2]))
else:
    ask()
