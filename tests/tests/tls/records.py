"""Records of any size, there and back: python records.py serve FOLDER, and python records.py ask."""

import os, pathlib, socket, ssl, struct, sys, threading

from memory_tls import Tls, context

NAME, PORT = "ends.lab.name", 9602
SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 255, 256, 257, 1000, 1370, 1400, 1459, 1460, 1461, 4095, 4096, 4097,
         8192, 16000, 16383, 16384]


def count(size):
    """How many records of this size: many bytes, and no endless number of records."""
    return max(4, min(500, 200_000 // size))


def serve(folder):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "ends.lab.name.pem")

    def one(sock):
        tls = Tls(sock, made, server_side=True)
        while True:
            size, = struct.unpack(">xI", tls.read_exactly(5))
            if not size:
                break
            data = tls.read_exactly(size * count(size))
            tls.write_records(data, size)
        tls.end("announced")

    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


def ask():
    for version in ("TLSv1_2", "TLSv1_3"):
        sock = socket.create_connection((NAME, PORT), timeout=60)
        tls = Tls(sock, context(ssl.PROTOCOL_TLS_CLIENT, version), server_hostname=NAME)
        for size in SIZES:
            data = os.urandom(size * count(size))
            tls.write(struct.pack(">xI", size))
            tls.write_records(data, size)
            assert tls.read_exactly(len(data)) == data, f"{version}: records of {size}"
        tls.write(struct.pack(">xI", 0))
        assert tls.read_to_end() == (b"", "announced")
        print(f"{version} {len(SIZES)} sizes", flush=True)


if sys.argv[1] == "serve":
    serve(pathlib.Path(sys.argv[2]))
else:
    ask()
