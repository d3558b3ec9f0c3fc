"""How outcomes of tests become the verdicts of 35 criteria, and those the verdict of the gate. Pure.

The rules, from design.md: `fail` > `inconclusive` > `pass`; a test that passed and left no figures is inconclusive; a
criterion of which some test did not run has not passed; a waiver that is expired, or not needed, fails the gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any, Final

from cdcpipe.conformance.criteria import Criteria, Criterion
from cdcpipe.conformance.waivers import Waiver

__all__ = ["Figure", "Matrix", "Outcome", "Row", "RowVerdict", "judge"]

SCHEMA: Final = "cdcpipe.conformance/1"


class RowVerdict(StrEnum):
    """What is known about a criterion."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not applicable"
    WAIVED = "waived"
    NOT_RUN = "not run"


# The worst first. Not applicable is the weakest: a criterion with a test that applies is judged by that test.
_ORDER = (RowVerdict.FAIL, RowVerdict.INCONCLUSIVE, RowVerdict.NOT_RUN, RowVerdict.PASS, RowVerdict.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Figure:
    """One piece of evidence: `rate held = 10,012 events/s`."""

    name: str
    value: float | int | str
    unit: str = ""

    def text(self) -> str:
        """As people read it.

        >>> Figure("rate held", 10012.4, "events/s").text()
        'rate held 10,012 events/s'
        """
        value = self.value
        if isinstance(value, float):
            shown = f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
        else:
            shown = f"{value:,}" if isinstance(value, int) else value
        return f"{self.name} {shown}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one test said about the criteria that it is marked with. `verdict` is never `waived`."""

    test: str
    criteria: tuple[str, ...]
    verdict: RowVerdict
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    artefacts: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """A criterion and its verdict."""

    criterion: Criterion
    verdict: RowVerdict
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    artefacts: Mapping[str, str] = field(default_factory=dict)
    tests: tuple[str, ...] = ()
    seconds: float = 0.0
    waiver: Waiver | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.criterion.id,
            "sentence": self.criterion.sentence,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "figures": [{"name": each.name, "value": each.value, "unit": each.unit} for each in self.figures],
            "artefacts": dict(self.artefacts),
            "tests": list(self.tests),
            "seconds": round(self.seconds, 2),
            "not_proven": self.criterion.not_proven,
            "waiver": None if self.waiver is None else self.waiver.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Matrix:
    """The answer. `facts` are versions, seed, level, target and the line that replays it; `trouble` stands at the top:
    why the pipeline could not be looked at."""

    rows: tuple[Row, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()
    waiver_findings: tuple[str, ...] = ()

    def __getitem__(self, id_: str) -> Row:
        return next(row for row in self.rows if row.criterion.id == id_)

    def count(self, verdict: RowVerdict) -> int:
        """Rows with this verdict."""
        return sum(row.verdict is verdict for row in self.rows)

    @property
    def verdict(self) -> RowVerdict:
        """`pass`, `fail` or `inconclusive`."""
        if self.count(RowVerdict.FAIL) or self.waiver_findings:
            return RowVerdict.FAIL
        open_rows = self.count(RowVerdict.INCONCLUSIVE) + self.count(RowVerdict.NOT_RUN)
        if open_rows or not self.count(RowVerdict.PASS):
            return RowVerdict.INCONCLUSIVE
        return RowVerdict.PASS

    @property
    def exit_code(self) -> int:
        """Of `cdcpipe gate`."""
        return {RowVerdict.PASS: 0, RowVerdict.FAIL: 1}.get(self.verdict, 3)

    def sentence(self) -> str:
        """The verdict in one sentence."""
        counts = ", ".join(f"{self.count(each)} {each.value}" for each in RowVerdict if self.count(each))
        if self.verdict is RowVerdict.PASS:
            return f"The pipeline keeps every criterion that applies here: {counts}."
        if self.verdict is RowVerdict.FAIL:
            failed = [row.criterion.id for row in self.rows if row.verdict is RowVerdict.FAIL]
            what = ", ".join([*failed, *(["waivers"] if self.waiver_findings else [])])
            return f"The pipeline does not pass: {what} ({counts})."
        if self.trouble:
            return f"The pipeline could not be judged: {self.trouble[0]}."
        return f"Nothing was refuted, and not everything was judged: {counts}."

    def to_json(self) -> dict[str, Any]:
        """The object that `conformance-report.json` holds."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
            "sentence": self.sentence(),
            "trouble": list(self.trouble),
            "waiver_findings": list(self.waiver_findings),
            "counts": {each.value: self.count(each) for each in RowVerdict},
            "facts": dict(self.facts),
            "not_proven": NOT_PROVEN,
            "rows": [row.to_json() for row in self.rows],
        }


NOT_PROVEN: Final = (
    "A pass shows that each criterion held in this run: at these versions, with this load, for this long, with the "
    "faults that were made. It does not show that it holds at a higher load, after a change of configuration, or under "
    "faults that were not tried; each row says what it leaves open."
)


def judge(
    criteria: Criteria,
    outcomes: Iterable[Outcome],
    *,
    target: str,
    waivers: Sequence[Waiver] = (),
    today: date,
    facts: Mapping[str, str] | None = None,
    trouble: Sequence[str] = (),
) -> Matrix:
    """The matrix of what `outcomes` say, for `target`. Every criterion has a row, whether a test named it or not."""
    by_criterion: dict[str, list[Outcome]] = {row.id: [] for row in criteria.rows}
    for outcome in outcomes:
        for id_ in outcome.criteria:
            by_criterion[id_].append(outcome)
    findings: list[str] = []
    rows = []
    for criterion in criteria.rows:
        row = _row(criterion, by_criterion[criterion.id], target)
        rows.append(_with_waivers(row, [each for each in waivers if each.criterion == criterion.id], today, findings))
    known = {row.id for row in criteria.rows}
    findings += [f"`{each.criterion}` is waived, and no criterion" for each in waivers if each.criterion not in known]
    return Matrix(tuple(rows), dict(facts or {}), tuple(dict.fromkeys(trouble)), tuple(findings))


def _row(criterion: Criterion, outcomes: list[Outcome], target: str) -> Row:
    if target not in criterion.targets:
        return Row(criterion, RowVerdict.NOT_APPLICABLE, criterion.elsewhere)
    judged = [_with_evidence(each) for each in outcomes]
    if not judged:
        return Row(criterion, RowVerdict.NOT_RUN, "no test of it was collected")
    verdict = next(each for each in _ORDER if any(outcome.verdict is each for outcome in judged))
    reasons = dict.fromkeys(each.reason for each in judged if each.verdict is verdict and each.reason)
    return Row(
        criterion,
        verdict,
        "; ".join(reasons),
        tuple(figure for each in judged for figure in each.figures),
        {name: where for each in judged for name, where in each.artefacts.items()},
        tuple(each.test for each in judged),
        sum(each.seconds for each in judged),
    )


def _with_evidence(outcome: Outcome) -> Outcome:
    """A pass without figures is none: nobody could check it."""
    if outcome.verdict is RowVerdict.PASS and not outcome.figures:
        reason = "its test passed and left no figures"
        return Outcome(outcome.test, outcome.criteria, RowVerdict.INCONCLUSIVE, reason, (), {}, outcome.seconds)
    return outcome


def _with_waivers(row: Row, waivers: list[Waiver], today: date, findings: list[str]) -> Row:
    id_ = row.criterion.id
    if len(waivers) > 1:
        findings.append(f"{id_} is waived {len(waivers)} times")
    for waiver in waivers[:1]:
        if waiver.expires < today:
            findings.append(f"the waiver of {id_} expired on {waiver.expires}: {waiver.reason}")
        elif row.verdict in (RowVerdict.PASS, RowVerdict.NOT_APPLICABLE):
            findings.append(f"the waiver of {id_} is needless: the criterion is `{row.verdict}`; remove it")
        else:
            told = f"until {waiver.expires}: {waiver.reason} ({waiver.link})"
            own = f"; without it `{row.verdict}`" + (f": {row.reason}" if row.reason else "")
            return Row(
                row.criterion,
                RowVerdict.WAIVED,
                told + own,
                row.figures,
                row.artefacts,
                row.tests,
                row.seconds,
                waiver,
            )
    return row
