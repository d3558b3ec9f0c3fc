"""Profiles: one pass of DuckDB over the rows of a table, grouped by the span of time in which they were committed.

`rows` are whatever DuckDB reads (a relation over Parquet files, Arrow data sets or tables) with the columns
`cdcpipe_committed_at`, `cdcpipe_arrived_at` (timestamps), `cdcpipe_op` (Debezium's letter) and those of the table.
Nothing is loaded whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import duckdb
import pyarrow as pa

__all__ = ["PLACE_COLUMNS", "PROFILE", "Column", "profile", "quoted"]

PROFILE: Final = pa.schema(
    [
        ("table", pa.string()),
        ("bucket", pa.timestamp("us", "UTC")),
        ("column", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("count", pa.int64()),
        ("type", pa.string()),
    ]
)
"""One row a measure of a column (null: of the table) in a span that begins at `bucket`. `count` is how many rows it was
taken of. `type` stands in rows of measure `type`, which have no value."""

PLACE_COLUMNS: Final = ("cdcpipe_committed_at", "cdcpipe_arrived_at", "cdcpipe_op")

_NUMBERS: Final = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)
# U+FFFD and control characters, and what UTF-8 looks like that was read as Latin-1 or Windows-1252 and written again.
_ODD: Final = (
    r"[\x{FFFD}\x00-\x08\x0B\x0C\x0E-\x1F]"
    r"|\x{00C3}[\x{0080}-\x{00BF}]|\x{00C2}[\x{0080}-\x{00BF}]|\x{00E2}(\x{20AC}|\x{0080})"
)
_NUMBER: Final = r"\s*[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?\s*"
_DATE: Final = r"\s*\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?|\s*\d{1,2}[./]\d{1,2}[./]\d{2,4}.*"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the rows, and DuckDB's name of its type."""

    name: str
    type: str

    @property
    def family(self) -> str:
        """`number`, `time`, `text`, `boolean` or `other`: which measures it has."""
        plain = self.type.partition("(")[0].upper()
        if self.type.endswith("]"):
            return "other"
        if plain in (*_NUMBERS, "DECIMAL", "FLOAT", "DOUBLE"):
            return "number"
        if plain.startswith("TIMESTAMP") or plain in ("DATE", "TIME"):
            return "time"
        return {"VARCHAR": "text", "BOOLEAN": "boolean"}.get(plain, "other")


