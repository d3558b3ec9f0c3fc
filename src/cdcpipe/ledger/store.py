"""Ledgers on disk: Parquet files with a manifest that says what was read, and whether that is all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.change import SCHEMA, SIDE_TABLES

__all__ = ["Kind", "Ledger", "LedgerWriter", "Manifest", "ObjectRead", "PartitionRead", "SlotRead"]

Kind = Literal["wal", "log", "archive"]
VERSION = 1
"""Of the canonical form and the columns. Ledgers of different versions can't be compared."""


@dataclass(frozen=True, slots=True)
class SlotRead:
    """What was read of the WAL: from the slot's consistent point to the last position asked for (LSNs)."""

    name: str
    publication: str
    temporary: bool
    begin_lsn: int
    end_lsn: int
    lag_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class PartitionRead:
    """What was read of one partition: offsets from `begin` to before `end`.

    `records` counts data records. Under exactly-once an interval also holds control records and aborted ones, which no
    consumer sees: `end - begin - records` of them.
    """

    topic: str
    partition: int
    begin: int
    end: int
    records: int
    first_available: int = 0
    """The partition's first offset that was still there: above `begin`, retention took what lay between."""


@dataclass(frozen=True, slots=True)
class ObjectRead:
    """One Parquet file, as it was when it was read."""

    name: str
    bytes: int
    etag: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a ledger covers. `complete` is False when something that was asked for could not be read: `reasons`.

    `modes` are the connector's value modes that the canonical form was made for; `tables` the catalogue used
    (see `catalogue.Catalogue.to_json`). `counts` has the rows of each table of the ledger, `schemas` the ids of the
    registry that values of each topic were written with.
    """

    kind: Kind
    complete: bool
    reasons: tuple[str, ...] = ()
    slots: tuple[SlotRead, ...] = ()
    partitions: tuple[PartitionRead, ...] = ()
    objects: tuple[ObjectRead, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    schemas: dict[str, list[int]] = field(default_factory=dict)
    xid_next: int | None = None
    begun_at: str | None = None
    ended_at: str | None = None
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The way back. Unknown keys (of a later release) are ignored; a missing one raises EvidenceError."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in raw.items() if name in known}
        try:
            values["reasons"] = tuple(values.get("reasons", ()))
            values["slots"] = tuple(SlotRead(**item) for item in values.get("slots", ()))
            values["partitions"] = tuple(PartitionRead(**item) for item in values.get("partitions", ()))
            values["objects"] = tuple(ObjectRead(**item) for item in values.get("objects", ()))
            return cls(**values)
        except TypeError as error:
            raise EvidenceError(f"the ledger's manifest can't be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Ledger:
    """A finished ledger: its manifest, and where its rows are. Rows are read by the caller, out of core."""

    folder: Path
    manifest: Manifest

    @property
    def kind(self) -> Kind:
        """`wal`, `log` or `archive`."""
        return self.manifest.kind

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The ledger in `folder`. EvidenceError when there is none, or it was not finished, or files are missing."""
        path = folder / "manifest.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise EvidenceError(
                f"no finished ledger in {folder}: `manifest.json` is missing",
                hint="the run that wrote it may have been killed; read the ledger again",
            ) from None
        except ValueError as error:
            raise EvidenceError(f"{path} is not JSON: {error}") from error
        ledger = cls(folder, Manifest.from_json(raw))
        if ledger.manifest.version != VERSION:
            raise EvidenceError(
                f"{folder} was written in version {ledger.manifest.version} of the canonical form, this is {VERSION}",
                hint="read the ledger again with this release",
            )
        for name, count in ledger.manifest.counts.items():
            found = sum(pq.read_metadata(path).num_rows for path in ledger.files(name))
            if found != count:
                raise EvidenceError(f"{folder} should hold {count} rows of `{name}`, but has {found}")
        return ledger

    def files(self, table: str = "changes") -> list[Path]:
        """The Parquet files of `changes` or of a side table, in the order they were written; maybe none."""
        return sorted((self.folder / table).glob("*.parquet"))

    def batches(self, table: str = "changes") -> Iterator[pa.RecordBatch]:
        """The rows of `table`, a batch at a time."""
        for path in self.files(table):
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches()

    def read(self, table: str = "changes") -> pa.Table:
        """All rows of `table` at once: for tests and small ledgers."""
        return pa.Table.from_batches(self.batches(table), _schema(table))


def _schema(table: str) -> pa.Schema:
    return SCHEMA if table == "changes" else SIDE_TABLES[table]


class LedgerWriter:
    """Writes a ledger a batch at a time. Rows wait in memory until `rows_per_file` of a table are there.

    A context manager: leaving it without `finish()` leaves no manifest, so no one takes it for a ledger.
    """

    def __init__(self, folder: Path, kind: Kind, *, rows_per_file: int = 1_000_000) -> None:
        self.folder = folder
        self.kind = kind
        self.counts: dict[str, int] = {"changes": 0}
        self._rows_per_file = rows_per_file
        self._waiting: dict[str, list[pa.Table]] = {}
        self._files: dict[str, int] = {}
        if (folder / "manifest.json").exists():
            raise EvidenceError(f"{folder} already holds a ledger", hint="give a new folder, or remove this one")
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()

    def write(self, rows: pa.Table, table: str = "changes") -> None:
        """Take `rows`, which must have the schema of `table`."""
        if not rows.num_rows:
            return
        waiting = self._waiting.setdefault(table, [])
        waiting.append(rows.cast(_schema(table)))
        self.counts[table] = self.counts.get(table, 0) + rows.num_rows
        if sum(each.num_rows for each in waiting) >= self._rows_per_file:
            self._flush(table)

    def _flush(self, table: str) -> None:
        waiting = self._waiting.pop(table, [])
        if not waiting:
            return
        number = self._files.get(table, 0)
        self._files[table] = number + 1
        path = self.folder / table / f"{number:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".part")
        # No dictionary for what never repeats: it costs more than half of the time to write.
        repeated = ["table", "op", "topic", "object", "status", "reason", "connector", "stage", "exception"]
        pq.write_table(
            pa.concat_tables(waiting), unfinished, compression="zstd", compression_level=1, use_dictionary=repeated
        )
        unfinished.replace(path)

    def finish(
        self,
        manifest: Manifest,
        *,
        reasons: Sequence[str] = (),
    ) -> Ledger:
        """Write what waits, then the manifest. `reasons` make the ledger incomplete."""
        for table in list(self._waiting):
            self._flush(table)
        all_reasons = (*manifest.reasons, *reasons)
        values = {f.name: getattr(manifest, f.name) for f in fields(manifest)}
        values |= {
            "kind": self.kind,
            "counts": dict(self.counts),
            "reasons": all_reasons,
            "complete": manifest.complete and not all_reasons,
        }
        done = Manifest(**values)
        unfinished = self.folder / "manifest.json.part"
        with unfinished.open("w") as file:
            json.dump(done.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / "manifest.json")
        return Ledger(self.folder, done)
