"""`events()`: the three ledgers compared, every check, one report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import ibis

from cdcpipe.errors import EvidenceError
from cdcpipe.verify import delivery, order, schema, sink, values
from cdcpipe.verify.case import Case
from cdcpipe.verify.check import Check, Tally, answer, tally
from cdcpipe.verify.engine import Backend, Engine
from cdcpipe.verify.evidence import Cut, Evidence, LedgerLike, Terms
from cdcpipe.verify.level import Level
from cdcpipe.verify.outcome import Account, LedgerFacts, Report, VerifiedThrough
from cdcpipe.verify.schemafacts import of_archive
from cdcpipe.verify.source import transactions
from cdcpipe.verify.tables import BOUNDS, CHANGE, FINDINGS, Expr
from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

__all__ = ["CHECKS", "events"]

CHECKS: Final[tuple[Check, ...]] = (*delivery.CHECKS, *order.CHECKS, *values.CHECKS)
"""All claims about ledgers."""

_HOLES: Final = 200


def events(
    wal: LedgerLike | None = None,
    log: LedgerLike | None = None,
    archive: LedgerLike | None = None,
    *,
    level: Level | str = Level.EXACTLY_ONCE,
    cut: Cut | None = None,
    skipped_operations: Iterable[str] = (),
    filtered_tables: Iterable[str] = (),
    resnapshots: bool = False,
    filed_by: Literal["record", "commit"] = "record",
    clock_skew_seconds: float = 5.0,
    schemas: schema.SchemaFacts | None = None,
    witnesses: int = 20,
    figures: bool = True,
    memory_limit: str = "1500MB",
    threads: int = 2,
    temp_folder: Path | None = None,
    engine: Backend | None = None,
) -> Report:
    """Whether every change that PostgreSQL committed reached the log and the archive, once, in order, unaltered.

    Each ledger is a `Ledger`, its folder, or an Arrow table of changes. Any of them may be left out; what then can't
    be judged doesn't apply, and `report.notes` says so. Read the log before the WAL, so that the wal ledger covers
    it. `cut` says how far the pipeline has settled; without it everything must be there. `figures` adds what the
    charts and tables of a report need. `engine` runs the checks elsewhere than in DuckDB, see `cdcpipe.verify.spark`;
    the caller closes it. Anomalies are results: this raises EvidenceError only for a folder that holds
    no ledger.

    >>> report = events(wal="runs/latest/ledgers/wal", log="runs/latest/ledgers/log")  # doctest: +SKIP
    >>> report.verdict, report.anomalies  # doctest: +SKIP
    (<Verdict.FAIL: 'fail'>, ('lost-change@source',))
    """
    start = time.perf_counter()
    terms = Terms(
        level=Level(level),
        cut=cut or Cut(),
        skipped_operations=tuple(skipped_operations),
        filtered_tables=tuple(filtered_tables),
        resnapshots=resnapshots,
        filed_by=filed_by,
        clock_skew_seconds=clock_skew_seconds,
        witnesses=witnesses,
    )
    evidence = (Evidence.of(wal, "wal"), Evidence.of(log, "log"), Evidence.of(archive, "archive"))
    with contextlib.ExitStack() as closing:
        engine = engine or closing.enter_context(
            Engine(memory_limit=memory_limit, threads=threads, temp_folder=temp_folder)
        )
        case = Case(engine, *evidence, terms)
        case.run()
        facts = schemas or schema.SchemaFacts()
        if facts.objects is None:
            facts = replace(facts, objects=of_archive(case.archive))
        report = _report(case, facts, figures=figures)
    return replace(report, seconds=time.perf_counter() - start)


def _report(case: Case, schemas: schema.SchemaFacts, *, figures: bool) -> Report:
    found = tally(case)
    results = [answer(check, case, found) for check in CHECKS]
    results.append(_stuck(case, found))
    results.extend(schema.judge(schemas))
    report = Report(
        mode="events",
        level=case.terms.level,
        results=tuple(results),
        unsettled=found.count("unsettled"),
        notes=tuple(_notes(case)),
        made_at=datetime.now(UTC),
        facts={"changes": _settled(case, results), "snapshot_rows": case.totals.read},
    )
    if figures and "prepare" not in case.failures:
        try:
            report = replace(report, ledgers=_ledgers(case), accounts=_accounts(case))
        except EvidenceError as error:
            report = replace(report, notes=(*report.notes, f"no figures: {error.message}"))
    if report.verdict is Verdict.PASS:
        report = replace(report, verified_through=_verified_through(case))
    return report


def _settled(case: Case, results: Sequence[CheckResult]) -> int:
    """Changes that were committed and sent, without those beyond the watermark that are not there yet."""
    waiting = {each.id: each.counts.get("unsettled", 0) for each in results}
    sent = max(case.totals.expected - waiting["lost-change@source"], case.totals.streamed)
    return sent - waiting["lost-change@sink"]


def _stuck(case: Case, found: Tally) -> CheckResult:
    cut, waiting = case.terms.cut, found.count("unsettled")
    verdict = Verdict.PASS if cut.reached else Verdict.FAIL
    waited = not cut.reached or cut.commit_lsn is not None or bool(cut.offsets)
    note = f"after {cut.waited_seconds:.0f} s still waiting for {cut.waiting_for or 'the watermark'}"
    return CheckResult(
        name="stuck",
        group="delivery",
        claim="Source, sink and files passed the watermark within the bound.",
        not_proven="That they stay in time.",
        verdict=verdict,
        found=0 if cut.reached else 1,
        looked_at=1,
        counts={"unsettled": waiting},
        witnesses=() if cut.reached else (Witness(note),),
        applies=waited,
        reason=None if waited else "nothing was waited for: the ledgers are taken as settled",
    )


def _notes(case: Case) -> Iterator[str]:
    missing = [name for name in ("wal", "log", "archive") if getattr(case, name) is None]
    if missing:
        yield f"no {' and no '.join(missing)} ledger was given: what needs it was not judged"
    totals = case.totals
    if totals.unidentified and totals.streamed:
        yield f"{totals.unidentified:,} changes carry no transaction metadata and were not compared with the WAL"
    if totals.keyless:
        yield f"{totals.keyless:,} changes are of tables without a key: their order by key was not judged"
    if totals.read and case.has_wal:
        yield f"{totals.read:,} snapshot rows have no change in the WAL to be compared with"
    if "prepare" in case.failures:
        return
    try:
        for row in case.engine.rows(unknown_columns):
            yield f"{row['table']}: `{row['column']}` could not be compared ({row['n']:,} changes)"
    except EvidenceError as error:
        yield f"which columns could not be compared is not known: {error.message}"


def unknown_columns() -> Expr:
    """Columns that could not be compared, by table."""
    later = ibis.table(CHANGE, name="log")
    t = later.filter(later["unknown"].notnull()).select("table", column=later["unknown"].unnest())
    t = t.group_by("table", "column").agg(n=t.count())
    return t.order_by("table", "column").limit(50)


# --- figures -----------------------------------------------------------------


def _ledgers(case: Case) -> tuple[LedgerFacts, ...]:
    facts = []
    for name in ("wal", "log", "archive"):
        evidence: Evidence | None = getattr(case, name)
        if evidence is None:
            continue
        rows = case.engine.rows(by_operation, name)
        tables: dict[str, dict[str, int]] = {}
        for row in rows:
            tables.setdefault(row["table"], {})[row["op"]] = row["n"]
        times = [(row["first"], row["last"]) for row in rows if row["first"] is not None]
        facts.append(
            LedgerFacts(
                kind=name,
                changes=sum(row["n"] for row in rows),
                complete=evidence.complete,
                reasons=evidence.reasons,
                tables=tables,
                first=_time(min((first for first, _ in times), default=None)),
                last=_time(max((last for _, last in times), default=None)),
                rates=_rates(case.engine.rows(by_second, name)),
            )
        )
    return tuple(facts)


def by_operation(name: str) -> Expr:
    """Changes of a ledger by table and operation."""
    t = ibis.table(CHANGE, name=name)
    grouped = t.group_by("table", "op").agg(n=t.count(), first=t["committed_at"].min(), last=t["committed_at"].max())
    return grouped.order_by("table", "op")


def by_second(name: str) -> Expr:
    """Changes of a ledger by the second of their commit."""
    t = ibis.table(CHANGE, name=name)
    t = t.filter(t["committed_at"].notnull(), t["op"] != "r")
    return t.group_by(second=t["committed_at"] // 1_000_000).agg(n=t.count()).order_by("second")


def _rates(rows: list[dict[str, Any]], wanted: int = 180) -> tuple[tuple[float, float], ...]:
    """Changes per second over at most `wanted` equal intervals; seconds without a change count as 0."""
    if not rows:
        return ()
    first, last = int(rows[0]["second"]), int(rows[-1]["second"])
    width = max(1, -(-(last - first + 1) // wanted))
    sums = [0] * (-(-(last - first + 1) // width))
    for row in rows:
        sums[(int(row["second"]) - first) // width] += row["n"]
    return tuple((first + index * width + width / 2, total / width) for index, total in enumerate(sums))


def _accounts(case: Case) -> tuple[Account, ...]:
    if case.log is None or case.archive is None:
        return ()
    holes: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in case.engine.rows(missing_offsets):
        runs = holes.setdefault((row["topic"], row["partition"]), [])
        if runs and runs[-1][1] == row["offset"]:
            runs[-1] = (runs[-1][0], row["offset"] + 1)
        else:
            runs.append((row["offset"], row["offset"] + 1))
    return tuple(
        Account(**row, holes=tuple(holes.get((row["topic"], row["partition"]), [])[:_HOLES]))
        for row in case.engine.rows(sink.accounts)
    )


def missing_offsets() -> Expr:
    """Offsets that neither archive nor dead letter queue holds, the first 100,000."""
    t = FINDINGS.filter(FINDINGS["place"] == "sink", FINDINGS["name"].isin(("lost-change", "offset-hole")))
    return t.select("topic", "partition", "offset").order_by("topic", "partition", "offset").limit(100_000)


def _verified_through(case: Case) -> VerifiedThrough | None:
    if case.later is None or "source" in case.failures:
        return None
    rows = case.engine.rows(last_transaction)
    return VerifiedThrough(rows[0]["xid"], rows[0]["commit_lsn"], _time(rows[0]["committed_at"])) if rows else None


def last_transaction() -> Expr:
    """The last transaction up to the cut."""
    t = transactions().cross_join(BOUNDS)
    t = t.filter(~(t["commit_lsn"] > t["through"]).fill_null(False))
    return t.select("xid", "commit_lsn", "committed_at").order_by(ibis.desc("commit_lsn")).limit(1)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
