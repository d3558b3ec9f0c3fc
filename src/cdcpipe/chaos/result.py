"""What a run found, as plain data: `result.json`, and what every rendering of it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.recovery import FaultOutcome, Recovery
from cdcpipe.errors import EvidenceError
from cdcpipe.faults.fault import FaultRecord
from cdcpipe.verify.level import Level
from cdcpipe.verify.outcome import Account, LedgerFacts, Report
from cdcpipe.verify.sampling import parse_lsn
from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

__all__ = ["ChaosResult", "load_result", "named", "schedule_check"]

_SCHEMA: Final = "cdcpipe.chaos-result/1"
_AFTER_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ChaosResult:
    """A run that was judged.

    `report` has the claims about ledgers, those of the progress monitors, and one about the schedule itself. `begun`
    and `ended` bound the load, in seconds since 1970. `interventions` are what an operator would have had to do.
    """

    plan: ChaosPlan
    report: Report
    outcomes: tuple[FaultOutcome, ...]
    load: Mapping[str, Any]
    begun: float
    ended: float
    phases: Mapping[str, float]
    versions: Mapping[str, str]
    peak_memory: Mapping[str, int]
    rate_during_faults: float | None
    interventions: tuple[str, ...]
    run: Path
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def verdict(self) -> Verdict:
        """Of all claims: fail > inconclusive > pass."""
        return self.report.verdict

    @property
    def anomalies(self) -> tuple[str, ...]:
        """Names of what nothing else explains."""
        return self.report.anomalies

    @property
    def flows_seconds_max(self) -> float | None:
        """The longest time until the probe flowed again after a fault; None when one never did, or none was felt."""
        return _worst([each.recovery.flows for each in self.outcomes if each.recovery is not None])

    @property
    def archive_seconds_max(self) -> float | None:
        """The same for the archive."""
        return _worst([each.recovery.archive for each in self.outcomes if each.recovery is not None])

    @property
    def verify_seconds(self) -> float:
        """From the end of the drain to the verdict: reading the three ledgers, and comparing them."""
        return sum(self.phases.get(name, 0.0) for name in ("log", "wal", "archive", "verify"))

    @property
    def replay(self) -> str:
        """The command that runs the same again."""
        here = Path.cwd()
        run = self.run.relative_to(here) if self.run.is_relative_to(here) else self.run
        return f"cdcpipe chaos replay {run}"

    def sentence(self) -> str:
        """The verdict in one sentence."""
        done = sum(each.took_effect for each in self.outcomes)
        faults = f"{done} fault{'' if done == 1 else 's'}"
        changes = f"{self.report.facts.get('changes', 0):,} changes"
        if self.verdict is Verdict.PASS:
            times = [
                f"{name} within {value:.0f} s"
                for name, value in (
                    ("the flow was back", self.flows_seconds_max),
                    ("the archive", self.archive_seconds_max),
                )
                if value
            ]
            told = f"; {', '.join(times)}" if times else ""
            return f"Through {faults} the pipeline kept {self.plan.level}: all {changes} arrived as committed{told}."
        if self.verdict is Verdict.FAIL:
            return f"Under {faults}: {self.report.sentence()[0].lower()}{self.report.sentence()[1:]}"
        return self.report.sentence()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in schema `cdcpipe.chaos-result/1`."""
        return {
            "schema": _SCHEMA,
            "verdict": self.verdict.value,
            "sentence": self.sentence(),
            "anomalies": list(self.anomalies),
            "replay": self.replay,
            "run": str(self.run),
            "report": str(self.run / "report.html"),
            "plan": self.plan.to_json(),
            "load": dict(self.load),
            "begun": self.begun,
            "ended": self.ended,
            "rate_during_faults": self.rate_during_faults,
            "flows_seconds_max": self.flows_seconds_max,
            "archive_seconds_max": self.archive_seconds_max,
            "verify_seconds": round(self.verify_seconds, 2),
            "phases": {name: round(seconds, 2) for name, seconds in self.phases.items()},
            "versions": dict(self.versions),
            "peak_memory": dict(self.peak_memory),
            "interventions": list(self.interventions),
            "made_at": self.made_at.isoformat(),
            "faults": [each.to_json() for each in self.outcomes],
            "verification": self.report.to_json(),
        }


