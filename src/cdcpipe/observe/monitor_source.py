"""A source of metrics: asked again and again by a thread of its own, so that one which hangs holds up no other.

When a source fails, or hangs, its metrics are forgotten, `cdcpipe_monitor_source_up` is 0, and one line says so; when
it comes back, another line does. Nothing that a source raises ends the monitor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cdcpipe.errors import CdcpipeError
from cdcpipe.observe.exporter import Exporter

__all__ = ["Partial", "Runner", "Source"]

Say = Callable[[str], None]


class Partial(Exception):
    """Raised by a source that could be asked in part: what it has set stays, and it has forgotten the rest itself."""


@dataclass(frozen=True, slots=True)
class Source:
    """`ask` sets the metrics in `owns`. `bound_seconds` is how long it may take before it counts as hanging."""

    name: str
    every_seconds: float
    ask: Callable[[], None]
    owns: tuple[str, ...] = ()
    bound_seconds: float = 15.0
    close: Callable[[], None] | None = None


class Runner:
    """One source and its thread."""

    def __init__(self, source: Source, exporter: Exporter, say: Say) -> None:
        self.source = source
        self._exporter = exporter
        self._say = say
        self._stop = threading.Event()
        self._asked: float | None = None  # since when it is being asked now
        self._state: str | None = None  # `up`, `part` or `down`
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"monitor-{source.name}", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. Does not wait."""
        self._stop.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait for its thread, which may hang."""
        self._thread.join(timeout_seconds)

    def watch(self) -> None:
        """Look from outside whether it hangs."""
        asked = self._asked
        if asked is not None and time.monotonic() - asked > self.source.bound_seconds:
            self.failed(f"no answer for {time.monotonic() - asked:.0f} s")

    def failed(self, reason: str) -> None:
        """It can't be asked: nobody vouches for its metrics any more."""
        self._exporter.forget(self.source.owns)
        self._mark("down", f"can't be asked: {reason}")

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self.ask_once()
            due = max(due + self.source.every_seconds, time.monotonic())
            self._stop.wait(due - time.monotonic())
        if self.source.close is not None:
            self.source.close()

    def ask_once(self) -> None:
        """Ask it now."""
        begun = self._asked = time.monotonic()
        try:
            self.source.ask()
        except Partial as error:
            self._mark("part", f"answers in part: {error}")
        except CdcpipeError as error:
            self.failed(error.message)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the other sources go on
            self.failed(f"{type(error).__name__}: {error}")
        else:
            self._mark("up", "answers again")
        finally:
            self._asked = None
        took = time.monotonic() - begun
        self._exporter.set("cdcpipe_monitor_source_duration_seconds", took, source=self.source.name)

    def _mark(self, state: str, sentence: str) -> None:
        name, up = self.source.name, state == "up"
        with self._lock:
            before, self._state = self._state, state
            self._exporter.set("cdcpipe_monitor_source_up", up, source=name)
            fresh = not up and before in (None, "up")
            self._exporter.inc("cdcpipe_monitor_source_failures_total", fresh, source=name)
        if before != state and not (up and before is None):
            self._say(f"{name} {sentence}")
