"""Garbage in a topic: each piece is in the dead-letter queue with its reason, every valid record in the archive.

And an incompatible change under load: the source stops, visibly, and nothing is lost after the mode was relaxed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.deadletters import DeadLetter, diagnose, read, replay
from cdcpipe.schemas.guard import inspect
from cdcpipe.schemas.registry import Registry, decode_frame, encode_frame
from cdcpipe.schemas.types import Modes
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.verify.live import events_of
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.verdict import Verdict

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def until(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """Wait for `condition`; its last value is in the message."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s; last seen {value!r}")
        time.sleep(0.5)


def sql(endpoints: Endpoints, text: str) -> None:
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        for statement in text.split(";"):
            connection.execute(statement.encode())


def archived(endpoints: Endpoints, topic: str) -> list[tuple[int, int, Any]]:
    """Partition, offset and `after` of every archived row."""
    catalog = open_catalog(endpoints)
    if not catalog.table_exists(topic):
        return []
    rows = catalog.load_table(topic).scan(selected_fields=("kafka_partition", "kafka_offset", "after")).to_arrow()
    return [(r["kafka_partition"], r["kafka_offset"], r["after"]) for r in rows.to_pylist()]


def messages(endpoints: Endpoints, topic: str) -> list[tuple[int, int, bytes | None, bytes | None]]:
    """Partition, offset, key and value of every committed record."""
    consumer = Consumer(
        {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": "schemas-test",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    found = []
    try:
        open_ = set(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in open_])
        while open_:
            message = consumer.poll(10.0)
            assert message is not None
            if message.error():
                open_.discard(message.partition() or 0)
            else:
                found.append((message.partition() or 0, message.offset() or 0, message.key(), message.value()))
    finally:
        consumer.close()
    return found


@contextmanager
def witnessed(endpoints: Endpoints) -> Iterator[Callable[[], Report]]:
    """Verifies, event by event, what happens within; the call ends the witnessing and gives the report."""
    begun, ended = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            events_of, endpoints, seconds=900, stop=ended, timeout_seconds=300, tell=lambda _: begun.set()
        )

        def report() -> Report:
            ended.set()
            return running.result(600)

        try:
            until(lambda: begun.is_set() or running.done(), "the witness begins")
            yield report
        finally:
            ended.set()


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    """A table with a hundred rows, registered and archived."""
    endpoints = stack.endpoints
    name = f"dlq_{os.getpid()}_{time.time_ns() % 100_000}"
    sql(endpoints, f"CREATE TABLE {name} (id int PRIMARY KEY, a text, n int)")
    sql(endpoints, f"INSERT INTO {name} SELECT i, 'x', i FROM generate_series(1, 100) i")
    topic = f"{endpoints.topic_prefix}.public.{name}"
    until(lambda: len(archived(endpoints, topic)) == 100, "rows archived", 150)
    yield name
    sql(endpoints, f"DROP TABLE {name}")


