"""The certificate of the S3 server in the cluster, and the store by which Connect's JVM trusts it and nothing else."""

from __future__ import annotations

import datetime

from cdcpipe.errors import MissingExtra

__all__ = ["tls_secrets"]

_NAMES = ("s3", "s3.cdcpipe.svc", "toxiproxy")  # toxiproxy passes TLS on as it is
_DAYS = 825


def tls_secrets() -> dict[str, dict[str, str]]:
    """Secret -> content: `s3-tls` (certificate and key) and `s3-trust` (a PKCS#12 trust store, bytes as surrogates)."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import pkcs12
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise MissingExtra("kind", "a pipeline on Kubernetes") from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cdcpipe s3")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of a virtual machine may be behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in _NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    store = pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(certificate, b"s3")], plain)
    pem = serialization.Encoding.PEM
    return {
        "s3-tls": {
            "tls.crt": certificate.public_bytes(pem).decode(),
            "tls.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
        },
        "s3-trust": {"ca.p12": store.decode(errors="surrogateescape")},
    }
