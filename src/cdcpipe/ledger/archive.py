"""The archive ledger: what the Parquet files hold. An Iceberg table or Hive-style folders give the same ledger.

Each row must be the whole Debezium envelope with the topic, partition and offset of its record: `kafka_topic`,
`kafka_partition`, `kafka_offset` (the `InsertField` transform of `cdcpipe.connect`), or Aiven's `offset` and `value`
with topic and partition in the file's name. Only the columns that a ledger needs are read.

Objects are listed before and after: one that was overwritten, or that vanished in between, makes the ledger incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from cdcpipe.errors import CdcpipeError, EvidenceError, StorageError
from cdcpipe.ledger.avro import Wire
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue, Type
from cdcpipe.ledger.change import OBJECTS
from cdcpipe.ledger.columns import Engine
from cdcpipe.ledger.envelope import EnvelopeReader, Envelopes
from cdcpipe.ledger.objects import Bucket, Listed, Objects, hour_of
from cdcpipe.ledger.room import ROOMY, Room
from cdcpipe.ledger.store import Ledger, LedgerWriter, Manifest, ObjectRead
from cdcpipe.ledger.wires import wire_of_arrow
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["read_folders", "read_iceberg"]

_WANTED = (
    "before",
    "after",
    "op",
    "source.schema",
    "source.table",
    "source.txId",
    "source.lsn",
    "source.ts_us",
    "source.ts_ms",
    "transaction.total_order",
    "message",
    "kafka_topic",
    "kafka_partition",
    "kafka_offset",
    "event_time",
)


def read_iceberg(
    endpoints: Endpoints,
    folder: Path,
    *,
    topics: Mapping[str, str],
    catalogue: Catalogue,
    modes: Modes | None = None,
    begin: datetime | None = None,
    end: datetime | None = None,
    images: bool = False,
    room: Room = ROOMY,
) -> Ledger:
    """Read the Iceberg tables of `topics` (`schema.table` -> topic, which is the Iceberg table's name too).

    `begin` and `end` (hours, UTC) leave out files of other hours. The files are those of each table's current snapshot;
    a topic without a table has no rows. Deletes by row (an upserting sink) are refused: that is no archive of events.
    """
    bucket = Bucket(endpoints.s3)
    with closing(open_catalog(endpoints)) as catalog:
        wanted, prefixes, reasons = _plan(catalog, bucket, endpoints.s3.bucket, topics, _hours(begin, end))
    return _read(folder, bucket, wanted, prefixes, catalogue, modes or Modes(), reasons, images, room)


def _plan(
    catalog: Catalog, bucket: Bucket, bucket_name: str, topics: Mapping[str, str], hours: str | None
) -> tuple[list[Listed], list[str], list[str]]:
    """The objects of the tables' snapshots, the prefixes that they lie under, and what is wrong with them."""
    wanted: list[Listed] = []
    prefixes: list[str] = []
    reasons: list[str] = []
    for topic in topics.values():
        try:
            table = catalog.load_table(topic)
        except (NoSuchTableError, NoSuchNamespaceError):
            continue
        except Exception as error:
            raise StorageError(f"the catalog refuses table {topic}: {error}") from error
        prefix = _key(table.location(), bucket_name) + "/data/"
        prefixes.append(prefix)
        listed = {each.name: each for each in bucket.list(prefix)}
        scan = table.scan() if hours is None else table.scan(row_filter=hours)
        for task in scan.plan_files():
            if task.delete_files:
                raise EvidenceError(f"table {topic} has delete files: a table of current rows can't be read as events")
            name = _key(task.file.file_path, bucket_name)
            found = listed.get(name)
            if found is None:
                reasons.append(f"object {name} is in the snapshot of {topic}, but not in the bucket")
            else:
                wanted.append(found)
    return wanted, prefixes, reasons


def read_folders(
    objects: Objects,
    folder: Path,
    *,
    topics: Mapping[str, str],
    catalogue: Catalogue,
    prefix: str = "topics/",
    modes: Modes | None = None,
    begin: datetime | None = None,
    end: datetime | None = None,
    images: bool = False,
    room: Room = ROOMY,
) -> Ledger:
    """Read `<prefix><topic>/.../*.parquet` for each of `topics` (`schema.table` -> topic).

    `begin` and `end` (hours, UTC) leave out folders of other hours. A topic without objects has no rows.
    """
    wanted: list[Listed] = []
    prefixes = [f"{prefix}{topic}/" for topic in topics.values()]
    for each in prefixes:
        for listed in objects.list(each):
            hour = hour_of(listed.name)
            outside = hour is not None and ((begin and hour < begin) or (end and hour >= end))
            if listed.name.endswith(".parquet") and not outside:
                wanted.append(listed)
    return _read(folder, objects, wanted, prefixes, catalogue, modes or Modes(), [], images, room)


def _hours(begin: datetime | None, end: datetime | None) -> str | None:
    bounds = [f"event_time >= '{begin.isoformat()}'"] if begin is not None else []
    bounds += [f"event_time < '{end.isoformat()}'"] if end is not None else []
    return " and ".join(bounds) or None


def _key(uri: str, bucket: str) -> str:
    """`s3://bucket/a/b` as `a/b`."""
    return re.sub(rf"^s3[an]?://{re.escape(bucket)}/", "", uri).rstrip("/")


def _read(
    folder: Path,
    objects: Objects,
    wanted: Sequence[Listed],
    prefixes: Sequence[str],
    catalogue: Catalogue,
    modes: Modes,
    reasons: list[str],
    images: bool,
    room: Room,
) -> Ledger:
    begun_at = datetime.now(UTC).isoformat()
    engine = Engine()
    read: list[ObjectRead] = []
    with LedgerWriter(folder, "archive", rows_per_file=room.file_rows) as writer:
        try:
            envelopes = EnvelopeReader(engine, catalogue, modes, images=images)
            batch = _Batch(envelopes, writer, modes, room.batch_rows)
            for listed in wanted:
                try:
                    read.append(_read_object(objects, listed, batch, writer))
                except CdcpipeError as error:
                    reasons.append(f"object {listed.name} can't be read: {error.message}")
            batch.flush()
            reasons.extend(batch.reasons)
        finally:
            engine.close()
        now = {each.name: each for prefix in prefixes for each in objects.list(prefix)}
        for listed in wanted:
            found = now.get(listed.name)
            if found is None:
                reasons.append(f"object {listed.name} vanished while it was read")
            elif found != listed:
                reasons.append(f"object {listed.name} was overwritten while it was read")
        manifest = Manifest(
            "archive",
            True,
            tuple(dict.fromkeys(reasons)),
            objects=tuple(read),
            modes=modes.to_json(),
            tables=catalogue.to_json(),
            xid_next=catalogue.xid_next,
            begun_at=begun_at,
            ended_at=datetime.now(UTC).isoformat(),
        )
        return writer.finish(manifest)


class _Batch:
    """Rows of objects with the same columns, until there are enough to be worth a query."""

    def __init__(self, envelopes: EnvelopeReader, writer: LedgerWriter, modes: Modes, rows: int) -> None:
        self.rows_max = rows
        self.reasons: list[str] = []
        self._envelopes = envelopes
        self._writer = writer
        self._modes = modes
        self._rows: list[tuple[pa.Table, pa.Table]] = []
        self._count = 0

    def add(self, records: pa.Table, place: pa.Table) -> None:
        """Take the rows of one object (or a part of it)."""
        if self._rows and self._rows[0][0].schema != records.schema:
            self.flush()
        self._rows.append((records, place))
        self._count += records.num_rows
        if self._count >= self.rows_max:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._rows:
            return
        records = pa.concat_tables([each for each, _ in self._rows])
        place = pa.concat_tables([each for _, each in self._rows])
        self._rows, self._count = [], 0

        def wire_of(side: str, name: str, type_: pa.DataType, column: Type | None) -> Wire:
            return wire_of_arrow(type_, column, self._modes)

        try:
            for table, rows in self._envelopes.rows(Envelopes(records, place, wire_of)).items():
                self._writer.write(rows, table)
        except EvidenceError as error:
            names = ", ".join(map(str, pc.unique(place["object"]).to_pylist()[:5]))
            self.reasons.append(f"{place.num_rows} rows of {names} can't be read: {error.message}")


_CONFLUENT_NAME = re.compile(r"(?:^|/)(?P<topic>[^/]+)\+(?P<partition>\d+)\+(?P<offset>\d+)(?:\.[^/]*)?$")
_AIVEN_NAME = re.compile(r"(?:^|/)(?P<topic>[^/]+)-(?P<partition>\d+)-(?P<offset>\d+)(?:\.[^/]*)?$")


def _read_object(objects: Objects, listed: Listed, batch: _Batch, writer: LedgerWriter) -> ObjectRead:
    """Add the rows of one object to the batch."""
    rows = 0
    times: list[pa.Scalar] = []
    first: dict[str, Any] = {"topic": None, "partition": None, "offset": None}
    columns: dict[str, str] = {}
    try:
        with objects.open(listed.name) as source, pq.ParquetFile(source) as file:
            columns = dict(_columns(file.schema_arrow))
            for records in _batches(file, batch.rows_max):
                unwrapped, place, event_time = _place(records, listed.name)
                batch.add(unwrapped, place)
                rows += records.num_rows
                if first["topic"] is None and records.num_rows:
                    first = place.slice(0, 1).to_pylist()[0]
                if event_time is not None:
                    times.extend(pc.min_max(event_time).values())
    except (pa.ArrowException, OSError, FileNotFoundError) as error:
        raise EvidenceError(f"it is not a whole Parquet file: {str(error)[:300]}") from error
    stamps = sorted(time.as_py() for time in times if time.is_valid)
    seen: dict[str, list[Any]] = {
        "object": [listed.name],
        "topic": [first["topic"]],
        "hour": [hour_of(listed.name)],
        "event_time_min": [stamps[0] if stamps else None],
        "event_time_max": [stamps[-1] if stamps else None],
        "rows": [rows],
        "partition": [first["partition"]],
        "first_offset": [first["offset"]],
        "columns": [list(columns.items())],
    }
    writer.write(pa.table(seen, OBJECTS), "objects")
    return ObjectRead(listed.name, listed.bytes, listed.etag, rows)


def _batches(file: pq.ParquetFile, rows: int) -> Iterator[pa.Table]:
    schema = file.schema_arrow
    if "value" in schema.names and pa.types.is_struct(schema.field("value").type):
        # Aiven's layout: the envelope is one column of the record.
        columns = ["value", *(each for each in ("offset", "timestamp") if each in schema.names)]
    else:
        columns = [each for each in _WANTED if _has(schema, each)]
    for batch in file.iter_batches(rows, columns=columns):
        yield pa.Table.from_batches([batch])


def _columns(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and type of each leaf."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _columns(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", str(field.type)


def _has(schema: pa.Schema, path: str) -> bool:
    head, _, tail = path.partition(".")
    if head not in schema.names:
        return False
    type_ = schema.field(head).type
    return not tail or (pa.types.is_struct(type_) and type_.get_field_index(tail) >= 0)


def _place(records: pa.Table, name: str) -> tuple[pa.Table, pa.Table, pa.ChunkedArray | None]:
    """The envelopes, where each lies, and the times of their records."""
    count = records.num_rows
    objects = pa.array([name] * count, pa.string())
    if "kafka_offset" in records.column_names:
        place = {
            "topic": records["kafka_topic"].cast(pa.string()),
            "partition": records["kafka_partition"].cast(pa.int32()),
            "offset": records["kafka_offset"].cast(pa.int64()),
            "object": objects,
        }
        kept = [each for each in records.column_names if not each.startswith("kafka_") and each != "event_time"]
        time = records["event_time"] if "event_time" in records.column_names else None
        return records.select(kept), pa.table(place), time
    found = _CONFLUENT_NAME.search(name) or _AIVEN_NAME.search(name)
    if "offset" not in records.column_names or "value" not in records.column_names or found is None:
        raise EvidenceError(
            "its rows don't say which record they are: there is no `kafka_offset`, nor an `offset` beside a `value`",
            hint="add the `InsertField$Value` transform with topic, partition and offset fields to the sink",
        )
    place = {
        "topic": pa.array([found["topic"]] * count, pa.string()),
        "partition": pa.array([int(found["partition"])] * count, pa.int32()),
        "offset": records["offset"].cast(pa.int64()),
        "object": objects,
    }
    value = records["value"].combine_chunks()
    value = pa.concat_arrays(value.chunks) if isinstance(value, pa.ChunkedArray) else value
    fields = [pc.struct_field(value, field.name) for field in value.type]
    time = records["timestamp"] if "timestamp" in records.column_names else None
    if time is not None and pa.types.is_integer(time.type):
        time = time.cast(pa.timestamp("ms", "UTC"))
    return pa.table(fields, [field.name for field in value.type]), pa.table(place), time
