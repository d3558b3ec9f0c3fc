"""The guard of `cdcpipe.stack.rowwise`: each row of a COPY has a WAL record, and so an LSN, of its own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.rowwise import ROW_BY_ROW, insert_row_by_row

Connection = psycopg.Connection[tuple[object, ...]]
_SLOT = "rowwise_test"


@pytest.fixture
def guarded(postgres: PostgresEndpoint, postgres_server: Postgres) -> Iterator[Connection]:
    """The owner of a database with the guard on schema `public`, and a publication of it."""
    admin = psycopg.connect(postgres_server.conninfo(), dbname=postgres.database, autocommit=True)
    with admin, psycopg.connect(postgres.conninfo("owner"), autocommit=True) as owner:
        admin.execute("CREATE SCHEMA IF NOT EXISTS cdcpipe")
        admin.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        admin.execute("CREATE PUBLICATION rowwise FOR TABLES IN SCHEMA public")
        insert_row_by_row(admin, ["public"])
        insert_row_by_row(admin, ["public"])  # it may run again
        yield owner
        admin.execute(f"DROP EVENT TRIGGER {ROW_BY_ROW}")
        admin.execute("DROP PUBLICATION rowwise")
        admin.execute("DROP SCHEMA cdcpipe CASCADE")


def records_of_copy(postgres: PostgresEndpoint, owner: Connection, table: str) -> tuple[int, int]:
    """Inserts that pgoutput gives of a COPY of ten rows, and at how many LSNs they lie."""
    with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as witness:
        witness.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [_SLOT])
        try:
            with owner.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                copy.write("".join(f"{number}\tx\n" for number in range(10)))
            row = witness.execute(
                "SELECT count(*), count(DISTINCT lsn) FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, "
                "'proto_version', '1', 'publication_names', 'rowwise') WHERE get_byte(data, 0) = ascii('I')",
                [_SLOT],
            ).fetchone()
        finally:
            witness.execute("SELECT pg_drop_replication_slot(%s)", [_SLOT])
    assert row is not None
    return row[0], row[1]


def test_each_row_of_a_copy_has_an_lsn_of_its_own(postgres: PostgresEndpoint, guarded: Connection) -> None:
    guarded.execute("CREATE TABLE plain (id int PRIMARY KEY, body text)")
    assert records_of_copy(postgres, guarded, "plain") == (10, 10)


def test_partitions_are_guarded_whether_made_or_attached(postgres: PostgresEndpoint, guarded: Connection) -> None:
    guarded.execute("CREATE TABLE parted (id int, body text) PARTITION BY RANGE (id)")
    guarded.execute("CREATE TABLE parted_made PARTITION OF parted FOR VALUES FROM (0) TO (5)")
    guarded.execute("CREATE TABLE parted_attached (id int, body text)")
    guarded.execute("ALTER TABLE parted ATTACH PARTITION parted_attached FOR VALUES FROM (5) TO (100)")
    assert records_of_copy(postgres, guarded, "parted") == (10, 10)


def test_tables_that_were_there_and_those_of_a_query_are_guarded(
    postgres: PostgresEndpoint, postgres_server: Postgres, guarded: Connection
) -> None:
    guarded.execute("CREATE TABLE of_query AS SELECT 1 AS id, 'x' AS body")
    assert records_of_copy(postgres, guarded, "of_query") == (10, 10)
    guarded.execute("CREATE TABLE earlier (id int, body text)")
    row = guarded.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'earlier'::regclass").fetchone()
    assert row is not None
    guarded.execute(f"DROP TRIGGER {row[0]} ON earlier")
    # Without it they share one: what it guards against is there.
    assert records_of_copy(postgres, guarded, "earlier") == (10, 1)
    with psycopg.connect(postgres_server.conninfo(), dbname=postgres.database, autocommit=True) as admin:
        insert_row_by_row(admin, ["public"])
    guarded.execute("TRUNCATE earlier")
    assert records_of_copy(postgres, guarded, "earlier") == (10, 10)
