"""A verification in a process of its own: it takes much memory for a short time, and gives it back when it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from cdcpipe.errors import CdcpipeError
from cdcpipe.observe.monitor_log import lean_memory

if TYPE_CHECKING:
    from cdcpipe.stack.endpoints import Endpoints

__all__ = ["Verification", "verify_state"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification gave. `verdict` is `error` when it could not be made; `through` is Unix time."""

    verdict: str
    sentence: str
    anomalies: tuple[str, ...] = ()
    through: float | None = None
    seconds: float = 0.0


def verify_state(
    endpoints: Endpoints, *, source: str, sink: str, timeout_seconds: float = 300.0, stop: threading.Event | None = None
) -> Verification:
    """Compare the archive with the tables, in a child. `stop` ends it early."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_verify, args=(endpoints, source, sink, theirs), daemon=True, name="cdcpipe-verify")
    begun = time.monotonic()
    child.start()
    theirs.close()
    try:
        return _answer(ours, begun, timeout_seconds, stop or threading.Event())
    finally:
        ours.close()
        child.join(2)
        if child.is_alive():
            child.kill()
            child.join()
        child.close()


def _answer(ours: Connection, begun: float, timeout_seconds: float, stop: threading.Event) -> Verification:
    def failed(sentence: str) -> Verification:
        return Verification("error", sentence, seconds=time.monotonic() - begun)

    while not ours.poll(0.5):
        if stop.is_set():
            return failed("the monitor was stopped")
        if time.monotonic() - begun > timeout_seconds:
            return failed(f"the verification was not done after {timeout_seconds:g} s")
    try:
        said = ours.recv()
    except EOFError:
        return failed("the verification's process ended without an answer")
    assert isinstance(said, Verification)
    return said


def _verify(endpoints: Endpoints, source: str, sink: str, answer: Connection) -> None:
    os.nice(10)  # the pipeline comes first
    lean_memory()
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's own pool keeps what is free for seconds
    begun = time.monotonic()
    try:
        found = _state(endpoints, source, sink, begun)
    except CdcpipeError as error:
        found = Verification("error", error.message, seconds=time.monotonic() - begun)
    except Exception as error:  # noqa: BLE001 - the parent tells it; a traceback in a child helps nobody
        found = Verification("error", f"{type(error).__name__}: {error}", seconds=time.monotonic() - begun)
    with contextlib.suppress(OSError):  # nobody listens any more: the monitor was stopped
        answer.send(found)


def _state(endpoints: Endpoints, source: str, sink: str, begun: float) -> Verification:
    import pyarrow as pa

    from cdcpipe import verify
    from cdcpipe.ledger.room import SMALL

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    report = verify.state(endpoints, source=source, sink=sink, timeout_seconds=120, room=SMALL)
    passed = report.verdict is verify.Verdict.PASS
    through = report.verified_through.committed_at if passed and report.verified_through is not None else None
    return Verification(
        verdict=report.verdict.value,
        sentence=report.sentence(),
        anomalies=report.anomalies,
        through=None if through is None else through.timestamp(),
        seconds=time.monotonic() - begun,
    )


Verify = Callable[[], Verification]
