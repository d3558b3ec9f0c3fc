"""One load at the required rate, watched and verified: the evidence of every criterion that is about rates or masses.

The workload runs while a tap reads the log, memory is sampled and the archive is watched; then the pipeline settles,
and the three ledgers of that time are compared. Everything in it was seen from outside of the pipeline.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.conformance.watching import Scrape
from cdcpipe.demo.result import Sample, quantile
from cdcpipe.demo.sampler import Sampler
from cdcpipe.demo.tap import LogTap
from cdcpipe.errors import CdcpipeError
from cdcpipe.events import ignore
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.deploy import await_flow
from cdcpipe.verify.judge import events
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.reading import Captured
from cdcpipe.verify.settle import Settlement, captured_topics, end_offsets
from cdcpipe.workload.tally import WorkloadResult

__all__ = ["Load", "run_load"]

# Above this rate the witness reads the WAL after the load: on two cores its decoding would take from the pipeline.
_WITNESS_RATE_MAX = 3000
_SCRAPE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """What was offered, what came of it, and the comparison of the three ledgers."""

    offered: float
    work: WorkloadResult
    samples: tuple[Sample, ...]
    latencies_ms: tuple[float, ...]
    peak_memory: Mapping[str, int]
    log_seconds: float
    """From the end of the load until its last change was in the log."""
    settled: Settlement
    settle_seconds: float
    """From the end of the load until all of it was archived."""
    report: Report
    wal: Ledger
    log: Ledger
    archive: Ledger
    folder: Path
    begun: datetime
    scrapes: tuple[Scrape, ...] = ()
    """The monitor's metrics, every few seconds of the load."""

    def latency_ms(self, q: float) -> float | None:
        """The latency, commit to read_committed consumer, that a share `q` of the samples doesn't exceed."""
        return quantile(list(self.latencies_ms), q)

    @property
    def settled_records(self) -> int:
        """Records of the log that the sink must have archived: without what came behind the last watermark."""
        return self.log.manifest.counts.get("changes", 0) - self.report["lost-change@sink"].counts.get("unsettled", 0)

    @property
    def log_rate(self) -> float:
        """Events a second out of Kafka, over the time of the load."""
        rates = [each.log for each in self.samples]
        return sum(rates) / max(1, len(rates))


def run_load(
    pipeline: Pipeline,
    folder: Path,
    *,
    rate: float,
    seconds: float,
    warm_up: float,
    scrape: Callable[[], Scrape],
) -> Load:
    """Run it and verify it. Raises what workload, stack or ledgers raise; anomalies are in the report."""
    endpoints, tables = pipeline.endpoints, pipeline.shop_tables()
    if warm_up:
        with pipeline.workload(rate=max(1, rate / 2), seconds=warm_up) as warming:
            warming.wait()
        await_flow(endpoints, archive=False, timeout_seconds=300)  # the measured part begins without a backlog
    begun, begin = datetime.now(UTC), end_offsets(endpoints, captured_topics(endpoints))
    witness = WalWitness(
        endpoints.postgres,
        folder / "ledgers" / "wal",
        publication=endpoints.publication,
        poll_seconds=0.5 if rate <= _WITNESS_RATE_MAX else 3600,
    )
    with witness:
        work = pipeline.workload(rate=rate, seconds=seconds, record=folder / "workload.jsonl")
        with LogTap(endpoints, f"{endpoints.topic_prefix}.") as tap, work:
            sampler = Sampler(pipeline.stack, work, tap, ignore, tables=tables, events=rate * seconds)  # type: ignore[arg-type]
            with _Scraping(scrape) as scraping:
                sampler.run_until_done()
            result = work.wait()
        ended = time.monotonic()
        await_flow(endpoints, archive=False, timeout_seconds=300)
        log_seconds = time.monotonic() - ended
        settled = pipeline.settle(timeout_seconds=300)
        settle_seconds = time.monotonic() - ended
        settled.cut.save(folder / "ledgers" / "cut.json")
        captured = Captured.of(endpoints)
        log = captured.log(folder / "ledgers" / "log", begin=begin)
        wal = witness.stop(timeout_seconds=600)
    archive = captured.archive(folder / "ledgers" / "archive", since=begun)
    report = events(wal, log, archive, cut=settled.cut, level=pipeline.level, temp_folder=folder)
    return Load(
        offered=rate,
        work=result,
        samples=tuple(sampler.samples),
        latencies_ms=tuple(sorted(sampler.latencies)),
        peak_memory=dict(sampler.peak_memory),
        log_seconds=log_seconds,
        settled=settled,
        settle_seconds=settle_seconds,
        report=report,
        wal=wal,
        log=log,
        archive=archive,
        folder=folder,
        begun=begun,
        scrapes=tuple(scraping.taken),
    )


class _Scraping:
    """Scrapes every few seconds while the block runs. One that fails is missing, and missed by those who need it."""

    def __init__(self, scrape: Callable[[], Scrape]) -> None:
        self._scrape = scrape
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraping", daemon=True)
        self.taken: list[Scrape] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(_SCRAPE_SECONDS):
            with contextlib.suppress(CdcpipeError):
                self.taken.append(self._scrape())
