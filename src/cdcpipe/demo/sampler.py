"""What is watched while the load runs: rates, latency, how far the archive is, memory and CPU of each component."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
from pyiceberg.exceptions import NoSuchTableError

from cdcpipe.demo.result import Sample, quantile
from cdcpipe.demo.tap import LogTap, TapSample
from cdcpipe.errors import CdcpipeError
from cdcpipe.events import Listener, Progress
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.workload import Workload

__all__ = ["Sampler", "archived_rows"]

_SLOW_SECONDS = 3.0


def archived_rows(endpoints: Endpoints, topics: tuple[str, ...]) -> int:
    """Rows in the tables of `topics`, by their newest snapshots' own count."""
    catalog, total = open_catalog(endpoints), 0
    for topic in topics:
        with contextlib.suppress(NoSuchTableError):
            snapshot = catalog.load_table(topic).current_snapshot()
            if snapshot is not None and snapshot.summary is not None:
                total += int(snapshot.summary["total-records"] or 0)
    return total


class Sampler:
    """Samples once a second until the load is over. Memory and archive, which cost more, every three."""

    def __init__(
        self,
        stack: LocalStack,
        work: Workload,
        tap: LogTap,
        listener: Listener,
        *,
        tables: tuple[str, ...],
        events: float,
    ) -> None:
        self._stack = stack
        self._work = work
        self._tap = tap
        self._listener = listener
        self._events = events
        self._topics = tuple(stack.endpoints.topic_of(table) for table in tables)
        self._cpu_begin = self._cpu()
        self._archived_begin = self._archived()
        self.samples: list[Sample] = []
        self.latencies: list[float] = []
        self.peak_memory: dict[str, int] = {}
        self.cpu_seconds: dict[str, float] = {}  # of the load, by component

    def run_until_done(self) -> None:
        """Sample until the workload has ended."""
        begin = time.time()
        slow: Future[tuple[int | None, dict[str, int]]] | None = None
        slow_due, events_before, target_before = begin, 0, 0
        with ThreadPoolExecutor(1) as pool:
            while self._work.running:
                time.sleep(1)  # the length of a sample, not a wait for something
                progress = self._work.progress()
                archived, memory = None, None
                if slow is not None and slow.done():
                    (archived, memory), slow = slow.result(), None
                if slow is None and time.time() >= slow_due:
                    slow, slow_due = pool.submit(self._slow), time.time() + _SLOW_SECONDS
                taken = self._tap.take()
                latency = sorted(ms for each in taken for ms in each.latency_ms)
                self.latencies += latency
                span = max(0.5, time.time() - begin - (self.samples[-1].at if self.samples else 0.0))
                self.samples.append(
                    Sample(
                        at=round(time.time() - begin, 2),
                        target=round((progress.events_target - target_before) / span, 1),
                        committed=round((progress.events_committed - events_before) / span, 1),
                        log=_rate(taken),
                        log_bytes=sum(each.bytes for each in taken),
                        behind_seconds=round(progress.behind_seconds, 3),
                        p50_ms=quantile(latency, 0.5),
                        p99_ms=quantile(latency, 0.99),
                        archived=archived,
                        memory=memory,
                    )
                )
                events_before, target_before = progress.events_committed, progress.events_target
                self._tell(progress.events_committed, archived)
        self.cpu_seconds = {name: round(used - self._cpu_begin.get(name, 0), 1) for name, used in self._cpu().items()}

    def _tell(self, committed: int, archived: int | None) -> None:
        last = self.samples[-1]
        figures = {"events/s": last.committed, "out of Kafka/s": last.log}
        if last.p99_ms is not None:
            figures["p99 ms"] = last.p99_ms
        if archived is not None:
            figures["archived"] = archived
        self._listener(Progress("load", committed, self._events, figures))

    def _slow(self) -> tuple[int | None, dict[str, int]]:
        memory = self._stack.memory_bytes()
        for name, size in {**memory, "all": sum(memory.values())}.items():
            self.peak_memory[name] = max(self.peak_memory.get(name, 0), size)
        now, begin = self._archived(), self._archived_begin
        return (None if now is None or begin is None else now - begin), memory

    def _archived(self) -> int | None:
        try:
            return archived_rows(self._stack.endpoints, self._topics)
        except (CdcpipeError, OSError):  # a figure of the chart, no evidence
            return None

    def _cpu(self) -> dict[str, float]:
        used = {}
        for name, component in self._stack.components.items():
            with contextlib.suppress(psutil.Error):
                used[name] = component.cpu_seconds()
        return used


def _rate(taken: list[TapSample]) -> float:
    return round(sum(each.events for each in taken) / max(1, len(taken)), 1)
