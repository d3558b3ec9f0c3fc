"""`run_demo`: the phases of a demo in order, each told to the listener."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cdcpipe.demo.result import DemoResult, Latency, PhaseTime, quantile
from cdcpipe.demo.sampler import Sampler
from cdcpipe.demo.tap import LogTap
from cdcpipe.errors import UsageError
from cdcpipe.events import Listener, Notice, PhaseFinished, PhaseStarted, ignore
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.settings import Settings
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.verify.judge import events as verify_events
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.reading import Captured
from cdcpipe.verify.settle import settle
from cdcpipe.workload import Shop, Workload, WorkloadResult

__all__ = ["DemoSettings", "run_demo"]

T = TypeVar("T")

# Above this rate the witness reads the WAL after the load: on two cores its decoding would take from the pipeline.
_WITNESS_RATE_MAX = 3000
# The answer to our own question whether it is ready.
_EXPECTED = ("the database system is starting up",)


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What a demo does: `rate` in events a second, for `seconds`.

    `warm_up` seconds of the same rate come first: they are verified like all else, but not measured. Their default
    is 0 below 3,000 events/s, else 60: a JVM that has just started compiles its code while it should work.
    """

    rate: float = 1000
    seconds: float = 20
    brokers: int = 1
    seed: int = 7
    connections: int = 4
    warm_up: float | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and 1 <= self.rate <= 1_000_000):
            raise UsageError(f"`--rate {self.rate:g}` is not between 1 and 1,000,000 events/s")
        if not (math.isfinite(self.seconds) and 1 <= self.seconds <= 86_400):
            raise UsageError(f"`--seconds {self.seconds:g}` is not between 1 and 86,400")
        if self.brokers not in (1, 3):
            raise UsageError(f"a stack has 1 or 3 brokers, not {self.brokers}")
        if self.warm_up is not None and not (math.isfinite(self.warm_up) and 0 <= self.warm_up <= 3600):
            raise UsageError(f"`--warm-up {self.warm_up:g}` is not between 0 and 3,600")

    @property
    def warm_up_seconds(self) -> float:
        """The warm-up, or its default."""
        if self.warm_up is None:
            return 0 if self.rate < _WITNESS_RATE_MAX else 60
        return self.warm_up


