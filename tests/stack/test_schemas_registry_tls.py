"""`Registry` where a registry mostly stands: behind a gateway that ends TLS and asks for a password.

The registry is the real one of the stack. The gateway is the standard library's HTTP server, with a certificate of a
CA that was made for this test.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cdcpipe.errors import RegistryError
from cdcpipe.schemas.registry import Registry, RegistryUnavailable
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
USER = ("reader", "a password: with %, : and ä")


@dataclass(frozen=True)
class Gateway:
    url: str
    ca_file: str
    other_ca_file: str


def _certify(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, which is its own authority; gives certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    crt, pem = folder / f"{name}.crt", folder / f"{name}.key"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return crt, pem


def _handler(target: str) -> type[BaseHTTPRequestHandler]:
    expected = "Basic " + base64.b64encode(":".join(USER).encode()).decode()

    class Forward(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != expected:
                self._answer(401, b'{"error_code": 401, "message": "Unauthorized"}')
                return
            headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            with httpx2.Client(trust_env=False, timeout=30) as client:
                done = client.request(self.command, target + self.path, content=body, headers=headers)
            self._answer(done.status_code, done.content)

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _forward

        def log_message(self, format: str, *args: object) -> None:
            return

    return Forward


@pytest.fixture(scope="module")
def gateway(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = _certify(folder, "gateway")
    other, _ = _certify(folder, "stranger")
    root, _, path = stack.endpoints.registry_url.partition("/apis/")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Gateway(f"https://127.0.0.1:{server.server_port}/apis/{path}", str(certificate), str(other))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_registry_behind_tls_and_a_password_is_read_and_written(gateway: Gateway) -> None:
    with Registry(gateway.url, auth=USER, ca_file=gateway.ca_file) as registry:
        registered = registry.register("behind-tls-value", SCHEMA)
        assert registry.versions("behind-tls-value")[0].id == registered
        registry.delete("behind-tls-value")


def test_a_wrong_password_is_said_and_not_shown(gateway: Gateway) -> None:
    with (
        Registry(gateway.url, auth=(USER[0], "not-this"), ca_file=gateway.ca_file) as registry,
        pytest.raises(RegistryError, match="Unauthorized") as caught,
    ):
        registry.register("behind-tls-value", SCHEMA)
    assert not isinstance(caught.value, RegistryUnavailable)
    assert "not-this" not in f"{caught.value!s}{caught.value!r}"


def test_a_certificate_of_an_unknown_authority_is_refused(gateway: Gateway) -> None:
    with (
        Registry(gateway.url, auth=USER, ca_file=gateway.other_ca_file, retries=0) as registry,
        pytest.raises(RegistryUnavailable, match=r"(?i)certificate"),
    ):
        registry.subjects()
