"""What happens in a run, as frozen dataclasses: the only thing that renderers see.

Whoever works calls a `Listener` with events; whoever shows (terminal, log lines, HTML) only listens. A
listener is called from several threads and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = [
    "ComponentReady",
    "ComponentStarting",
    "Downloading",
    "Event",
    "Listener",
    "Notice",
    "PhaseFinished",
    "PhaseStarted",
    "Progress",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A step of a run begins. `title` is what a person reads."""

    phase: str
    title: str


@dataclass(frozen=True, slots=True)
class PhaseFinished:
    """A step of a run is over, after `seconds`."""

    phase: str
    seconds: float
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Downloading:
    """Bytes of artefacts that are here, of all that are needed; `file` came last."""

    done_bytes: int
    total_bytes: int
    file: str


@dataclass(frozen=True, slots=True)
class ComponentStarting:
    """A component was started."""

    component: str


@dataclass(frozen=True, slots=True)
class ComponentReady:
    """A component answers, `seconds` after its start."""

    component: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a long phase stands: figures by name, such as events committed, in the log, in the archive."""

    phase: str
    done: float
    total: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the person who waits. `warning` when it may matter to the result."""

    text: str
    warning: bool = False


Event = PhaseStarted | PhaseFinished | Downloading | ComponentStarting | ComponentReady | Progress | Notice
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of those who don't want to hear."""
