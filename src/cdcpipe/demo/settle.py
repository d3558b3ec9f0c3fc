"""Wait until everything that was committed before now is in the archive."""

from __future__ import annotations

import time

import psycopg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from cdcpipe import errors
from cdcpipe.errors import ConnectUnavailable
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.pipeline import SINK
from cdcpipe.verify.evidence import Cut

__all__ = ["settle"]


def settle(endpoints: Endpoints, *, timeout_seconds: float = 300) -> Cut:
    """How far everything has come once what was committed before this call is archived.

    A probe row is committed. When it comes out of Kafka, all that was committed before it is there too, since the
    source writes in commit order. Then the sink's group must pass the topics' ends of that moment; and a second
    probe must be archived, since the sink commits a table after the offsets. When the bound passes, the cut says
    what was still waited for.
    """
    begin = time.monotonic()
    commit_lsn = _written_lsn(endpoints)
    ends: dict[tuple[str, int], int] = {}
    waiting_for = "the source to write what was committed"
    try:
        await_flow(endpoints, archive=False, timeout_seconds=timeout_seconds)
        ends = _ends(endpoints)
        waiting_for = "the sink to consume what is in the log"
        _await_consumed(endpoints, ends, timeout_seconds - (time.monotonic() - begin))
        waiting_for = "the sink to commit its files"
        await_flow(endpoints, archive=True, timeout_seconds=max(1, timeout_seconds - (time.monotonic() - begin)))
    except ConnectUnavailable:
        waited = time.monotonic() - begin
        return Cut(commit_lsn, ends, reached=False, waited_seconds=waited, waiting_for=waiting_for)
    return Cut(commit_lsn, ends, waited_seconds=time.monotonic() - begin)


def _written_lsn(endpoints: Endpoints) -> int:
    """Where the WAL ends now: every commit that was answered lies before it."""
    try:
        with psycopg.connect(endpoints.postgres.conninfo("witness"), autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    except psycopg.Error as error:
        raise errors.PostgresError(f"PostgreSQL can't be asked how far it is: {str(error).strip()}") from error
    assert row is not None
    return int(row[0])


def _consumer(endpoints: Endpoints) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": "cdcpipe-settle",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )


def _ends(endpoints: Endpoints) -> dict[tuple[str, int], int]:
    """Topic and partition of every archived topic -> the offset after its last committed record or marker."""
    prefixes = tuple(f"{endpoints.topic_prefix}.{schema}." for schema in endpoints.captured_schemas)
    consumer = _consumer(endpoints)
    try:
        return {
            (name, partition): consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=20)[1]
            for name, topic in consumer.list_topics(timeout=20).topics.items()
            if name.startswith(prefixes)
            for partition in topic.partitions
        }
    except KafkaException as error:
        raise errors.KafkaError(f"the ends of the topics can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _await_consumed(endpoints: Endpoints, ends: dict[tuple[str, int], int], timeout_seconds: float) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    behind = dict(ends)

    def passed() -> bool:
        committed = _committed(admin)
        for place in list(behind):
            offset = committed.get(place, 0)
            if offset >= ends[place] or _only_markers(endpoints, place, offset, ends[place]):
                del behind[place]
        return not behind

    wait_until(
        passed,
        what=lambda: f"the sink past the ends of {len(behind)} partitions",
        timeout_seconds=max(1, timeout_seconds),
        interval_seconds=0.5,
        error=ConnectUnavailable,
    )


def _committed(admin: AdminClient) -> dict[tuple[str, int], int]:
    group = f"connect-{SINK}"
    try:
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result()
    except KafkaException as error:
        raise errors.KafkaError(f"the sink's offsets can't be read: {error.args[0].str()}") from error
    return {(item.topic, item.partition): item.offset for item in answer.topic_partitions or []}


def _only_markers(endpoints: Endpoints, place: tuple[str, int], begin: int, end: int) -> bool:
    """Whether no record lies in `begin` to before `end`: what is there are markers of transactions, or aborted."""
    if end - begin > 100:
        return False
    consumer = _consumer(endpoints)
    try:
        consumer.assign([TopicPartition(*place, begin)])
        while True:
            message = consumer.poll(5)
            if message is None:
                return False
            error = message.error()
            if error is not None:
                return bool(error.code() == KafkaError._PARTITION_EOF)
            return bool((message.offset() or 0) >= end)
    finally:
        consumer.close()
