"""The monitor's HTTP server: a page for people, metrics for Prometheus, the same state as JSON.

/              the page: one file, no build step, nothing from elsewhere
/metrics       Prometheus' text format
/api/state     `cdcpipe.monitor/1`
/healthz       200 while the monitor runs; 503 until every source was asked once
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from types import TracebackType
from typing import Any, Protocol, Self

from cdcpipe.errors import PortTaken
from cdcpipe.observe.exporter import CONTENT_TYPE, Exporter

__all__ = ["Watched", "WebServer"]

# The page has its script and style inside, and asks only its own server.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


class Watched(Protocol):
    """What is served: a monitor."""

    @property
    def exporter(self) -> Exporter: ...

    @property
    def ready(self) -> bool: ...

    def state(self) -> dict[str, Any]: ...


class WebServer:
    """Serves `watched` at `host:port` until it is closed. Raises `PortTaken`."""

    def __init__(self, watched: Watched, address: str) -> None:
        host, _, port = address.rpartition(":")
        page = (resources.files("cdcpipe.observe") / "web" / "index.html").read_bytes()
        handler = type("Handler", (_Handler,), {"watched": watched, "page": page})
        try:
            self._server = _Server((host.strip("[]"), int(port)), handler)
        except (OSError, OverflowError) as error:
            raise PortTaken(
                f"the monitor can't listen on {address}: {error}",
                hint="choose another address with `--listen HOST:PORT`",
            ) from error
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor-web", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    watched: Watched
    page: bytes
    server_version = "cdcpipe"
    sys_version = ""
    timeout = 10  # who connects and says nothing doesn't keep a thread

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, "text/html; charset=utf-8", self.page)
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE, self.watched.exporter.text())
        elif path == "/api/state":
            self._answer(200, "application/json", json.dumps(self.watched.state()).encode())
        elif path == "/healthz":
            ready = self.watched.ready
            self._answer(200 if ready else 503, "text/plain; charset=utf-8", b"ok\n" if ready else b"starting\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"not found\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Prometheus asks every few seconds."""
