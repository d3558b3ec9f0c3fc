"""The log ledger: what the Kafka topics hold, committed records only.

Records are taken in groups of one topic and one writer's schema, and decoded a group at a time (see `avro`). A record
that can't be decoded is listed in `undecoded`, and the rest is read. Bytes that are no record of Debezium's are poison,
and hold no change; where the schema is gone or a value makes no sense, a change may be lost to us: not complete.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger import avro, jsonvalue
from cdcpipe.ledger.avro import Wire
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue, Type
from cdcpipe.ledger.change import DEAD_LETTERS, TOMBSTONES, TRANSACTIONS, UNDECODED
from cdcpipe.ledger.columns import Engine
from cdcpipe.ledger.envelope import EnvelopeReader, Envelopes
from cdcpipe.ledger.kafka import Offsets, PartitionReader
from cdcpipe.ledger.registry import SchemaSource
from cdcpipe.ledger.rows import widen
from cdcpipe.ledger.store import Ledger, LedgerWriter, Manifest

__all__ = ["read_log"]

log = logging.getLogger("cdcpipe.ledger.log")

GROUP_RECORDS = 100_000
"""Records that wait before they are decoded."""


class Poison(EvidenceError):
    """Bytes that are no record: nothing of the pipeline's can be in them."""


@dataclass(slots=True)
class _Group:
    """Records of one topic whose keys and values were written with one schema each."""

    topic: str
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


def read_log(
    bootstrap_servers: str,
    folder: Path,
    *,
    topics: Mapping[str, str],
    catalogue: Catalogue,
    registry_url: str | None = None,
    modes: Modes | None = None,
    begin: Offsets | None = None,
    end: Offsets | None = None,
    transaction_topic: str | None = None,
    dead_letter_topic: str | None = None,
    images: bool = False,
    client: Mapping[str, Any] | None = None,
    timeout_seconds: float = 30.0,
) -> Ledger:
    """Read `topics` (`schema.table` -> topic) into a ledger in `folder`.

    Each partition is read from `begin` (default: its first offset) to before `end` (default: its last stable offset
    when this is called). `catalogue` and `modes` must be those of the wal ledger that this one will be compared with;
    without a `registry_url` only JSON can be read. The transaction and dead letter topics are read whole when named.

    EvidenceError when a topic is not there; a topic that vanishes while it is read, or records that retention took,
    give a ledger that is not complete.
    """
    names = dict.fromkeys([*topics.values(), *filter(None, [transaction_topic, dead_letter_topic])])
    reader = PartitionReader(
        bootstrap_servers, list(names), begin or {}, end or {}, timeout_seconds, dict(client or {})
    )
    begun_at = datetime.now(UTC).isoformat()
    with LedgerWriter(folder, "log") as writer, ThreadPoolExecutor(1, "cdcpipe-log-decode") as pool:
        decoder = _Decoder(
            writer,
            catalogue,
            modes or Modes(),
            SchemaSource(registry_url) if registry_url else None,
            {topic: table for table, topic in topics.items()},
            transaction_topic,
            images,
        )
        try:
            _read(reader, decoder, pool, dead_letter_topic)
        finally:
            pool.shutdown()
            decoder.close()
        manifest = Manifest(
            "log",
            True,
            partitions=reader.partitions(),
            modes=decoder.modes.to_json(),
            tables=catalogue.to_json(),
            schemas={topic: sorted(ids) for topic, ids in sorted(decoder.written_with.items())},
            xid_next=catalogue.xid_next,
            begun_at=begun_at,
            ended_at=datetime.now(UTC).isoformat(),
        )
        return writer.finish(manifest, reasons=[*reader.reasons, *decoder.reasons])


def _read(reader: PartitionReader, decoder: _Decoder, pool: ThreadPoolExecutor, dead_letter_topic: str | None) -> None:
    groups: dict[tuple[str, bytes | None, bytes | None], _Group] = {}
    prefixes: dict[str, int] = {}
    waiting = 0
    pending: Future[dict[tuple[str, int], int]] | None = None
    for messages in reader.batches():
        for message in messages:
            topic = message.topic()
            if topic == dead_letter_topic:
                decoder.dead_letter(message, reader.ends)
                continue
            value, key = message.value(), message.key()
            size = prefixes.get(topic)
            if size is None and value:
                size = prefixes[topic] = _prefix(value)
            label = (topic, value and value[:size], key and key[:size])
            group = groups.get(label)
            if group is None:
                group = groups[label] = _Group(topic)
            group.values.append(value)
            group.keys.append(key)
            group.partitions.append(message.partition())
            group.offsets.append(message.offset())
        waiting += len(messages)
        if waiting >= GROUP_RECORDS:
            pending = _hand_over(reader, decoder, pool, groups, pending)
            groups, waiting = {}, 0
    pending = _hand_over(reader, decoder, pool, groups, pending)
    _count(reader, pending)
    decoder.flush_dead_letters(reader)