def _garbage(registry: Registry, topic: str, valid: bytes) -> dict[str, tuple[bytes | None, bytes]]:
    """Name -> key and value; the key is a valid one unless the key is what is wrong."""
    schema_id, payload = decode_frame(valid)
    other = registry.register(
        f"other-{os.getpid()}", {"type": "record", "name": "Other", "fields": [{"name": "zz", "type": "long"}]}
    )
    return {
        "json": (None, b'{"id": 1}'),
        "text": (None, b"hello"),
        "short": (None, b"\0\0"),
        "unknown id": (None, encode_frame(1_999_999_999, payload)),
        "truncated": (None, encode_frame(schema_id, payload[: len(payload) // 2])),
        "noise": (None, b"\x07" + random.Random(6).randbytes(1_000_000 - 1)),
        "bad key": (b"\x01a key", valid),
        "another schema": (None, encode_frame(other, b"\x02")),
    }


def test_garbage_is_in_the_queue_with_its_reason_and_every_valid_record_in_the_archive(
    stack: LocalStack, table: str
) -> None:
    endpoints = stack.endpoints
    topic = f"{endpoints.topic_prefix}.public.{table}"
    valid = messages(endpoints, topic)
    with witnessed(endpoints) as report, Registry(endpoints.registry_url) as registry:
        garbage = _garbage(registry, topic, valid[0][3] or b"")
        producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers, "message.max.bytes": 2_000_000})
        for key, value in garbage.values():
            producer.produce(topic, key=key, value=value, partition=0)
        assert producer.flush(30) == 0
        sql(endpoints, f"UPDATE {table} SET a = 'y'")

        def letters() -> list[DeadLetter] | None:
            found = [
                letter
                for letter in read(endpoints.bootstrap_servers, endpoints.dead_letter_topic)
                if letter.topic == topic
            ]
            # A task that starts again reads what it didn't commit once more: a letter's identity is its origin.
            unique = list({(letter.partition, letter.offset): letter for letter in found}.values())
            return unique if len(unique) >= len(garbage) else None

        found = until(letters, "dead letters")
        own = [version.id for version in registry.versions(f"{topic}-value")]
        reasons = {(letter.key, letter.value): diagnose(letter, registry.schema, subject_ids=own) for letter in found}
        verified = report()
    expected = {
        "json": "it is JSON text",
        "text": "it is text",
        "short": "too few",
        "unknown id": "not in the registry",
        "truncated": "cut off",
        "noise": "not the magic byte",
        "bad key": "key: the first byte",
        "another schema": "valid, but of another schema",
    }
    assert len(found) == len(garbage)
    for name, (key, value) in garbage.items():
        assert expected[name] in reasons[key, value], (name, reasons[key, value])

    # The account closes: every offset is archived or a dead letter, none both, none twice.
    everything = {(partition, offset) for partition, offset, _, _ in messages(endpoints, topic)}
    dead = {(letter.partition, letter.offset) for letter in found}
    assert len(everything) == 200 + len(garbage)
    until(lambda: len(archived(endpoints, topic)) >= 200, "valid records archived", 120)
    rows = [(partition, offset) for partition, offset, _ in archived(endpoints, topic)]
    assert len(rows) == len(set(rows))
    assert set(rows) | dead == everything
    assert not set(rows) & dead
    # And so `verify` says, which knows nothing of what was sent: it refutes nothing, calls no record lost, and does not
    # pass, since what it can't read itself it can't judge.
    assert not verified.failed, verified.sentence()
    assert verified.verdict is Verdict.INCONCLUSIVE
    accounts = [account for account in verified.accounts if account.topic == topic]
    assert sum(account.dead_lettered for account in accounts) == len(garbage)
    assert sum(account.archived for account in accounts) == 100  # the updates: the rows came before the witness
    assert [account.holes for account in accounts if account.holes] == []
    with ConnectClient(endpoints.connect_url) as connect:
        assert connect.status(SINK).running


def test_a_replay_sends_each_letter_on_exactly_once(stack: LocalStack, table: str) -> None:
    endpoints = stack.endpoints
    topic = f"{endpoints.topic_prefix}.public.{table}"
    _, _, key, valid = messages(endpoints, topic)[0]
    assert valid is not None
    producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers})
    for number in range(3):
        producer.produce(topic, key=key, value=f"broken {number}".encode(), partition=0)
    assert producer.flush(30) == 0

    def letters() -> list[DeadLetter] | None:
        found = [
            letter for letter in read(endpoints.bootstrap_servers, endpoints.dead_letter_topic) if letter.topic == topic
        ]
        return found if len(found) == 3 else None

    found = until(letters, "dead letters")
    before = len(messages(endpoints, topic))
    repaired = {letter.place: valid for letter in found}
    sent = replay(endpoints.bootstrap_servers, endpoints.dead_letter_topic, found[:2], repaired=repaired)
    assert sent == tuple(letter.place for letter in found[:2])
    again = replay(endpoints.bootstrap_servers, endpoints.dead_letter_topic, found, repaired=repaired)
    assert again == (found[2].place,)
    assert replay(endpoints.bootstrap_servers, endpoints.dead_letter_topic, found, repaired=repaired) == ()
    assert len(messages(endpoints, topic)) == before + 3
    until(lambda: len(archived(endpoints, topic)) == 103, "repaired records archived", 120)
    marked = until(letters, "the letters stay")
    assert all(letter.replayed for letter in marked)


def test_an_incompatible_change_under_load_stops_the_source_and_loses_nothing(stack: LocalStack, table: str) -> None:
    endpoints = stack.endpoints
    topic = f"{endpoints.topic_prefix}.public.{table}"
    subject = f"{topic}-value"

    def state() -> str:
        with ConnectClient(endpoints.connect_url) as connect:
            return "running" if connect.status(SOURCE).running else str(connect.status(SOURCE).failure)

    with (
        witnessed(endpoints) as report,
        psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as writer,
    ):
        for number in range(101, 400):
            writer.execute(f"INSERT INTO {table} VALUES ({number}, 'x', {number})".encode())
            if number == 200:
                writer.execute(f"ALTER TABLE {table} ALTER COLUMN n TYPE bigint".encode())
        found = _guard(endpoints, f"public.{table}")
        assert [(finding.part, finding.state) for finding in found] == [("value", "blocked")]
        assert "int can't be read as" in found[0].sentence or "long can't be read as" in found[0].sentence
        failure = until(lambda: (text := state()) != "running" and text, "the source stops")
        assert subject in failure
        for number in range(400, 450):
            writer.execute(f"INSERT INTO {table} VALUES ({number}, 'x', {number})".encode())
        with Registry(endpoints.registry_url) as registry:
            registry.set_mode(Mode.BACKWARD_TRANSITIVE, subject)
        with ConnectClient(endpoints.connect_url) as connect:
            connect.restart(SOURCE, include_tasks=True, only_failed=True)
        until(lambda: len(archived(endpoints, topic)) >= 449, "all rows archived", 150)
        verified = report()
    assert verified.verdict is Verdict.PASS, verified.sentence()
    assert verified.facts["changes"] >= 349
    ids = [after["id"] for _, _, after in archived(endpoints, topic)]
    assert sorted(ids) == list(range(1, 450))
    assert _guard(endpoints, f"public.{table}") == ()


def _guard(endpoints: Endpoints, table: str) -> tuple[Any, ...]:
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        catalog = Catalog.from_database(connection)
    with Registry(endpoints.registry_url) as registry:
        return inspect(
            catalog,
            [table],
            prefix=endpoints.topic_prefix,
            modes=Modes(),
            history=registry.history,
            mode_of=registry.mode,
            publication=endpoints.publication,
        )
