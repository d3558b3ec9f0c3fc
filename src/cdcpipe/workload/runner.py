"""A workload as its caller sees it. It runs in a process of its own, so that neither slows the other down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import Queue
from typing import IO, Any, Self

from cdcpipe import errors
from cdcpipe.errors import CdcpipeError, UsageError
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.workload.pace import check_load
from cdcpipe.workload.shop import Shop
from cdcpipe.workload.tally import WorkloadProgress, WorkloadResult
from cdcpipe.workload.worker import Specification

__all__ = ["Workload"]

_START_SECONDS = 60.0
_END_SECONDS = 30.0


class Workload:
    """Transactions of `shop` on `postgres` at `rate` events/s for `seconds`, over `connections` connections.

    An event is a row change that is committed: what a change-data pipeline should deliver. The schedule is fixed
    in advance; what is late is made up for as fast as PostgreSQL allows, but no longer than `overtime_seconds`
    after the schedule's end. A lost connection is opened again; a transaction that failed is run again; one whose
    COMMIT got no answer is looked up first. With `record`, each transaction's outcome is written to that JSONL
    file: `xid` (64 bits), `connection`, `kind`, `outcome`, `events`, `intended_us` and `ended_us` (microseconds
    since 1970, UTC).

    As a context manager it starts, and ends with the block at the latest. Raises `UsageError` for values that
    can't be right, `PostgresError` when the server or the shop isn't there.
    """

    def __init__(
        self,
        postgres: PostgresEndpoint,
        shop: Shop,
        *,
        rate: float,
        seconds: float,
        connections: int = 4,
        record: Path | None = None,
        overtime_seconds: float | None = None,
    ) -> None:
        check_load(rate, seconds, connections)
        overtime = max(5.0, 0.1 * seconds) if overtime_seconds is None else overtime_seconds
        if not 0 <= overtime < 86_400:
            raise UsageError(f"`overtime_seconds` is {overtime_seconds!r}: it must be from 0 to a day")
        where = str(Path(record).absolute()) if record is not None else None
        self._specification = Specification(
            shop.seed, shop.truncate, float(rate), float(seconds), connections, overtime, where, shop.prefix
        )
        self._conninfo = postgres.conninfo("owner")
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._complaints: IO[str] | None = None
        self._ready: Queue[CdcpipeError | None] = Queue()
        self._progress = WorkloadProgress(0.0, 0, 0, 0, 0, 0, 0, 0.0, {table: {} for table in shop.plain_tables})
        self._result: WorkloadResult | None = None
        self._error: CdcpipeError | None = None

    def start(self) -> None:
        """Open the connections and begin. Returns once the first transactions are under way."""
        if self._process is not None:
            raise UsageError("this workload was started already", hint="make a new `Workload` for another run")
        self._complaints = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed in `_end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdcpipe.workload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            # Ctrl-C in the terminal is for our own process: this one ends when its stdin does.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="workload-reader", daemon=True)
        self._reader.start()
        try:
            order = {"specification": dataclasses.asdict(self._specification), "conninfo": self._conninfo}
            self._tell(json.dumps(order))  # by stdin: everybody can read argv and one's own users the environment
            failure = self._ready.get(timeout=_START_SECONDS)
            if failure is not None:
                raise failure
            self._tell("go")
        except BaseException:
            self._end()
            raise

    def progress(self) -> WorkloadProgress:
        """Where it stands, as of the last 0.2 s."""
        return self._progress

    def stop(self) -> None:
        """Ask it to end early, each connection after the transaction that it is in. `wait` gives the result."""
        self._tell("stop")

    @property
    def running(self) -> bool:
        """Whether it was started and is not done yet."""
        return self._reader is not None and self._reader.is_alive()

    @property
    def pid(self) -> int | None:
        """The generator's process, for measuring it."""
        return self._process.pid if self._process is not None else None

    def wait(self, *, timeout_seconds: float | None = None) -> WorkloadResult:
        """Wait for the end, and give what was done.

        Raises what ended it early: `PostgresError` when a statement fails again and again. A connection that is
        lost isn't such a reason.
        """
        if self._reader is None:
            raise UsageError("this workload was not started", hint="call `start` first")
        if timeout_seconds is None:
            spec = self._specification
            timeout_seconds = spec.seconds + spec.overtime_seconds + 2 * _END_SECONDS
        self._reader.join(timeout_seconds)
        if self._reader.is_alive():
            self._end()
            raise CdcpipeError(f"the workload was not done after {timeout_seconds:g} s, and was ended")
        complaints = self._end()
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise CdcpipeError("the workload's process ended without a result", detail=complaints or None)
        return self._result

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "progress" in said:
                self._progress = WorkloadProgress(**said["progress"])
            elif "ready" in said:
                self._ready.put(None)
            elif "result" in said:
                record = said["result"].pop("record")
                self._result = WorkloadResult(**said["result"], record=Path(record) if record else None)
            elif "error" in said:
                self._error = _error(said["error"])
        self._ready.put(self._error or CdcpipeError("the workload's process ended before it began"))

    def _end(self) -> str:
        """See that the process is gone, and give what it complained about."""
        process, complaints = self._process, self._complaints
        if process is None or complaints is None or complaints.closed:
            return ""
        with contextlib.suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()
        if process.stdout is not None:
            process.stdout.close()
        complaints.seek(0)
        text = complaints.read()[-4000:]
        complaints.close()
        return text


def _error(said: dict[str, Any]) -> CdcpipeError:
    kind = getattr(errors, said["type"], CdcpipeError)
    error: CdcpipeError = kind(said["message"], hint=said["hint"], detail=said["detail"])
    return error
