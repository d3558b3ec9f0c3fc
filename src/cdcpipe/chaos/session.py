"""A run on a stack that is up: witness, probe, samples and faults around a load, then heal, drain, and the ledgers."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol, Self, TypeVar

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from cdcpipe.chaos import snapshot
from cdcpipe.chaos.conductor import Conductor
from cdcpipe.chaos.judging import Evidence, Findings
from cdcpipe.chaos.loads import Load
from cdcpipe.chaos.operator import Operator
from cdcpipe.chaos.plan import ChaosPlan, Migration
from cdcpipe.chaos.probe import Prober
from cdcpipe.chaos.recovery import FaultOutcome, recovery_of
from cdcpipe.chaos.result import ChaosResult
from cdcpipe.chaos.sampler import RunSampler, Sample
from cdcpipe.chaos.target import Breakable, local_of
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import CdcpipeError, PostgresError
from cdcpipe.events import Listener, Notice, Progress
from cdcpipe.faults.journal import Journal, heal
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.progress import Bounds
from cdcpipe.verify.reading import Captured
from cdcpipe.verify.settle import Settlement, captured_topics, end_offsets, mark, settle

__all__ = ["Session"]

T = TypeVar("T")
_TICK_SECONDS = 0.1
_SLOT = "cdcpipe_chaos"
# A fault may begin at the very end of the load.
_LAST_FAULT_SECONDS = 90.0
# How many times its bound the drain may take while records still come out.
_STILL_MOVING = 2.5


class PhaseRunner(Protocol):
    """Runs a phase and gives what it gives."""

    def __call__(self, phase: str, title: str, work: Callable[[], T], /) -> T: ...


class Session:
    """One run's instruments, in the order in which `run_chaos` calls it. A context manager: leaving it heals.

    The wal ledger comes from a slot of our own that is made before the load and read when all has settled, so that a
    crash of PostgreSQL costs no witness, and reading takes no CPU from the pipeline meanwhile.
    """

    def __init__(
        self,
        plan: ChaosPlan,
        stack: Breakable,
        load: Load,
        run: Path,
        *,
        skipped: Mapping[str, str],
        listener: Listener,
    ) -> None:
        self._plan = plan
        self._stack = stack
        self._load = load
        self._run = run
        self._listener = listener
        self._endpoints = stack.endpoints
        self._topics = tuple(self._endpoints.topic_of(table) for table in load.TABLES)
        self._faults: IO[str] = (run / "faults.jsonl").open("w", encoding="utf-8")
        self._journal = Journal.of_folder(stack.folder)
        self._conductor = Conductor(plan.schedule, stack, self._journal, skipped=skipped, tell=self._told)
        self._closing = contextlib.ExitStack()
        self._begin: dict[tuple[str, int], int] = {}
        self._since = datetime.now(UTC)
        self._begun = self._ended = self._observed = 0.0
        self._figures: dict[str, Any] = {}
        self._interventions: list[str] = []
        self._settled: Settlement | None = None
        self._migrated: list[Migration] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conductor.heal()
        with contextlib.suppress(CdcpipeError):
            heal(self._stack, self._journal)
        if self._load.running:  # the run was interrupted
            with contextlib.suppress(CdcpipeError):
                self._load.end()
        self._closing.close()
        self._faults.close()
        with contextlib.suppress(psycopg.Error):
            self._drop_slots()

    def _told(self, outcome: FaultOutcome, moment: str) -> None:
        """Each moment of each fault is a line of `faults.jsonl`, written when it is reached."""
        line = {"at": round(time.time(), 3), "moment": moment, **outcome.to_json()}
        self._faults.write(json.dumps(line, default=str) + "\n")
        self._faults.flush()
        if moment in ("effective", "cleaned") or ":" in moment:
            words = {"effective": "has taken effect", "cleaned": "is healed"}
            self._listener(Notice(f"{outcome.step} ({outcome.fault}) {words.get(moment, moment)}"))

    # Before the load -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Tables, the witness's slot, probe and sampler."""
        if self._plan.snapshot:
            snapshot.remove_source(local_of(self._stack))
        self._load.create(self._endpoints.postgres)
        self._since = datetime.now(UTC)
        self._begin = end_offsets(self._endpoints, captured_topics(self._endpoints))
        self._drop_slots()
        self._make_slot()
        if self._plan.snapshot:
            snapshot.fill(local_of(self._stack), self._plan.snapshot, self._plan.seed)
        prober = Prober(self._endpoints, await_first=not self._plan.snapshot)
        self._prober = self._closing.enter_context(prober)
        sampler = RunSampler(
            self._stack,
            self._load,
            self._prober,
            self._topics,
            self._run / "samples.jsonl",
            bounds=Bounds(stuck_seconds=120, wal_pin_bytes=8 << 30, wal_pin_seconds=600),
        )
        self._sampler = self._closing.enter_context(sampler)
        self._operator = self._closing.enter_context(Operator(self._endpoints.connect_url, (SOURCE, SINK)))
        if self._plan.snapshot:
            snapshot.deploy_source(local_of(self._stack))

    def _make_slot(self) -> None:
        try:
            with psycopg.connect(self._endpoints.postgres.conninfo("witness"), autocommit=True) as connection:
                connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false)", [_SLOT])
        except psycopg.Error as error:
            raise PostgresError(f"the witness's slot can't be made: {str(error).strip()}") from error

    def _drop_slots(self) -> None:
        """Ours, and one that a run which was killed has left: it would hold WAL for ever."""
        with psycopg.connect(self._endpoints.postgres.conninfo("witness"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                "WHERE slot_name = %s AND NOT active",
                [_SLOT],
            )

    # The load ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Write, break, and see both to their ends."""
        plan = self._plan
        self._load.start(
            self._endpoints.postgres, rate=plan.rate, seconds=plan.seconds, record=self._run / "workload.jsonl"
        )
        self._sampler.load_begins()
        self._begun = time.time()
        begin = time.monotonic()
        due = 0.0
        while self._load.running:
            done = self._load.progress().committed
            self._conductor.tick(self._progress(begin, done))
            self._migrate(done)
            if time.monotonic() >= due:
                due = time.monotonic() + 1
                self._tell(done)
            time.sleep(_TICK_SECONDS)
        self._ended = time.time()
        self._figures = dict(self._load.end())
        deadline = time.monotonic() + _LAST_FAULT_SECONDS
        # Steps that follow others, and those keyed on what comes later than commits.
        while self._conductor.waiting and time.monotonic() < deadline:
            before = self._conductor.waiting
            self._conductor.tick(self._progress(begin, self._load.progress().committed))
            idle = not self._conductor.active and self._conductor.waiting == before
            if idle and self._conductor.measures <= {"committed", "seconds"}:
                break
            time.sleep(_TICK_SECONDS)
        self._conductor.await_end(timeout_seconds=_LAST_FAULT_SECONDS + max([0, *self._fault_seconds()]))

    def _fault_seconds(self) -> list[float]:
        return [step.fault.seconds for step in self._plan.schedule.steps]

    def _progress(self, begin: float, committed: int) -> dict[str, float | None]:
        sampler = self._sampler
        return {
            "committed": committed,
            "logged": sampler.logged,
            "archived": sampler.archived,
            "seconds": time.monotonic() - begin,
        }

    def _migrate(self, committed: int) -> None:
        for migration in self._plan.migrations:
            if migration not in self._migrated and committed >= migration.committed:
                self._migrated.append(migration)
                threading.Thread(target=self._run_sql, args=(migration.sql,), daemon=True).start()

    def _run_sql(self, sql: str) -> None:
        def done() -> bool:
            try:
                with psycopg.connect(self._endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
                    connection.execute(sql.encode())
            except psycopg.OperationalError:
                return False
            return True

        try:
            wait_until(done, what=sql, timeout_seconds=60, interval_seconds=0.5, error=PostgresError)
            self._listener(Notice(f"migrated: {sql}"))
        except (psycopg.Error, CdcpipeError) as error:
            self._interventions.append(f"the migration failed: {str(error).strip()}")

    def _tell(self, done: int) -> None:
        last = self._sampler.samples[-1] if self._sampler.samples else None
        figures: dict[str, float] = {}
        if last is not None:
            figures = {"events/s": last.committed or 0, "logged/s": last.logged_rate or 0}
            figures |= {"probe silent s": last.silent_seconds or 0}
        self._listener(Progress("load", done, self._plan.events, figures))

    # After it ------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing may stay broken: what the journal still has open. Tasks that failed for good are the operator's."""
        for record in heal(self._stack, self._journal):
            self._interventions.append(f"`{record.kind} {record.target}` had to be healed from the journal")

    def settle(self) -> None:
        """Wait until all is archived.

        A pipeline that stands still has as long as the plan allows. One that still moves then is late, not stuck: a
        slow machine has more left to drain. So it may go on, but not without end.
        """
        begin = time.monotonic()
        deadline, last = (begin + share * self._plan.drain_seconds for share in (1, _STILL_MOVING))
        marker = mark(self._endpoints)
        while True:
            before = self._moved
            settled = settle(self._endpoints, marker=marker, timeout_seconds=min(60, self._plan.drain_seconds))
            now = time.monotonic()
            self._settled = replace(settled, cut=replace(settled.cut, waited_seconds=now - begin))
            if settled.cut.reached or now >= last or (now >= deadline and self._moved == before):
                break
        (self._run / "ledgers").mkdir(exist_ok=True)
        self._settled.cut.save(self._run / "ledgers" / "cut.json")

    @property
    def _moved(self) -> tuple[int | None, int | None]:
        return self._sampler.logged, self._sampler.archived

    def read(self, phase: PhaseRunner) -> Evidence:
        """The three ledgers. The log first, so that the wal ledger covers all of it."""
        assert self._settled is not None
        self._observed = time.time()
        self._closing.close()  # probe and sampler: what they commit and ask now would only be in the way
        with ConnectClient(self._endpoints.connect_url, timeout_seconds=30) as client:
            modes = Modes.from_config(client.config(SOURCE))
        # All that is captured: a taken stack may hold tables of earlier runs too.
        captured, ledgers = Captured.of(self._endpoints, modes), self._run / "ledgers"
        log = phase("log", "reading the log", lambda: captured.log(ledgers / "log", begin=self._begin))
        archive = phase(
            "archive", "reading the archive", lambda: captured.archive(ledgers / "archive", since=self._since)
        )
        wal = phase("wal", "reading the WAL", lambda: self._read_wal(modes))
        return Evidence(wal, log, archive, self._settled.cut)

    def _read_wal(self, modes: Modes) -> Ledger:
        witness = WalWitness(
            self._endpoints.postgres,
            self._run / "ledgers" / "wal",
            publication=self._endpoints.publication,
            modes=modes,
            slot=_SLOT,
            temporary=False,
        )
        with witness:
            return witness.stop(timeout_seconds=600)

    # What it found -------------------------------------------------------------------------------

    def findings(self) -> Findings:
        """All that isn't in the ledgers. Writes the probes and samples as Parquet."""
        outcomes = self._conductor.outcomes()
        spans = sorted(span for each in outcomes if (span := each.span) is not None)
        felt = []
        for each in outcomes:
            if each.record is None or each.span is None:
                felt.append(each)
                continue
            own = each.span[0]
            until = min([begin for begin, _ in spans if begin > own + 1], default=self._observed)
            recovery = recovery_of(
                each.record,
                until=until,
                arrivals=self._prober.arrivals,
                commits=self._sampler.commits,
                commit_seconds=self._stack.settings.commit_seconds,
            )
            felt.append(replace(each, recovery=recovery))
        self._leave_parquet()
        return Findings(tuple(felt), tuple(self._sampler.watch.results()))

    def _leave_parquet(self) -> None:
        arrivals = self._prober.arrivals
        columns = {name: [getattr(each, name) for each in arrivals] for name in ("token", "sent", "seen")}
        pq.write_table(pa.table(columns), self._run / "probes.parquet")
        pq.write_table(pa.table({"at": self._sampler.commits}), self._run / "commits.parquet")

    def result(self, report: Report, *, versions: Mapping[str, str]) -> ChaosResult:
        """The result; `phases` are the caller's to add."""
        findings = self.findings()
        return ChaosResult(
            plan=self._plan,
            report=report,
            outcomes=findings.outcomes,
            load=self._figures,
            begun=self._begun,
            ended=self._ended,
            phases={},
            versions=versions,
            peak_memory=self._sampler.peak_memory,
            rate_during_faults=_rate_during(self._sampler.samples, findings.outcomes),
            interventions=(*self._interventions, *self._operator.interventions),
            run=self._run,
        )


def _rate_during(samples: list[Sample], outcomes: tuple[FaultOutcome, ...]) -> float | None:
    """Events/s that PostgreSQL committed while a fault was in force or being recovered from."""
    totals = [(each.at, each.committed_total) for each in samples if each.committed_total is not None]
    events = seconds = 0.0
    for begin, end in _merged([span for each in outcomes if (span := each.span) is not None]):
        first = max((pair for pair in totals if pair[0] <= begin), default=None)
        last = min((pair for pair in totals if pair[0] >= end), default=None)
        if first is not None and last is not None:
            events, seconds = events + last[1] - first[1], seconds + last[0] - first[0]
    return round(events / seconds, 1) if seconds else None


def _merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that overlap, as one."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
