"""State at a cut: is the archive, folded, equal to the tables as they were at one moment? Writers go on meanwhile.

1. In one `REPEATABLE READ` transaction: take `pg_current_snapshot()`, then read the tables and hash each row in
   canonical form (`read_state`).
2. A marker committed after that has gone all the way (`settle`): everything visible in the snapshot is in the archive.
3. Fold the archive by key, in the order of its offsets, only events whose transaction is *visible in that snapshot*,
   and compare: first ranges of keys by count and digest, then the keys of ranges that differ (`fold.compare_state`).

Not by LSN: PostgreSQL's order of visibility is not the order of its commit records. Row locks are let go only after a
transaction became visible, so the visible events of a key are a prefix of its history, and the fold is exact.

- Snapshot rows (`r`) are state from before: they count if they were read before the cut.
- TRUNCATE takes the table for itself, so within one table it is before or after each change by LSN. But it empties
  the table for older snapshots too: a table that was truncated (or rewritten) between the snapshot and its reading is
  `inconclusive`. Take another cut.
- A changed primary key is a delete and a create.
- A table without a key can't be folded: it is refused, with the reason.
- A row whose last event holds an unchanged TOAST value is not known from the archive alone: it is counted as
  `unresolved`, never as equal. REPLICA IDENTITY FULL avoids it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import psycopg.sql
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from cdcpipe.errors import PostgresError, UsageError
from cdcpipe.ledger import columns as ledger_columns
from cdcpipe.ledger.canonical import Modes, family_of
from cdcpipe.ledger.catalogue import Catalogue, Table
from cdcpipe.ledger.columns import Cell, image_sql, literal, text_sql
from cdcpipe.ledger.room import ROOMY, Room
from cdcpipe.ledger.rows import plain_hashes
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.verify.sampling import parse_lsn

__all__ = ["Snapshot", "StateRead", "read_state"]

_SESSION: Final = (
    "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET bytea_output = 'hex'; "
    "SET lc_monetary = 'C'; SET extra_float_digits = 1"
)
_STATE_SCHEMA: Final = pa.schema([("table", pa.string()), ("key", pa.binary()), ("after", pa.binary(16))])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is visible at the cut: transactions below `xmin`, and those below `xmax` that are not in progress.

    >>> Snapshot.parse("10:14:11,13", 0).sees(12)
    True
    """

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]
    lsn: int
    at: datetime | None = None

    @classmethod
    def parse(cls, text: str, lsn: int, at: datetime | None = None) -> Snapshot:
        """Of `pg_current_snapshot()`'s text."""
        xmin, xmax, rest = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(each) for each in rest.split(",") if each), lsn, at)

    def sees(self, xid: int) -> bool:
        """Whether the transaction's work is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.in_progress)


@dataclass(frozen=True, slots=True)
class StateRead:
    """The tables at the cut: a row hash a key, in Parquet `files`. `refused` says why a table was not read.

    `rewritten` are tables that were truncated after the snapshot, so that what was read is not the cut.
    """

    snapshot: Snapshot
    tables: tuple[str, ...]
    rows: Mapping[str, int]
    files: tuple[Path, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    seconds: float = 0.0


def read_state(
    endpoint: PostgresEndpoint,
    folder: Path,
    *,
    publication: str | None = None,
    tables: Iterable[str] | None = None,
    modes: Modes | None = None,
    role: str = "owner",
    on_snapshot: Any = None,
    room: Room = ROOMY,
) -> StateRead:
    """Read and hash the tables in one snapshot, into Parquet files in `folder`.

    `tables` default to all of `publication`. `on_snapshot` is called once the snapshot is taken, before the tables are
    read: a marker committed there has a head start. PostgresError when a table can't be read.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    engine = ledger_columns.Engine(threads=room.threads)
    try:
        with psycopg.connect(endpoint.conninfo(role)) as connection:
            connection.execute(_SESSION)
            connection.commit()
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            row = connection.execute(
                "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, clock_timestamp()"
            ).fetchone()
            assert row is not None
            snapshot = Snapshot.parse(row[0], parse_lsn(row[1]) or 0, row[2])
            if on_snapshot is not None:
                on_snapshot(snapshot)
            catalogue = Catalogue.read(connection, publication=publication)
            wanted = _wanted(catalogue, tables)
            return _read_tables(connection, engine, folder, catalogue, wanted, modes or Modes(), snapshot, start, room)
    except psycopg.Error as error:
        raise PostgresError(f"the tables can't be read: {str(error).strip()}") from error
    finally:
        engine.close()


def _wanted(catalogue: Catalogue, tables: Iterable[str] | None) -> list[str]:
    if tables is None:
        return sorted(catalogue.tables)
    wanted = list(dict.fromkeys(tables))
    unknown = [name for name in wanted if name not in catalogue.tables]
    if unknown:
        raise UsageError(
            f"no captured table is called {', '.join(f'`{name}`' for name in unknown)}",
            hint=f"captured are: {', '.join(sorted(catalogue.tables)) or 'none'}",
        )
    return wanted


