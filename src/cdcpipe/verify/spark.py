"""Runs the same expressions on Spark, for archives that outgrow a machine: `events(..., engine=SparkEngine(session))`.

The session is the caller's, of Spark 4 or later (SQL functions), with any master; ledgers must lie where its executors
read them. Needs `pip install cdcpipe[spark]` and a Java that Spark likes (17 or 21).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import pyarrow as pa

from cdcpipe.errors import EvidenceError
from cdcpipe.verify.engine import compiled
from cdcpipe.verify.tables import Expr

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkEngine"]

T = TypeVar("T")
_TYPES: Final = {"int64": "bigint", "int32": "int"}

# Spark's hash leaves nulls out, so that (null, 1) and (1, null) would be the same: whether each is null goes in too.
_FUNCTIONS: Final = {
    "digest_change": ("string", "bigint", "bigint", "string", "binary", "binary", "binary"),
    "digest_record": ("string", "int", "bigint", "bigint"),
    "digest_key": ("string", "binary"),
}


class SparkEngine:
    """What `Engine` is for DuckDB. Closing it drops its views and leaves the session as it was."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session
        self._names: set[str] = set()
        self._kept: dict[str, DataFrame] = {}
        for name, kinds in _FUNCTIONS.items():
            places = [f"a{number}" for number in range(len(kinds))]
            declared = ", ".join(f"{place} {kind}" for place, kind in zip(places, kinds, strict=True))
            hashed = ", ".join(f"isnull({place}), {place}" for place in places)
            session.sql(
                f"CREATE OR REPLACE TEMPORARY FUNCTION {name}({declared}) RETURNS bigint RETURN xxhash64({hashed})"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give up all views, and what was kept of them."""
        for name in self._names:
            self._session.catalog.dropTempView(name)
        for frame in self._kept.values():
            frame.unpersist()
        self._names.clear()
        self._kept.clear()

    def define(self, name: str, schema: Mapping[str, str], source: Sequence[Path] | pa.Table | None) -> None:
        """Make view `name` of `source` with exactly the columns of `schema`; a column that the source lacks is null."""
        from pyspark.errors import PySparkException
        from pyspark.sql import functions as f

        if source is None or not len(source):
            self.define_rows(name, schema, [])
            return
        try:
            if isinstance(source, pa.Table):
                given = self._session.createDataFrame(_plain(source))
            else:
                reader = self._session.read.option("mergeSchema", "true")
                given = reader.parquet(*(str(path) for path in source))
        except PySparkException as error:
            raise EvidenceError(f"the files of `{name}` can't be read: {error}") from error
        kinds = dict(given.dtypes)
        columns = []
        for column, kind in schema.items():
            wanted = _TYPES.get(kind, kind)
            found = f.col(f"`{column}`") if column in kinds else f.lit(None)
            if kinds.get(column, "").startswith("timestamp"):
                found = f.unix_micros(found.cast("timestamp"))
            columns.append(found.cast(wanted).alias(column))
        self._view(name, given.select(columns))

    def define_rows(self, name: str, schema: Mapping[str, str], rows: Sequence[Sequence[Any]]) -> None:
        """Make table `name` of a few Python rows."""
        declared = ", ".join(f"`{column}` {_TYPES.get(kind, kind)}" for column, kind in schema.items())
        self._view(name, self._session.createDataFrame([tuple(row) for row in rows], declared))

    def save(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> int:
        """Keep the rows of `relation(*arguments)` as table `name`; gives their number."""
        self._keep(name, self._sql(relation, arguments))
        return self.count(name)

    def save_empty(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Make table `name` with the columns of `relation(*arguments)` and no rows, without running it."""
        self._view(name, self._session.createDataFrame([], self._sql(relation, arguments).schema))

    def append(self, name: str, relation: Callable[..., Expr], *arguments: Any) -> None:
        """Add the rows of `relation(*arguments)` to table `name`."""
        self._keep(name, self._session.table(name).unionByName(self._sql(relation, arguments)))

    def count(self, name: str) -> int:
        """Rows of a table or view."""
        return int(self._run(lambda: self._session.table(name).count()))

    def rows(self, relation: Callable[..., Expr], *arguments: Any) -> list[dict[str, Any]]:
        """The rows of a small result."""
        found = self._sql(relation, arguments)
        return [
            {key: bytes(value) if isinstance(value, bytearray) else value for key, value in row.asDict().items()}
            for row in self._run(found.collect)
        ]

    def rename_findings(self, name: str, records: Sequence[tuple[str, int, int, int, str]]) -> None:
        """Give findings of `value-drift` another name: those of `records`, `(topic, partition, offset, xid, place)`."""
        kinds = {"topic": "string", "partition": "int32", "offset": "int64", "xid": "int64", "place": "string"}
        self.define_rows("renamed", kinds, sorted(set(records)))
        same = "f.name = 'value-drift' AND " + " AND ".join(
            f"f.`{each}` = r.`{each}`" for each in kinds if each != "xid"
        )
        others = ", ".join(f"f.`{each}`" for each in self._session.table("findings").columns if each != "name")
        self._keep(
            "findings",
            self._session.sql(
                f"SELECT CASE WHEN r.xid IS NULL THEN f.name ELSE '{name}' END AS name, {others} "
                f"FROM findings f LEFT JOIN renamed r ON {same}"
            ),
        )

    def _sql(self, relation: Callable[..., Expr], arguments: tuple[Any, ...]) -> DataFrame:
        return self._session.sql(compiled(relation, *arguments, dialect="pyspark"))

    def _keep(self, name: str, frame: DataFrame) -> None:
        """Computed once, and cut off from what it was made of: `append` reads the table that it replaces."""
        from pyspark.sql import functions as f

        kept = self._run(lambda: frame.localCheckpoint(eager=True))
        # As columns of their own: Spark takes those of two tables for the same when both were made of one Parquet file.
        self._view(name, kept.select([f.col(f"`{column}`").alias(column) for column in kept.columns]))
        before, self._kept[name] = self._kept.get(name), kept
        if before is not None:
            before.unpersist()

    def _view(self, name: str, frame: DataFrame) -> None:
        frame.createOrReplaceTempView(name)
        self._names.add(name)

    @staticmethod
    def _run(work: Callable[[], T]) -> T:
        from py4j.protocol import Py4JJavaError
        from pyspark.errors import AnalysisException, ParseException, PySparkException

        try:
            return work()
        except (AnalysisException, ParseException):
            raise  # a mistake of ours
        except (PySparkException, Py4JJavaError) as error:
            raise EvidenceError(f"a ledger can't be read whole: {str(error).splitlines()[0]}") from error


def _plain(table: pa.Table) -> pa.Table:
    """`table` without the types that Spark has not: unsigned integers, dictionaries."""
    fields = []
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        fields.append(field.with_type(pa.int64() if pa.types.is_unsigned_integer(kind) else kind))
    return table.cast(pa.schema(fields))
