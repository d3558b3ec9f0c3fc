"""Our schemas against what Debezium 3.7.0.Final registered, as recorded in `data/debezium-3.7.0-types.json`.

`tests/stack/test_schemas_types.py` makes the same comparison with the connector of the stack, live.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdcpipe.errors import ConfigError
from cdcpipe.schemas.avro import parse
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.connect_types import avro_name, to_avro
from cdcpipe.schemas.table import PgType
from cdcpipe.schemas.types import Modes, connect_schema, envelope_schema, key_schema, oddities

RECORDED = json.loads((Path(__file__).parent / "data" / "debezium-3.7.0-types.json").read_text(encoding="utf-8"))
MODES = {
    "base": Modes(),
    "m1": Modes("double", "adaptive_time_microseconds", "numeric", "map", "base64"),
    "m2": Modes("string", "connect", binary="hex"),
    "m3": Modes(time="isostring", binary="base64-url-safe", include_unknown=True),
}
TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN posint AS integer CHECK (value > 0);
CREATE DOMAIN price AS numeric(9,3); CREATE DOMAIN label AS varchar(7); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN mood_domain AS mood;
"""


def _catalog() -> Catalog:
    kinds = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(RECORDED["types"]))
    columns = ", ".join(f"d{i} {column}" for i, column in enumerate(RECORDED["columns"]))
    return Catalog.from_ddl(
        f"{TYPES} CREATE TABLE kinds (id int PRIMARY KEY, {kinds}); CREATE TABLE nokey (a int, b text);"
        f"CREATE TABLE defaults (id int, part text, {columns}, PRIMARY KEY (part, id));"
    )


def _row(schema: Any) -> dict[str, Any]:
    fields = schema["fields"][0]["type"][1]["fields"]
    return {field["name"]: {key: value for key, value in field.items() if key != "name"} for field in fields}


@pytest.mark.parametrize("mode", MODES)
def test_every_documented_type_has_the_schema_that_debezium_registered(mode: str) -> None:
    catalog = _catalog()
    expected = RECORDED["registered"]["base"] | RECORDED["registered"][mode]
    ours: dict[str, Any] = dict.fromkeys(expected)
    for table in ("kinds", "defaults"):
        rows = _row(to_avro(envelope_schema(catalog.find(table), "cdc", MODES[mode])))
        ours |= {name: field for name, field in rows.items() if name in expected}
    wrong = {name: (ours[name], expected[name]) for name in expected if ours[name] != expected[name]}
    assert not wrong
    assert len(expected) > 200


def test_envelope_and_key_are_whole() -> None:
    catalog = _catalog()
    assert to_avro(envelope_schema(catalog.find("nokey"), "base")) == RECORDED["envelope"]
    key = key_schema(catalog.find("defaults"), "base")
    assert key is not None
    assert to_avro(key) == RECORDED["key"]
    assert key_schema(catalog.find("nokey"), "base") is None


def test_what_is_registered_is_valid_avro() -> None:
    for table in ("kinds", "defaults"):
        parse(json.dumps(to_avro(envelope_schema(_catalog().find(table), "cdc"))))


def test_oddities_of_a_type_are_told() -> None:
    assert "2046" in oddities(PgType("numeric", (5, -2)))[0]
    assert "leaves the column out" in oddities(PgType("xid8"))[0]
    assert oddities(PgType("int4")) == ()
    assert connect_schema(PgType("xid8")) is None


def test_names_are_adjusted_for_avro() -> None:
    assert [avro_name(name) for name in ("id", "2nd", "a-b", "ümlaut", "")] == ["id", "_2nd", "a_b", "_mlaut", ""]


def test_a_mode_that_debezium_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="no time handling mode"):
        Modes.from_config({"time.precision.mode": "adaptiv"})
    assert Modes.from_config({}).interval == "numeric"
