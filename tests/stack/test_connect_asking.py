"""What is asked of PostgreSQL is what it says: publications, replica identities, slots."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.unit.connect_pipelines import changed, pipeline

from cdcpipe.connect.asking import Servers, gather
from cdcpipe.connect.facts import DatabaseFacts
from cdcpipe.connect.guards import check
from cdcpipe.connect.pipeline import Pipeline
from cdcpipe.stack.endpoints import PostgresEndpoint

pytestmark = pytest.mark.postgres

SCHEMA = """
CREATE SCHEMA cdcpipe;
CREATE TABLE cdcpipe.watermark (name text PRIMARY KEY, token bigint);
ALTER TABLE cdcpipe.watermark REPLICA IDENTITY FULL;
CREATE TABLE public.orders (id int PRIMARY KEY, note text, gone text, twice int GENERATED ALWAYS AS (id * 2) STORED);
ALTER TABLE public.orders DROP COLUMN gone;
CREATE TABLE public.keyless (a int);
CREATE TABLE public.nothing (id int PRIMARY KEY, note text);
ALTER TABLE public.nothing REPLICA IDENTITY NOTHING;
CREATE TABLE public.whole (a int, note text);
ALTER TABLE public.whole REPLICA IDENTITY FULL;
CREATE TABLE public.parts (id int, note text) PARTITION BY RANGE (id);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (10);
CREATE PUBLICATION shop FOR TABLE cdcpipe.watermark, public.orders, public.nothing, public.whole;
CREATE PUBLICATION narrow FOR TABLE public.orders (id), public.nothing WHERE (id > 5) WITH (publish = 'insert, update');
"""


@pytest.fixture(scope="module")
def database(postgres: PostgresEndpoint) -> Iterator[DatabaseFacts]:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(SCHEMA)
    with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('shop_source', 'test_decoding')")
        try:
            facts = gather(Pipeline(), Servers(postgres=postgres.conninfo("witness")))
            assert facts.database is not None
            yield facts.database
        finally:
            connection.execute("SELECT pg_drop_replication_slot('shop_source')")


def test_replica_identities_and_large_columns_are_read(database: DatabaseFacts) -> None:
    found = {name: (table.identity, table.has_key, table.toastable) for name, table in database.tables.items()}
    assert found == {
        "cdcpipe.watermark": ("f", True, ("name",)),
        "public.orders": ("d", True, ("note",)),
        "public.keyless": ("d", False, ()),
        "public.nothing": ("n", True, ("note",)),
        "public.whole": ("f", False, ("note",)),
        "public.parts": ("d", False, ("note",)),
        "public.parts_1": ("d", False, ("note",)),
    }


def test_publications_are_read_with_what_they_leave_out(database: DatabaseFacts) -> None:
    shop, narrow = database.publications["shop"], database.publications["narrow"]
    assert shop.tables == {"cdcpipe.watermark", "public.orders", "public.nothing", "public.whole"}
    assert shop.operations == {"insert", "update", "delete", "truncate"}
    assert (shop.row_filters, shop.column_lists) == ((), ())
    assert narrow.operations == {"insert", "update"}
    assert narrow.row_filters == ("public.nothing",)
    assert narrow.column_lists == ("public.orders",)


def test_settings_version_and_slots_are_read(database: DatabaseFacts) -> None:
    assert database.version >= 180000
    assert database.settings["wal_level"] == "logical"
    slot = database.slots["shop_source"]
    assert (slot.plugin, slot.database, slot.wal_status) == ("test_decoding", database.database, "reserved")


def test_a_real_database_breaks_the_guards_that_it_should(postgres: PostgresEndpoint, database: DatabaseFacts) -> None:
    whole = changed(pipeline("iceberg"), "source", {"database.dbname": database.database})
    facts = gather(whole, Servers(postgres=postgres.conninfo("witness")))
    with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (1,)
    notes = {found.rule: found.message for found in check(whole, facts=facts).findings}
    assert set(notes) == {"PG-PUB-02", "PG-RID-01", "PG-RID-02", "PG-SLT-02"}
    assert "`public.keyless`, `public.parts`, `public.parts_1`" in notes["PG-PUB-02"]
    assert "`public.keyless`, `public.nothing`" in notes["PG-RID-01"]
    assert "`public.orders`" in notes["PG-RID-02"]


def test_another_database_is_said_and_not_judged(postgres: PostgresEndpoint, database: DatabaseFacts) -> None:
    facts = gather(pipeline("iceberg"), Servers(postgres=postgres.conninfo("witness")))
    report = check(pipeline("iceberg"), facts=facts)
    assert {one.rule for one in report.unanswered} >= {"PG-PUB-01", "PG-PUB-02", "PG-RID-01"}
    assert any("which was not asked" in one.reason for one in report.unanswered)


def test_a_wrong_password_is_said_without_showing_it(postgres: PostgresEndpoint) -> None:
    facts = gather(Pipeline(), Servers(postgres=postgres.conninfo("witness") + "x"))
    assert "postgres" not in facts.answered
    assert "password authentication failed" in facts.silence("postgres")
    assert str(postgres.roles["witness"].password) not in facts.silence("postgres")


def test_servers_that_are_not_there_are_said() -> None:
    facts = gather(
        pipeline("iceberg"),
        Servers("host=127.0.0.1 port=9", "127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1:9"),
        timeout_seconds=2,
    )
    assert facts.answered == frozenset()
    assert set(facts.silences) == {"postgres", "kafka", "connect", "registry"}
    assert not any("was not asked" in reason for reason in facts.silences.values())
