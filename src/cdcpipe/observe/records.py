"""Records of the log as Arrow tables, for those who look at a few: a trace, a profile of the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger import avro, jsonvalue
from cdcpipe.ledger.kafka import Offsets, PartitionReader
from cdcpipe.ledger.registry import SchemaSource

__all__ = ["Decoded", "decoded"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Records of one topic that were written with one schema: `rows` are their values, row by row of `messages`."""

    topic: str
    rows: pa.Table
    partitions: tuple[int, ...]
    offsets: tuple[int, ...]
    timestamps_ms: tuple[int, ...]


def decoded(
    bootstrap_servers: str,
    registry_url: str,
    topics: Sequence[str],
    *,
    begin: Offsets | None = None,
    end: Offsets | None = None,
    unreadable: list[str] | None = None,
) -> Iterator[Decoded]:
    """Read committed records of `topics` from `begin` to before `end` and decode them, some thousands at a time.

    What can't be decoded is left out, and said in `unreadable`. EvidenceError when a topic is not there.
    """
    reader = PartitionReader(bootstrap_servers, topics, begin or {}, end or {})
    schemas = SchemaSource(registry_url)
    flat: dict[int, Any] = {}
    for messages in reader.batches():
        groups: dict[tuple[str, bytes], list[Any]] = {}
        for message in messages:
            value = message.value()
            if value and message.offset() < reader.ends[message.topic(), message.partition()]:
                groups.setdefault((message.topic(), value[: _prefix(value)]), []).append(message)
        for (topic, _), group in groups.items():
            try:
                rows = _rows([message.value() for message in group], schemas, flat)
            except EvidenceError as error:
                if unreadable is not None:
                    unreadable.append(f"{len(group)} records of `{topic}` can't be decoded: {error.message}")
                continue
            yield Decoded(
                topic,
                rows,
                tuple(message.partition() for message in group),
                tuple(message.offset() for message in group),
                tuple(message.timestamp()[1] for message in group),
            )
    if unreadable is not None:
        unreadable.extend(reader.reasons)


def _prefix(value: bytes) -> int:
    """Bytes before the Avro: as `cdcpipe.ledger.log` reads them."""
    if value[:1] != b"\0":
        return 1
    return 9 if value[:5] == b"\0\0\0\0\0" else 5


def _rows(values: Sequence[bytes], schemas: SchemaSource, flat: dict[int, Any]) -> pa.Table:
    first = values[0]
    if first[:1] == b"{":
        return jsonvalue.read(values)[0]
    size = _prefix(first)
    if first[0] != 0 or len(first) < size:
        raise EvidenceError("they are neither Avro with a schema id nor JSON")
    number = int.from_bytes(first[1:size], "big")
    if number not in flat:
        try:
            flat[number] = avro.flatten(schemas.schema(number))
        except (KeyError, ValueError, TypeError) as error:
            raise EvidenceError(f"schema {number} is not what Connect writes: {error}") from error
    return avro.read([value[size:] for value in values], flat[number])
