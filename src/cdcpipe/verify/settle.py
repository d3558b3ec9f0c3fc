"""`settle()`: wait until everything committed so far has gone all the way, so that what is missing is lost, not late.

A row in the watermark table marks the point. Then, each with what is left of one bound:

1. **source**: the marker comes out of the log, and the durable source offset has passed it. Debezium publishes in the
   order of commits, so all earlier commits are in the log then.
2. **sink**: the group's committed offsets reach the ends that the topics had at that moment.
3. **files**: a second marker, committed after that, is in the archive. For Iceberg a third one too: the coordinator
   commits table by table, and only the next round proves that the whole round of the second marker is done.

Nothing is slept for; each wait asks, and says what it waited for when the bound passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ConsumerError

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import KafkaError, PostgresError, ServiceError
from cdcpipe.stack.catalog import archived_offsets
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_TABLE, Endpoints
from cdcpipe.verify.evidence import Cut
from cdcpipe.verify.sampling import parse_lsn, source_lsn

__all__ = ["Marker", "Settlement", "captured_topics", "end_offsets", "mark", "settle"]

_NAME = "verify"
_ASK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Marker:
    """A committed row of the watermark table. All commits up to `commit_lsn` come before it in the log."""

    token: int
    commit_lsn: int
    after_lsn: int
    """A WAL position behind its commit."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How far the pipeline has settled. `cut` is for `verify.events`; `seconds` tells what each wait took."""

    marker: Marker
    cut: Cut
    seconds: dict[str, float] = field(default_factory=dict)


