"""How long a fault was felt: until the probe flows again, until the backlog is gone, until the archive goes on.

All three are read off what came through (arrivals of probes, commits to the archive's tables), never off what a server
says of itself. Pure functions over times in seconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cdcpipe.chaos.probe import Arrival
from cdcpipe.faults.fault import FaultRecord

__all__ = ["FaultOutcome", "Recovery", "recovery_of"]

# Probes come each 0.5 s; a pause below this is a stall of the machine, no interruption.
_GAP_SECONDS: Final = 1.6
_LATE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the injection. `flows` and `archive`: until what was interrupted went on, 0 if nothing was.
    `already`: the flow stood still already when the fault began, so its figures are not its doing alone.

    `flows_after_heal`: the same, from the beginning of the cure. `caught_up`: until probes were in time again. None: it
    never happened within what was observed.
    """

    flows: float | None
    flows_after_heal: float | None
    caught_up: float | None
    archive: float | None
    archive_after_heal: float | None
    already: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = ("flows", "flows_after_heal", "caught_up", "archive", "archive_after_heal")
        rounded = {name: None if (value := getattr(self, name)) is None else round(value, 2) for name in names}
        return {**rounded, "already": self.already}


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """A step of the schedule and what became of it. `skipped` says why it was not done; then there is no `record`."""

    step: str
    when: str
    fault: str
    record: FaultRecord | None = None
    skipped: str | None = None
    note: str | None = None
    recovery: Recovery | None = None

    @property
    def took_effect(self) -> bool:
        """Whether it was seen to break something."""
        return self.record is not None and self.record.effective is not None

    @property
    def span(self) -> tuple[float, float] | None:
        """From the injection until it was well again, as far as that is known."""
        record = self.record
        if record is None or record.set_up is None:
            return None
        last = record.recovered or record.cleaned or record.recovering or record.effective or record.set_up
        return record.set_up, last

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "step": self.step,
            "when": self.when,
            "fault": self.fault,
            "skipped": self.skipped,
            "note": self.note,
            "record": None if self.record is None else self.record.to_dict(),
            "recovery": None if self.recovery is None else self.recovery.to_json(),
        }


def recovery_of(
    record: FaultRecord,
    *,
    until: float,
    arrivals: Sequence[Arrival],
    commits: Sequence[float],
    commit_seconds: float,
) -> Recovery | None:
    """How long `record`'s fault was felt, looking no further than `until` (the next fault, or the end).

    `commits` are the times at which the archive grew; `commit_seconds` is how often it does so undisturbed. None for a
    fault that was never injected.
    """
    begin = record.set_up if record.set_up is not None else record.injected
    if begin is None:
        return None
    cure = record.recovering or begin
    seen = [each.seen for each in arrivals]
    flows = _again(seen, begin, until, _GAP_SECONDS)
    archive = _again(commits, begin, until, 2.2 * commit_seconds)
    # What was on its way when the next fault began is late by that one's doing.
    own = [a for a in arrivals if begin - 1 <= a.sent <= until - _GAP_SECONDS]
    late = [a.seen for a in own if a.latency_seconds > _LATE_SECONDS]
    caught_up = max([0.0, *(at - begin for at in late)]) if flows is not None else None
    return Recovery(
        flows=flows,
        flows_after_heal=_since(flows, begin, cure),
        caught_up=caught_up,
        archive=archive,
        archive_after_heal=_since(archive, begin, cure),
        already=begin - max((at for at in seen if at < begin), default=begin) > _GAP_SECONDS,
    )


def _since(again: float | None, begin: float, cure: float) -> float | None:
    return None if again is None else max(0.0, again - (cure - begin)) if again else 0.0


def _again(times: Sequence[float], begin: float, until: float, gap_seconds: float) -> float | None:
    """Seconds after `begin` at which the longest interruption that was there before `until` was over.

    0 when no pause between two `times` exceeded `gap_seconds`; None when nothing came any more. A pause that was still
    short at `until` is the doing of what began then.
    """
    worst, over = gap_seconds, 0.0
    before = max((at for at in times if at < begin), default=begin)
    for at in [*(at for at in times if at >= begin), math.inf]:
        if until - before <= gap_seconds:
            break
        pause = at - before
        if pause > worst:
            if at == math.inf:
                return None
            worst, over = pause, at - begin
        before = at
    return over
