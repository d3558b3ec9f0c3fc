"""Runs the expressions: DuckDB, out of core, on few threads and little memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import duckdb
import ibis
import pyarrow as pa

from cdcpipe.errors import EvidenceError
from cdcpipe.verify.tables import Expr

__all__ = ["Backend", "Engine", "compiled", "query_name", "sources_digest"]

_MACROS = """
CREATE MACRO digest_change(a, b, c, d, e, f, g) AS hash(a, b, c, d, e, f, g);
CREATE MACRO digest_record(a, b, c, d) AS hash(a, b, c, d);
CREATE MACRO digest_key(a, b) AS hash(a, b);
"""

_DUCKDB_TYPES = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "binary": "BLOB",
    "boolean": "BOOLEAN",
    "array<string>": "VARCHAR[]",
}


_SHIPPED: Final = "compiled.json"
_SOURCES: Final = ("case", "check", "fold", "images", "judge", "sequence", "sink", "source", "tables")


@cache
def compiled(relation: Callable[..., Expr], *arguments: Any, dialect: str = "duckdb") -> str:
    """The SQL of `relation(*arguments)`.

    Compiling an expression takes longer than running it on a small ledger, so what was compiled is kept, and DuckDB's
    SQL is shipped beside the code (`python -m cdcpipe.verify.compile` writes it). It is only used while it fits.
    """
    if dialect == "duckdb" and (known := _shipped().get(query_name(relation, arguments))) is not None:
        return known
    return str(ibis.to_sql(relation(*arguments), dialect=dialect, pretty=False))


def query_name(relation: Callable[..., Expr], arguments: tuple[Any, ...]) -> str:
    """Under which name the SQL is shipped."""
    return f"{relation.__module__.rpartition('.')[2]}.{relation.__qualname__}{arguments!r}"


def sources_digest() -> str:
    """Of the modules that the expressions are made in: SQL of others is stale."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(files("cdcpipe.verify").joinpath(f"{name}.py").read_bytes())
    return digest.hexdigest()


@cache
def _shipped() -> dict[str, str]:
    try:
        content = json.loads(files("cdcpipe.verify").joinpath(_SHIPPED).read_text(encoding="utf-8"))
        queries: dict[str, str] = content["queries"]
        return queries if content["sources"] == sources_digest() else {}
    except (OSError, ValueError, KeyError):
        return {}


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def _converted(column: str, given: str | None, kind: str) -> str:
    if given is None:
        return f"NULL::{_DUCKDB_TYPES[kind]}"
    if given.startswith("TIMESTAMP"):
        return f"epoch_us({quoted(column)})"
    return f"{quoted(column)}::{_DUCKDB_TYPES[kind]}"


