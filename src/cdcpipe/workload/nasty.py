"""A table with a column for every type of the corpus, and a writer that does to it what pipelines stumble over.

nasty = Nasty(without={"infinity", "bc"})
nasty.create(postgres)
events = nasty.write(postgres)      # {"c": ..., "u": ..., "d": ...}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg

from cdcpipe.errors import PostgresError, UsageError
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.workload.corpus import CORPUS, NO_PYTHON, TAGS, NastyValue

__all__ = ["CORPUS", "NO_PYTHON", "TAGS", "Nasty", "NastyValue"]

_TYPES = (
    "CREATE TYPE public.nasty_enum AS ENUM ('a', 'ünï ''quoted''', ' ')",
    "CREATE DOMAIN public.nasty_domain AS integer CHECK (VALUE > 0)",
    "CREATE TYPE public.nasty_pair AS (number integer, word text)",
)
_COPIES = 1_000_000  # ids of rows that came by COPY
_SINGLES = 2_000_000  # and of those that came one in a transaction


class Nasty:
    """The corpus as a table: row n holds the n-th value of each type, row 0 nothing but NULLs.

    `types` takes only these types, `without` leaves out values with any of these tags (see `TAGS`).
    """

    def __init__(
        self, *, types: Iterable[str] | None = None, without: Iterable[str] = (), table: str = "public.nasty"
    ) -> None:
        wanted, unwanted = None if types is None else set(types), frozenset(without)
        known = {value.type for value in CORPUS}
        if strange := sorted((unwanted - TAGS.keys()) | ((wanted or set()) - known)):
            raise UsageError(f"the corpus has no {', '.join(f'`{name}`' for name in strange)}")
        self.table = table
        self.columns: dict[str, list[NastyValue]] = {}
        for value in CORPUS:
            if (wanted is None or value.type in wanted) and not value.tags & unwanted:
                self.columns.setdefault(value.type, []).append(value)
        if not self.columns:
            raise UsageError("no value of the corpus is left")

    @property
    def rows(self) -> int:
        """How many rows the corpus makes."""
        return 1 + max(len(values) for values in self.columns.values())

    @staticmethod
    def column(type_: str) -> str:
        """The column of a type: `numeric(5,2)` -> `numeric_5_2`, `integer[]` -> `integer_array`."""
        plain = type_.removeprefix("public.").replace("[]", "_array").replace("-", "minus_").replace('"', "quoted_")
        return "v_" + "".join(c if c.isalnum() else "_" for c in plain).strip("_")

    def create(self, postgres: PostgresEndpoint, *, replica_identity: str = "FULL") -> None:
        """Make the table, and its types if they aren't there. One that is there already is replaced."""
        with _connected(postgres) as connection:
            for statement in _TYPES:
                connection.execute(f"DO $$ BEGIN {statement}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
            columns = ", ".join(f"{self.column(type_)} {type_}" for type_ in self.columns)
            connection.execute(f"DROP TABLE IF EXISTS {self.table}")
            connection.execute(
                f"CREATE TABLE {self.table} (id bigint PRIMARY KEY, touched integer NOT NULL DEFAULT 0, {columns})"
            )
            connection.execute(f"ALTER TABLE {self.table} REPLICA IDENTITY {replica_identity}")

    def insert(self, row: int, *, id_: int | None = None) -> str:
        """The INSERT of one row of the corpus."""
        cells = [values[row - 1].sql if 0 < row <= len(values) else "NULL" for values in self.columns.values()]
        names = ", ".join(self.column(type_) for type_ in self.columns)
        return f"INSERT INTO {self.table} (id, {names}) VALUES ({row if id_ is None else id_}, {', '.join(cells)})"

    def write(self, postgres: PostgresEndpoint) -> dict[str, int]:
        """Write the corpus in every way, and say how many row changes that made, by op.

        All rows in one transaction; all by one COPY; all again, each in a transaction of its own; an UPDATE of
        every row that leaves all values alone, in one transaction and row by row; changed primary keys, as
        a chain; rows that are deleted and inserted again in one transaction; and one transaction that is rolled back.
        """
        count = self.rows
        with _connected(postgres) as connection:
            with connection.transaction():
                for row in range(count):
                    connection.execute(self.insert(row))
            self._copy(connection)
            for row in range(count):
                connection.execute(self.insert(row, id_=_SINGLES + row))
            connection.execute(f"UPDATE {self.table} SET touched = touched + 1 WHERE id < {_SINGLES}")
            for row in range(count):
                connection.execute(f"UPDATE {self.table} SET touched = touched + 1 WHERE id = {_SINGLES + row}")
            for old, new in ((count - 1, -1), (count - 2, count - 1), (-1, count - 2)):
                connection.execute(f"UPDATE {self.table} SET id = {new} WHERE id = {old}")
            with connection.transaction():
                connection.execute(f"DELETE FROM {self.table} WHERE id = {_SINGLES}")
                connection.execute(self.insert(0, id_=_SINGLES))
            with connection.transaction(force_rollback=True):
                connection.execute(f"DELETE FROM {self.table}")
        return {"c": 3 * count + 1, "u": 3 * count + 3, "d": 1}

    def _copy(self, connection: psycopg.Connection) -> None:
        names = ", ".join(self.column(type_) for type_ in self.columns)
        with connection.cursor() as cursor:
            with cursor.copy(f"COPY (SELECT id + {_COPIES}, {names} FROM {self.table}) TO STDOUT") as source:
                lines = [bytes(block) for block in source]
            with cursor.copy(f"COPY {self.table} (id, {names}) FROM STDIN") as target:
                for line in lines:
                    target.write(line)


@contextmanager
def _connected(postgres: PostgresEndpoint) -> Iterator[psycopg.Connection]:
    try:
        with psycopg.connect(postgres.conninfo("owner"), autocommit=True, connect_timeout=10) as connection:
            yield connection
    except psycopg.Error as error:
        raise PostgresError(f"the nasty table can't be written: {str(error).strip()}") from error
