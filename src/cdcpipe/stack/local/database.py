"""Databases, roles and rights of the local PostgreSQL, made anew at every start: each statement may run again.

owner         owns the captured schema, for the application
replication   Debezium: replicates, reads what is captured, writes the watermark table, nothing else
witness       our own reader: replicates and reads what is captured
catalog       owns the database of the Iceberg catalog
registry      owns the registry's database
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from cdcpipe.errors import PostgresError
from cdcpipe.stack.endpoints import WATERMARK_SCHEMA, WATERMARK_TABLE, PostgresEndpoint, Role
from cdcpipe.stack.local.auditing import install_ddl_audit
from cdcpipe.stack.rowwise import insert_row_by_row

__all__ = ["prepare_databases"]

_REPLICATING = ("replication", "witness")


def prepare_databases(
    conninfo: str, shop: PostgresEndpoint, *, publication: str, databases: Mapping[str, Role]
) -> None:
    """Make roles, databases, watermark table and publication. `conninfo` is the superuser's, without `dbname`.

    `databases` maps further databases to their owners. Raises `PostgresError`.
    """
    try:
        with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
            for purpose, role in shop.roles.items():
                _role(connection, role, replicates=purpose in _REPLICATING)
            for name, owner in {shop.database: shop.roles["owner"], **databases}.items():
                _role(connection, owner, replicates=False)
                _database(connection, name, owner)
            for purpose in _REPLICATING:
                _run(
                    connection,
                    "GRANT CONNECT ON DATABASE {} TO {}",
                    sql.Identifier(shop.database),
                    sql.Identifier(shop.roles[purpose].name),
                )
        with psycopg.connect(conninfo, dbname=shop.database, autocommit=True) as connection:
            _captured(connection, shop, publication)
            install_ddl_audit(connection, shop.roles["witness"].name)
            insert_row_by_row(connection, ["public", WATERMARK_SCHEMA])
    except psycopg.Error as error:
        raise PostgresError(f"the databases can't be prepared: {str(error).strip()}") from error


def _run(connection: psycopg.Connection, statement: str, *parts: sql.Composable) -> None:
    connection.execute(sql.SQL(statement).format(*parts))


def _role(connection: psycopg.Connection, role: Role, *, replicates: bool) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role.name]).fetchone()
    verb = "ALTER" if known else "CREATE"
    rights = "LOGIN REPLICATION" if replicates else "LOGIN"
    # The server's log has every DDL: it gets the verifier (SCRAM), never the password.
    verifier = connection.pgconn.encrypt_password(str(role.password).encode(), role.name.encode(), b"scram-sha-256")
    _run(
        connection,
        f"{verb} ROLE {{}} {rights} PASSWORD {{}}",
        sql.Identifier(role.name),
        sql.Literal(verifier.decode()),
    )


def _database(connection: psycopg.Connection, name: str, owner: Role) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
        _run(connection, "CREATE DATABASE {} OWNER {}", sql.Identifier(name), sql.Identifier(owner.name))
    _run(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", sql.Identifier(name))


def _captured(connection: psycopg.Connection, shop: PostgresEndpoint, publication: str) -> None:
    owner = sql.Identifier(shop.roles["owner"].name)
    replication = sql.Identifier(shop.roles["replication"].name)
    watermark = sql.Identifier(WATERMARK_SCHEMA)
    _run(connection, "ALTER SCHEMA public OWNER TO {}", owner)
    _run(connection, "CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}", watermark, owner)
    _run(
        connection,
        f"CREATE TABLE IF NOT EXISTS {WATERMARK_TABLE} "
        "(name text PRIMARY KEY, token bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())",
    )
    _run(connection, f"ALTER TABLE {WATERMARK_TABLE} OWNER TO {{}}", owner)
    _run(connection, f"ALTER TABLE {WATERMARK_TABLE} REPLICA IDENTITY FULL")
    for purpose in _REPLICATING:
        reader = sql.Identifier(shop.roles[purpose].name)
        for schema in (sql.Identifier("public"), watermark):
            _run(connection, "GRANT USAGE ON SCHEMA {} TO {}", schema, reader)
            _run(connection, "GRANT SELECT ON ALL TABLES IN SCHEMA {} TO {}", schema, reader)
            _run(
                connection,
                "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT SELECT ON TABLES TO {}",
                owner,
                schema,
                reader,
            )
    # A witness that logs a snapshot of its own gives its slot a later point to decode from (PostgreSQL 14+).
    witness = sql.Identifier(shop.roles["witness"].name)
    _run(connection, "GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {}", witness)
    _run(connection, f"GRANT INSERT, UPDATE ON {WATERMARK_TABLE} TO {{}}", replication)
    if connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [publication]).fetchone() is None:
        # By schema: a table that is made later is captured without a word.
        _run(
            connection,
            "CREATE PUBLICATION {} FOR TABLES IN SCHEMA public, {}",
            sql.Identifier(publication),
            watermark,
        )
