"""What a topic and its archive table hold, decoded: for tests of a few hundred records. Ledgers are for the rest."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.errors import ConnectUnavailable, KafkaError
from cdcpipe.schemas.registry import decode_frame
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["Record", "Schemas", "archived_rows", "await_archived", "await_records", "raw_records", "records"]


@dataclass(frozen=True, slots=True)
class Record:
    """A committed record. `value` is the decoded envelope; None for a tombstone, or what isn't Avro."""

    topic: str
    partition: int
    offset: int
    raw_key: bytes | None
    raw: bytes | None
    timestamp_ms: int
    schema_id: int | None = None
    value: dict[str, Any] | None = None


class Schemas:
    """Writer schemas by id, asked from the registry once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: dict[int, Any] = {}

    def writer(self, schema_id: int) -> Any:
        """The parsed schema. Raises `RegistryError`."""
        if schema_id not in self._known:
            with self._pipeline.registry() as registry:
                text = registry.schema(schema_id)
            self._known[schema_id] = fastavro.parse_schema(json.loads(text))
        return self._known[schema_id]

    def decode(self, raw: bytes, reader: Any = None) -> tuple[int, Any]:
        """Schema id and content of a message in Confluent's wire format, resolved to `reader` if given."""
        schema_id, payload = decode_frame(raw)
        return schema_id, fastavro.schemaless_reader(io.BytesIO(payload), self.writer(schema_id), reader)


def raw_records(endpoints: Endpoints, topic: str, *, timeout_seconds: float = 60) -> Iterator[Record]:
    """Every committed record of `topic`, not decoded. Raises `KafkaError`."""
    consumer = Consumer(
        {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": "cdcpipe-conformance",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        known = consumer.list_topics(topic, timeout=20).topics[topic]
        if known.error is not None:
            raise KafkaError(f"there is no topic `{topic}`: {known.error.str()}")
        open_ = set(known.partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in open_])
        deadline = time.monotonic() + timeout_seconds
        while open_:
            if time.monotonic() > deadline:
                raise KafkaError(f"`{topic}` was not read to its end within {timeout_seconds:g} s")
            message = consumer.poll(1.0)
            if message is None:
                continue
            partition, offset = message.partition() or 0, message.offset() or 0
            if message.error():
                open_.discard(partition)
            else:
                key, value = message.key(), message.value()
                assert not isinstance(key, str)
                assert not isinstance(value, str)
                yield Record(topic, partition, offset, key, value, message.timestamp()[1])
    except KafkaException as error:
        raise KafkaError(f"`{topic}` can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def records(pipeline: Pipeline, table: str) -> list[Record]:
    """Every committed change event of `table`, decoded, by partition and offset. What isn't Avro has no value."""
    schemas, found = Schemas(pipeline), []
    for each in raw_records(pipeline.endpoints, pipeline.topic_of(table)):
        schema_id: int | None = None
        value: Any = None
        if each.raw:
            try:
                schema_id, value = schemas.decode(each.raw)
            except Exception:  # noqa: BLE001 - poison that a test has put there
                value = None
        found.append(
            Record(
                each.topic,
                each.partition,
                each.offset,
                each.raw_key,
                each.raw,
                each.timestamp_ms,
                schema_id,
                value if isinstance(value, dict) else None,
            )
        )
    return sorted(found, key=lambda each: (each.partition, each.offset))


def await_records(pipeline: Pipeline, table: str, count: int, *, timeout_seconds: float = 60) -> list[Record]:
    """Wait until `table`'s topic holds `count` change events. Raises `ConnectUnavailable`."""
    found: list[Record] = []

    def enough() -> bool:
        found[:] = records(pipeline, table)
        return sum(each.value is not None for each in found) >= count

    wait_until(
        enough,
        what=lambda: f"{count} change events of {table} in Kafka; there are {len(found)}",
        timeout_seconds=timeout_seconds,
        interval_seconds=0.3,
        error=ConnectUnavailable,
    )
    return found


def archived_rows(pipeline: Pipeline, table: str) -> list[dict[str, Any]]:
    """Every archived row of `table`; none while its archive table isn't there."""
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    from cdcpipe.stack.catalog import open_catalog

    try:
        found = open_catalog(pipeline.endpoints).load_table(pipeline.topic_of(table))
    except (NoSuchTableError, NoSuchNamespaceError):
        return []
    return list(found.scan().to_arrow().to_pylist())


def await_archived(pipeline: Pipeline, table: str, count: int, *, timeout_seconds: float = 90) -> list[dict[str, Any]]:
    """Wait until `count` rows of `table` are archived. Raises `ConnectUnavailable`."""
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        found[:] = archived_rows(pipeline, table)
        return len(found) >= count

    wait_until(
        enough,
        what=lambda: f"{count} rows of {table} in the archive; there are {len(found)}",
        timeout_seconds=timeout_seconds,
        interval_seconds=0.5,
        error=ConnectUnavailable,
    )
    return found
