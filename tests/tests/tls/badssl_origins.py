"""A server for each class of badssl.com: python badssl_origins.py FOLDER make writes root.pem and the
certificates, and without `make` it serves them. A class has a port, and names of its own: CLASS.lab.name
and CLASS-POLICY.lab.name."""

import datetime, pathlib, socket, ssl, subprocess, sys, threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey

from pki import DAY, NOW, Authority, key_pem, named, pem

FIRST_PORT = 9500
CERTIFICATES = [
    "good", "reversed-chain", "no-subject", "no-common-name", "thousand-names", "rsa-8192", "idn",
    "expired", "not-yet-valid", "self-signed", "untrusted-root", "incomplete-chain", "wrong-host",
    "no-names", "wrong-purpose", "bad-signature", "sha1", "sha1-intermediate", "weak-intermediate",
    "weak-key-1024", "weak-key-512", "ten-thousand-names",
]
SUITES = ["rc4", "3des", "null", "dh-512", "tls-1-0", "tls-1-1"]
POLICIES = ["strict", "mirror", "tag", "bypass"]


def names_of(kind):
    host = "xn--bcher-kva-" + kind if kind == "idn" else kind
    return [f"{host}-{policy}.lab.name" for policy in POLICIES]


def openssl(*words, **more):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, **more).stdout


def rsa(bits, primes=2):
    """A key in PEM. More primes are found sooner, and the public key is like any other."""
    return openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}", "-pkeyopt",
                   f"rsa_keygen_primes:{primes}")


def loaded(key):
    return serialization.load_pem_private_key(key, None)


def signed_by_openssl(folder, authority, kind, key, extensions, digest="-sha256"):
    """What the library does not do any more: digests and keys that are too weak."""
    for name, content in [("ca.pem", pem(authority.certificate)), ("ca.key", key_pem(authority.key)),
                          ("leaf.key", key), ("leaf.ext", extensions.encode())]:
        (folder / name).write_bytes(content)
    openssl("req", "-new", "-key", folder / "leaf.key", "-subj", f"/CN={kind}", "-out", folder / "leaf.csr")
    return openssl("x509", "-req", "-in", folder / "leaf.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                   digest, "-days", "20", "-set_serial", "77", "-extfile", folder / "leaf.ext")


def make(folder):
    root, stranger, forger = Authority("test origins"), Authority("a stranger"), Authority("test origins")
    (folder / "root.pem").write_bytes(pem(root.certificate))

    def below(authority, kind, names=None, subject=None, first=NOW - DAY, last=NOW + 20 * DAY, key=None,
              use=ExtendedKeyUsageOID.SERVER_AUTH, sans=True, ca=False, issuer=None):
        names, key = names or names_of(kind), key or ec.generate_private_key(ec.SECP256R1())
        subject = named(names[0]) if subject is None else subject
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or authority.name)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(first).not_valid_after(last)
                   .add_extension(x509.BasicConstraints(ca, None), True))
        if sans and not ca:
            critical = subject == x509.Name([])
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical)
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), False)
        return builder.sign(authority.key, hashes.SHA256()), key

    def write(kind, *chain, key):
        chain = [one if isinstance(one, bytes) else pem(one) for one in chain]
        (folder / f"{kind}.pem").write_bytes(b"".join(chain))
        (folder / f"{kind}.key").write_bytes(key if isinstance(key, bytes) else key_pem(key))

    def simple(kind, authority=root, **more):
        certificate, key = below(authority, kind, **more)
        write(kind, certificate, key=key)

    def intermediate(kind, key=None):
        """An authority below the root, with its certificate."""
        middle = Authority(kind)
        middle.certificate, middle.key = below(root, kind, [f"middle of {kind}"], ca=True, key=key)
        middle.name = middle.certificate.subject
        return middle

    simple("good")
    simple("idn")
    simple("no-subject", subject=x509.Name([]))
    simple("no-common-name", subject=x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "somebody")]))
    for kind, count in [("thousand-names", 1000), ("ten-thousand-names", 10000)]:
        simple(kind, names=[f"{n}.names.lab.name" for n in range(count - 4)] + names_of(kind))
    simple("expired", last=NOW - datetime.timedelta(hours=1))
    simple("not-yet-valid", first=NOW + DAY)
    own = Authority("self")
    certificate, key = below(own, "self-signed", key=own.key, issuer=named(names_of("self-signed")[0]))
    write("self-signed", certificate, key=key)
    simple("untrusted-root", stranger)
    simple("wrong-host", names=["somebody-else.lab.name"])
    simple("no-names", sans=False)
    simple("wrong-purpose", use=ExtendedKeyUsageOID.CLIENT_AUTH)
    simple("bad-signature", forger)
    for kind in ("incomplete-chain", "reversed-chain"):
        one = intermediate(kind)
        two = Authority(kind)
        two.certificate, two.key = below(one, kind, [f"lower of {kind}"], ca=True)
        two.name = two.certificate.subject
        certificate, key = below(two, kind)
        chain = [one.certificate, two.certificate] if kind == "reversed-chain" else [two.certificate]
        write(kind, certificate, *chain, key=key)
    for kind, key, digest in [
        ("sha1", rsa(2048), "-sha1"),
        ("rsa-8192", rsa(8192, 5), "-sha256"),
        ("weak-key-1024", rsa(1024), "-sha256"),
        ("weak-key-512", rsa(512), "-sha256"),
    ]:
        names = ",".join(f"DNS:{name}" for name in names_of(kind))
        extensions = f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n"
        write(kind, signed_by_openssl(folder, root, kind, key, extensions, digest), key=key)
    middle = intermediate("sha1-intermediate")
    weak = signed_by_openssl(folder, root, "middle", key_pem(middle.key), "basicConstraints=critical,CA:TRUE\n", "-sha1")
    certificate, key = below(middle, "sha1-intermediate", issuer=x509.load_pem_x509_certificate(weak).subject)
    write("sha1-intermediate", certificate, weak, key=key)
    middle = intermediate("weak-intermediate", loaded(rsa(1024)))
    certificate, key = below(middle, "weak-intermediate")
    write("weak-intermediate", certificate, middle.certificate, key=key)
    for kind in SUITES:
        simple(kind, key=loaded(rsa(2048)))


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def serve_certificate(folder, kind, sock):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(folder / f"{kind}.pem", folder / f"{kind}.key")
    if kind == "weak-key-512":
        # Too short for the signatures of TLS 1.3.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    tls = context.wrap_socket(sock, server_side=True)
    tls.recv(65536)
    tls.sendall(ANSWER)
    tls.unwrap()


