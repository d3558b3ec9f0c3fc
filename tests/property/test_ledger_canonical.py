"""The short cuts for columns against the plain definition, and both sides of a value against each other."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcpipe.ledger import avro, canonical, wires
from cdcpipe.ledger.avro import Wire
from cdcpipe.ledger.canonical import Modes, encode, family_of, from_text
from cdcpipe.ledger.catalogue import Type
from cdcpipe.ledger.columns import Cell, Engine, image_sql, strip_sql, text_sql

EXACT = Modes()
CONNECT = Modes(time="connect", decimal="double", interval="numeric")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


def run(engine: Engine, sql: str, values: pa.Array) -> list[str | None]:
    found: list[str | None] = engine.query(f"SELECT {sql} AS p FROM t", t=pa.table({"x": values}))["p"].to_pylist()
    return found


def as_text(value: Any) -> str:
    """As PostgreSQL prints it in a session of the reader's."""
    match value:
        case bool():
            return "t" if value else "f"
        case float():
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
        case Decimal():
            return "NaN" if value.is_nan() else format(value, "f")
        case datetime():
            return value.isoformat(sep=" ").removesuffix("+00:00") + ("+00" if value.tzinfo else "")
        case bytes():
            return "\\x" + value.hex()
        case _:
            return str(value)


numbers = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20).map(
    lambda value: value + 0 if value else Decimal("0.000000")
)
years = st.sampled_from(["0001-01-01", "9999-12-31", "10000-01-01", "294276-12-31", "0044-03-15", "1970-01-01"])
stamps = st.one_of(
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(as_text),
    st.builds(lambda d, bc: f"{d} 01:02:03.5{bc}", years, st.sampled_from(["", " BC"])),
    st.sampled_from(["infinity", "-infinity", "1969-12-31 23:59:59.999999", "2026-02-28 00:00:00"]),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)

TEXTS: dict[str, tuple[Type, st.SearchStrategy[str]]] = {
    "int8": (Type("int8"), st.integers(-(2**63), 2**63 - 1).map(str)),
    "numeric": (Type("numeric"), numbers.map(as_text) | st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "100"])),
    "float8": (Type("float8"), st.floats().map(as_text)),
    "float4": (Type("float4"), st.floats(width=32).map(as_text)),
    "bool": (Type("bool"), st.booleans().map(as_text)),
    "bit": (Type("bit", typmod=1), st.sampled_from(["0", "1"])),
    "date": (Type("date"), st.dates().map(str) | years | years.map(lambda d: f"{d} BC") | st.just("infinity")),
    "time": (Type("time"), st.times().map(str) | st.just("24:00:00")),
    "timetz": (Type("timetz"), st.times().map(lambda t: f"{t}+05:30")),
    "timestamp": (Type("timestamp"), stamps),
    "timestamptz": (
        Type("timestamptz"),
        stamps.map(lambda s: s if "inf" in s else s.replace(" BC", "") + "+00" + (" BC" if "BC" in s else "")),
    ),
    "text": (Type("text"), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "json": (Type("json"), json_values.map(lambda v: json.dumps(v, indent=1))),
    "bytea": (Type("bytea"), st.binary().map(as_text)),
    "interval": (Type("interval"), st.sampled_from(["1 year 2 mons -3 days -04:05:06.7", "00:00:00", "-1 days"])),
}


@pytest.mark.parametrize("modes", [EXACT, CONNECT], ids=["exact", "connect"])
@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_column_of_text_has_the_payloads_of_its_values(
    engine: Engine, data: st.DataObject, name: str, modes: Modes
) -> None:
    type_, strategy = TEXTS[name]
    values = data.draw(st.lists(st.none() | strategy, min_size=1, max_size=20))
    sql = text_sql(engine, "x", type_, modes)
    expected = [None if value is None else canonical.payload_from_text(value, type_, modes) for value in values]
    assert run(engine, sql, pa.array(values, pa.string())) == expected


EPOCH = datetime(1970, 1, 1)


def micros(value: datetime) -> int:
    return (value - EPOCH) // timedelta(microseconds=1)


def avro_decimal(value: Decimal) -> bytes:
    unscaled = int(value.scaleb(6))
    return unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)


