"""Certificates that sign themselves, for servers of ours that no public authority could certify, and the store by which
a JVM trusts one of them and nothing else.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cdcpipe.errors import MissingExtra

__all__ = ["Certificate", "self_signed", "trusting"]

_DAYS = 825


@dataclass(frozen=True, slots=True)
class Certificate:
    """`certificate` and `key` as PEM; `trust_store` is a PKCS#12 file with the certificate, and no password."""

    certificate: str
    key: str
    trust_store: bytes


def self_signed(title: str, *, names: Iterable[str], addresses: Iterable[str] = (), extra: str = "kind") -> Certificate:
    """For a server of these host names and IP addresses. Raises `MissingExtra` that names `extra`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import pkcs12
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise MissingExtra(extra, "a certificate") from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    now = datetime.datetime.now(datetime.UTC)
    known_as: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    known_as += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of a virtual machine may be behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(known_as), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    return Certificate(
        certificate.public_bytes(pem).decode(),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
        pkcs12.serialize_java_truststore([pkcs12.PKCS12Certificate(certificate, b"cdcpipe")], plain),
    )


def trusting(trust_store: str) -> str:
    """The options by which a JVM trusts what is in the file at `trust_store`."""
    return f"-Djavax.net.ssl.trustStore={trust_store} -Djavax.net.ssl.trustStoreType=PKCS12"
