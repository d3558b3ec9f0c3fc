"""The verdict of a run: the claims about its ledgers, those of the progress monitors, and one about its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.recovery import FaultOutcome
from cdcpipe.chaos.result import named, schedule_check
from cdcpipe.ledger.store import Ledger
from cdcpipe.verify.evidence import Cut
from cdcpipe.verify.judge import events
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.verdict import CheckResult, Verdict

__all__ = ["Evidence", "Findings", "judge"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The three ledgers, and how far they must agree."""

    wal: Ledger
    log: Ledger
    archive: Ledger
    cut: Cut


@dataclass(frozen=True, slots=True)
class Findings:
    """What became of each fault, and what the progress monitors saw."""

    outcomes: tuple[FaultOutcome, ...]
    progress: tuple[CheckResult, ...]


def judge(plan: ChaosPlan, evidence: Evidence, findings: Findings, run: Path) -> Report:
    """The report of a run. Its verdict merges all claims."""
    report = events(
        evidence.wal,
        evidence.log,
        evidence.archive,
        level=plan.level,
        cut=evidence.cut,
        resnapshots=plan.resnapshots,
        temp_folder=run,
    )
    progress = [_expected(each, findings.outcomes) for each in findings.progress]
    results = named([*report.results, *progress, schedule_check(findings.outcomes)], findings.outcomes)
    return replace(report, results=tuple(results))


def _expected(result: CheckResult, outcomes: tuple[FaultOutcome, ...]) -> CheckResult:
    """Without what a crash of PostgreSQL may do: a slot's position that was not on disk yet goes back, and nothing is
    lost, since the source then reads again what it has already. A slot that is gone, or new, stays what it is."""
    if result.name != "slot-loss" or result.verdict is not Verdict.FAIL:
        return result
    if not any(_crashed_postgres(each) for each in outcomes):
        return result
    kept = tuple(each for each in result.witnesses if "_lsn went from" not in each.note)
    if len(kept) == len(result.witnesses):
        return result
    allowed = len(result.witnesses) - len(kept)
    verdict = Verdict.FAIL if kept else Verdict.PASS
    return replace(result, verdict=verdict, found=len(kept), allowed=allowed, witnesses=kept)


def _crashed_postgres(outcome: FaultOutcome) -> bool:
    """Whether PostgreSQL was killed: by itself, or as the far end of a link that was half open."""
    record = outcome.record
    if record is None or record.injected is None:
        return False
    return "postgres" in record.target or "postgres" in record.trace.get("servers", ())
