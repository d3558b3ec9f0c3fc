"""Checks of schemas over facts: what was registered, what lies together."""

from __future__ import annotations

import random

import pytest

from cdcpipe.verify import Verdict
from cdcpipe.verify.schema import ObjectSchema, SchemaFacts, VersionFacts, can_unite, judge

FOLDER = "lake/orders/data/event_time_hour=2026-11-24-{hour:02d}"


def verdicts(facts: SchemaFacts | None) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in judge(facts) if each.applies}


def good(seed: int) -> SchemaFacts:
    """A table whose columns grow, hour by hour; the new schema appears once and stays."""
    rng = random.Random(seed)
    columns = {"after.id": "long", "after.note": "string"}
    objects = []
    for number in range(rng.randrange(4, 30)):
        if rng.random() < 0.2:
            columns = columns | {f"after.c{number}": rng.choice(["int", "string", "double"])}
        name = FOLDER.format(hour=number // 4) + f"/{number}.parquet"
        objects.append(ObjectSchema(name, "t", rng.randrange(2), number * 100, dict(columns)))
    versions = [VersionFacts("t-value", number, "BACKWARD") for number in range(1, 4)]
    return SchemaFacts(versions, objects)


@pytest.mark.parametrize("seed", range(200))
def test_a_schema_that_grows_raises_no_alarm(seed: int) -> None:
    assert set(verdicts(good(seed)).values()) == {Verdict.PASS}


def failed(facts: SchemaFacts) -> set[str]:
    return {name for name, verdict in verdicts(facts).items() if verdict is Verdict.FAIL}


@pytest.mark.parametrize("seed", range(5))
def test_a_version_that_older_data_can_not_be_read_with_is_illegal(seed: int) -> None:
    facts = good(seed)
    assert facts.versions is not None
    bad = VersionFacts("t-value", 4, "BACKWARD", ((1, "field `c` has no default"),))
    result = failed(SchemaFacts([*facts.versions, bad], facts.objects))
    assert result == {"illegal-evolution"}


@pytest.mark.parametrize("seed", range(5))
def test_a_column_of_two_types_in_one_hour_is_unreadable(seed: int) -> None:
    facts = good(seed)
    assert facts.objects is not None
    first = facts.objects[0]
    other = ObjectSchema(first.name + ".b.parquet", "t", 1, 5, {**first.columns, "after.id": "string"})
    assert failed(SchemaFacts(facts.versions, [*facts.objects, other])) == {"unreadable-hour"}


@pytest.mark.parametrize("seed", range(5))
def test_two_writers_that_alternate_schemas_flap(seed: int) -> None:
    facts = good(seed)
    assert facts.objects is not None
    name = FOLDER.format(hour=20) + "/{number}.parquet"
    flapping = [
        ObjectSchema(
            name.format(number=number),
            "t",
            0,
            number,
            {"after.id": "long"} | ({"after.x": "int"} if number % 2 else {}),
        )
        for number in range(8 + seed)
    ]
    assert failed(SchemaFacts(facts.versions, [*facts.objects, *flapping])) == {"schema-flap"}


def test_without_facts_nothing_is_judged_and_nothing_claimed() -> None:
    assert verdicts(None) == {}
    assert {each.verdict for each in judge(SchemaFacts((), ()))} == {Verdict.INCONCLUSIVE}


def test_types_that_readers_promote_can_be_united() -> None:
    assert can_unite("int", "long")
    assert can_unite("long", "int")
    assert not can_unite("long", "string")
