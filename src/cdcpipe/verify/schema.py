"""Schemas: what was registered can be read, and everything that lies together can be read together.

Ledgers hold no schemas, so these checks take facts: what the registry holds, and what each object's footer says. The
facts come from `cdcpipe.schemas` (compatibility) and from the archive's files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cdcpipe.verify.folders import promised_hour
from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

__all__ = ["ObjectSchema", "SchemaFacts", "VersionFacts", "judge"]


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One registered version. `problems` are its incompatibilities with each earlier live version, in the subject's
    mode, taken transitively: `(version, what)`. In a transitive mode every version is live, else those that something
    in the log is written with.
    """

    subject: str
    version: int
    mode: str
    problems: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectSchema:
    """One object: its columns (dotted path -> type as Parquet or Iceberg names it), and where it begins."""

    name: str
    topic: str
    partition: int
    first_offset: int
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """What is known of schemas. None: it was not asked."""

    versions: Sequence[VersionFacts] | None = None
    objects: Sequence[ObjectSchema] | None = None
    flaps_allowed: int = 2
    """How often a partition may go back, within an hour, to a schema that it had left."""


# A reader can take these as one: what Parquet and Iceberg readers promote without loss.
_PROMOTIONS: Final = (("int", "long"), ("float", "double"), ("int32", "int64"), ("date", "timestamp"))


def judge(facts: SchemaFacts | None) -> list[CheckResult]:
    """The three checks of this group; those without facts do not apply."""
    facts = facts or SchemaFacts()
    return [_illegal_evolution(facts.versions), _unreadable_hour(facts.objects), _schema_flap(facts)]


def _result(
    name: str, claim: str, not_proven: str, looked_at: int | None, witnesses: list[Witness], what: str
) -> CheckResult:
    if not looked_at:
        reason = f"{what} were not looked at" if looked_at is None else f"there are no {what}"
        return CheckResult(
            name, "schema", claim, not_proven, Verdict.INCONCLUSIVE, reason=reason, applies=looked_at is not None
        )
    verdict = Verdict.FAIL if witnesses else Verdict.PASS
    return CheckResult(
        name,
        "schema",
        claim,
        not_proven,
        verdict,
        found=len(witnesses),
        looked_at=looked_at,
        witnesses=tuple(witnesses[:20]),
    )


def _illegal_evolution(versions: Sequence[VersionFacts] | None) -> CheckResult:
    witnesses = [
        Witness(f"{each.subject} version {each.version} is not {each.mode} with version {other}: {what}")
        for each in versions or ()
        for other, what in each.problems
    ]
    return _result(
        "illegal-evolution",
        "Every registered version is compatible, in its subject's mode, with every version that something stored has.",
        "That a reader which ignores the registry can read it.",
        None if versions is None else len(versions),
        witnesses,
        "registered versions",
    )


_DECIMAL: Final = re.compile(r"decimal\d*\((\d+), ?(\d+)\)")


def can_unite(one: str, other: str) -> bool:
    """Whether one reader's column can hold both types."""
    if one == other or (one, other) in _PROMOTIONS or (other, one) in _PROMOTIONS:
        return True
    scales = [match[2] for each in (one, other) if (match := _DECIMAL.fullmatch(each))]
    return len(scales) == 2 and scales[0] == scales[1]  # of the same scale, the wider one holds both


def _hour(name: str) -> str:
    return name.rpartition("/")[0] if promised_hour(name) else ""


def _unreadable_hour(objects: Sequence[ObjectSchema] | None) -> CheckResult:
    hours: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    witnesses = []
    for each in objects or ():
        seen = hours[each.topic, _hour(each.name)]
        for column, kind in each.columns.items():
            first_kind, first_name = seen.setdefault(column, (kind, each.name))
            if not can_unite(first_kind, kind):
                note = f"column `{column}` is {kind} here and {first_kind} in {first_name}"
                witnesses.append(Witness(note, topic=each.topic, object=each.name))
    return _result(
        "unreadable-hour",
        "The objects of one folder can be read with one schema: no column has two types there.",
        "That different hours can be read together.",
        None if objects is None else len(objects),
        witnesses,
        "schemas of objects",
    )


def _schema_flap(facts: SchemaFacts) -> CheckResult:
    runs: dict[tuple[str, int, str], list[ObjectSchema]] = defaultdict(list)
    for each in facts.objects or ():
        runs[each.topic, each.partition, _hour(each.name)].append(each)
    witnesses = []
    for (topic, partition, hour), members in runs.items():
        members.sort(key=lambda each: each.first_offset)
        seen: list[frozenset[tuple[str, str]]] = []
        returns = 0
        for each in members:
            shape = frozenset(each.columns.items())
            if seen and shape != seen[-1] and shape in seen:
                returns += 1
            if not seen or shape != seen[-1]:
                seen.append(shape)
        if returns > facts.flaps_allowed:
            note = f"{returns} times back to an earlier schema over {len(members)} objects in {hour or 'one folder'}"
            witnesses.append(Witness(note, topic=topic, partition=partition, object=members[-1].name))
    return _result(
        "schema-flap",
        "No partition keeps going back and forth between schemas, which makes an object of every few records.",
        "Which writer still uses the old schema.",
        None if facts.objects is None else len(facts.objects),
        witnesses,
        "schemas of objects",
    )
