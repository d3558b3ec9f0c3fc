"""Processes that are real and cheap, as the components of a stack: what faults of processes are tried on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from cdcpipe.stack.component import Readiness
from cdcpipe.stack.local.process import LocalProcess

__all__ = ["PythonServer", "Sleeper", "SmallStack"]


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