def load_result(run: Path) -> ChaosResult:
    """The result of an old run, from its folder. EvidenceError when it left none."""
    try:
        raw = json.loads((run / "result.json").read_text(encoding="utf-8"))
        if raw["schema"] != _SCHEMA:
            raise ValueError(f"schema {raw['schema']}")
        return ChaosResult(
            plan=ChaosPlan.from_json(raw["plan"]),
            report=_report(raw["verification"]),
            outcomes=tuple(_outcome(each) for each in raw["faults"]),
            load=raw["load"],
            begun=raw["begun"],
            ended=raw["ended"],
            phases=raw["phases"],
            versions=raw["versions"],
            peak_memory=raw["peak_memory"],
            rate_during_faults=raw["rate_during_faults"],
            interventions=tuple(raw["interventions"]),
            run=run,
            made_at=datetime.fromisoformat(raw["made_at"]),
        )
    except OSError as error:
        raise EvidenceError(
            f"`{run}` has no result: {error.strerror}", hint="name the folder of a run, such as `runs/chaos/<time>`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"`{run / 'result.json'}` is no result of a chaos run: {error!r}") from error


def _outcome(raw: dict[str, Any]) -> FaultOutcome:
    record = None if raw["record"] is None else FaultRecord(**raw["record"])
    recovery = None if raw["recovery"] is None else Recovery(**raw["recovery"])
    return FaultOutcome(raw["step"], raw["when"], raw["fault"], record, raw["skipped"], raw["note"], recovery)


def _report(raw: dict[str, Any]) -> Report:
    """A verification out of its JSON. Images and rates are not in there, and are not needed to show it."""
    ledgers = [
        LedgerFacts(each["kind"], each["changes"], each["complete"], tuple(each["reasons"]), each["tables"])
        for each in raw["ledgers"]
    ]
    accounts = [Account(**{**each, "holes": tuple((a, b) for a, b in each["holes"])}) for each in raw["accounts"]]
    return Report(
        mode=raw["mode"],
        level=Level(raw["level"]),
        results=tuple(_check(each) for each in raw["checks"]),
        ledgers=tuple(ledgers),
        accounts=tuple(accounts),
        unsettled=raw["unsettled"],
        notes=tuple(raw["notes"]),
        made_at=None if raw["made_at"] is None else datetime.fromisoformat(raw["made_at"]),
        seconds=raw["seconds"],
        facts=raw["facts"],
    )


def _check(raw: dict[str, Any]) -> CheckResult:
    values = {name: value for name, value in raw.items() if name != "id"}
    witnesses = tuple(_witness(each) for each in raw["witnesses"])
    return CheckResult(**{**values, "verdict": Verdict(raw["verdict"]), "witnesses": witnesses})


def _witness(raw: dict[str, Any]) -> Witness:
    values = {name: value for name, value in raw.items() if name not in ("expected", "found")}
    for name in ("commit_lsn", "lsn"):
        values[name] = parse_lsn(values.get(name))
    if values.get("committed_at"):
        values["committed_at"] = datetime.fromisoformat(values["committed_at"])
    return Witness(**values)


# --- what the run adds to the verification -------------------------------------


def named(results: Iterable[CheckResult], outcomes: Sequence[FaultOutcome]) -> list[CheckResult]:
    """The results, their witnesses with the fault that was active when the change was committed."""
    found = []
    for result in results:
        witnesses = tuple(replace(each, fault=_active(each.committed_at, outcomes)) for each in result.witnesses)
        found.append(replace(result, witnesses=witnesses))
    return found


def _active(at: datetime | None, outcomes: Sequence[FaultOutcome]) -> str | None:
    if at is None:
        return None
    moment = at.timestamp()
    spans = [(each, each.span) for each in outcomes]
    inside = [e for e, span in spans if span is not None and span[0] - 1 <= moment <= span[1] + 1]
    if inside:
        return " and ".join(f"{each.step}: {each.fault}" for each in inside)
    before = [(moment - span[1], e) for e, span in spans if span is not None and 0 < moment - span[1] < _AFTER_SECONDS]
    if before:
        seconds, each = min(before, key=lambda pair: pair[0])
        return f"none; {seconds:.0f} s after {each.step}: {each.fault}"
    later = [(span[0] - moment, e) for e, span in spans if span is not None and 0 < span[0] - moment < _AFTER_SECONDS]
    if later:
        seconds, each = min(later, key=lambda pair: pair[0])
        return f"none; {seconds:.0f} s before {each.step}: {each.fault}"
    return "none"


def schedule_check(outcomes: Sequence[FaultOutcome]) -> CheckResult:
    """Whether the run was the one that was planned: a fault that did nothing proves nothing."""
    wrong = [each for each in outcomes if each.skipped is None and (not each.took_effect or _failed(each))]
    done = [each for each in outcomes if each.took_effect]
    skipped = [each for each in outcomes if each.skipped is not None]
    reason = None
    if wrong:
        reason = f"{wrong[0].step} ({wrong[0].fault}): {wrong[0].note or 'it took no effect'}"
    elif outcomes and not done:
        reason = f"no fault could be done on this target: {skipped[0].skipped}"
    return CheckResult(
        name="schedule",
        group="progress",
        claim="Every fault of the schedule began in its time, took effect and healed.",
        not_proven="That a fault which is not in the schedule is survived.",
        verdict=Verdict.INCONCLUSIVE if reason else Verdict.PASS,
        looked_at=len(outcomes),
        counts={"took effect": len(done), "skipped": len(skipped), "went wrong": len(wrong)},
        reason=reason,
        applies=bool(outcomes),
    )


def _failed(outcome: FaultOutcome) -> bool:
    return outcome.record is not None and outcome.record.error is not None


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
