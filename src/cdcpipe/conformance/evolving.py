"""A table that gets columns while it is written to and read: the evidence of R1.5, R5.2 and R5.5."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fastavro
from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.conformance.records import Record, Schemas, await_archived, await_records
from cdcpipe.errors import ConnectUnavailable, EvidenceError
from cdcpipe.stack.component import wait_until

__all__ = ["Evolution", "OldConsumer", "evolve"]

_BEFORE, _AFTER = 20, 20
_COLUMNS = ("added text", "counted int NOT NULL DEFAULT 7")


class OldConsumer:
    """A consumer that was there first: it reads every record with the schema of the first, by two readers.

    `confluent` is Confluent's own deserializer, `fastavro` ours. It runs in a thread, and is never restarted.
    """

    def __init__(self, pipeline: Pipeline, topic: str, schema: str) -> None:
        self._pipeline, self._topic = pipeline, topic
        self._schema = schema
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="old-consumer", daemon=True)
        self.read: dict[str, list[Any]] = {"confluent": [], "fastavro": []}
        self.schema_ids: set[int] = set()
        self.errors: list[str] = []

    def start(self) -> None:
        """Begin at the begin of the topic."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        endpoints = self._pipeline.endpoints
        consumer = Consumer(
            {
                "bootstrap.servers": endpoints.bootstrap_servers,
                "group.id": f"cdcpipe-old-consumer-{self._pipeline.token}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        client = SchemaRegistryClient({"url": endpoints.registry_url})
        confluent = AvroDeserializer(client, self._schema)
        context = SerializationContext(self._topic, MessageField.VALUE)
        schemas, reader = Schemas(self._pipeline), fastavro.parse_schema(json.loads(self._schema))
        consumer.subscribe([self._topic])
        try:
            while not self._stop.is_set():
                message = consumer.poll(0.2)
                raw = None if message is None or message.error() else message.value()
                if not isinstance(raw, bytes):
                    continue
                try:
                    self.read["confluent"].append(confluent(raw, context))
                    schema_id, value = schemas.decode(raw, reader)
                    self.read["fastavro"].append(value)
                    self.schema_ids.add(schema_id)
                except Exception as error:  # noqa: BLE001 - whatever stops a consumer is what is looked for
                    self.errors.append(f"{type(error).__name__}: {str(error)[:200]}")
        finally:
            consumer.close()
            client.close()


@dataclass(frozen=True, slots=True)
class Evolution:
    """What was written, and what each reader made of it. `problem` is why it could not go to its end."""

    table: str
    ddl: tuple[str, ...]
    written: int = 0
    problem: str = ""
    restarts: int = 0
    records: tuple[Record, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    versions: tuple[str, ...] = ()
    """Every version of the value's schema in the registry, oldest first."""
    read: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    seconds: float = 0.0


def evolve(pipeline: Pipeline, table: str) -> Evolution:
    """Write, add two columns one after the other, write again; a consumer of the first schema reads all the while."""
    begin, topic = time.monotonic(), pipeline.topic_of(table)
    insert = f"INSERT INTO {table} (id, a, n) SELECT i, 'row ' || i, i FROM generate_series({{}}, {{}}) i"
    pipeline.execute(insert.format(1, _BEFORE))
    first = await_records(pipeline, table, _BEFORE)
    assert first[0].schema_id is not None
    with pipeline.registry() as registry:
        schema = registry.schema(first[0].schema_id)
    tasks = _tasks(pipeline)
    consumer = OldConsumer(pipeline, topic, schema)
    consumer.start()
    ddl = tuple(f"ALTER TABLE {table} ADD COLUMN {column}" for column in _COLUMNS)
    written, problem = _BEFORE, ""
    try:
        for statement in ddl:
            pipeline.execute(statement)
            pipeline.execute(insert.format(written + 1, written + _AFTER))
            written += _AFTER
        pipeline.execute(
            f"UPDATE {table} SET added = 'now', counted = 8 WHERE id <= 10; DELETE FROM {table} WHERE id = 1"
        )
        written += 11
        records = await_records(pipeline, table, written, timeout_seconds=45)
        rows = await_archived(pipeline, table, written, timeout_seconds=60)
        _await_consumer(consumer, written)
    except (ConnectUnavailable, EvidenceError) as error:
        problem, records, rows = error.message, [], []
    finally:
        consumer.stop()
    with pipeline.registry() as registry:
        versions = registry.history(f"{topic}-value")
    return Evolution(
        table,
        ddl,
        written,
        problem,
        len(_tasks(pipeline) - tasks),
        tuple(records),
        tuple(rows),
        tuple(versions),
        {name: tuple(values) for name, values in consumer.read.items()},
        tuple(consumer.errors),
        time.monotonic() - begin,
    )


def _tasks(pipeline: Pipeline) -> set[tuple[str, int, str]]:
    """Connector, task, state: what changes when a task fails."""
    with pipeline.connect() as client:
        return {
            (name, task.id, task.state)
            for name in (pipeline.source, pipeline.sink)
            for task in client.status(name).tasks
        }


def _await_consumer(consumer: OldConsumer, written: int) -> None:
    wait_until(
        lambda: consumer.errors or all(len(values) >= written for values in consumer.read.values()),
        what=lambda: f"the old consumer has read {written} records; it has {len(consumer.read['confluent'])}",
        timeout_seconds=30,
        error=EvidenceError,
    )
