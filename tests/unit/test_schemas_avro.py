"""Avro compatibility: what is said about a pair, and where. Verdicts alone are held against Java in tests/property."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdcpipe.errors import ConfigError
from cdcpipe.schemas.avro import Record, parse
from cdcpipe.schemas.compatibility import Kind, Mode, check, check_history, misreadings, problems, readable
from cdcpipe.schemas.connect_types import to_avro
from cdcpipe.schemas.table import Column, PgType, Table
from cdcpipe.schemas.types import envelope_schema

INT, TEXT = PgType("int4"), PgType("text")


def envelope(*columns: Column, name: str = "orders") -> Any:
    table = Table("public", name, (Column("id", INT, not_null=True), *columns), ("id",))
    return parse(json.dumps(to_avro(envelope_schema(table, "cdc"))))


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> Any:
    return parse(json.dumps({"type": "record", "name": name, "fields": list(fields), **more}))


def test_a_type_change_is_told_by_the_column_through_the_envelope() -> None:
    old = envelope(Column("amount", PgType("float8"), not_null=True))
    new = envelope(Column("amount", PgType("numeric", (12, 2)), not_null=True))
    (found,) = problems(new, old)
    assert found.kind is Kind.TYPE
    assert found.column == "public.orders.amount"
    assert found.path == ("before", "amount")
    assert found.sentence == "public.orders.amount: double can't be read as decimal(12,2)"


def test_a_nullable_column_is_told_by_the_branch_that_was_meant() -> None:
    old, new = envelope(Column("n", INT)), envelope(Column("n", TEXT))
    assert [item.sentence for item in problems(new, old)] == ["public.orders.n: int can't be read as string"]


def test_null_in_a_column_that_became_required_is_told() -> None:
    old, new = envelope(Column("n", INT)), envelope(Column("n", INT, not_null=True))
    (found,) = problems(new, old)
    assert found.column == "public.orders.n"
    assert "null" in found.sentence
    assert readable(old, new)


@pytest.mark.parametrize(
    ("reader", "writer", "kind"),
    [
        (
            {"type": "enum", "name": "E", "symbols": ["A"]},
            {"type": "enum", "name": "E", "symbols": ["A", "B"]},
            Kind.ENUM_SYMBOLS,
        ),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "F", "size": 3}, Kind.FIXED_SIZE),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "G", "size": 2}, Kind.NAME),
        (["null", "int"], ["null", "int", "string"], Kind.TYPE),
        (["int", "string"], ["int", "boolean"], Kind.UNION_BRANCH),
        ("int", "long", Kind.TYPE),
        ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, Kind.TYPE),
    ],
)
def test_each_kind_is_named(reader: Any, writer: Any, kind: Kind) -> None:
    assert [item.kind for item in problems(parse(json.dumps(reader)), parse(json.dumps(writer)))] == [kind]


def test_an_enum_with_a_default_reads_unknown_symbols() -> None:
    reader = parse('{"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}')
    assert readable(reader, parse('{"type": "enum", "name": "E", "symbols": ["A", "B"]}'))


def test_an_alias_reads_a_renamed_field_and_two_matches_are_refused() -> None:
    renamed = record({"name": "b", "type": "int", "aliases": ["a"]})
    assert readable(renamed, record({"name": "a", "type": "int"}))
    both = record({"name": "a", "type": "int"}, {"name": "b", "type": "int"})
    assert [item.kind for item in problems(renamed, both)] == [Kind.ALIAS]
    assert [item.kind for item in problems(record({"name": "c", "type": "int"}), both)] == [Kind.NO_DEFAULT]


def test_recursive_schemas_are_compared_without_end() -> None:
    tree = {"name": "next", "type": ["null", "R"], "default": None}
    one, two = record(tree, {"name": "v", "type": "int"}), record(tree, {"name": "v", "type": "long"})
    assert readable(two, one)
    assert [item.path for item in problems(one, two)] == [("v",)]


JAVA_IS_WRONG = (
    [
        {
            "type": "record",
            "name": "x.A",
            "fields": [
                {
                    "name": "b",
                    "type": {"type": "record", "name": "x.B", "fields": [{"name": "a", "type": ["null", "x.A"]}]},
                },
                {"name": "bad", "type": "string"},
            ],
        },
        {"type": "record", "name": "y.A", "fields": [{"name": "b", "type": "x.B"}]},
    ],
    {
        "type": "record",
        "name": "A",
        "fields": [
            {"name": "b", "type": {"type": "record", "name": "B", "fields": [{"name": "a", "type": ["null", "A"]}]}},
            {"name": "bad", "type": "int"},
        ],
    },
)


def test_a_verdict_that_rests_on_a_failed_assumption_is_dropped() -> None:
    """`x.B` reads `B` only if `x.A` reads `A`, which it doesn't. Java says that it reads all."""
    assert not readable(parse(json.dumps(JAVA_IS_WRONG[0])), parse(json.dumps(JAVA_IS_WRONG[1])))


def test_a_misreading_is_no_incompatibility_but_told() -> None:
    old, new = envelope(Column("n", PgType("numeric", (12, 2)))), envelope(Column("n", PgType("numeric", (14, 4))))
    assert readable(new, old)
    (found,) = misreadings(new, old)
    assert found.kind is Kind.SCALE
    assert found.column == "public.orders.n"
    seconds, micros = envelope(Column("t", PgType("timestamp", (3,)))), envelope(Column("t", PgType("timestamp")))
    assert [item.kind for item in misreadings(micros, seconds)] == [Kind.MEANING]
    assert misreadings(old, old) == ()


def test_modes_look_where_they_should() -> None:
    first = envelope(Column("n", INT, not_null=True))
    second = envelope(Column("n", INT, not_null=True, default="5"))
    third = envelope()
    assert check(second, [first], Mode.FULL_TRANSITIVE).compatible
    assert check(third, [first, second], Mode.FULL).compatible
    refused = check(third, [first, second], Mode.FULL_TRANSITIVE)
    assert [(c.direction, c.version, c.problem.column) for c in refused.conflicts] == [
        ("forward", 1, "public.orders.n")
    ]
    assert check(third, [first, second], Mode.BACKWARD_TRANSITIVE).compatible
    assert check(third, [first], Mode.NONE).compatible
    assert [v.compatible for v in check_history([first, second, third], Mode.FORWARD_TRANSITIVE)] == [True, True, False]
    assert "readers of version 1 can't read new records" in refused.conflicts[0].sentence


def test_names_are_resolved_in_the_namespace_of_what_encloses_them() -> None:
    schema = parse(
        '{"type": "record", "name": "a.R", "fields": [{"name": "f", "type": {"type": "fixed", "name": "F", "size": 1}},'
        ' {"name": "g", "type": "F"}, {"name": "h", "type": "a.F"}]}'
    )
    assert isinstance(schema, Record)
    assert schema.fields["g"].schema is schema.fields["f"].schema is schema.fields["h"].schema


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "X"}]}', "`X` is not defined"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "default": "x"}]}', "no `int`"),
        ('["int", "int"]', "twice in one union"),
        ('["int", ["null"]]', "may not directly hold"),
        ('{"type": "fixed", "name": "F"}', "no size"),
        ("{", "not an Avro schema"),
        ('{"type": "record", "name": "1R", "fields": []}', "not an Avro name"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(text)