class Backend(Protocol):
    """What runs the expressions: `Engine`, or `cdcpipe.verify.spark.SparkEngine`. Tables are known by their names."""

    def define(self, name: str, schema: Mapping[str, str], source: Sequence[Path] | pa.Table | None) -> None:
        """Make view `name` of `source` with the columns of `schema`; one that the source lacks is null."""

    def define_rows(self, name: str, schema: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> None:
        """Make table `name` of a few Python rows."""

    def save(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> int:
        """Keep the rows of `relation(*arguments)` as table `name`; gives their number."""

    def save_empty(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Make table `name` with the columns of `relation(*arguments)` and no rows."""

    def append(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Add the rows of `relation(*arguments)` to table `name`."""

    def count(self, name: str) -> int:
        """Rows of a table or view."""

    def rows(self, relation: Callable[..., Expr], *arguments: Any) -> list[dict[str, Any]]:
        """The rows of a small result."""

    def rename_findings(self, name: str, records: Sequence[tuple[str, int, int, int, str]]) -> None:
        """Give findings of `value-drift` another name: those of `records`, `(topic, partition, offset, xid, place)`."""


class Engine:
    """A DuckDB session of its own, in memory, that spills to a temporary folder. A context manager."""

    def __init__(self, *, memory_limit: str = "1500MB", threads: int = 2, temp_folder: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cdcpipe-verify-", dir=temp_folder))
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": memory_limit,
                "threads": threads,
                "temp_directory": str(self._folder),
                "preserve_insertion_order": False,
            },
        )
        self._connection.execute(_MACROS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give up everything, the spilled files included."""
        self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def define(self, name: str, schema: Mapping[str, str], source: Sequence[Path] | pa.Table | None) -> None:
        """Make view `name` of `source` with exactly the columns of `schema`: Parquet files, an Arrow table, or nothing.

        A column that the source lacks is null.
        """
        columns: dict[str, str] = {}
        origin = "(SELECT 1) WHERE false"
        if isinstance(source, pa.Table):
            self._connection.register(f"{name}__arrow", source)
            origin = quoted(f"{name}__arrow")
        elif source:
            files = "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in source) + "]"
            origin = f"read_parquet({files}, union_by_name => true)"
        if source is not None and not (isinstance(source, list | tuple) and not source):
            try:
                described = self._connection.execute(f"DESCRIBE SELECT * FROM {origin}").fetchall()
            except duckdb.Error as error:
                raise EvidenceError(f"the files of `{name}` can't be read: {error}") from error
            columns = {row[0]: row[1] for row in described}
        selected = ", ".join(
            f"{_converted(column, columns.get(column), kind)} AS {quoted(column)}" for column, kind in schema.items()
        )
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS SELECT {selected} FROM {origin}")

    def define_rows(self, name: str, schema: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> None:
        """Make table `name` of a few Python rows."""
        columns = ", ".join(f"{quoted(column)} {_DUCKDB_TYPES[kind]}" for column, kind in schema.items())
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} ({columns})")
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            places = ", ".join("(" + ", ".join("?" * len(schema)) + ")" for _ in part)
            self._connection.execute(
                f"INSERT INTO {quoted(name)} VALUES {places}", [value for row in part for value in row]
            )

    def save(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> int:
        """Keep the rows of `relation(*arguments)` as table `name`; gives their number."""
        sql = compiled(relation, *arguments)
        self._run(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} AS {sql}")
        return self.count(name)

    def save_empty(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Make table `name` with the columns of `relation(*arguments)` and no rows, without running it."""
        sql = compiled(relation, *arguments)
        self._run(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} AS SELECT * FROM ({sql}) LIMIT 0")

    def append(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Add the rows of `relation(*arguments)` to table `name`."""
        self._run(f"INSERT INTO {quoted(name)} {compiled(relation, *arguments)}")

    def count(self, name: str) -> int:
        """Rows of a table or view."""
        row = self._run(f"SELECT count(*) FROM {quoted(name)}").fetchone()
        return int(row[0]) if row else 0

    def rows(self, relation: Callable[..., Expr], *arguments: Any) -> list[dict[str, Any]]:
        """The rows of a small result."""
        result = self._run(compiled(relation, *arguments))
        names = [each[0] for each in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def rename_findings(self, name: str, records: Sequence[tuple[str, int, int, int, str]]) -> None:
        """Give findings of `value-drift` another name: those of `records`, `(topic, partition, offset, xid, place)`."""
        kinds = {"topic": "string", "partition": "int32", "offset": "int64", "xid": "int64", "place": "string"}
        self.define_rows("renamed", kinds, records)
        self._run(
            f"UPDATE findings f SET name = '{name}' FROM renamed r WHERE f.name = 'value-drift' AND f.place = r.place "
            'AND f.topic = r.topic AND f."partition" = r."partition" AND f."offset" = r."offset"'
        )

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql)
        except duckdb.OutOfMemoryException as error:
            raise EvidenceError(
                f"the memory limit of the checks is too low for these ledgers: {error}",
                hint="give `memory_limit` more, or `temp_folder` on a disk with room",
            ) from error
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException):
            raise  # a mistake of ours
        except duckdb.Error as error:
            raise EvidenceError(f"a ledger can't be read whole: {str(error).splitlines()[0]}") from error