def _read_tables(
    connection: psycopg.Connection[Any],
    engine: ledger_columns.Engine,
    folder: Path,
    catalogue: Catalogue,
    wanted: Sequence[str],
    modes: Modes,
    snapshot: Snapshot,
    start: float,
    room: Room,
) -> StateRead:
    rows: dict[str, int] = {}
    files: list[Path] = []
    refused: dict[str, str] = {}
    rewritten: list[str] = []
    unsupported: list[str] = []
    for number, name in enumerate(wanted):
        table = catalogue.tables[name]
        known = {column.name for column in table.columns if family_of(column.type, modes)}
        if not table.key:
            refused[name] = "it has no primary key, so its archive can't be folded to rows"
            continue
        if not known.issuperset(table.key):
            refused[name] = "its primary key has a type without a canonical form"
            continue
        unsupported += [
            f"{name}: `{each.name}` ({each.type}) has no canonical form and was not compared"
            for each in table.columns
            if each.name not in known
        ]
        path = folder / f"{number:04d}.parquet"
        rows[name] = _read_table(connection, engine, table, modes, path, room.block_bytes)
        files.append(path)
        if connection.execute(_REWRITTEN, {"table": _quoted(name)}).fetchone():
            rewritten.append(name)
    return StateRead(
        snapshot=snapshot,
        tables=tuple(rows),
        rows=rows,
        files=tuple(files),
        refused=refused,
        rewritten=tuple(rewritten),
        unsupported=tuple(unsupported),
        seconds=time.perf_counter() - start,
    )


def _quoted(name: str) -> str:
    """`schema.table` as `::regclass` reads it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


# pg_class is read in our snapshot, pg_relation_filenode() tells the file of now.
_REWRITTEN: Final = """
SELECT 1 FROM pg_class c
WHERE c.oid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass) UNION SELECT %(table)s::regclass)
  AND c.relkind = 'r' AND c.relfilenode <> pg_relation_filenode(c.oid)
LIMIT 1
"""


def _read_table(
    connection: psycopg.Connection[Any],
    engine: ledger_columns.Engine,
    table: Table,
    modes: Modes,
    path: Path,
    block_bytes: int,
) -> int:
    """Hash every row of `table` into `path`; gives their number. Text goes from COPY to Arrow, never to Python."""
    shown = [column for column in table.columns if family_of(column.type, modes)]
    schema, _, name = table.name.partition(".")
    names = psycopg.sql.SQL(", ").join(psycopg.sql.Identifier(column.name) for column in shown)
    query = psycopg.sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv)").format(
        names, psycopg.sql.Identifier(schema, name)
    )
    cells = []
    for number, column in enumerate(shown):
        family = family_of(column.type, modes)
        assert family is not None
        cells.append(Cell(column.name, family, text_sql(engine, f"c{number}", column.type, modes)))
    payloads = ", ".join(f"{cell.payload} AS p{number}" for number, cell in enumerate(cells))
    placed = [cell.at(f"p{number}") for number, cell in enumerate(cells)]
    key = image_sql([cell for cell in placed if cell.name in table.key])
    sql = (
        f'SELECT {literal(table.name)} AS "table", encode({key}) AS key, md5_number({image_sql(placed)}) AS after, '
        f"NULL::HUGEINT AS before FROM (SELECT {payloads} FROM frame)"
    )
    count = 0
    with pq.ParquetWriter(path, _STATE_SCHEMA, compression="zstd", compression_level=1) as writer:
        for frame in _frames(connection, query, len(shown), block_bytes):
            hashed = plain_hashes(engine.query(sql, frame=frame))
            writer.write_table(hashed.select(_STATE_SCHEMA.names).cast(_STATE_SCHEMA))
            count += frame.num_rows
    return count


def _frames(
    connection: psycopg.Connection[Any], query: psycopg.sql.Composed, width: int, block_bytes: int
) -> Iterable[pa.Table]:
    names = [f"c{number}" for number in range(width)]
    waiting: list[bytes] = []
    size = 0
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for data in copy:
            block = bytes(data)
            waiting.append(block)
            size += len(block)
            if size >= block_bytes:
                yield _parse(b"".join(waiting), names)
                waiting, size = [], 0
    if waiting:
        yield _parse(b"".join(waiting), names)


def _parse(block: bytes, names: list[str]) -> pa.Table:
    # In CSV, COPY writes null as nothing and an empty string as "".
    return pacsv.read_csv(
        pa.BufferReader(block),
        read_options=pacsv.ReadOptions(column_names=names, block_size=max(len(block), 1)),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
