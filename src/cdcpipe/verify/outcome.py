"""`Report`: what a verification found, as plain data. Renderers are in `cdcpipe.report`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from cdcpipe.verify.level import Level
from cdcpipe.verify.verdict import CheckResult, Verdict, format_lsn

__all__ = ["Account", "LedgerFacts", "Report", "VerifiedThrough"]

SCHEMA: Final = "cdcpipe.verify/1"


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What a ledger holds: changes by table and operation, over which time."""

    kind: str
    changes: int
    complete: bool
    reasons: tuple[str, ...] = ()
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None
    rates: tuple[tuple[float, float], ...] = ()
    """`(seconds since 1970, changes per second)` by commit time."""


@dataclass(frozen=True, slots=True)
class Account:
    """One partition: what of it was archived, dead-lettered, filtered. `holes` are intervals of missing offsets."""

    topic: str
    partition: int
    first: int
    last: int
    changes: int
    archived: int
    dead_lettered: int
    filtered: int
    tombstones: int
    undecoded: int
    holes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VerifiedThrough:
    """The last transaction that a passed verification covers."""

    xid: int
    commit_lsn: int | None
    committed_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "xid": self.xid,
            "commit_lsn": format_lsn(self.commit_lsn),
            "committed_at": None if self.committed_at is None else self.committed_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The answers of all checks, and the verdict they make.

    `unsettled` counts changes and records beyond the cut that are not there yet. `notes` says what limits the verdict:
    ledgers that were not given, tables without a key, columns that could not be compared.
    """

    mode: Literal["events", "state"]
    level: Level
    results: tuple[CheckResult, ...]
    ledgers: tuple[LedgerFacts, ...] = ()
    accounts: tuple[Account, ...] = ()
    unsettled: int = 0
    verified_through: VerifiedThrough | None = None
    notes: tuple[str, ...] = ()
    made_at: datetime | None = None
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Of all checks that apply."""
        return Verdict.merge(each.verdict for each in self.results if each.applies)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """Refuted claims, causes first."""
        failed = [each for each in self.results if each.verdict is Verdict.FAIL]
        return tuple(sorted(failed, key=lambda each: not each.is_cause))

    @property
    def anomalies(self) -> tuple[str, ...]:
        """Names (`name` or `name@place`) of the anomalies that nothing else explains: what to act on."""
        return tuple(each.id for each in self.results if each.is_cause)

    @property
    def consequences(self) -> tuple[str, ...]:
        """Names of refuted claims that the anomalies explain."""
        return tuple(each.id for each in self.results if each.verdict is Verdict.FAIL and not each.is_cause)

    def __getitem__(self, name: str) -> CheckResult:
        """The result called `name` or `name@place`; of two places the worse one. KeyError when there is none."""
        found = [each for each in self.results if name in (each.id, each.name)]
        if not found:
            raise KeyError(name)
        return max(found, key=lambda each: (each.verdict is Verdict.FAIL, each.applies, each.found))

    def sentence(self) -> str:
        """The verdict in one sentence."""
        what = f"{self.facts.get('changes', 0):,} changes"
        if self.verdict is Verdict.PASS:
            if self.mode == "state":
                return f"The archive equals the tables at the cut: {self.facts.get('rows', 0):,} rows compared."
            return f"All {what} arrived as committed ({self.level.value}); none lost, repeated, reordered or altered."
        if self.verdict is Verdict.FAIL:
            parts = [f"{each.id} ({each.found - each.explained:,})" for each in self.failed if each.is_cause]
            return f"The pipeline does not keep {self.level.value}: {', '.join(parts)}."
        reasons = _first(each.reason for each in self.results if each.applies and each.verdict is not Verdict.PASS)
        return f"Nothing was refuted, and not everything could be judged: {reasons or 'there was nothing to look at'}."

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in schema `cdcpipe.verify/1`."""
        return {
            "schema": SCHEMA,
            "mode": self.mode,
            "verdict": self.verdict.value,
            "sentence": self.sentence(),
            "level": self.level.value,
            "anomalies": list(self.anomalies),
            "consequences": list(self.consequences),
            "unsettled": self.unsettled,
            "verified_through": None if self.verified_through is None else self.verified_through.to_json(),
            "notes": list(self.notes),
            "made_at": None if self.made_at is None else self.made_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "facts": dict(self.facts),
            "ledgers": [
                {
                    "kind": each.kind,
                    "changes": each.changes,
                    "complete": each.complete,
                    "reasons": list(each.reasons),
                    "tables": {name: dict(ops) for name, ops in each.tables.items()},
                    "first": None if each.first is None else each.first.isoformat(),
                    "last": None if each.last is None else each.last.isoformat(),
                }
                for each in self.ledgers
            ],
            "accounts": [
                {name: getattr(each, name) for name in Account.__slots__ if name != "holes"}
                | {"holes": [list(hole) for hole in each.holes]}
                for each in self.accounts
            ],
            "checks": [each.to_json() for each in self.results],
        }


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((each for each in reasons if each), None)
