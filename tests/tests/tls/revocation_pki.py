"""Certificates with every state of revocation, and the answers and lists that say so."""

import pathlib, sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from pki import DAY, NOW, Authority, pem

folder = pathlib.Path(sys.argv[1])
authority = Authority("test origins")
(folder / "root.pem").write_bytes(pem(authority.certificate))
NAMES = [f"{policy}.lab.name" for policy in ("strict", "mirror", "tag", *(f"bypass-{port}" for port in range(9401, 9406)))]
MUST_STAPLE = [x509.TLSFeature([x509.TLSFeatureType.status_request])]


def answer(certificate, status, path):
    revoked = NOW - DAY if status == ocsp.OCSPCertStatus.REVOKED else None
    reason = x509.ReasonFlags.key_compromise if revoked else None
    built = (
        ocsp.OCSPResponseBuilder()
        .add_response(certificate, authority.certificate, hashes.SHA1(), status, NOW, NOW + DAY, revoked, reason)
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority.certificate)
        .sign(authority.key, hashes.SHA256())
    )
    (folder / path).write_bytes(built.public_bytes(serialization.Encoding.DER))


GOOD, REVOKED = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED
answer(authority.write_leaf(folder / "good.pem", NAMES), GOOD, "good.der")
answer(authority.write_leaf(folder / "revoked.pem", NAMES), REVOKED, "revoked.der")
answer(authority.write_leaf(folder / "promised.pem", NAMES, extensions=MUST_STAPLE), GOOD, "promised.der")
authority.write_leaf(folder / "broken.pem", NAMES, extensions=MUST_STAPLE)
authority.write_leaf(folder / "listed.pem", NAMES, serial=4711)
crl = x509.CertificateRevocationListBuilder().issuer_name(authority.name).last_update(NOW).next_update(NOW + DAY)
crl = crl.add_revoked_certificate(
    x509.RevokedCertificateBuilder().serial_number(4711).revocation_date(NOW).build()
)
crl = crl.add_extension(x509.CRLNumber(1), False).add_extension(
    x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False
)
(folder / "revoked.crl").write_bytes(crl.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