def quoted(name: str) -> str:
    """An identifier of DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def profile(
    connection: duckdb.DuckDBPyConnection,
    rows: str,
    *,
    table: str,
    bucket_seconds: int = 3600,
    late_seconds: float = 300.0,
    begin: datetime | None = None,
    end: datetime | None = None,
) -> pa.Table:
    """The profile of relation `rows` (a name or a subquery in parentheses) in the spans from `begin` to before `end`.

    Spans begin at multiples of `bucket_seconds` since the epoch. One without a row, between the first and the last of
    them or within the bounds, has `rows` 0. The shape is `PROFILE`.
    """
    columns = [
        Column(str(name), str(type_)) for name, type_, *_ in connection.execute(f"DESCRIBE FROM {rows}").fetchall()
    ]
    data = [each for each in columns if each.name not in PLACE_COLUMNS]
    measures = _table_measures(late_seconds, bucket_seconds)
    for index, column in enumerate(data):
        measures += _column_measures(index, column)
    selected = ",\n".join(f"{sql} AS m{number}" for number, (_, _, sql) in enumerate(measures))
    bounds = _bounds(begin, end)
    wide = connection.sql(
        f"WITH r AS (SELECT *, epoch_us(cdcpipe_committed_at) // {bucket_seconds * 1_000_000} AS b "
        f"FROM {rows} {bounds}) SELECT b, count(*) AS n, count(*) FILTER (WHERE cdcpipe_op <> 'd') AS kept,\n"
        f"{selected}\nFROM r GROUP BY b ORDER BY b"
    ).to_arrow_table()
    tidy = [_tidy(wide, number, column, name) for number, (column, name, _) in enumerate(measures)]
    found = pa.concat_tables(tidy) if tidy else PROFILE_ROWS.empty_table()
    kinds = _types(wide, data)
    connection.register("cdcpipe_tidy", pa.concat_tables([found, kinds]))
    try:
        return _finished(connection, table, bucket_seconds, begin, end)
    finally:
        connection.unregister("cdcpipe_tidy")


PROFILE_ROWS: Final = pa.schema(
    [("b", pa.int64()), ("column", pa.string()), ("measure", pa.string()), ("value", pa.float64()),
     ("count", pa.int64()), ("type", pa.string())]
)  # fmt: skip


def _bounds(begin: datetime | None, end: datetime | None) -> str:
    parts = [f"cdcpipe_committed_at >= TIMESTAMPTZ '{begin.isoformat()}'"] if begin is not None else []
    parts += [f"cdcpipe_committed_at < TIMESTAMPTZ '{end.isoformat()}'"] if end is not None else []
    return f"WHERE {' AND '.join(parts)}" if parts else ""


def _table_measures(late_seconds: float, bucket_seconds: int) -> list[tuple[str | None, str, str]]:
    delay = "epoch(cdcpipe_arrived_at - cdcpipe_committed_at)"
    return [
        (None, "rows", "count(*)"),
        (None, "delete_rate", "avg((cdcpipe_op = 'd')::INT)"),
        (None, "late_rate", f"avg(({delay} > {late_seconds})::INT)"),
        (None, "delay_seconds", f"greatest(0, approx_quantile({delay}, 0.95))"),
        (
            None,
            "stale_seconds",
            f"greatest(0, (any_value(b) + 1) * {bucket_seconds} - epoch(max(cdcpipe_committed_at)))",
        ),
    ]


def _column_measures(index: int, column: Column) -> list[tuple[str | None, str, str]]:
    """(column, measure, SQL). A deleted row has no values, and counts for none."""
    x = quoted(column.name)
    name = column.name
    here = "FILTER (WHERE cdcpipe_op <> 'd')"
    found: list[tuple[str | None, str, str]] = [(name, "null_rate", f"avg(({x} IS NULL)::INT) {here}")]
    if column.family == "other":
        return found
    distinct = f"approx_count_distinct({x}) {here}"
    found += [
        (name, "distinct", distinct),
        (name, "unique_rate", f"least(1.0, ({distinct}) / nullif(count({x}) {here}, 0))"),
    ]
    if column.family == "boolean":
        found.append((name, "true_rate", f"avg({x}::INT) {here}"))
    elif column.family in ("number", "time"):
        value = f"{x}::DOUBLE" if column.family == "number" else f"epoch({x})"
        if column.type == "FLOAT" or column.type == "DOUBLE":
            value = f"CASE WHEN isfinite({x}) THEN {value} END"
        found += [(name, f"p{at:02}", f"approx_quantile({value}, {at / 100}) {here}") for at in (5, 50, 95)]
        found += [(name, "min", f"min({value}) {here}"), (name, "max", f"max({value}) {here}")]
        if column.family == "number":
            found.append((name, "zero_rate", f"avg(({value} = 0)::INT) {here}"))
            found.append((name, "negative_rate", f"avg(({value} < 0)::INT) {here}"))
    else:
        found += [
            (name, "length_mean", f"avg(length({x})) {here}"),
            (name, "length_max", f"max(length({x})) {here}"),
            (name, "blank_rate", f"avg((trim({x}) = '')::INT) {here}"),
            (name, "odd_rate", f"avg(regexp_matches({x}, '{_ODD}')::INT) {here}"),
            (name, "non_ascii_rate", f"avg((length({x}) <> strlen({x}))::INT) {here}"),
            (name, "number_rate", f"avg(regexp_full_match({x}, '{_NUMBER}')::INT) {here}"),
            (name, "date_rate", f"avg(regexp_full_match({x}, '{_DATE}')::INT) {here}"),
        ]
    return found


def _tidy(wide: pa.Table, number: int, column: str | None, name: str) -> pa.Table:
    size = wide.num_rows
    count = wide["n" if column is None else "kept"]
    return pa.table(
        {
            "b": wide["b"].cast(pa.int64()),
            "column": pa.array([column] * size, pa.string()),
            "measure": pa.array([name] * size, pa.string()),
            "value": wide[f"m{number}"].cast(pa.float64()),
            "count": count.cast(pa.int64()),
            "type": pa.nulls(size, pa.string()),
        },
        schema=PROFILE_ROWS,
    )


def _types(wide: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The type of each column, noted with the first and with the last of the spans."""
    ends = [] if not wide.num_rows else sorted({0, wide.num_rows - 1})
    spans, counts = wide["b"].to_pylist(), wide["kept"].to_pylist()
    rows = [(spans[end], each.name, "type", None, counts[end], each.type) for end in ends for each in columns]
    return pa.Table.from_pylist([dict(zip(PROFILE_ROWS.names, row, strict=True)) for row in rows], PROFILE_ROWS)


def _finished(
    connection: duckdb.DuckDBPyConnection, table: str, seconds: int, begin: datetime | None, end: datetime | None
) -> pa.Table:
    """With times for numbers of spans, and a row count of 0 for each span that has none."""
    first = "NULL" if begin is None else str(int(begin.astimezone(UTC).timestamp()) // seconds)
    last = "NULL" if end is None else str((int(end.astimezone(UTC).timestamp()) - 1) // seconds)
    at = f"make_timestamptz(b * {seconds * 1_000_000})"
    name = "'" + table.replace("'", "''") + "'"
    return (
        connection.sql(
            f"""
        WITH known AS (SELECT * FROM cdcpipe_tidy WHERE value IS NOT NULL OR measure = 'type'),
        ends AS (SELECT coalesce({first}, min(b)) AS lo, coalesce({last}, max(b)) AS hi FROM known),
        spans AS (SELECT unnest(range(lo, hi + 1)) AS b FROM ends WHERE lo IS NOT NULL AND hi IS NOT NULL),
        gaps AS (SELECT b FROM spans ANTI JOIN known USING (b))
        SELECT {name} AS "table", {at} AS bucket, "column", measure, value, count, type FROM known
        UNION ALL
        SELECT {name}, {at}, NULL, 'rows', 0, 0, NULL FROM gaps
        UNION ALL
        SELECT {name}, {at}, NULL, 'stale_seconds', {seconds}, 0, NULL FROM gaps
        ORDER BY bucket, "column" NULLS FIRST, measure"""
        )
        .to_arrow_table()
        .cast(PROFILE)
    )
