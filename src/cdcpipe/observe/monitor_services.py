"""Whether each server answers, on its own protocol and without burdening it. A port that is open is not enough: a
process that was stopped keeps its port.

Each question has a bound. One that hangs (a stopped PostgreSQL never answers on a connection that is open) keeps its
thread until it ends; meanwhile the server is down, and it isn't asked again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC
from urllib.parse import urlsplit

import httpx2
import psycopg

from cdcpipe.observe.trust import authorities
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["ServiceChecks", "certificate_expiry"]

_TIMEOUT_SECONDS = 1.5
# ApiVersions, version 0, correlation id 1, no client id: every broker answers it, before any authentication.
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)


class ServiceChecks:
    """Asks every server of a pipeline at once. `ask` gives component -> whether it answered in time."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._http = httpx2.Client(
            timeout=_TIMEOUT_SECONDS, trust_env=False, verify=authorities(), follow_redirects=False
        )
        self._postgres: psycopg.Connection[tuple[object, ...]] | None = None
        self._questions: dict[str, Callable[[], bool]] = {"postgres": self._ask_postgres}
        addresses = [each.strip().rpartition(":") for each in endpoints.bootstrap_servers.split(",")]
        self._brokers = [_Broker(host, int(port)) for host, _, port in addresses]
        for number, broker in enumerate(self._brokers, 1):
            self._questions[f"kafka-{number}"] = broker.ask
        self._questions["s3"] = lambda: self._ask_http(_s3_url(endpoints))
        self._questions["registry"] = lambda: self._ask_http(f"{endpoints.registry_url.rstrip('/')}/config")
        self._questions["connect"] = lambda: self._ask_http(endpoints.connect_url)
        self._pool = ThreadPoolExecutor(len(self._questions), thread_name_prefix="monitor-ask")
        self._open: dict[str, Future[bool]] = {}

    @property
    def components(self) -> tuple[str, ...]:
        """What is asked, in the order in which a pipeline starts."""
        return tuple(self._questions)

    def ask(self) -> dict[str, bool]:
        """Ask each server that isn't still thinking about the last question."""
        hanging = {name for name, future in self._open.items() if not future.done()}
        self._open = {
            name: self._open[name] if name in hanging else self._pool.submit(question)
            for name, question in self._questions.items()
        }
        fresh = [future for name, future in self._open.items() if name not in hanging]
        wait(fresh, timeout=_TIMEOUT_SECONDS + 1)
        return {
            name: name not in hanging and future.done() and future.exception() is None and future.result()
            for name, future in self._open.items()
        }

    def close(self) -> None:
        """Close the connections, also under a question that hangs: its thread would hold up the end of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._http.close()
        wait(self._open.values(), timeout=_TIMEOUT_SECONDS + 1)
        for broker in self._brokers:
            broker.close()
        postgres, asked = self._postgres, self._open.get("postgres")
        if postgres is None:
            return
        if asked is None or asked.done():
            postgres.close()
            return
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(postgres.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)  # the question ends with an error, and closes the rest

    def _ask_postgres(self) -> bool:
        try:
            if self._postgres is None:
                self._postgres = psycopg.connect(
                    self._endpoints.postgres.conninfo("witness"), autocommit=True, connect_timeout=2
                )
            self._postgres.execute("SELECT 1")
        except psycopg.Error:
            if self._postgres is not None:
                with contextlib.suppress(psycopg.Error):
                    self._postgres.close()
            self._postgres = None
            return False
        return True

    def _ask_http(self, url: str) -> bool:
        # S3 refuses who doesn't sign, and a server that wants a password refuses too: it answers.
        try:
            return self._http.get(url).status_code < 500
        except httpx2.HTTPError:
            return False


class _Broker:
    """A connection to one broker that asks which versions of its protocol it speaks."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def ask(self) -> bool:
        for fresh in (False, True):  # a connection that idled is closed by the broker: that is no failure
            if self._socket is None or fresh:
                self.close()
                try:
                    self._socket = socket.create_connection(self._address, timeout=_TIMEOUT_SECONDS)
                except OSError:
                    return False
            try:
                self._socket.sendall(_API_VERSIONS)
                if self._answered(self._socket):
                    return True
            except TimeoutError:
                break
            except OSError:
                continue
        self.close()
        return False

    def _answered(self, connection: socket.socket) -> bool:
        head = _exactly(connection, 4)
        body = _exactly(connection, struct.unpack(">i", head)[0])
        return body[:6] == struct.pack(">ih", 1, 0)  # our correlation id, no error

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def _exactly(connection: socket.socket, size: int) -> bytes:
    if not 0 <= size <= 1 << 20:
        raise OSError(f"{size} bytes is no answer of a broker")
    got = b""
    while len(got) < size:
        piece = connection.recv(size - len(got))
        if not piece:
            raise OSError("the broker closed the connection")
        got += piece
    return got


def _s3_url(endpoints: Endpoints) -> str:
    return endpoints.s3.url or f"https://{endpoints.s3.bucket}.s3.{endpoints.s3.region}.amazonaws.com/"


def certificate_expiry(endpoints: Endpoints) -> Mapping[str, float]:
    """Server -> Unix time at which its TLS certificate ends; servers without TLS, or that don't answer, are left out.

    The certificate is looked at, not trusted: an expired one is just what this is for.
    """
    urls = {"connect": endpoints.connect_url, "registry": endpoints.registry_url, "s3": _s3_url(endpoints)}
    found = {}
    for name, url in urls.items():
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            with contextlib.suppress(OSError, ValueError):
                found[name] = _not_after(parts.hostname, parts.port or 443)
    return found


def _not_after(host: str, port: int) -> float:
    from cryptography import x509

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS) as raw:
        raw.settimeout(max(0.1, deadline - time.monotonic()))
        with context.wrap_socket(raw, server_hostname=host) as secured:
            der = secured.getpeercert(binary_form=True)
    if der is None:
        raise ValueError("no certificate")
    return x509.load_der_x509_certificate(der).not_valid_after_utc.astimezone(UTC).timestamp()
