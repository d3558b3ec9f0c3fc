"""What every kind of stack offers for each of its parts: a process here, a container or pod elsewhere.

Faults, monitors and the command line work on `Component` alone, so that they run on every kind of stack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic, sleep
from typing import Protocol, TypeVar

from cdcpipe.errors import CdcpipeError

__all__ = ["Component", "ComponentState", "Readiness", "wait_until"]

T = TypeVar("T")


class ComponentState(StrEnum):
    """What a component is doing, as seen from outside."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer to "are you ready?": yes, or no and why."""

    ready: bool
    reason: str = ""


class Component(Protocol):
    """One server of the pipeline."""

    @property
    def name(self) -> str:
        """Its name within the stack: `postgres`, `kafka-1`, `connect`, `registry`, `s3`."""

    @property
    def version(self) -> str:
        """The version of the software that it runs."""

    def start(self) -> None:
        """Start it if it isn't running; returns before it is ready."""

    def readiness(self) -> Readiness:
        """Ask it, over its own protocol, whether it can serve."""

    def state(self) -> ComponentState: ...

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        """End it in its own orderly way; kill it when the time is over."""

    def kill(self) -> None:
        """SIGKILL: no goodbye."""

    def pause(self) -> None:
        """SIGSTOP: it lives, and answers nobody."""

    def resume(self) -> None:
        """SIGCONT after `pause`."""

    def memory_bytes(self) -> int:
        """Proportional set size of all its processes; 0 when it isn't running."""

    def log_tail(self, lines: int = 20) -> list[str]:
        """The last lines of its newest log."""


def wait_until(
    condition: Callable[[], T],
    *,
    what: Callable[[], str] | str,
    timeout_seconds: float,
    interval_seconds: float = 0.1,
    error: Callable[[str], CdcpipeError],
) -> T:
    """Ask `condition` until it gives something true, and return that.

    `what` completes the sentence "... within N s: <what>" when the time is over; `error` makes the
    exception out of the sentence. An exception of the `CdcpipeError` tree raised by `condition` ends the
    wait at once: conditions translate "not yet" into a false value themselves.
    """
    deadline = monotonic() + timeout_seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if monotonic() >= deadline:
            text = what() if callable(what) else what
            raise error(f"not within {timeout_seconds:g} s: {text}")
        sleep(interval_seconds)
