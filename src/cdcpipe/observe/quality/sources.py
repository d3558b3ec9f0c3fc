"""The rows that a profile is made of: out of the archive's Parquet files, out of a folder of them, or out of the log.

Each gives DuckDB a view with the columns of the table and, beside them, `cdcpipe_committed_at`, `cdcpipe_arrived_at`
and `cdcpipe_op`. Files are read as DuckDB scans them. Those of another schema, from before or after a change of the
table, are joined by the names of their columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from cdcpipe.errors import EvidenceError, StorageError
from cdcpipe.observe.quality.profiling import quoted
from cdcpipe.observe.records import decoded
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints, S3Endpoint

__all__ = ["archive_rows", "folder_rows", "stream_rows"]

_numbers = itertools.count(1)
_WANTED = ("op", "source", "after", "event_time")
_LATE = timedelta(days=1)
"""How much later than its commit a row may be in the log, to be found among the files of later hours."""


@contextmanager
def archive_rows(
    connection: duckdb.DuckDBPyConnection,
    endpoints: Endpoints,
    table: str,
    *,
    begin: datetime | None = None,
    end: datetime | None = None,
) -> Iterator[str | None]:
    """A view of the rows of `schema.table` that were committed from `begin` to before `end`, until the block ends.

    Only files are opened whose hours allow such rows. None when nothing of the table is archived.
    """
    with closing(open_catalog(endpoints)) as catalog:
        try:
            iceberg = catalog.load_table(endpoints.topic_of(table))
        except (NoSuchTableError, NoSuchNamespaceError):
            yield None
            return
        bounds = [] if begin is None else [f"event_time >= '{begin.isoformat()}'"]
        bounds += [] if end is None else [f"event_time < '{(end + _LATE).isoformat()}'"]
        scan = iceberg.scan(row_filter=" and ".join(bounds)) if bounds else iceberg.scan()
        paths = [task.file.file_path.partition("://")[2] for task in scan.plan_files()]
    if not paths:
        yield None
        return
    with _view(connection, paths, _s3(endpoints.s3)) as name:
        yield name


@contextmanager
def folder_rows(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path]) -> Iterator[str | None]:
    """The same of Parquet files on this machine that hold Debezium's envelopes."""
    if not paths:
        yield None
        return
    with _view(connection, [str(path) for path in paths], pafs.LocalFileSystem()) as name:
        yield name


@contextmanager
def stream_rows(
    connection: duckdb.DuckDBPyConnection,
    endpoints: Endpoints,
    table: str,
    *,
    begin: dict[tuple[str, int], int] | None = None,
    records_max: int = 1_000_000,
    unreadable: list[str] | None = None,
) -> Iterator[str | None]:
    """The same of the log: records from `begin` (default: all that the topic holds), `records_max` at most."""
    topic = endpoints.topic_of(table)
    parts: dict[str, list[pa.Table]] = {}
    count = 0
    for batch in decoded(
        endpoints.bootstrap_servers, endpoints.registry_url, [topic], begin=begin, unreadable=unreadable
    ):
        if not {"op", "source", "after"} <= set(batch.rows.column_names):
            continue
        times = pa.array(batch.timestamps_ms, pa.timestamp("ms", "UTC"))
        rows = batch.rows.select(["op", "source", "after"]).append_column("event_time", times)
        parts.setdefault(str(rows.schema), []).append(rows)
        count += rows.num_rows
        if count >= records_max:
            break
    if not count:
        yield None
        return
    with _union(connection, [pa.concat_tables(tables) for tables in parts.values()]) as name:
        yield name


def _s3(endpoint: S3Endpoint) -> pafs.FileSystem:
    options: dict[str, Any] = {"region": endpoint.region}
    if endpoint.url:
        scheme, _, host = endpoint.url.partition("://")
        options |= {"endpoint_override": host, "scheme": scheme}
    if endpoint.access_key_id is not None and endpoint.secret_access_key is not None:
        options |= {"access_key": endpoint.access_key_id, "secret_key": str(endpoint.secret_access_key)}
    return pafs.S3FileSystem(**options)


@contextmanager
def _view(connection: duckdb.DuckDBPyConnection, paths: Sequence[str], files: pafs.FileSystem) -> Iterator[str]:
    def schema_of(path: str) -> pa.Schema:
        try:
            found = pq.read_schema(path, filesystem=files)
        except FileNotFoundError as error:
            raise EvidenceError(f"object {path} is gone") from error
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"object {path} can't be read: {str(error)[:300]}") from error
        if "source" not in found.names or "op" not in found.names:
            raise EvidenceError(f"object {path} holds no envelopes of Debezium's")
        return pa.schema([found.field(name) for name in _WANTED if name in found.names])

    groups: dict[str, tuple[pa.Schema, list[str]]] = {}
    with ThreadPoolExecutor(8) as pool:
        for path, schema in zip(paths, pool.map(schema_of, paths), strict=True):
            groups.setdefault(str(schema), (schema, []))[1].append(path)
    sets = [ds.dataset(own, schema=schema, filesystem=files, format="parquet") for schema, own in groups.values()]
    with _union(connection, sets) as name:
        yield name


@contextmanager
def _union(connection: duckdb.DuckDBPyConnection, parts: Sequence[Any]) -> Iterator[str]:
    number = next(_numbers)
    names = [f"cdcpipe_part_{number}_{index}" for index in range(len(parts))]
    view = f"cdcpipe_rows_{number}"
    for name, part in zip(names, parts, strict=True):
        connection.register(name, part)
    try:
        selects = [_select(name, part.schema) for name, part in zip(names, parts, strict=True)]
        connection.execute(f"CREATE TEMP VIEW {view} AS {' UNION ALL BY NAME '.join(selects)}")
        try:
            yield view
        finally:
            connection.execute(f"DROP VIEW {view}")
    finally:
        for name in names:
            connection.unregister(name)


def _select(name: str, schema: pa.Schema) -> str:
    source = schema.field("source").type
    micros = "source.ts_us" if source.get_field_index("ts_us") >= 0 else "source.ts_ms * 1000"
    arrived = "event_time" if "event_time" in schema.names else f"make_timestamptz({micros})"
    columns = ["after"] if "after" in schema.names and pa.types.is_struct(schema.field("after").type) else []
    fields = (
        [f"after.{quoted(each.name)} AS {quoted(each.name)}" for each in schema.field("after").type] if columns else []
    )
    chosen = ", ".join(
        [
            f"make_timestamptz({micros}) AS cdcpipe_committed_at",
            f"{arrived}::TIMESTAMPTZ AS cdcpipe_arrived_at",
            "op AS cdcpipe_op",
            *fields,
        ]
    )
    return f"SELECT {chosen} FROM {name}"


def floor(at: datetime, seconds: int) -> datetime:
    """The begin of the span that `at` is in."""
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)
