"""Progress: monitors that look at a pipeline while it runs. Each is a state machine over samples, and nothing else.

A `Sample` is what the servers said at one moment; what they didn't say (a server was down) is None, and no monitor
draws anything from it. `cdcpipe.verify.sampling` takes samples; a test or a recorded run can feed them just as well.

    watch = Watch(bounds=Bounds(stuck_seconds=60))
    for sample in samples: watch.feed(sample)
    watch.results()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from cdcpipe.verify.verdict import CheckResult, Verdict, Witness, format_lsn

__all__ = ["Bounds", "Monitor", "ObjectState", "Sample", "SlotState", "Watch", "Writer"]

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class SlotState:
    """The source's replication slot, of pg_replication_slots. `exists` is False when it is gone."""

    name: str
    exists: bool = True
    plugin: str = ""
    confirmed_flush_lsn: int | None = None
    restart_lsn: int | None = None
    wal_status: str | None = None
    invalidation_reason: str | None = None
    retained_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectState:
    """An object of the archive, as a listing tells it."""

    etag: str | None
    bytes: int


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes at a seat that only one may hold (a source task, a sink's partition, a coordinator)."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at `at` (seconds of a monotonic clock; `wall` only to line up with logs).

    Read the slot before the source's offset: the offset may only have grown in between, so no alarm is false.
    `source_lsn` is the highest LSN in the durable source offset. `connectors` maps a connector to its state, and
    `name/task` to its tasks'.
    """

    at: float
    wall: datetime | None = None
    wal_lsn: int | None = None
    slot: SlotState | None = None
    source_lsn: int | None = None
    group_offsets: Mapping[Place, int] | None = None
    end_offsets: Mapping[Place, int] | None = None
    objects: Mapping[str, ObjectState] | None = None
    connectors: Mapping[str, str] | None = None
    writers: Mapping[str, tuple[Writer, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """From when on something is too much."""

    wal_pin_bytes: int = 1 << 30
    wal_pin_seconds: float = 300.0
    stuck_seconds: float = 120.0
    false_green_seconds: float = 30.0


class Monitor(Protocol):
    """One claim over a time."""

    name: str
    claim: str
    not_proven: str

    def feed(self, sample: Sample) -> str | None:
        """Take the next sample; a sentence when the claim is refuted by it."""

    @property
    def looked_at(self) -> int:
        """How many samples said something about the claim."""


@dataclass(slots=True)
class AckAhead:
    """The slot must not be confirmed beyond what the source has stored: a crash would lose what lies between."""

    name: str = "ack-ahead"
    claim: str = "The slot's confirmed_flush_lsn never passes the source's durable offset."
    not_proven: str = "What happened between two samples."
    looked_at: int = 0

    def feed(self, sample: Sample) -> str | None:
        slot = sample.slot
        if slot is None or slot.confirmed_flush_lsn is None or sample.source_lsn is None:
            return None
        self.looked_at += 1
        if slot.confirmed_flush_lsn <= sample.source_lsn:
            return None
        ahead = slot.confirmed_flush_lsn - sample.source_lsn
        return (
            f"slot {slot.name} is confirmed to {format_lsn(slot.confirmed_flush_lsn)}, {ahead} bytes beyond the "
            f"durable offset {format_lsn(sample.source_lsn)}"
        )


@dataclass(slots=True)
class OffsetRegression:
    """No stored offset goes back."""

    name: str = "offset-regression"
    claim: str = "Neither the source's offset nor a committed offset of the sink's group ever goes back."
    not_proven: str = "That an offset was not skipped forward."
    looked_at: int = 0
    _source: int | None = None
    _group: dict[Place, int] = field(default_factory=dict)

    def feed(self, sample: Sample) -> str | None:
        said: list[str] = []
        now = sample.source_lsn
        if now is not None:
            self.looked_at += 1
            if self._source is not None and now < self._source:
                said.append(f"the source's offset went from {format_lsn(self._source)} to {format_lsn(now)}")
            self._source = now
        for place, offset in (sample.group_offsets or {}).items():
            self.looked_at += 1
            before = self._group.get(place)
            if before is not None and offset < before:
                said.append(f"the sink's offset of {place[0]}/{place[1]} went from {before} to {offset}")
            self._group[place] = offset
        return "; ".join(said) or None


@dataclass(slots=True)
class SlotLoss:
    """The slot stays the one it was."""

    name: str = "slot-loss"
    claim: str = "The source's slot is there, is the same slot, and still has its WAL."
    not_proven: str = (
        "That a slot which was dropped and made again between two samples was the same, if it begins no later than "
        "what the source has stored."
    )
    looked_at: int = 0
    _last: SlotState | None = None
    _beyond: bool = False

    def feed(self, sample: Sample) -> str | None:
        slot = sample.slot
        if slot is None:
            return None
        self.looked_at += 1
        last, self._last = self._last, slot
        if not slot.exists:
            return f"slot {slot.name} is gone" if last is None or last.exists else None
        if slot.wal_status == "lost" or slot.invalidation_reason:
            return f"slot {slot.name} is invalid: {slot.invalidation_reason or 'its WAL is lost'}"
        if last is None:
            return None
        if not last.exists:
            return f"slot {slot.name} was made again: what was committed in between is lost"
        if last.plugin != slot.plugin:
            return f"slot {slot.name} was made again with plugin {slot.plugin}, it was {last.plugin}"
        for what in ("restart_lsn", "confirmed_flush_lsn"):
            before, now = getattr(last, what), getattr(slot, what)
            if before is not None and now is not None and now < before:
                return f"slot {slot.name}: {what} went from {format_lsn(before)} to {format_lsn(now)}"
        return self._made_further_on(slot, sample.source_lsn)

    def _made_further_on(self, slot: SlotState, stored: int | None) -> str | None:
        """A slot that was gone for no longer than two samples are apart is told by where it begins."""
        if slot.restart_lsn is None or stored is None:
            return None
        told, self._beyond = self._beyond, slot.restart_lsn > stored
        if told or not self._beyond:
            return None
        return (
            f"slot {slot.name} was made again or moved: it begins at {format_lsn(slot.restart_lsn)}, beyond the "
            f"durable offset {format_lsn(stored)}; what was committed in between is lost"
        )


@dataclass(slots=True)
class WalPin:
    """The slot lets go of WAL."""

    bounds: Bounds
    name: str = "wal-pin"
    claim: str = "The slot holds no more WAL than its bound, and moves on while WAL is written."
    not_proven: str = "That the disk is large enough for the bound."
    looked_at: int = 0
    _restart: int | None = None
    _since: float = 0.0
    _wal_then: int | None = None

    def feed(self, sample: Sample) -> str | None:
        slot = sample.slot
        if slot is None or not slot.exists or slot.restart_lsn is None:
            return None
        self.looked_at += 1
        if slot.restart_lsn != self._restart:
            self._restart, self._since, self._wal_then = slot.restart_lsn, sample.at, sample.wal_lsn
        if slot.retained_bytes is not None and slot.retained_bytes > self.bounds.wal_pin_bytes:
            return f"slot {slot.name} holds {slot.retained_bytes:,} bytes of WAL, bound {self.bounds.wal_pin_bytes:,}"
        stood = sample.at - self._since
        # A segment: below that, restart_lsn need not move.
        written = (sample.wal_lsn or 0) - (self._wal_then or 0)
        if stood > self.bounds.wal_pin_seconds and written > 16 << 20:
            return f"restart_lsn of slot {slot.name} has stood for {stood:.0f} s while {written:,} bytes were written"
        return None


@dataclass(slots=True)
class LateMutation:
    """A committed object never changes."""

    name: str = "late-mutation"
    claim: str = "No object of the archive changes after it was first listed."
    not_proven: str = "That an object which vanished was meant to (compaction, expiry): those are only counted."
    looked_at: int = 0
    vanished: int = 0
    _seen: dict[str, ObjectState] = field(default_factory=dict)

    def feed(self, sample: Sample) -> str | None:
        if sample.objects is None:
            return None
        self.looked_at += len(sample.objects)
        changed = []
        for name, now in sample.objects.items():
            before = self._seen.get(name)
            if before is not None and (before.etag, before.bytes) != (now.etag, now.bytes):
                changed.append(f"{name} changed: {before.bytes} bytes ({before.etag}), now {now.bytes} ({now.etag})")
        self.vanished += len(self._seen.keys() - sample.objects.keys())
        self._seen = dict(sample.objects)
        return "; ".join(changed[:5]) or None


@dataclass(slots=True)
class ZombieWriter:
    """At each seat one writer, and never an older one again."""

    name: str = "zombie-writer"
    claim: str = "At each seat one writer writes at a time, and none of an older generation comes back."
    not_proven: str = "Writers that no server names."
    looked_at: int = 0
    _epochs: dict[str, int] = field(default_factory=dict)

    def feed(self, sample: Sample) -> str | None:
        said = []
        for seat, writers in (sample.writers or {}).items():
            self.looked_at += 1
            if len({writer.id for writer in writers}) > 1:
                said.append(f"{seat}: {', '.join(sorted(writer.id for writer in writers))} write at once")
            newest = self._epochs.get(seat, -1)
            old = [writer for writer in writers if writer.epoch < newest]
            said += [f"{seat}: {each.id} writes with epoch {each.epoch}, the newest is {newest}" for each in old]
            self._epochs[seat] = max([newest, *(writer.epoch for writer in writers)])
        return "; ".join(said) or None


@dataclass(slots=True)
class Stuck:
    """What has work to do moves."""

    bounds: Bounds
    name: str = "stuck"
    claim: str = "Source and sink move on whenever there is something for them to do."
    not_proven: str = "That they move fast enough."
    looked_at: int = 0
    _source: tuple[int, float] | None = None
    _sink: dict[Place, tuple[int, float]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def feed(self, sample: Sample) -> str | None:
        said = []
        if sample.source_lsn is not None and sample.wal_lsn is not None:
            self.looked_at += 1
            # WAL grows without any change of ours; a page of it is no work.
            idle = sample.wal_lsn - sample.source_lsn < 8192
            if idle or self._source is None or self._source[0] != sample.source_lsn:
                self._source = (sample.source_lsn, sample.at)
                self._told.discard("source")
            elif (stood := sample.at - self._source[1]) > self.bounds.stuck_seconds and "source" not in self._told:
                self._told.add("source")
                behind = sample.wal_lsn - sample.source_lsn
                said.append(f"the source has stood for {stood:.0f} s, {behind:,} bytes of WAL behind")
        for place, offset in (sample.group_offsets or {}).items():
            end = (sample.end_offsets or {}).get(place)
            if end is None:
                continue
            self.looked_at += 1
            name = f"{place[0]}/{place[1]}"
            last = self._sink.get(place)
            if offset >= end or last is None or last[0] != offset:
                self._sink[place] = (offset, sample.at)
                self._told.discard(name)
            elif (stood := sample.at - last[1]) > self.bounds.stuck_seconds and name not in self._told:
                self._told.add(name)
                said.append(f"the sink has stood for {stood:.0f} s at {name}, {end - offset:,} offsets behind")
        return "; ".join(said) or None

    @property
    def standing(self) -> bool:
        """Whether something stands still right now."""
        return bool(self._told)


@dataclass(slots=True)
class FalseGreen:
    """Connect says RUNNING while something above is broken."""

    bounds: Bounds
    name: str = "false-green"
    claim: str = "Connect does not say RUNNING while the pipeline stands still or its slot is lost."
    not_proven: str = "That a connector which fails says why."
    looked_at: int = 0
    broken: str | None = None
    """What is broken now; set by the watch."""
    _since: float | None = None
    _told: bool = False

    def feed(self, sample: Sample) -> str | None:
        if not sample.connectors:
            return None
        self.looked_at += 1
        green = all(state == "RUNNING" for state in sample.connectors.values())
        if not (green and self.broken):
            self._since, self._told = None, False
            return None
        self._since = sample.at if self._since is None else self._since
        if self._told or sample.at - self._since < self.bounds.false_green_seconds:
            return None
        self._told = True
        return f"every connector and task says RUNNING, while {self.broken}"

    @property
    def standing(self) -> bool:
        """Whether it is so right now."""
        return self._told


class Watch:
    """All monitors over one stream of samples."""

    KEPT: Final = 50

    def __init__(self, *, bounds: Bounds | None = None) -> None:
        limits = bounds or Bounds()
        self._stuck = Stuck(limits)
        self._slot = SlotLoss()
        self._green = FalseGreen(limits)
        self.monitors: tuple[Monitor, ...] = (
            AckAhead(),
            OffsetRegression(),
            self._slot,
            WalPin(limits),
            LateMutation(),
            ZombieWriter(),
            self._stuck,
        )
        self._found: dict[str, int] = {}
        self._witnesses: dict[str, deque[Witness]] = {}
        self.samples = 0

    def feed(self, sample: Sample) -> tuple[tuple[str, str], ...]:
        """Take the next sample; gives the anomalies it shows, as `(name, sentence)`."""
        self.samples += 1
        shown = [(each.name, said) for each in self.monitors if (said := each.feed(sample))]
        self._green.broken = self._broken(sample, dict(shown))
        if said := self._green.feed(sample):
            shown.append((self._green.name, said))
        for name, sentence in shown:
            self._found[name] = self._found.get(name, 0) + 1
            kept = self._witnesses.setdefault(name, deque(maxlen=self.KEPT))
            kept.append(Witness(sentence, committed_at=sample.wall or datetime.now(UTC)))
        return tuple(shown)

    @property
    def is_false_green(self) -> bool:
        """Whether Connect says RUNNING right now, while something is broken for longer than the bound."""
        return self._green.standing

    def _broken(self, sample: Sample, shown: Mapping[str, str]) -> str | None:
        """What is broken now: an anomaly of the past must not keep a pipeline red."""
        slot = sample.slot
        if slot is not None and not slot.exists:
            return f"slot {slot.name} is gone"
        if slot is not None and (slot.wal_status == "lost" or slot.invalidation_reason):
            return f"slot {slot.name} is invalid"
        if self._stuck.standing:
            return shown.get("stuck") or self._green.broken or "it stands still"
        return None

    def feed_all(self, samples: Iterable[Sample]) -> Watch:
        """Take them all."""
        for sample in samples:
            self.feed(sample)
        return self

    def results(self) -> list[CheckResult]:
        """The answers so far. A monitor that no sample said anything to is inconclusive."""
        return [self._result(each) for each in (*self.monitors, self._green)]

    def _result(self, monitor: Monitor) -> CheckResult:
        found = self._found.get(monitor.name, 0)
        reason = None
        verdict = Verdict.FAIL if found else Verdict.PASS
        if not found and monitor.looked_at == 0:
            verdict, reason = Verdict.INCONCLUSIVE, "no sample said anything about it"
        counts = {"samples": self.samples}
        if isinstance(monitor, LateMutation):
            counts["vanished"] = monitor.vanished
        return CheckResult(
            name=monitor.name,
            group="progress",
            claim=monitor.claim,
            not_proven=monitor.not_proven,
            verdict=verdict,
            found=found,
            looked_at=monitor.looked_at,
            counts=counts,
            witnesses=tuple(self._witnesses.get(monitor.name, ())),
            reason=reason,
        )
