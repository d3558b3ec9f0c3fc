"""The sink over TLS: a front of our own before the stack's S3 server, a certificate that only the worker is told of.

The front speaks TLS on loopback and passes on what it hears. So the sink's own client does everything that it does
towards AWS: it negotiates, checks the certificate and the name in it, and refuses what it doesn't trust.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.conformance.records import archived_rows, await_archived
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectUnavailable
from cdcpipe.stack.certificate import self_signed, trusting
from cdcpipe.stack.component import wait_until

__all__ = ["Encrypted", "TlsFront", "archive_over_tls", "make_certificate"]

_ENDPOINT = "iceberg.catalog.s3.endpoint"


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What came over TLS. `untrusted` is what a worker said of a certificate that it was not told of."""

    written: int
    rows: int
    connections: int
    protocols: frozenset[str]
    bytes_up: int
    plain_answers: int
    untrusted: str


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate for 127.0.0.1 that signs itself: `(certificate, key, Java trust store)`. Raises `MissingExtra`."""
    made = self_signed("cdcpipe conformance", names=["localhost"], addresses=["127.0.0.1"], extra="observe")
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "certificate.pem", folder / "key.pem", folder / "trust.p12"
    paths[0].write_text(made.certificate, encoding="ascii")
    with os.fdopen(os.open(paths[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(made.key)
    paths[2].write_bytes(made.trust_store)
    return paths


class TlsFront:
    """Speaks TLS at `url`, and passes on to the server at `target` (`http://host:port`) in clear, on loopback."""

    def __init__(self, target: str, certificate: Path, key: Path) -> None:
        address = urlsplit(target)
        self._target = (address.hostname or "127.0.0.1", address.port or 80)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.refused: list[str] = []
        self.protocols: set[str] = set()
        self.bytes_up = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._listener.settimeout(0.3)
        self._begin(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _begin(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="tls-front", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                plain, _ = self._listener.accept()
                self._begin(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(20)
        try:
            secure = self._context.wrap_socket(plain, server_side=True)
        except OSError as error:  # ssl's own errors are of this kind too
            with self._lock:
                self.refused.append(str(error))
            plain.close()
            return
        with secure, socket.create_connection(self._target, timeout=20) as behind:
            with self._lock:
                self.connections += 1
                self.protocols.add(secure.version() or "?")
            with contextlib.suppress(OSError):
                self._pass_on(secure, behind)

    def _pass_on(self, secure: ssl.SSLSocket, behind: socket.socket) -> None:
        while not self._stop.is_set():
            ready = [secure] if secure.pending() else select.select([secure, behind], [], [], 0.3)[0]
            for one in ready:
                data = one.recv(65536)
                if not data:
                    return
                (behind if one is secure else secure).sendall(data)
                if one is secure:
                    with self._lock:
                        self.bytes_up += len(data)


def archive_over_tls(pipeline: Pipeline, table: str, folder: Path, *, rows: int = 20) -> Encrypted:
    """Let the sink write through TLS, count what is archived, and put everything back as it was."""
    s3 = pipeline.endpoints.s3
    assert s3.url is not None
    certificate, key, store = make_certificate(folder)
    with TlsFront(s3.url, certificate, key) as front:
        plain = _ask_in_clear(front.port)
        with pipeline.connect() as client:
            config = client.config(pipeline.sink)
        encrypted = {**config, _ENDPOINT: front.url}
        with pipeline.connect() as client:
            untrusted = _refused_by_trust(client, pipeline, front, encrypted)
        try:
            with _trusting(pipeline, store):
                with pipeline.connect() as client:
                    client.wait_until_running(pipeline.sink, timeout_seconds=90)
                before = front.connections
                pipeline.execute(f"INSERT INTO {table} SELECT i, 'in secret' FROM generate_series(1, {rows}) i")
                with contextlib.suppress(ConnectUnavailable):
                    await_archived(pipeline, table, rows, timeout_seconds=90)
                found, connections = len(archived_rows(pipeline, table)), front.connections - before
        finally:
            with pipeline.connect() as client:
                client.deploy(config)
                client.wait_until_running(pipeline.sink, timeout_seconds=90)
            pipeline.probe(archive=True, timeout_seconds=120)
        return Encrypted(rows, found, connections, frozenset(front.protocols), front.bytes_up, plain, untrusted)


def _refused_by_trust(client: ConnectClient, pipeline: Pipeline, front: TlsFront, config: dict[str, str]) -> str:
    """Give the running worker the encrypted address: it must refuse a certificate that nobody told it of."""
    before = len(front.refused)
    client.deploy(config)
    with contextlib.suppress(ConnectUnavailable):
        client.wait_until_running(pipeline.sink, timeout_seconds=60)
        pipeline.probe()
        wait_until(
            lambda: len(front.refused) > before,
            what="the sink to try",
            timeout_seconds=30,
            error=ConnectUnavailable,
        )
    refused = len(front.refused) - before
    return f"refused it {refused} times" if refused else "did not try it"


@contextlib.contextmanager
def _trusting(pipeline: Pipeline, store: Path) -> Iterator[None]:
    """The worker restarted with our trust store, and again without behind the block."""
    worker: Any = pipeline.stack.components["connect"]
    own = worker.env

    def restart() -> None:
        worker.stop()
        worker.start()
        worker.await_ready(timeout_seconds=120)

    worker.env = lambda: {**own(), "JDK_JAVA_OPTIONS": trusting(str(store))}
    try:
        restart()
        yield
    finally:
        worker.env = own
        restart()


def _ask_in_clear(port: int) -> int:
    """How many requests of plain HTTP the encrypted port answers: it should be none."""
    answered = 0
    for request in (b"GET / HTTP/1.0\r\n\r\n", b"PUT /lake/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.settimeout(5)
            with contextlib.suppress(OSError):
                plain.sendall(request)
                answered += plain.recv(64).startswith(b"HTTP/")
    return answered
