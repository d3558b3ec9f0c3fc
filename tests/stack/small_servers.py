"""Processes that are real and cheap, as the components of a stack: what faults of processes are tried on."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from cdcpipe.settings import load_settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.golang import built
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.local.links import ProxiedLink, Toxiproxy
from cdcpipe.stack.local.process import LocalProcess

__all__ = ["LinkedStack", "PythonServer", "Sleeper", "SmallStack", "started"]


class Sleeper(LocalProcess):
    """A server that serves nobody."""

    program = "sleep"

    def argv(self) -> Sequence[str]:
        return [shutil.which("sleep") or "sleep", "600"]

    def readiness(self) -> Readiness:
        process = self.find()
        return Readiness(process is not None and process.status() != psutil.STATUS_STOPPED, "it doesn't run")


class PythonServer(Sleeper):
    """A server that runs `text`."""

    program = Path(sys.executable).name

    def __init__(self, name: str, folder: Path, log_folder: Path, text: str) -> None:
        super().__init__(name, "1", folder, log_folder)
        self._text = text

    def argv(self) -> Sequence[str]:
        return [sys.executable, "-c", self._text]


class SmallStack:
    """A stack of such processes. By default three sleepers: `kafka-1`, `kafka-2`, `connect`."""

    endpoints: Any = None
    settings: Any = None

    def __init__(self, folder: Path, components: Mapping[str, LocalProcess] | None = None) -> None:
        names = ("kafka-1", "kafka-2", "connect")
        self.folder = folder
        self.components: dict[str, LocalProcess] = dict(
            components or {name: Sleeper(name, "1", folder / name, folder / "log") for name in names}
        )
        self.links: dict[str, Any] = {}

    def running(self) -> list[LocalProcess]:
        return [each for each in self.components.values() if each.find() is not None]

    def memory_bytes(self) -> dict[str, int]:
        return {}

    def plugin_versions(self) -> dict[str, str]:
        return {}

    def main_pids(self) -> dict[str, int]:
        """Component -> its main process."""
        found = {name: each.find() for name, each in self.components.items()}
        return {name: process.pid for name, process in found.items() if process is not None}


class LinkedStack(SmallStack):
    """A server that listens at `server_port`, and a toxiproxy at `port` through which its clients reach it."""

    def __init__(
        self, folder: Path, link: str, server: LocalProcess, *, server_port: int, port: int, api_port: int
    ) -> None:
        self.port = port
        self.toxiproxy = Toxiproxy(
            built(Store(load_settings().cache), "toxiproxy"),
            "2",
            folder / "toxiproxy",
            folder / "log",
            port=api_port,
            proxies={link: (port, server_port)},
        )
        super().__init__(folder, {"toxiproxy": self.toxiproxy, server.name: server})
        upstream = {link: f"127.0.0.1:{server_port}"}
        self.links = {link: ProxiedLink(link, (server.name,), self.toxiproxy.url, upstream)}


@contextlib.contextmanager
def started(stack: SmallStack) -> Iterator[None]:
    """All of it runs and is ready, until the end of the block."""
    for component in stack.components.values():
        component.start()
    try:
        for component in stack.components.values():
            component.await_ready()
        yield
    finally:
        for component in stack.components.values():
            component.kill()
