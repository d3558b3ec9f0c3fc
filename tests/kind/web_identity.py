"""An issuer of service account tokens and an S3 server with an STS that trusts it: both real, both on loopback."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

POLICIES = Path(__file__).parents[2] / "deploy" / "aws" / "policies"
SUBJECT = "system:serviceaccount:cdcpipe:connect"
ROLE = "arn:aws:iam::role/cdcpipe-sink"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens as a Kubernetes API server does, and serves the keys to check them with."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer._document(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _document(self, path: str) -> dict[str, Any]:
        if path.endswith("/openid-configuration"):
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        numbers = self._key.public_key().public_numbers()
        key = {"n": _b64(numbers.n.to_bytes(256, "big")), "e": _b64(numbers.e.to_bytes(3, "big"))}
        return {"keys": [{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", **key}]}

    def token(self, subject: str = SUBJECT, *, audience: str = "sts.amazonaws.com", forged: bool = False) -> str:
        """A token of `subject`; `forged` is signed by a key that the issuer doesn't serve."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if forged else self._key
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now, "exp": now + 600}
        head = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        signed = f"{_b64(json.dumps(head).encode())}.{_b64(json.dumps(claims).encode())}"
        return f"{signed}.{_b64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def policy(name: str, **facts: str) -> dict[str, Any]:
    """A policy of deploy/aws with the facts filled in, as Terraform's `templatefile` does."""
    text = (POLICIES / f"{name}.json").read_text(encoding="utf-8")
    for key, value in facts.items():
        text = text.replace(f"${{{key}}}", value)
    assert "${" not in text, text
    document: dict[str, Any] = json.loads(text)
    return document


def facts_of(issuer: Issuer) -> dict[str, str]:
    """What the templates need. SeaweedFS calls the claims of any issuer `oidc:sub`, where AWS says `<issuer>:sub`."""
    return {
        "bucket": "lake",
        "prefix": "warehouse",
        "provider_arn": f"arn:aws:iam::000000000000:oidc-provider/{issuer.url.removeprefix('http://')}",
        "issuer": "oidc",
        "subject": SUBJECT,
        "audience": "sts.amazonaws.com",
        "encryption_name": "AES256",
    }


@dataclass(frozen=True, slots=True)
class Server:
    """The S3 server, with and without TLS."""

    http: str
    https: str
    certificate: Path

    def client(
        self, service: str, keys: Mapping[str, str] | None = None, *, tls: bool = True, name: str = "admin"
    ) -> Any:
        """A client of `service` with session `keys`; without, the identity `name`: `admin` or `writer`."""
        keys = keys or {"AccessKeyId": f"{name.upper()}KEY", "SecretAccessKey": "not-a-secret", "SessionToken": ""}
        session: Any = boto3.session.Session()
        return session.client(
            service,
            endpoint_url=self.https if tls else self.http,
            region_name="us-east-1",
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"] or None,
            verify=str(self.certificate) if tls else None,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, proxies={}),
        )

    def assume(self, token: str) -> dict[str, str]:
        """Session keys of the role for a token. Raises `ClientError` when the STS refuses it."""
        with contextlib.closing(self.client("sts")) as sts:
            answer = sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="connect", WebIdentityToken=token)
        keys: dict[str, str] = answer["Credentials"]
        return keys


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s3 of a test")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=2)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return certificate_file, key_file


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextlib.contextmanager
def server(folder: Path, issuer: Issuer) -> Iterator[Server]:
    """SeaweedFS with the role and its policies of deploy/aws."""
    facts = facts_of(issuer)
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": f"{name.upper()}KEY", "secretKey": "not-a-secret"}],
            "actions": rights,
        }
        for name, rights in (("admin", ["Admin"]), ("writer", ["Read:lake", "Write:lake"]))
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    provider = {"issuer": issuer.url, "clientId": "sts.amazonaws.com"}
    config = {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "sts",
            "signingKey": base64.b64encode(os.urandom(32)).decode(),
            "providers": [{"name": facts["provider_arn"], "type": "oidc", "enabled": True, "config": provider}],
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roles": [
            {
                "roleName": "cdcpipe-sink",
                "roleArn": ROLE,
                "trustPolicy": policy("trust", **facts),
                "attachedPolicies": ["archive"],
            }
        ],
        "policies": [{"name": "archive", "document": policy("role", **facts)}],
    }
    (folder / "iam.json").write_text(json.dumps(config))
    (folder / "data").mkdir()
    certificate, key = _certificate(folder)
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = dict(zip((*names, "s3.port", "s3.port.grpc", "s3.port.https"), _ports(9), strict=True))
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("weed")),
                *("-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}"),
                *("-master.telemetry=false", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"),
                *("-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-s3.config={folder / 's3.json'}", f"-s3.iam.config={folder / 'iam.json'}"),
                *(f"-s3.cert.file={certificate}", f"-s3.key.file={key}"),
                *(f"-{name}={port}" for name, port in ports.items()),
            ],
            stdout=log,
            stderr=log,
            # The key that it encrypts objects with.
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "WEED_S3_SSE_KEK": os.urandom(32).hex()},
        )
    made = Server(f"http://127.0.0.1:{ports['s3.port']}", f"https://127.0.0.1:{ports['s3.port.https']}", certificate)
    try:
        _await(made, process, folder / "weed.log")
        yield made
    finally:
        process.kill()
        process.wait(10)


def _await(made: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    last = "not asked yet"
    with contextlib.closing(made.client("s3")) as admin:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                admin.list_buckets()
                return
            except (BotoCoreError, ClientError) as error:
                last = str(error)
            time.sleep(0.3)
    raise AssertionError(f"{last}\n{log.read_text()[-3000:]}")
