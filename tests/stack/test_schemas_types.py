"""Our schemas against what the real connector registers, live, for every type that Debezium documents.

The columns of `tests/unit/data/debezium-3.7.0-types.json`, in six sets of handling modes, each with its own connector.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.connect_types import to_avro
from cdcpipe.schemas.migration import plan_evolution
from cdcpipe.schemas.registry import Registry
from cdcpipe.schemas.types import Modes, envelope_schema, key_schema
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.connect import ConnectWorker
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.pipeline import AvroConverterName, SecretPlaces, source

pytestmark = [pytest.mark.stack, pytest.mark.slow]

RECORDED = json.loads(
    (Path(__file__).parents[1] / "unit" / "data" / "debezium-3.7.0-types.json").read_text(encoding="utf-8")
)
MODES: dict[str, dict[str, str]] = {
    "defaults": {},
    "coarse": {
        "decimal.handling.mode": "double",
        "time.precision.mode": "adaptive_time_microseconds",
        "interval.handling.mode": "numeric",
        "hstore.handling.mode": "map",
        "binary.handling.mode": "base64",
    },
    "connect": {
        "decimal.handling.mode": "string",
        "time.precision.mode": "connect",
        "binary.handling.mode": "hex",
        "money.fraction.digits": "4",
    },
    "text": {
        "time.precision.mode": "isostring",
        "binary.handling.mode": "base64-url-safe",
        "include.unknown.datatypes": "true",
    },
    "micro": {"time.precision.mode": "microseconds"},
    "nano": {"time.precision.mode": "nanoseconds"},
}
# Apicurio's converter registers these unparsed. Through the Confluent API the registry parses: JSON has no such
# numbers (Avro takes them as text where null is not allowed), and Apicurio 3.3.3 takes the text {} for a map's default.
UNREGISTRABLE = ("double precision default 'NaN'", "real default 'Infinity'")
MISTAKEN = ("jsonb not null default '{}'", "text default '{}'")
# One schema, `types`, that the stack's own connector doesn't capture: numeric(5,-2) would stop its sink.
TYPES = """
CREATE SCHEMA types; SET search_path TO types, public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN posint AS integer CHECK (value > 0);
CREATE DOMAIN price AS numeric(9,3); CREATE DOMAIN label AS varchar(7); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN mood_domain AS mood; CREATE SEQUENCE kinds_c7_seq; CREATE TABLE nokey (a int, b text);
CREATE TABLE uniq (a int NOT NULL, b text NOT NULL UNIQUE, c int)
"""
VALUES = {
    "mood": "'ok'",
    "timestamp": "now()",
    "date": "now()",
    "numeric": "1",
    "numeric(12,2)": "1",
    "uuid": "gen_random_uuid()",
    "json": "'{}'",
    "timestamptz": "now()",
    "time": "'01:00'",
    "vector(3)": "'[1,2,3]'",
    "macaddr": "'08:00:2b:01:02:03'",
}


@pytest.fixture(scope="module")
def tables(stack: LocalStack) -> Iterator[Catalog]:
    """The tables, each with a row, and their catalog."""
    admin = stack.components["postgres"]
    assert isinstance(admin, Postgres)
    database = stack.endpoints.postgres.database
    with psycopg.connect(admin.conninfo(), dbname=database, autocommit=True) as connection:
        for extension in ("citext", "hstore", "ltree", "isn", "vector"):
            connection.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}".encode())
        _make(connection)
        yield Catalog.from_database(connection)
        connection.execute("DROP SCHEMA types CASCADE")
        connection.execute("DROP PUBLICATION types")


def _make(connection: psycopg.Connection[Any]) -> None:
    connection.execute("DROP SCHEMA IF EXISTS types CASCADE")
    connection.execute("DROP PUBLICATION IF EXISTS types")
    for statement in TYPES.split(";"):
        connection.execute(statement.encode())
    kinds = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(RECORDED["types"]))
    columns = ", ".join(f"d{i} {column}" for i, column in enumerate(RECORDED["columns"]) if column not in UNREGISTRABLE)
    connection.execute(f"CREATE TABLE kinds (id int PRIMARY KEY, {kinds})".encode())
    connection.execute(f"CREATE TABLE defaults (id int, part text, {columns}, PRIMARY KEY (part, id))".encode())
    connection.execute("INSERT INTO kinds (id) VALUES (1)")
    connection.execute("INSERT INTO nokey VALUES (1, 'x')")
    connection.execute("INSERT INTO uniq VALUES (1, 'x', 1)")
    needed = {
        f"d{i}": "'{}'" if text.endswith("[] not null") else VALUES[text.removesuffix(" not null")]
        for i, text in enumerate(RECORDED["columns"])
        if text.endswith(" not null")
    }
    # NaN in a numeric stops the connector; only its default is of interest here.
    needed |= {f"d{i}": "NULL" for i, text in enumerate(RECORDED["columns"]) if text == "numeric default 'NaN'"}
    names, values = ", ".join(needed), ", ".join(needed.values())
    connection.execute(f"INSERT INTO defaults (part, id, {names}) VALUES ('x', 1, {values})".encode())
    connection.execute("CREATE PUBLICATION types FOR TABLES IN SCHEMA types")
    connection.execute("GRANT USAGE ON SCHEMA types TO PUBLIC")
    connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA types TO PUBLIC")


def _registered(endpoints: Endpoints, prefix: str, config: dict[str, str], names: tuple[str, ...]) -> dict[str, Any]:
    """Subject -> schema, as a connector with that configuration registers them; the connector is gone afterwards."""
    name, found = f"types-{prefix}", {}
    with (
        ConnectClient(endpoints.connect_url, timeout_seconds=60) as connect,
        Registry(endpoints.registry_url) as registry,
    ):
        connect.deploy(config | {"name": name})
        try:
            connect.wait_until_running(name, timeout_seconds=90)
            deadline = time.monotonic() + 120
            wanted = [f"{prefix}.types.{t}-value" for t in names]
            while not all(registry.versions(subject) for subject in wanted):
                failure = connect.status(name).failure
                assert failure is None, failure
                assert time.monotonic() < deadline, f"not all of {wanted} are registered"
                time.sleep(0.5)
            for subject in (*wanted, *(name.removesuffix("value") + "key" for name in wanted)):
                versions = registry.history(subject)
                if versions:
                    found[subject] = json.loads(versions[-1])
        finally:
            connect.delete(name)
            connect.wait_until_gone(name)
    return found


def _drop_slot(endpoints: Endpoints, stack: LocalStack, slot: str) -> None:
    admin = stack.components["postgres"]
    assert isinstance(admin, Postgres)
    with psycopg.connect(admin.conninfo(), dbname=endpoints.postgres.database, autocommit=True) as connection:
        for _ in range(100):
            row = connection.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
            if row is None or not row[0]:
                break
            time.sleep(0.2)
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )


@pytest.mark.parametrize(
    ("modes", "converter", "names"),
    [
        *((modes, "apicurio", ("kinds", "defaults", "nokey", "uniq")) for modes in MODES),
        ("defaults", "confluent", ("kinds", "nokey", "uniq")),
    ],
)
def test_what_the_connector_registers_is_what_we_say(
    stack: LocalStack, tables: Catalog, modes: str, converter: AvroConverterName, names: tuple[str, ...]
) -> None:
    endpoints, prefix = stack.endpoints, f"t{int(time.time()) % 100_000}{modes}"
    config = _config(stack, prefix, "types", converter) | MODES[modes]
    if "defaults" not in names:
        config["table.exclude.list"] = "types.defaults"
    try:
        registered = _registered(endpoints, prefix, config, names)
    finally:
        _drop_slot(endpoints, stack, prefix)
    chosen = Modes.from_config(config)
    wrong = []
    for name in names:
        table = tables.find(name, "types")
        ours = to_avro(envelope_schema(table, prefix, chosen))
        theirs = registered[f"{prefix}.types.{name}-value"]
        for mine, real in zip(_columns(ours), _columns(theirs), strict=True):
            if mine != real:
                wrong.append((name, mine, real))
        assert {key: value for key, value in ours.items() if key != "fields"} == {
            key: value for key, value in theirs.items() if key != "fields"
        }
        assert ours["fields"][1:] == theirs["fields"][1:]
        key = key_schema(table, prefix, chosen)
        assert (None if key is None else to_avro(key)) == registered.get(f"{prefix}.types.{name}-key")
    assert not wrong


@pytest.mark.parametrize("column", [*UNREGISTRABLE, *MISTAKEN])
def test_a_default_that_avro_cannot_hold_stops_the_source_as_the_plan_warns(stack: LocalStack, column: str) -> None:
    endpoints, prefix = stack.endpoints, f"u{int(time.time()) % 100_000}"
    statement = f"CREATE TABLE unregistrable.t (id int PRIMARY KEY, v {column})"
    plan = plan_evolution(Catalog.from_ddl("CREATE SCHEMA unregistrable"), statement)
    warned = "default-not-in-avro" if column in UNREGISTRABLE else "default-not-in-apicurio"
    assert warned in {hazard.code for _, hazard in plan.hazards}
    admin = stack.components["postgres"]
    assert isinstance(admin, Postgres)
    with psycopg.connect(admin.conninfo(), dbname=endpoints.postgres.database, autocommit=True) as connection:
        for line in ("DROP SCHEMA IF EXISTS unregistrable CASCADE", "CREATE SCHEMA unregistrable", statement):
            connection.execute(line.encode())
        connection.execute("INSERT INTO unregistrable.t VALUES (1, '1')")
        connection.execute("CREATE PUBLICATION unregistrable FOR TABLES IN SCHEMA unregistrable")
        connection.execute("GRANT USAGE ON SCHEMA unregistrable TO PUBLIC")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA unregistrable TO PUBLIC")
        try:
            with ConnectClient(endpoints.connect_url, timeout_seconds=60) as connect:
                config = _config(stack, prefix, "unregistrable", "confluent") | {"name": prefix}
                connect.deploy(config)
                deadline = time.monotonic() + 90
                failure = None
                while failure is None:
                    assert time.monotonic() < deadline, "it was registered"
                    time.sleep(0.5)
                    with contextlib.suppress(ConnectError):  # a new connector has no status yet
                        failure = connect.status(prefix).failure
            assert "error code: 42201" in failure
        finally:
            with ConnectClient(endpoints.connect_url, timeout_seconds=60) as connect:
                connect.delete(prefix)
                connect.wait_until_gone(prefix)
            _drop_slot(endpoints, stack, prefix)
            connection.execute("DROP PUBLICATION unregistrable")
            connection.execute("DROP SCHEMA unregistrable CASCADE")


def _config(stack: LocalStack, prefix: str, schema: str, converter: AvroConverterName) -> dict[str, str]:
    """The stack's source, for the tables of another schema, whose name is its publication's too."""
    secrets = SecretPlaces.in_file(str(ConnectWorker.secrets_file(stack.folder / "connect")))
    base = source(stack.endpoints, replace(stack.settings, converter=converter), secrets).to_config()
    taken = ("table.include.list", "schema.include.list")
    kept = {key: value for key, value in base.items() if not key.startswith("heartbeat.") and key not in taken}
    return kept | {
        "topic.prefix": prefix,
        "slot.name": prefix,
        "publication.name": schema,
        "schema.include.list": schema,
    }


def _columns(schema: Any) -> list[dict[str, Any]]:
    fields = schema["fields"][0]["type"][1]["fields"]
    assert isinstance(fields, list)
    return fields
