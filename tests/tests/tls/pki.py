"""An authority of the test's own: python pki.py FOLDER writes root.pem, and for each name given a
NAME.pem with certificate and key."""

import datetime, ipaddress, pathlib, sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    def __init__(self, name):
        self.name, self.key = named(name), ec.generate_private_key(ec.SECP256R1())
        key_id = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "encipher_only", "decipher_only"), False)
        self.certificate = (
            x509.CertificateBuilder().subject_name(self.name).issuer_name(self.name)
            .public_key(self.key.public_key()).serial_number(1)
            .not_valid_before(NOW - DAY).not_valid_after(NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
            .add_extension(key_id, False).sign(self.key, hashes.SHA256())
        )

    def leaf(self, names, serial=None, extensions=()):
        key = ec.generate_private_key(ec.SECP256R1())
        use = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder().subject_name(named(names[0])).issuer_name(self.name)
            .public_key(key.public_key()).serial_number(serial or x509.random_serial_number())
            .not_valid_before(NOW - DAY).not_valid_after(NOW + 20 * DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.ExtendedKeyUsage(use), False)
            .add_extension(authority, False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        return builder.sign(self.key, hashes.SHA256()), key

    def write_leaf(self, path, names, **more):
        certificate, key = self.leaf(names, **more)
        pathlib.Path(path).write_bytes(pem(certificate) + pem(self.certificate) + key_pem(key))
        return certificate


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    authority = Authority("test origins")
    (folder / "root.pem").write_bytes(pem(authority.certificate))
    for name in sys.argv[2:]:
        authority.write_leaf(folder / f"{name}.pem", [name])