def serve_suite(folder, kind, sock):
    settings = HandshakeSettings()
    version = {"tls-1-0": (3, 1), "tls-1-1": (3, 2)}.get(kind, (3, 3))
    settings.minVersion, settings.maxVersion, settings.versions = version, version, [version]
    if kind in ("rc4", "3des", "null"):
        settings.cipherNames = [kind]
    elif kind == "dh-512":
        settings.keyExchangeNames = ["dhe_rsa"]
        # No named group (RFC 7919) instead of it.
        settings.dhGroups = []
        settings.dhParams = (2, int(
            "fc4aca9b1994830dbe26a5c8643bf7b2d054ba23d9f9fa7411556f98c5e64bc9"
            "85c55dd05503aa869f489c6f0c99515024cab6c2a1608b5167b7645e7ef9c1cf", 16))
    chain = X509CertChain()
    chain.parsePemList((folder / f"{kind}.pem").read_text())
    tls = TLSConnection(sock)
    key = parsePEMKey((folder / f"{kind}.key").read_text(), private=True)
    tls.handshakeServer(certChain=chain, privateKey=key, settings=settings)
    tls.read(min=1)
    tls.write(ANSWER)
    tls.close()


def serve(folder):
    def one(kind, sock):
        try:
            sock.settimeout(20)
            (serve_suite if kind in SUITES else serve_certificate)(folder, kind, sock)
        except Exception as error:
            print(kind, type(error).__name__, error, file=sys.stderr)
        finally:
            sock.close()

    def accept(kind, port):
        listener = socket.create_server(("0.0.0.0", port), backlog=16)
        while True:
            threading.Thread(target=one, args=(kind, listener.accept()[0]), daemon=True).start()

    kinds = CERTIFICATES + SUITES
    threads = [threading.Thread(target=accept, args=pair) for pair in zip(kinds, range(FIRST_PORT, FIRST_PORT + len(kinds)))]
    for thread in threads:
        thread.start()
    threads[0].join()


folder = pathlib.Path(sys.argv[1])
if sys.argv[2:] == ["make"]:
    make(folder)
else:
    serve(folder)
