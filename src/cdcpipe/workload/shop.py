"""A small shop: customers, orders, order items, payments. Its schema, and what happens in it for a seed.

The mix is that of a shop: inserts (about half), updates (a third; some rows far more often than others) and deletes,
in transactions of one row to hundreds; rollbacks, savepoints rolled back, COPY, multi-row INSERT, now and then a
changed primary key. Among the values are NULLs, empty strings, unicode of every plane, numerics, timestamps with and
without time zone, dates, json and jsonb, arrays, bytea, uuid, enums, and values too large for a page that later
updates leave alone. There are no foreign keys, as in many a shop of high volume: they would cost PostgreSQL time on a
machine that the whole pipeline runs on.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar

import psycopg
from psycopg.types.numeric import Int8

from cdcpipe.errors import PostgresError, UsageError
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.workload.operations import HOT_CUSTOMERS, MOVED, STRIDE, Operations
from cdcpipe.workload.pace import is_whole
from cdcpipe.workload.statements import CARTS, SCHEMA, Statements
from cdcpipe.workload.values import Pools

__all__ = ["Shop"]

_TYPES = ("customer_tier", "order_status")
_OWN = re.compile(r"\bpublic\.(?=(?:customers|orders|order_items|payments|carts|customer_tier|order_status)\b)")


@functools.lru_cache(maxsize=256)
def _renamed(sql: str, prefix: str) -> str:
    return _OWN.sub(f"public.{prefix}", sql)


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop of one `seed`: the same values and the same transactions for the same seed.

    `truncate` adds a table of carts that is emptied by TRUNCATE now and then. `prefix` stands before the name of each
    table and type, so that the shop can live in a database that has tables of these names.
    """

    seed: int = 7
    truncate: bool = False
    prefix: str = ""
    pools: Pools = field(init=False, repr=False, compare=False)
    statements: Statements = field(init=False, repr=False, compare=False)

    TABLES: ClassVar[tuple[str, ...]] = ("public.customers", "public.orders", "public.order_items", "public.payments")

    def __post_init__(self) -> None:
        if not is_whole(self.seed) or not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"`seed` is {self.seed!r}: it must be a whole number of 64 bits")
        if not re.fullmatch("(?:[a-z][a-z0-9_]{0,30})?", self.prefix):
            raise UsageError(f"`prefix` is {self.prefix!r}: it must be a plain name of at most 31 characters")
        pools = Pools.from_seed(self.seed)
        object.__setattr__(self, "pools", pools)
        object.__setattr__(self, "statements", Statements.from_pools(pools))

    @property
    def plain_tables(self) -> tuple[str, ...]:
        """The tables without `prefix`, as statements, plans and tallies name them: `TABLES`, and carts."""
        return (*self.TABLES, "public.carts") if self.truncate else self.TABLES

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that this shop writes to: `TABLES` with `prefix`, and `public.carts` with `truncate`."""
        return tuple(map(self.renamed, self.plain_tables))

    def renamed(self, sql: str) -> str:
        """`sql` with the shop's prefix before the name of each of its tables and types."""
        return _renamed(sql, self.prefix) if self.prefix else sql

    def create(self, postgres: PostgresEndpoint) -> None:
        """Make the tables, with REPLICA IDENTITY FULL, and the first 1,000 customers. What is there already stays.

        Raises `PostgresError` when the server refuses, or can't be reached.
        """
        try:
            with psycopg.connect(postgres.conninfo("owner"), connect_timeout=10) as connection:
                # CREATE TABLE IF NOT EXISTS alone fails when two do it at the same moment.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('cdcpipe.workload.shop'))")
                for statement in (*SCHEMA, CARTS) if self.truncate else SCHEMA:
                    connection.execute(self.renamed(statement))
                for table in self.tables:
                    connection.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
                parameters = {
                    "lo": Int8(1),
                    "hi": Int8(HOT_CUSTOMERS),
                    "seed": Int8(self.seed),
                    "at": datetime(2026, 1, 1, tzinfo=UTC),
                    "portrait": self.pools.portraits[0],
                    "about": self.pools.texts[1],
                }
                connection.execute("SET LOCAL timezone = 'UTC'")
                fill = self.renamed(f"{self.statements.customers} ON CONFLICT (id) DO NOTHING")
                connection.execute(fill, parameters)
        except psycopg.Error as error:
            raise PostgresError(f"the shop's tables can't be made: {str(error).strip()}") from error

    def drop_types(self, postgres: PostgresEndpoint) -> None:
        """Drop the shop's types, once its tables are gone. Raises `PostgresError`."""
        try:
            with psycopg.connect(postgres.conninfo("owner"), autocommit=True, connect_timeout=10) as connection:
                for name in _TYPES:
                    connection.execute(f"DROP TYPE IF EXISTS {self.renamed(f'public.{name}')}")
        except psycopg.Error as error:
            raise PostgresError(f"the shop's types can't be dropped: {str(error).strip()}") from error

    def operations(self, connection: int, events_mean: float, next_ids: dict[str, int] | None = None) -> Operations:
        """The transactions of connection number `connection`, from 0."""
        return Operations(
            self.seed, connection, self.pools, self.statements, events_mean, self.truncate, dict(next_ids or {})
        )

    def next_ids(self, connection: psycopg.Connection, number: int) -> dict[str, int]:
        """Where the ids of connection `number` go on in each table, after what earlier runs left there."""
        first = (number + 1) * STRIDE + 1
        found: dict[str, int] = {}
        for table in self.plain_tables:
            # A customer whose key was changed has left an id behind: that is not given out again.
            sql = f"SELECT coalesce(max(CASE WHEN id >= %(moved)s THEN id - {MOVED} ELSE id END), 0) FROM {table} "
            sql += "WHERE id >= %(first)s AND id < %(end)s"
            bounds = {"first": Int8(first), "moved": Int8(first - 1 + MOVED), "end": Int8(first - 1 + STRIDE)}
            row = connection.execute(self.renamed(sql), bounds).fetchone()
            assert row is not None
            found[table] = max(first, row[0] + 1)
        return found
