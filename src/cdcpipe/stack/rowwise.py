"""Lets PostgreSQL insert row by row where it would write several rows of a COPY into one WAL record.

Debezium's place in the WAL is an LSN, and rows of one record share theirs. 3.7.0.Final counts them (dbz#1554), but
wrong: after a restart in the middle of such a record it skips the rest when one row was sent, and else sends one again,
as it takes BEGIN for a row (`WalPositionLocator`; 3.7.1.Final counts right). A table with a BEFORE ROW trigger is
exempt: PostgreSQL then writes a record for each row (`CopyFrom`, CIM_SINGLE). So each table gets one that does nothing.

It costs COPY some of its speed, see `benchmarks/bench_rowwise.py`. With Debezium 3.7.1 it may go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import psycopg
from psycopg import sql

from cdcpipe.stack.endpoints import WATERMARK_SCHEMA

__all__ = ["ROW_BY_ROW", "insert_row_by_row"]

ROW_BY_ROW: Final = "cdcpipe_row_by_row"
"""Name of the event trigger, and what the names of the tables' own triggers begin with."""

_STATEMENTS: Final = (
    "CREATE OR REPLACE FUNCTION {schema}.row_by_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    # The name has the table's number: a partition that is attached gets its parent's too. SECURITY DEFINER, as whoever
    # makes a table need not have rights here; and a table is made also when this fails.
    """CREATE OR REPLACE FUNCTION {schema}.guard_table(relation oid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgfoid = '{schema}.row_by_row'::regproc) THEN
            EXECUTE format('CREATE TRIGGER %I BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION {schema}.row_by_row()',
                           '{name}_' || relation, relation::regclass);
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'cdcpipe: COPY into % is not row by row: %', relation::regclass, sqlerrm;
    END $guard$""",
    """CREATE OR REPLACE FUNCTION {schema}.guard_tables() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $guard$
    BEGIN
        PERFORM {schema}.guard_table(objid) FROM pg_event_trigger_ddl_commands()
        WHERE object_type = 'table' AND schema_name = ANY (TG_ARGV_SCHEMAS);
    END $guard$""",
    "REVOKE ALL ON FUNCTION {schema}.guard_table(oid) FROM PUBLIC",
)


def insert_row_by_row(connection: psycopg.Connection, schemas: Iterable[str]) -> None:
    """For the tables of `schemas`, those that are there and those to come. Needs the superuser; may run again."""
    names = list(schemas)
    array = sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(sql.Literal(name) for name in names))
    for statement in _STATEMENTS:
        text = statement.replace("TG_ARGV_SCHEMAS", array.as_string(connection))
        connection.execute(text.replace("{schema}", WATERMARK_SCHEMA).replace("{name}", ROW_BY_ROW).encode())
    connection.execute(
        f"SELECT {WATERMARK_SCHEMA}.guard_table(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY(%s)",
        [names],
    )
    if connection.execute("SELECT 1 FROM pg_event_trigger WHERE evtname = %s", [ROW_BY_ROW]).fetchone() is None:
        connection.execute(
            f"CREATE EVENT TRIGGER {ROW_BY_ROW} ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', "
            f"'SELECT INTO') EXECUTE FUNCTION {WATERMARK_SCHEMA}.guard_tables()"
        )