class _OutOfTime(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def mark(endpoints: Endpoints, *, role: str = "owner") -> Marker:
    """Commit a marker. PostgresError when the watermark table can't be written."""
    try:
        with psycopg.connect(endpoints.postgres.conninfo(role), autocommit=True) as connection:
            before = _lsn(connection)
            row = connection.execute(
                f"INSERT INTO {WATERMARK_TABLE} (name, token) VALUES (%s, 1) ON CONFLICT (name) "
                "DO UPDATE SET token = watermark.token + 1, at = clock_timestamp() RETURNING token",
                [_NAME],
            ).fetchone()
            after = _lsn(connection)
    except psycopg.Error as error:
        raise PostgresError(
            f"the watermark can't be written: {str(error).strip()}",
            hint=f"verification needs a table {WATERMARK_TABLE} in the publication",
        ) from error
    assert row is not None
    return Marker(int(row[0]), before, after)


def _lsn(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    found = parse_lsn(str(row[0])) if row else None
    assert found is not None
    return found


def settle(
    endpoints: Endpoints,
    *,
    topics: Iterable[str] | None = None,
    source: str = SOURCE,
    sink: str = SINK,
    marker: Marker | None = None,
    timeout_seconds: float = 120.0,
) -> Settlement:
    """Wait until all that was committed before `marker` (default: now) is in the archive.

    Always gives a `Settlement`: when the bound passes, `cut.reached` is False and `cut.waiting_for` says at which step.
    `topics` default to all of the captured schemas. A server that doesn't answer is waited for as well.
    """
    marker = marker or mark(endpoints)
    deadline = time.monotonic() + timeout_seconds
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    ends: dict[tuple[str, int], int] = {}

    def step(name: str, work: Callable[[], None]) -> None:
        start = time.monotonic()
        try:
            work()
        finally:
            seconds[name] = time.monotonic() - start

    def told() -> bool:
        ends.update(end_offsets(endpoints, captured_topics(endpoints) if topics is None else list(topics)))
        return True

    def at_sink() -> None:
        _ask(told, "Kafka to tell the ends of the topics", deadline)
        _await_sink(endpoints, sink, ends, deadline)

    try:
        step("source", lambda: _await_source(endpoints, source, marker, deadline))
        step("sink", at_sink)
        step("files", lambda: _await_files(endpoints, deadline))
    except _OutOfTime as error:
        waited = time.monotonic() - begun
        return Settlement(marker, Cut(marker.commit_lsn, ends, False, waited, error.what), seconds)
    return Settlement(marker, Cut(marker.commit_lsn, ends, True, time.monotonic() - begun), seconds)


def captured_topics(endpoints: Endpoints) -> list[str]:
    """The topics of the captured schemas' tables, as far as they exist. KafkaError when they can't be listed."""
    consumer = _consumer(endpoints)
    try:
        known = consumer.list_topics(timeout=10).topics
    except KafkaException as error:
        raise KafkaError(f"the topics can't be listed: {error.args[0].str()}") from error
    finally:
        consumer.close()
    prefixes = endpoints.change_topic_prefixes
    return [name for name in known if name.startswith(prefixes)]


def _ask(question: Callable[[], bool], what: str, deadline: float) -> None:
    problem = ""
    while True:
        try:
            if question():
                return
        except (ServiceError, KafkaException) as error:
            problem = f" ({error})"
        if time.monotonic() >= deadline:
            raise _OutOfTime(f"{what}{problem}")
        time.sleep(_ASK_SECONDS)


def _await_source(endpoints: Endpoints, source: str, marker: Marker, deadline: float) -> None:
    with ConnectClient(endpoints.connect_url, timeout_seconds=10) as client:

        def passed() -> bool:
            stored = source_lsn(client, source)
            return stored is not None and stored >= marker.commit_lsn

        _ask(passed, f"the source's durable offset to pass the watermark (token {marker.token})", deadline)
    _await_marker_in_log(endpoints, marker, deadline)


def _await_marker_in_log(endpoints: Endpoints, marker: Marker, deadline: float) -> tuple[int, int]:
    """Partition and offset of the marker's record, or of a later one of its key."""
    topic = endpoints.topic_of(WATERMARK_TABLE)
    what = f"the watermark (token {marker.token}) to come out of topic {topic}"
    consumer = _consumer(endpoints)
    try:
        starts = []
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            # Heartbeats come every few seconds: the marker is among the last records.
            starts.append(TopicPartition(topic, partition, max(low, high - 2_000)))
        consumer.assign(starts)
        while time.monotonic() < deadline:
            for message in consumer.consume(500, timeout=_ASK_SECONDS):
                place = _place_of(message, marker)
                if place is not None:
                    return place
    except (KafkaException, KeyError) as error:
        raise _OutOfTime(f"{what} ({error})") from error
    finally:
        consumer.close()
    raise _OutOfTime(what)


def _place_of(message: Message, marker: Marker) -> tuple[int, int] | None:
    if message.error() or _NAME.encode() not in (message.key() or b""):
        return None
    value, partition, offset = message.value(), message.partition(), message.offset()
    if value is None or partition is None or offset is None:
        return None
    return (partition, offset) if _has_token(value, marker.token) else None


def _has_token(value: bytes, token: int) -> bool:
    """Whether the record is the marker's: its token, as Avro writes a long, stands behind the marker's name."""
    encoded = _avro_long(token)
    name = bytes([len(_NAME) * 2]) + _NAME.encode()
    last = value.rfind(name)
    if last < 0:
        return f'"token":{token}'.encode() in value.replace(b" ", b"")
    tail = value[last + len(name) : last + len(name) + len(encoded) + 2]
    return encoded in tail


def _avro_long(number: int) -> bytes:
    """Zigzag varint.

    >>> _avro_long(64)
    b'\\x80\\x01'
    """
    rest, out = number << 1, bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def end_offsets(endpoints: Endpoints, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The read_committed ends of all partitions of `topics` now. KafkaError when Kafka doesn't tell."""
    consumer = _consumer(endpoints)
    ends: dict[tuple[str, int], int] = {}
    try:
        known = consumer.list_topics(timeout=10).topics
        for topic in topics:
            for partition in known[topic].partitions if topic in known else ():
                place = TopicPartition(topic, partition)
                ends[topic, partition] = consumer.get_watermark_offsets(place, timeout=10)[1]
    except KafkaException as error:
        raise KafkaError(f"the ends of the topics can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return ends


def _await_sink(endpoints: Endpoints, sink: str, ends: dict[tuple[str, int], int], deadline: float) -> None:
    consumer = _consumer(endpoints, group=f"connect-{sink}")
    wanted = {place: end for place, end in ends.items() if end > 0}
    behind: dict[tuple[str, int], int] = {}

    def passed() -> bool:
        asked = [TopicPartition(topic, partition) for topic, partition in wanted]
        behind.clear()
        for each in consumer.committed(asked, timeout=10) if asked else ():
            place = (each.topic, each.partition)
            if each.offset >= wanted[place] or _only_markers(endpoints, place, max(0, each.offset), wanted[place]):
                # It can't fall behind this end again: don't ask for it again.
                del wanted[place]
            else:
                behind[place] = wanted[place] - max(0, each.offset)
        return not behind

    try:
        _ask(passed, "the sink's committed offsets to reach the end of the topics", deadline)
    except _OutOfTime as error:
        worst = sorted(behind.items(), key=lambda each: -each[1])[:3]
        names = ", ".join(f"{topic}/{partition} is {count} behind" for (topic, partition), count in worst)
        raise _OutOfTime(f"{error.what}: {names}" if names else error.what) from None
    finally:
        consumer.close()


def _only_markers(endpoints: Endpoints, place: tuple[str, int], begin: int, end: int) -> bool:
    """Whether no record lies from `begin` to before `end`: a consumer's position stops before transaction markers."""
    if end - begin > 100:
        return False
    consumer = _consumer(endpoints, eof=True)
    try:
        consumer.assign([TopicPartition(*place, begin)])
        message = consumer.poll(5)
        if message is None:
            return False
        error = message.error()
        if error is not None:
            return bool(error.code() == ConsumerError._PARTITION_EOF)
        return (message.offset() or 0) >= end
    finally:
        consumer.close()


def _await_files(endpoints: Endpoints, deadline: float) -> None:
    if endpoints.catalog is None:
        # Sinks that write objects themselves commit their offsets after the upload.
        return
    topic = endpoints.topic_of(WATERMARK_TABLE)
    for _ in range(2):
        marker = mark(endpoints)
        partition, offset = _await_marker_in_log(endpoints, marker, deadline)

        def archived(partition: int = partition, offset: int = offset) -> bool:
            return archived_offsets(endpoints, topic).get(partition, -1) >= offset

        _ask(archived, f"watermark {marker.token} ({topic}/{partition}@{offset}) to be in the archive", deadline)


def _consumer(endpoints: Endpoints, group: str = "cdcpipe-verify", *, eof: bool = False) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": eof,
            "log_level": 0,
        }
    )
