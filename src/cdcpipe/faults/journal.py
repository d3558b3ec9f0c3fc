"""Faults that were injected and not healed yet, on disk: what the next start must put right when we were killed.

One JSON object a line, appended and synced before anything is touched:

    {"event": "opened", "id": 3, "fault": {...}, "trace": {...}, "pid": 4711, "started": 1764025200.1, "at": ...}
    {"event": "noted", "id": 3, "trace": {...}}
    {"event": "healed", "id": 3, "at": ...}

A last line that was cut off was never acted upon, so it is passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cdcpipe.errors import CdcpipeError, StackBusy, StackError
from cdcpipe.faults.fault import Fault, FaultRecord, RunningFault, Trace, fault_from_dict
from cdcpipe.stack.stack import Stack

__all__ = ["Journal", "Opened", "heal"]

_NAME = "faults.jsonl"


@dataclass(frozen=True, slots=True)
class Opened:
    """A fault in force; `pid` and `started` name the process that injected it."""

    id: int
    fault: dict[str, Any]
    trace: Trace
    pid: int
    started: float

    @property
    def owner_lives(self) -> bool:
        """Whether the process that injected it still runs."""
        with contextlib.suppress(psutil.Error):
            return abs(psutil.Process(self.pid).create_time() - self.started) < 0.1
        return False


class Journal:
    """The journal in `path`; several threads may write, one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._started = psutil.Process().create_time()

    @classmethod
    def of_folder(cls, folder: Path) -> Journal:
        """The journal of the stack in `folder`."""
        return cls(folder / _NAME)

    def opened(self, fault: Fault, trace: Trace) -> int:
        """Note that `fault` is about to be injected, and give its number."""
        with self._lock:
            number = 1 + max((entry["id"] for entry in self._lines()), default=0)
            content = {"id": number, "fault": fault.to_dict(), "trace": trace}
            self._append({"event": "opened", **content, "pid": os.getpid(), "started": self._started})
        return number

    def noted(self, number: int, trace: Trace) -> None:
        """Keep a newer trace of fault `number`."""
        with self._lock:
            self._append({"event": "noted", "id": number, "trace": trace})

    def healed(self, number: int) -> None:
        """Note that nothing is left of fault `number`."""
        with self._lock:
            self._append({"event": "healed", "id": number})

    def open(self) -> list[Opened]:
        """The faults in force, oldest first. Raises `StackError` for a file that is no journal."""
        found: dict[int, Opened] = {}
        with self._lock:
            lines = self._lines()
        try:
            for line in lines:
                number = line["id"]
                if line["event"] == "opened":
                    found[number] = Opened(number, line["fault"], line["trace"], line["pid"], line["started"])
                elif line["event"] == "noted" and number in found:
                    known = found[number]
                    found[number] = Opened(number, known.fault, line["trace"], known.pid, known.started)
                elif line["event"] == "healed":
                    found.pop(number, None)
        except (KeyError, TypeError) as error:
            raise self._unreadable(error) from error
        return list(found.values())

    def _lines(self) -> list[dict[str, Any]]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        try:
            return [json.loads(line) for line in whole.splitlines() if line.strip()]
        except ValueError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StackError:
        return StackError(
            f"`{self.path}` is no journal of faults: {error}",
            hint="`cdcpipe down --purge` removes the stack and what faults left of it",
        )

    def _append(self, content: dict[str, Any]) -> None:
        line = json.dumps({**content, "at": time.time()}).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:  # what a killed process wrote of its last line
                file.seek(0)
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
                file.seek(whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def heal(stack: Stack, journal: Journal) -> list[FaultRecord]:
    """Heal what is open in `journal`, newest first: what a dead run left, and what our own process has in force.

    Where nothing of the stack runs any more, nothing is started; the machine is put right all the same. A fault that
    does not heal stays in the journal, with its `error` in the record; so does one that lies in the data of a server
    that doesn't run, for the next start. Raises `StackBusy` when another process that
    lives has injected them.
    """
    entries = journal.open()
    for entry in entries:
        if entry.pid != os.getpid() and entry.owner_lives:
            raise StackBusy(
                f"process {entry.pid} is breaking this stack on purpose right now ({entry.fault['kind']})",
                hint="wait until it is done, or end it",
            )
    records = []
    for entry in reversed(entries):
        fault = fault_from_dict(entry.fault)
        running = RunningFault(fault, stack, journal, trace=entry.trace, entry=entry.id)
        resting = not stack.running()
        with contextlib.suppress(CdcpipeError):  # it is in the record
            running.end(resting=resting)
        if running.record.recovering is not None:
            records.append(running.record)
    return records