def _prefix(payload: bytes) -> int:
    """How many bytes come before the Avro: magic 0 and the schema's id, 4 bytes of it as Confluent writes it.

    Apicurio may write 8. No registry gives out id 0, so four zero bytes are the upper half of a long one.
    """
    return 9 if payload[:5] == b"\0\0\0\0\0" else 5


def _schema_id(payload: bytes) -> int:
    return int.from_bytes(payload[1 : _prefix(payload)], "big")


def _hand_over(
    reader: PartitionReader,
    decoder: _Decoder,
    pool: ThreadPoolExecutor,
    groups: dict[tuple[str, bytes | None, bytes | None], _Group],
    pending: Future[dict[tuple[str, int], int]] | None,
) -> Future[dict[tuple[str, int], int]]:
    """Decode `groups` in the background, once what was handed over before is done."""
    _count(reader, pending)
    return pool.submit(decoder.decode, list(groups.values()), reader.ends)


def _count(reader: PartitionReader, pending: Future[dict[tuple[str, int], int]] | None) -> None:
    if pending is not None:
        for (topic, partition), records in pending.result().items():
            reader.count(topic, partition, records)


class _Decoder:
    """Decodes groups and writes what they hold. Used by one thread at a time."""

    def __init__(
        self,
        writer: LedgerWriter,
        catalogue: Catalogue,
        modes: Modes,
        schemas: SchemaSource | None,
        tables: Mapping[str, str],
        transaction_topic: str | None,
        images: bool,
    ) -> None:
        self.modes = modes
        self.reasons: list[str] = []
        self.written_with: dict[str, set[int]] = {}
        self._writer = writer
        self._schemas = schemas
        self._tables = tables
        self._transaction_topic = transaction_topic
        self._xid_next = catalogue.xid_next
        self._engine = Engine()
        self._envelopes = EnvelopeReader(self._engine, catalogue, modes, images=images)
        self._flat: dict[int, tuple[Any, Wire]] = {}
        self._dead: list[dict[str, Any]] = []

    def close(self) -> None:
        self._engine.close()

    def decode(self, groups: Sequence[_Group], ends: Offsets) -> dict[tuple[str, int], int]:
        """Decode, write, and say how many records of each partition there were."""
        counts: dict[tuple[str, int], int] = {}
        for group in groups:
            partitions = np.array(group.partitions, np.int32)
            offsets = np.array(group.offsets, np.int64)
            limit = np.array([ends[group.topic, each] for each in range(int(partitions.max()) + 1)], np.int64)
            inside = offsets < limit[partitions]
            if not inside.all():
                kept = np.flatnonzero(inside).tolist()
                group = _Group(group.topic, [group.values[i] for i in kept], [group.keys[i] for i in kept])
                partitions, offsets = partitions[inside], offsets[inside]
            if not len(offsets):
                continue
            for partition, count in zip(*np.unique(partitions, return_counts=True), strict=True):
                where = (group.topic, int(partition))
                counts[where] = counts.get(where, 0) + int(count)
            place = pa.table(
                {
                    "topic": pa.array([group.topic] * len(offsets), pa.string()),
                    "partition": pa.array(partitions),
                    "offset": pa.array(offsets),
                }
            )
            try:
                self._decode(group, place)
            except EvidenceError as error:
                self._one_by_one(group, place, error)
        return counts

    def _one_by_one(self, group: _Group, place: pa.Table, error: EvidenceError) -> None:
        """Find the records that can't be decoded; the others of the group can."""
        count = len(group.values)
        if count > 1:
            for part in (slice(0, count // 2), slice(count // 2, count)):
                half = _Group(group.topic, group.values[part], group.keys[part])
                rows = place.slice(part.start, part.stop - part.start)
                try:
                    self._decode(half, rows)
                except EvidenceError as inner:
                    self._one_by_one(half, rows, inner)
            return
        self._writer.write(
            place.append_column("reason", pa.array([error.message], pa.string())).cast(UNDECODED), "undecoded"
        )
        if not isinstance(error, Poison) and error.message not in self.reasons:
            self.reasons.append(error.message)

    def _decode(self, group: _Group, place: pa.Table) -> None:
        if group.values[0] is None:
            self._tombstones(group, place)
            return
        values = [value for value in group.values if value is not None]
        records, wire = self._records(values)
        if group.topic == self._transaction_topic:
            self._writer.write(self._transactions(records, place), "transactions")
            return
        key: pa.Table | None = None
        key_wire = Wire("record")
        if group.keys[0] is not None:
            key, key_wire = self._records([each for each in group.keys if each is not None])
        envelopes = Envelopes(records, place, _wires(wire, key_wire, self.modes), key)
        for table, rows in self._envelopes.rows(envelopes).items():
            self._writer.write(rows, table)
        if values[0][0] == 0:
            self.written_with.setdefault(group.topic, set()).add(_schema_id(values[0]))

    def _records(self, payloads: Sequence[bytes]) -> tuple[pa.Table, Wire]:
        first = payloads[0]
        if first[:1] == b"{":
            return jsonvalue.read(payloads)
        if len(first) < 5 or first[0] != 0 or self._schemas is None:
            raise Poison("neither Avro with a schema id nor JSON")
        size, number = _prefix(first), _schema_id(first)
        if number not in self._flat:
            schema = self._schemas.schema(number)
            try:
                self._flat[number] = (avro.flatten(schema), avro.wire_of(schema))
            except (KeyError, ValueError, TypeError) as error:
                raise EvidenceError(f"schema {number} is not what Connect writes: {error}") from error
        flat, wire = self._flat[number]
        if wire.physical != "record":
            raise Poison(f"schema {number} is {wire.physical}, not a record")
        try:
            return avro.read([payload[size:] for payload in payloads], flat), wire
        except EvidenceError as error:
            raise Poison(error.message) from error

    def _tombstones(self, group: _Group, place: pa.Table) -> None:
        keys: pa.Array = pa.nulls(place.num_rows, pa.binary())
        if group.keys[0] is not None:
            key, wire = self._records([each for each in group.keys if each is not None])
            table = self._tables.get(group.topic, "")
            keys = self._envelopes.keys(key, table, _wires(Wire("record"), wire, self.modes))
        self._writer.write(place.append_column("key", keys).cast(TOMBSTONES), "tombstones")

    def _transactions(self, records: pa.Table, place: pa.Table) -> pa.Table:
        numbers = pc.list_element(pc.split_pattern(records["id"].cast(pa.string()), ":"), 0).cast(pa.int64())
        xids = [None if each is None else widen(each, self._xid_next) for each in numbers.to_pylist()]
        counts = records["event_count"].cast(pa.int64()) if "event_count" in records.column_names else None
        stamps = pc.multiply(records["ts_ms"].cast(pa.int64()), 1000).cast(pa.timestamp("us", "UTC"))
        nothing = pa.nulls(records.num_rows)
        return pa.table(
            {
                "xid": pa.array(xids, pa.uint64()),
                "event_count": counts if counts is not None else nothing.cast(pa.int64()),
                "status": records["status"].cast(pa.string()),
                "commit_lsn": nothing.cast(pa.uint64()),
                "partition": place["partition"],
                "offset": place["offset"],
                "committed_at": stamps,
            }
        ).cast(TRANSACTIONS)

    def dead_letter(self, message: Any, ends: Offsets) -> None:
        """Take one record of the dead letter queue; Connect's context is in its headers."""
        if message.offset() >= ends[message.topic(), message.partition()]:
            return
        headers = dict(message.headers() or [])

        def context(name: str) -> str | None:
            value = headers.get(f"__connect.errors.{name}")
            return None if value is None else value.decode("utf-8", "replace")

        partition, offset = context("partition"), context("offset")
        self._dead.append(
            {
                "topic": context("topic"),
                "partition": None if partition is None else int(partition),
                "offset": None if offset is None else int(offset),
                "connector": context("connector.name"),
                "stage": context("stage"),
                "exception": context("exception.class.name"),
                "message": context("exception.message"),
                "dlq_topic": message.topic(),
                "dlq_partition": message.partition(),
                "dlq_offset": message.offset(),
            }
        )

    def flush_dead_letters(self, reader: PartitionReader) -> None:
        """Write what was taken of the dead letter queue."""
        for each in self._dead:
            reader.count(each["dlq_topic"], each["dlq_partition"], 1)
        self._writer.write(pa.Table.from_pylist(self._dead, DEAD_LETTERS), "dead_letters")


def _wires(value: Wire, key: Wire, modes: Modes) -> Any:
    """How the columns of envelopes of one schema are written."""

    def wire_of(side: str, name: str, type_: pa.DataType, column: Type | None) -> Wire:
        record = key if side == "key" else value.field(side)
        found = record.field(name) if record is not None else None
        if found is None:
            raise EvidenceError(f"the schema has no field {side}.{name}")
        return found

    return wire_of
