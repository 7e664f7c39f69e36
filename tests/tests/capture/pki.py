"""Certificates and tokens for readers of the capture service: python pki.py FOLDER"""
import datetime
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

folder = pathlib.Path(sys.argv[1])
now = datetime.datetime.now(datetime.timezone.utc)


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def make(name, issuer=None):
    """A certificate, signed by itself where nobody else does."""
    key = ec.generate_private_key(ec.SECP256R1())
    by_name, by_key = issuer or (named(name), key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(by_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(by_key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate.subject, key


ca = make("ca")
make("capture", ca)
make("client", ca)
make("stranger")
for end in ("pem", "key"):
    (folder / f"capture.{end}").rename(folder / f"server.{end}")
(folder / "token").write_text("a-long-random-word-of-forty-two-characters\n")
(folder / "wrong").write_text("a-long-random-word-of-forty-two-character\n")