class _Phases:
    """Runs each phase between its two events, and keeps the times."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.times: list[PhaseTime] = []

    def run(self, phase: str, title: str, work: Callable[[], T]) -> T:
        begin = time.monotonic()
        self.listener(PhaseStarted(phase, title))
        ok = False
        try:
            result = work()
            ok = True
            return result
        finally:
            self.times.append(PhaseTime(phase, time.monotonic() - begin))
            self.listener(PhaseFinished(phase, self.times[-1].seconds, ok))


def run_demo(plan: DemoSettings, settings: Settings, *, listener: Listener = ignore) -> tuple[DemoResult, Report]:
    """Run it. Leaves `runs/demo/<time>/` behind, with ledgers, figures, logs and verdict, and no process unless
    `plan.keep`. Raises what the stack, the load or the ledgers raise; anomalies are in the result.
    """
    phases = _Phases(listener)
    run = _new_run(settings.runs)
    (run / "plan.json").write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
    folder = settings.stack.with_name(f"{settings.stack.name}-demo")
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    if stack.exists or folder.exists():
        listener(Notice(f"removing the stack that an earlier demo left in `{folder}`"))
        stack.down(purge=True)
        stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    done = False
    try:
        phases.run("up", "bringing the pipeline up", lambda: stack.up(brokers=plan.brokers, tables=Shop.TABLES))
        result, report = _judged(plan, stack, run, phases)
        done = True
    finally:
        with contextlib.suppress(OSError):
            shutil.copytree(folder / "log", run / "logs", dirs_exist_ok=True, ignore_dangling_symlinks=True)
        if not (plan.keep and done):
            phases.run("down", "taking it down", lambda: stack.down(purge=True))
    result = replace(result, phases=tuple(phases.times))
    _leave(result, report, run, settings.runs)
    return result, report


def _judged(plan: DemoSettings, stack: LocalStack, run: Path, phases: _Phases) -> tuple[DemoResult, Report]:
    endpoints, shop = stack.endpoints, Shop(seed=plan.seed)

    witness = WalWitness(
        endpoints.postgres,
        run / "ledgers" / "wal",
        publication=endpoints.publication,
        poll_seconds=0.5 if plan.rate <= _WITNESS_RATE_MAX else 3600,
    )
    with witness:
        phases.run("tables", "making the shop's tables", lambda: shop.create(endpoints.postgres))
        if plan.warm_up_seconds:
            phases.run("warm-up", f"warming up for {plan.warm_up_seconds:g} s", lambda: _warm_up(plan, endpoints, shop))
        sampler, work = phases.run("load", _title(plan), lambda: _load(plan, stack, shop, run, phases.listener))
        settled = phases.run(
            "settle", "waiting until all of it is archived", lambda: settle(endpoints, timeout_seconds=300)
        )
        (run / "ledgers").mkdir(exist_ok=True)
        settled.cut.save(run / "ledgers" / "cut.json")  # so that `cdcpipe verify run` judges as far as we do
        captured = Captured.of(endpoints)
        log, wal = phases.run("ledgers", "reading the log and the WAL", lambda: _read(captured, run, witness))
        archive = phases.run("archive", "reading the archive", lambda: captured.archive(run / "ledgers" / "archive"))
    report = phases.run(
        "verify", "comparing every change", lambda: verify_events(wal, log, archive, cut=settled.cut, temp_folder=run)
    )
    return _result(plan, stack, run, sampler, work, (wal, log, archive), report), report


def _title(plan: DemoSettings) -> str:
    return f"writing {plan.rate:,.0f} events/s for {plan.seconds:g} s"


def _warm_up(plan: DemoSettings, endpoints: Endpoints, shop: Shop) -> None:
    seconds = plan.warm_up_seconds
    work = Workload(endpoints.postgres, shop, rate=plan.rate, seconds=seconds, connections=plan.connections)
    with work:
        work.wait()
    settle(endpoints, timeout_seconds=300)  # the measured part begins without a backlog, in the log or of the sink


def _load(
    plan: DemoSettings, stack: LocalStack, shop: Shop, run: Path, listener: Listener
) -> tuple[Sampler, WorkloadResult]:
    endpoints = stack.endpoints
    work = Workload(
        endpoints.postgres,
        shop,
        rate=plan.rate,
        seconds=plan.seconds,
        connections=plan.connections,
        record=run / "workload.jsonl",
    )
    with LogTap(endpoints, f"{endpoints.topic_prefix}.public.") as tap:
        # Before the load begins: it asks the archive how far it is.
        sampler = Sampler(stack, work, tap, listener, tables=shop.TABLES, events=plan.rate * plan.seconds)
        with work:
            sampler.run_until_done()
            return sampler, work.wait()


def _read(captured: Captured, run: Path, witness: WalWitness) -> tuple[Ledger, Ledger]:
    # The log first: the wal ledger, which goes on until it is stopped, then covers all of it.
    log = captured.log(run / "ledgers" / "log")
    return log, witness.stop(timeout_seconds=600)


def _result(
    plan: DemoSettings,
    stack: LocalStack,
    run: Path,
    sampler: Sampler,
    work: WorkloadResult,
    ledgers: tuple[Ledger, Ledger, Ledger],
    report: Report,
) -> DemoResult:
    wal, log, archive = (ledger.manifest for ledger in ledgers)
    latencies = sorted(sampler.latencies)
    hours = _files_by_hour(archive.objects)
    return DemoResult(
        verdict=str(report.verdict.value),
        sentence=report.sentence(),
        anomalies=report.anomalies,
        rate=plan.rate,
        seconds=plan.seconds,
        brokers=plan.brokers,
        seed=plan.seed,
        warm_up_seconds=plan.warm_up_seconds,
        events=work.events,
        achieved_rate=round(work.achieved_rate, 1),
        latency_ms=Latency(
            p50=quantile(latencies, 0.50),
            p95=quantile(latencies, 0.95),
            p99=quantile(latencies, 0.99),
            max=quantile(latencies, 1.0),
            samples=len(latencies),
        ),
        compared=int(report.facts.get("changes", 0)),
        wal_changes=wal.counts.get("changes", 0),
        log_records=log.counts.get("changes", 0),
        archive_rows=archive.counts.get("changes", 0),
        missing=report["lost-change@source"].found + report["lost-change@sink"].found,
        duplicates=report["duplicate-change"].found + report["duplicate-row"].found,
        altered=report["value-drift"].found,
        peak_rss_bytes=sampler.peak_memory,
        cpu_seconds=sampler.cpu_seconds,
        phases=(),
        rows_by_table=work.events_by_table,
        files_by_hour={hour: count for hour, (count, _) in hours.items()},
        bytes_by_hour={hour: size for hour, (_, size) in hours.items()},
        versions={name: component.version for name, component in stack.components.items()} | stack.plugin_versions(),
        unexpected_errors=tuple(_log_errors(stack)),
        run=run,
        samples=tuple(sampler.samples),
    )


def _files_by_hour(objects: object) -> dict[str, tuple[int, int]]:
    hours: dict[str, tuple[int, int]] = {}
    for item in objects:  # type: ignore[attr-defined]
        hour = next((part for part in item.name.split("/") if part.startswith("event_time_hour=")), "")
        count, size = hours.get(hour.partition("=")[2], (0, 0))
        hours[hour.partition("=")[2]] = (count + 1, size + item.bytes)
    return dict(sorted(hours.items()))


def _log_errors(stack: LocalStack) -> Iterator[str]:
    """Lines of the components' logs that say ERROR or worse: an undisturbed run has none."""
    for name, component in stack.components.items():
        for line in component.log_tail(200_000):
            expected = any(text in line for text in _EXPECTED)
            if not expected and (" ERROR " in line or " FATAL" in line or "PANIC" in line):
                yield f"{name}: {line[:300]}"


def _new_run(runs: Path) -> Path:
    run = runs.resolve() / "demo" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    run.mkdir(parents=True, exist_ok=True)
    return run


def _leave(result: DemoResult, report: Report, run: Path, runs: Path) -> None:
    from cdcpipe.demo.page import write_page

    (run / "result.json").write_text(json.dumps(result.to_json(), indent=1, default=str), encoding="utf-8")
    with (run / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(sample)) + "\n" for sample in result.samples)
    write_page(result, report, run / "report.html")
    latest = runs.resolve() / "latest"
    with contextlib.suppress(OSError):
        latest.unlink(missing_ok=True)
        latest.symlink_to(run.relative_to(runs.resolve()), target_is_directory=True)
