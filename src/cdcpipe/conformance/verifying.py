"""`Verifier`: the ledgers of one test, from its begin on. Behind the fixture `verify`."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cdcpipe.errors import EvidenceError

if TYPE_CHECKING:
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.verify.outcome import Report

__all__ = ["Verifier"]

_START_SECONDS = 60
_FOREVER = threading.TIMEOUT_MAX


class Verifier:
    """Witnesses the WAL from `start` on, in a thread of its own, and compares when it is asked.

    `start` returns when the slot is open, so that whatever is committed then is witnessed. The ledgers are left in
    `folder`, to be judged again by `cdcpipe verify run`.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, *, timeout_seconds: float = 180) -> None:
        self.folder = folder
        self._pipeline = pipeline
        self._timeout_seconds = timeout_seconds
        self._begun, self._stop = threading.Event(), threading.Event()
        self._wanted = False
        self._thread: threading.Thread | None = None
        self._report: Report | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._stop.set()
            self._thread.join(60)

    def start(self) -> None:
        """Open the slot. Raises what keeps it from being opened."""
        self._thread = threading.Thread(target=self._run, name="cdcpipe-verifier", daemon=True)
        self._thread.start()
        if not self._begun.wait(_START_SECONDS):
            raise EvidenceError(f"the wal witness did not begin within {_START_SECONDS} s")
        if self._error is not None:
            raise self._error

    def events(self) -> Report:
        """Wait until the pipeline has settled, and compare every change since the begin, at the level of `--level`.

        Raises the `ServiceError` of a server that can't be asked.
        """
        if self._thread is None:
            raise EvidenceError("nothing was witnessed", hint="call `start` before what is to be verified")
        self._wanted = True
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def state(self, *, tables: tuple[str, ...] | None = None, timeout_seconds: float = 120) -> Report:
        """Whether the archive equals the tables now, writers or not. Needs no witness."""
        from cdcpipe.verify.live import state

        pipeline = self._pipeline
        return state(
            pipeline.endpoints,
            tables=tables,
            source=pipeline.source,
            sink=pipeline.sink,
            timeout_seconds=timeout_seconds,
        )

    def _tell(self, text: str) -> None:
        if not self._begun.is_set():
            self._begun.set()  # the first thing that is told is that the slot is open
        elif not self._wanted:
            raise _Unwanted

    def _run(self) -> None:
        from cdcpipe.verify.live import events_of

        pipeline = self._pipeline
        try:
            self._report = events_of(
                pipeline.endpoints,
                seconds=_FOREVER,
                folder=self.folder,
                source=pipeline.source,
                sink=pipeline.sink,
                tell=self._tell,
                stop=self._stop,
                timeout_seconds=self._timeout_seconds,
                level=pipeline.level,
            )
        except _Unwanted:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
            self._error = error
        finally:
            self._begun.set()


class _Unwanted(Exception):
    """The test ended and nobody asked for the comparison."""
