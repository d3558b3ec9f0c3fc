"""What is seen while a run goes on, once a second into `samples.jsonl`: rates, lag at each hop, memory, states.

Three paces, each in a thread of its own so that a server which doesn't answer holds up nothing else: load and log each
second; slot, offsets and connectors (for the progress monitors) each two; memory, states and the archive's size each
four.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from cdcpipe.chaos.gauge import ArchiveWatch, LogEnds, archived_rows
from cdcpipe.chaos.loads import Load
from cdcpipe.chaos.probe import Prober
from cdcpipe.chaos.watching import Watcher
from cdcpipe.stack.stack import Stack
from cdcpipe.verify.progress import Bounds, Watch
from cdcpipe.verify.progress import Sample as ProgressSample

__all__ = ["RunSampler", "Sample"]

_SECONDS: Final = 1.0
_MONITOR_SECONDS: Final = 2.0
_SLOW_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One second, which ended `at` (seconds since 1970). Rates are events/s; what wasn't asked or answered is None.

    `logged` counts records in the change topics (with transaction markers), `archived` rows in the archive, both since
    the run began. `slot_bytes` is how far the slot's confirmed position is behind the WAL, `sink_behind` how many
    offsets the sink's group is behind the log. `probe_seconds` is the latency of the newest probe that came out,
    `silent_seconds` how long none has.
    """

    at: float
    target: float | None = None
    committed: float | None = None
    committed_total: int | None = None
    logged_rate: float | None = None
    logged: int | None = None
    archived: int | None = None
    behind_seconds: float | None = None
    probe_seconds: float | None = None
    silent_seconds: float | None = None
    slot_bytes: int | None = None
    sink_behind: int | None = None
    connectors: Mapping[str, str] | None = None
    states: Mapping[str, str] | None = None
    memory: Mapping[str, int] | None = None


@dataclass(slots=True)
class _Latest:
    """What the slower threads saw, taken once by the next sample."""

    values: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, **values: Any) -> None:
        with self.lock:
            self.values |= values

    def take(self) -> dict[str, Any]:
        with self.lock:
            taken, self.values = self.values, {}
        return taken


class RunSampler:
    """Samples while it is open. `samples`, `watch` (the progress monitors) and `commits` can be read at any time."""

    def __init__(
        self, stack: Stack, load: Load, prober: Prober, topics: Sequence[str], path: Path, *, bounds: Bounds
    ) -> None:
        self._stack = stack
        self._load = load
        self._prober = prober
        self._topics = tuple(topics)
        self._path = path
        self._stop = threading.Event()
        self._latest = _Latest()
        self._threads: list[threading.Thread] = []
        self._archive = ArchiveWatch(stack.endpoints)
        self._ends = LogEnds(stack.endpoints, self._topics)
        self._logged_base = self._archived_base = 0
        self._loading = False
        self.samples: list[Sample] = []
        self.watch = Watch(bounds=bounds)
        self.logged: int | None = None
        self.archived: int | None = None
        self.peak_memory: dict[str, int] = {}

    @property
    def commits(self) -> list[float]:
        """When the archive grew, in seconds since 1970."""
        return self._archive.commits

    def __enter__(self) -> Self:
        self._logged_base = self._ends.total() or 0
        self._archived_base = archived_rows(self._stack.endpoints, self._topics) or 0
        self._file: IO[str] = self._path.open("w", encoding="utf-8")
        for work in (self._seconds, self._commits, self._monitors, self._slow):
            thread = threading.Thread(target=work, name=f"sampler{work.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._archive.close()
        self._ends.close()
        self._file.close()

    def load_begins(self) -> None:
        """From now on the load's own figures are asked for."""
        self._loading = True

    def _each(self, seconds: float, work: Callable[[], object]) -> None:
        due = time.monotonic() + seconds
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + seconds, time.monotonic())
            work()

    def _seconds(self) -> None:
        before = {"target": 0, "committed": 0, "logged": 0}
        last = time.monotonic()

        def sample() -> None:
            nonlocal last
            now = time.monotonic()
            span, last = max(0.2, now - last), now
            load = self._load.progress() if self._loading else None
            total = self._ends.total()
            logged = None if total is None else total - self._logged_base
            arrival = self._prober.arrivals[-1] if self._prober.arrivals else None
            values: dict[str, Any] = {"at": round(time.time(), 3), "logged": logged, **self._latest.take()}
            if load is not None:
                values |= {
                    "target": round((load.target - before["target"]) / span, 1),
                    "committed": round((load.committed - before["committed"]) / span, 1),
                    "committed_total": load.committed,
                    "behind_seconds": round(load.behind_seconds, 2),
                }
                before.update(target=load.target, committed=load.committed)
            if logged is not None:
                values["logged_rate"] = round((logged - before["logged"]) / span, 1)
                before["logged"] = logged
                self.logged = logged
            if arrival is not None:
                values["probe_seconds"] = round(arrival.latency_seconds, 3)
                values["silent_seconds"] = round(time.time() - arrival.seen, 2)
            self._keep(Sample(**values))

        self._each(_SECONDS, sample)

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        content = {name: value for name, value in asdict(sample).items() if value is not None}
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def _commits(self) -> None:
        self._each(0.3, self._archive.look)

    def _monitors(self) -> None:
        catalog = self._stack.endpoints.catalog
        prefix = None if catalog is None else catalog.warehouse.partition("://")[2].partition("/")[2]
        slot, prefixes = self._stack.settings.slot, () if prefix is None else (prefix,)
        with Watcher(self._stack.endpoints, slot=slot, prefixes=prefixes) as watcher:

            def look() -> None:
                for sample in watcher.take():
                    self.watch.feed(sample)
                    self._latest.put(**_lags(sample))

            self._each(_MONITOR_SECONDS, look)

    def _slow(self) -> None:
        def look() -> None:
            memory = self._stack.memory_bytes()
            states = {name: str(component.state()) for name, component in self._stack.components.items()}
            for name, size in {**memory, "all": sum(memory.values())}.items():
                self.peak_memory[name] = max(self.peak_memory.get(name, 0), size)
            rows = archived_rows(self._stack.endpoints, self._topics)
            if rows is not None:
                self.archived = rows - self._archived_base
                self._latest.put(archived=self.archived)
            self._latest.put(memory=memory, states=states)

        self._each(_SLOW_SECONDS, look)


def _lags(sample: ProgressSample) -> dict[str, Any]:
    found: dict[str, Any] = {"connectors": sample.connectors}
    slot = sample.slot
    if slot is not None and slot.confirmed_flush_lsn is not None and sample.wal_lsn is not None:
        found["slot_bytes"] = sample.wal_lsn - slot.confirmed_flush_lsn
    if sample.group_offsets and sample.end_offsets:
        found["sink_behind"] = sum(
            max(0, end - sample.group_offsets.get(place, 0)) for place, end in sample.end_offsets.items()
        )
    return found
