"""What a check says: a verdict, counts, and the witnesses that let a reader see it for himself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

__all__ = ["CheckResult", "Group", "Image", "Place", "Verdict", "Witness", "format_lsn"]

Place = Literal["source", "sink"]
"""Between PostgreSQL and the log, or between the log and the archive."""

Group = Literal["delivery", "order", "value", "schema", "progress", "state"]


class Verdict(StrEnum):
    """What is known about a claim: it holds, it is refuted, or the evidence says neither."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @classmethod
    def merge(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """`fail` > `inconclusive` > `pass`; nothing at all is `inconclusive`.

        >>> Verdict.merge([Verdict.PASS, Verdict.INCONCLUSIVE]).value
        'inconclusive'
        """
        seen = set(verdicts)
        for verdict in (cls.FAIL, cls.INCONCLUSIVE, cls.PASS):
            if verdict in seen:
                return verdict
        return cls.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        """Of a command whose result this is."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}[self]


def format_lsn(lsn: int | None) -> str | None:
    """As PostgreSQL writes it.

    >>> format_lsn(0x16_B374D848)
    '16/B374D848'
    """
    return None if lsn is None else f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class Image:
    """A row image: the hash that was compared, and the canonical text where the ledger kept it."""

    hash: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Witness:
    """One finding, with all that is needed to look it up. What does not apply is None.

    `expected` is the image of the earlier ledger (source: wal, sink: log), `found` that of the later one.
    `cause` names the anomaly that explains this finding, if one does: it is then a consequence.
    """

    note: str
    table: str | None = None
    key: str | None = None
    op: str | None = None
    xid: int | None = None
    seq: int | None = None
    commit_lsn: int | None = None
    lsn: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    object: str | None = None
    committed_at: datetime | None = None
    expected: Mapping[str, Image | None] | None = None
    found: Mapping[str, Image | None] | None = None
    cause: str | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; LSNs as PostgreSQL writes them, absent facts left out."""
        raw = {name: value for name, value in asdict(self).items() if value is not None}
        for name in ("commit_lsn", "lsn"):
            if name in raw:
                raw[name] = format_lsn(raw[name])
        if "committed_at" in raw:
            raw["committed_at"] = raw["committed_at"].isoformat()
        return raw


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The answer of one check.

    `claim` is a sentence that could be proven false; `not_proven` what a pass leaves open. `found` counts findings
    that refute the claim: `explained` of them are consequences of another anomaly, which is named in the witnesses.
    `allowed` counts what the guarantee level permits. `applies` is False when what the claim is about does not occur
    (no snapshot, no dead letters): such a result doesn't enter the verdict. `reason` says why there is none.
    """

    name: str
    group: Group
    claim: str
    not_proven: str
    verdict: Verdict
    place: Place | None = None
    found: int = 0
    explained: int = 0
    allowed: int = 0
    looked_at: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    witnesses: tuple[Witness, ...] = ()
    reason: str | None = None
    applies: bool = True
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """`name`, or `name@place` where an anomaly can happen at the source and at the sink."""
        return f"{self.name}@{self.place}" if self.place else self.name

    @property
    def is_cause(self) -> bool:
        """At least one finding is explained by nothing else."""
        return self.verdict is Verdict.FAIL and self.found > self.explained

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "place": self.place,
            "group": self.group,
            "verdict": self.verdict.value,
            "applies": self.applies,
            "claim": self.claim,
            "not_proven": self.not_proven,
            "found": self.found,
            "explained": self.explained,
            "allowed": self.allowed,
            "looked_at": self.looked_at,
            "counts": dict(self.counts),
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "witnesses": [each.to_json() for each in self.witnesses],
        }