_T = "io.debezium.time."
DECIMAL = Wire("bytes", "org.apache.kafka.connect.data.Decimal", 6)
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
# type, wire, what both sides are made of, its text in PostgreSQL, its value in Debezium, Arrow type
BOTH: dict[str, tuple[Type, Wire, st.SearchStrategy[Any], Any, Any, pa.DataType]] = {
    "numeric-precise": (Type("numeric"), DECIMAL, numbers, as_text, avro_decimal, pa.binary()),
    "numeric-string": (Type("numeric"), Wire("string"), numbers, as_text, lambda v: format(v, "f"), pa.string()),
    "float8": (Type("float8"), Wire("double"), st.floats(), as_text, float, pa.float64()),
    "float4": (
        Type("float4"),
        Wire("float"),
        st.floats(width=32),
        lambda v: as_text(v) if math.isnan(v) or math.isinf(v) else f"{v:.9g}",
        float,
        pa.float32(),
    ),
    "date": (
        Type("date"),
        Wire("int", f"{_T}Date"),
        st.dates(),
        str,
        lambda v: (v - date(1970, 1, 1)).days,
        pa.int32(),
    ),
    "timestamp-micro": (Type("timestamp"), Wire("long", f"{_T}MicroTimestamp"), moments, as_text, micros, pa.int64()),
    "timestamp-iso": (
        Type("timestamp"),
        Wire("string", f"{_T}IsoTimestamp"),
        moments,
        as_text,
        lambda v: v.isoformat() + "Z",
        pa.string(),
    ),
    "timestamptz": (
        Type("timestamptz"),
        Wire("string", f"{_T}ZonedTimestamp"),
        moments,
        lambda v: as_text(v) + "+00",
        lambda v: v.isoformat() + "Z",
        pa.string(),
    ),
    "time": (
        Type("time"),
        Wire("long", f"{_T}MicroTime"),
        st.times(),
        str,
        lambda v: micros(datetime.combine(EPOCH, v)),
        pa.int64(),
    ),
    "bytea": (Type("bytea"), Wire("bytes"), st.binary(max_size=40), as_text, bytes, pa.binary()),
    "text": (Type("text"), Wire("string"), st.text(st.characters(exclude_categories=["Cs"])), str, str, pa.string()),
    "bool": (Type("bool"), Wire("boolean"), st.booleans(), as_text, bool, pa.bool_()),
}


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_postgresql_and_debezium_meet_in_the_same_payload(engine: Engine, data: st.DataObject, name: str) -> None:
    type_, wire, strategy, to_text, to_wire, arrow = BOTH[name]
    values = data.draw(st.lists(st.none() | strategy, min_size=1, max_size=20))
    texts = [None if value is None else to_text(value) for value in values]
    written = [None if value is None else to_wire(value) for value in values]
    family = family_of(type_, EXACT)
    assert family is not None
    expected = [None if t is None else canonical.payload_from_text(t, type_, EXACT) for t in texts]
    scalar = [None if w is None else wires.payload(w, wire, family, type_, EXACT) for w in written]
    assert scalar == expected
    column = pa.array(written, arrow)
    sql = wires.wire_sql(engine, "x", wire, family, type_, EXACT)
    if sql is None:
        column, toasts = wires.payload_array(pa.chunked_array([column]), wire, family, type_, EXACT)
        assert toasts is None
        sql = strip_sql("(x::VARCHAR)") if pa.types.is_decimal(column.type) else "x"
    assert run(engine, sql, column) == expected


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(*[st.none() | st.text(max_size=3)] * 3), min_size=2, max_size=8))
def test_two_row_images_are_equal_only_when_the_rows_are(
    engine: Engine, rows: list[tuple[str | None, str | None, str | None]]
) -> None:
    names = ["b", "a", "aa"]
    cells = [Cell(name, "s", name) for name in names]
    columns = {name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)}
    images = engine.query(f"SELECT {image_sql(cells)} AS image FROM t", t=pa.table(columns))["image"].to_pylist()
    assert len(set(images)) == len(set(rows))
    for row, image in zip(rows, images, strict=True):
        assert image == canonical.image({name: encode("s", each) for name, each in zip(names, row, strict=True)})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("12", "text"), ("12", "int8")),
        (("", "text"), (None, "text")),
        (("0", "float8"), ("-0", "float8")),
        (("t", "bool"), ("t", "text")),
        (("infinity", "timestamp"), ("infinity", "text")),
        (("{NULL}", "_text"), ('{"NULL"}', "_text")),
        (("{a,b}", "_text"), ('{"a,b"}', "_text")),
        (("{}", "_text"), ("{NULL}", "_text")),
        (("{{1,2}}", "_int4"), ("{1,2}", "_int4")),
    ],
)
def test_what_looks_alike_is_not_equal(left: tuple[str | None, str], right: tuple[str | None, str]) -> None:
    def encoded(value: tuple[str | None, str]) -> str:
        text, name = value
        type_ = Type(name, "array", element=Type(name[1:])) if name[0] == "_" else Type(name)
        return from_text(text, type_, EXACT)

    assert encoded(left) != encoded(right)


