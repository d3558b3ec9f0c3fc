"""Changes in the archive, found through the Iceberg table's metadata: only files whose bounds allow a hit are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import BooleanExpression
from pyiceberg.table import Table

from cdcpipe.errors import EvidenceError, StorageError
from cdcpipe.ledger.objects import Bucket
from cdcpipe.observe.trace.model import Change, lsn_text
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["Archive", "ArchiveFile", "changes_of", "micros"]

_WANTED = ("before", "after", "op", "source", "transaction", "ts_us", "ts_ms", "kafka_topic", "kafka_partition",
           "kafka_offset", "event_time")  # fmt: skip

Hits = Callable[[pa.Table], pa.ChunkedArray | pa.Array]


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A data file of the current snapshot, and the snapshot that added it."""

    path: str
    rows: int
    bytes: int
    snapshot: int | None
    sequence: int
    archived_at: datetime | None


class Archive:
    """The Iceberg tables of a pipeline. `files_read` and `files_passed` count what was opened and what was not."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._catalog = open_catalog(endpoints)
        self._bucket = Bucket(endpoints.s3)
        self._tables: dict[str, Table | None] = {}
        self.files_read = 0
        self.files_passed = 0

    def close(self) -> None:
        """Let go of the catalog."""
        self._catalog.close()

    def table(self, topic: str) -> Table | None:
        """The table of a topic; None when nothing of it was archived yet."""
        if topic not in self._tables:
            try:
                self._tables[topic] = self._catalog.load_table(topic)
            except (NoSuchTableError, NoSuchNamespaceError):
                self._tables[topic] = None
            except Exception as error:
                raise StorageError(f"the catalog refuses table {topic}: {error}") from error
        return self._tables[topic]

    def key_of(self, path: str) -> str:
        """The object's key in the bucket."""
        return path.partition(f"://{self._endpoints.s3.bucket}/")[2] or path

    def files(self, table: Table) -> dict[str, ArchiveFile]:
        """Path -> file of the current snapshot, out of the metadata alone."""
        snapshot = table.current_snapshot()
        found: dict[str, ArchiveFile] = {}
        for manifest in snapshot.manifests(table.io) if snapshot is not None else ():
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                added = table.snapshot_by_id(entry.snapshot_id) if entry.snapshot_id is not None else None
                at = None if added is None else datetime.fromtimestamp(added.timestamp_ms / 1000, UTC)
                file = entry.data_file
                found[file.file_path] = ArchiveFile(
                    file.file_path,
                    file.record_count,
                    file.file_size_in_bytes,
                    entry.snapshot_id,
                    entry.sequence_number or 0,
                    at,
                )
        return found

    def find(self, topic: str, row_filter: BooleanExpression, hits: Hits, keys: Sequence[str]) -> Iterator[Change]:
        """Changes of a table whose rows `hits` marks, among files that `row_filter` doesn't rule out."""
        table = self.table(topic)
        if table is None:
            return
        files = self.files(table)
        planned = [task.file.file_path for task in table.scan(row_filter=row_filter).plan_files()]
        self.files_passed += len(files) - len(planned)
        for path in planned:
            self.files_read += 1
            yield from self._in_file(files.get(path), path, hits, keys)

    def _in_file(self, file: ArchiveFile | None, path: str, hits: Hits, keys: Sequence[str]) -> Iterator[Change]:
        first = 0
        for batch in self.batches(path, _WANTED):
            rows = pa.Table.from_batches([batch])
            mask = hits(rows)
            numbers = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
            if numbers:
                for number, change in zip(numbers, changes_of(rows.take(numbers), keys), strict=True):
                    yield Change(
                        **{
                            **{name: getattr(change, name) for name in Change.__dataclass_fields__},
                            "object": path,
                            "row": first + number,
                            "snapshot": None if file is None else file.snapshot,
                            "archived_at": None if file is None else file.archived_at,
                            "state": "archived",
                        }
                    )
            first += batch.num_rows

    def batches(self, path: str, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The wanted columns of a file, those that it has."""
        try:
            with self._bucket.open(self.key_of(path)) as source, pq.ParquetFile(source) as file:
                columns = [name for name in wanted if name in file.schema_arrow.names]
                yield from file.iter_batches(65_536, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise EvidenceError(f"object {path} can't be read: {str(error)[:300]}") from error

    def ends(self, topic: str, partitions: Sequence[int], *, files_max: int = 64) -> dict[int, int]:
        """Partition -> highest archived offset, out of the newest files: offsets of a partition only grow.

        A partition that none of the newest `files_max` files has is left out.
        """
        table = self.table(topic)
        found: dict[int, int] = {}
        if table is None:
            return found
        newest = sorted(self.files(table).values(), key=lambda file: -file.sequence)[:files_max]
        sequence = None
        for file in newest:
            if set(found) >= set(partitions) and file.sequence != sequence:
                break
            sequence = file.sequence
            self.files_read += 1
            here: dict[int, int] = {}
            for batch in self.batches(file.path, ("kafka_partition", "kafka_offset")):
                rows = pa.Table.from_batches([batch]).group_by("kafka_partition").aggregate([("kafka_offset", "max")])
                for partition, offset in zip(*(rows[each].to_pylist() for each in rows.column_names), strict=True):
                    here[partition] = max(offset, here.get(partition, -1))
            for partition, offset in here.items():
                found[partition] = max(offset, found.get(partition, -1))
        return found


def micros(value: int | None) -> datetime | None:
    """Microseconds since the epoch as a time."""
    return None if value is None else datetime.fromtimestamp(value / 1_000_000, UTC)


def changes_of(rows: pa.Table, keys: Sequence[str]) -> Iterator[Change]:
    """Envelopes as changes. `rows` has `kafka_topic`, `kafka_partition`, `kafka_offset`, `event_time` beside them."""
    for row in rows.to_pylist():
        source: Mapping[str, Any] = row.get("source") or {}
        image: Mapping[str, Any] = row.get("after") or row.get("before") or {}
        committed = source.get("ts_us") or (source["ts_ms"] * 1000 if source.get("ts_ms") else None)
        captured = row.get("ts_us") or (row["ts_ms"] * 1000 if row.get("ts_ms") else None)
        produced = row["event_time"]
        yield Change(
            table=f"{source.get('schema')}.{source.get('table')}",
            op=str(row.get("op")),
            key={name: image.get(name) for name in keys},
            xid=source.get("txId"),
            seq=(row.get("transaction") or {}).get("total_order"),
            lsn=lsn_text(source.get("lsn")),
            committed_at=micros(committed),
            captured_at=micros(captured),
            topic=row["kafka_topic"],
            partition=row["kafka_partition"],
            offset=row["kafka_offset"],
            produced_at=produced if produced is None or produced.tzinfo else produced.replace(tzinfo=UTC),
            state="in the log",
        )