@pytest.mark.parametrize(
    ("type_", "left", "right"),
    [
        (Type("numeric"), "1.500", "1.5"),
        (Type("numeric"), "-0.00", "0"),
        (Type("json"), '{"b":1,"aa":[1.0 ,2e1]}', '{"aa": [1.0, 20], "b": 1}'),
        (Type("json"), '{"a":1,"a":2}', '{"a":2}'),
        (Type("timestamptz"), "2026-01-01 02:00:00+02", "2026-01-01 00:00:00+00"),
        (Type("_int4", "array", element=Type("int4")), "[0:1]={1,2}", "{1,2}"),
        (Type("hstore"), '"b"=>"1", "a"=>NULL', '"a"=>NULL, "b"=>"1"'),
        (Type("tstzrange", "range"), '["2026-01-01 02:00:00+02",)', '["2026-01-01 00:00:00+00",)'),
    ],
)
def test_two_ways_to_write_a_value_are_one(type_: Type, left: str, right: str) -> None:
    assert from_text(left, type_, EXACT) == from_text(right, type_, EXACT)


def test_a_type_without_a_family_is_refused() -> None:
    with pytest.raises(KeyError, match="polygon has no canonical form"):
        from_text("((0,0))", Type("polygon"), EXACT)


ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "cdc.t",
    "fields": [
        {
            "name": "before",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Value",
                    "fields": [
                        {"name": "id", "type": "long"},
                        {"name": "name", "type": ["null", "string"]},
                        {"name": "tags", "type": ["null", {"type": "array", "items": ["null", "int"]}]},
                        {"name": "map", "type": ["null", {"type": "map", "values": ["null", "string"]}]},
                        {
                            "name": "at",
                            "type": ["null", {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}],
                        },
                    ],
                },
            ],
        },
        {"name": "after", "type": ["null", "Value"]},
        {"name": "op", "type": "string"},
    ],
}

value_records = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1),
        "name": st.none() | st.text(max_size=8),
        "tags": st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=3),
        "map": st.none() | st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3), max_size=3),
        "at": st.none() | st.integers(-(10**15), 10**15),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(
        st.fixed_dictionaries(
            {"before": st.none() | value_records, "after": st.none() | value_records, "op": st.sampled_from("cud")}
        ),
        min_size=1,
        max_size=10,
    )
)
def test_records_read_by_columns_are_those_that_fastavro_wrote(records: list[dict[str, Any]]) -> None:
    payloads: list[bytes] = []
    for record in records:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, ENVELOPE, record)
        payloads.append(out.getvalue())
    read = avro.read(payloads, avro.flatten(ENVELOPE)).to_pylist()
    for record in read:
        for side in ("before", "after"):
            if record[side] is not None and record[side]["map"] is not None:
                record[side]["map"] = {pair["key"]: pair["value"] for pair in record[side]["map"]}
    assert read == records


def test_the_meaning_of_a_column_is_found_behind_a_name_used_twice() -> None:
    wire = avro.wire_of(ENVELOPE)
    before, after = wire.field("before"), wire.field("after")
    assert before is not None
    assert before == after
    assert before.field("at") == Wire("long", "io.debezium.time.MicroTimestamp")
    assert before.field("map") == Wire("map", element=Wire("string"))


def test_bytes_that_do_not_fit_their_schema_are_refused() -> None:
    from cdcpipe.errors import EvidenceError

    with pytest.raises(EvidenceError, match="don't fit their schema"):
        avro.read([b"\x02\x01garbage"], avro.flatten(ENVELOPE))


def test_time_of_day_is_kept() -> None:
    assert canonical.time_us(str(time(23, 59, 59, 999_999))) == canonical.US_PER_DAY - 1
