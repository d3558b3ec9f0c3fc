"""A probe row: committed every few seconds, looked for in the log and in the archive.

It is a row of the watermark table called `monitor`, captured like any other. Its token is the time of its commit in
microseconds since 1970, so that the newest token in an archived file stands in the file's own statistics: other rows of
the table count from 1. The lag is the way of the newest row that arrived, or the age of an older one that has not,
whichever is longer: a pipeline that stands shows a lag that grows.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdcpipe.errors import KafkaError, PostgresError
from cdcpipe.observe.monitor_archive import ArchiveReader
from cdcpipe.stack.endpoints import SINK, WATERMARK_TABLE, Endpoints

__all__ = ["NAME", "Probe", "ProbeRow", "Track", "read_token"]

NAME = "monitor"
_NAME_BYTES = bytes([len(NAME) * 2]) + NAME.encode()
_PENDING_MAX = 200
"""So many rows on the way are enough to know that nothing arrives."""
_TOKEN = ("after", "token")


@dataclass(slots=True)
class ProbeRow:
    """A row on its way. Times are of a monotonic clock; None while it has not arrived there."""

    token: int
    committed: float
    logged: float | None = None
    place: tuple[int, int] | None = None


class Track:
    """The rows on their way, and what is known of those that arrived. Pure: it is told everything.

    `arrived` is told of each way that a row has finished: hop and seconds.
    """

    def __init__(self, arrived: Callable[[str, float], None]) -> None:
        self._arrived = arrived
        self._rows: deque[ProbeRow] = deque()
        self._newest: dict[str, float] = {}

    @property
    def full(self) -> bool:
        """Whether another row would tell nothing new."""
        return len(self._rows) >= _PENDING_MAX

    @property
    def awaiting_archive(self) -> bool:
        """Whether a row is in the log and not known to be in the archive."""
        return any(row.logged is not None for row in self._rows)

    def committed(self, token: int, at: float) -> None:
        """A row was committed."""
        self._rows.append(ProbeRow(token, at))

    def logged(self, token: int, place: tuple[int, int], at: float) -> None:
        """A row came out of the log. Older ones came too, even if they were not seen: the log has an order."""
        for row in self._rows:
            if row.logged is None and row.token <= token:
                row.logged, row.place = at, place
                if row.token == token:
                    self._tell("commit_to_log", at - row.committed)

    def archived(self, token: int, at: float) -> None:
        """The archive holds the row with this token, and so all older ones."""
        while self._rows and self._rows[0].token <= token:
            row = self._rows.popleft()
            if row.logged is None:  # seen here first: the tail was late
                self._tell("commit_to_log", at - row.committed)
            self._tell("log_to_archive", max(0.0, at - (row.logged if row.logged is not None else at)))
            self._tell("commit_to_archive", at - row.committed)

    def archived_up_to(self, partition: int, offset: int, at: float) -> None:
        """The sink has stored everything of the partition below `offset`."""
        done = [row.token for row in self._rows if row.place and row.place[0] == partition and row.place[1] < offset]
        if done:
            self.archived(max(done), at)

    def lag_seconds(self, now: float) -> dict[str, float]:
        """Hop -> how late a change is now; a hop of which nothing is known yet is left out."""
        ages = {
            "commit_to_log": (row.committed for row in self._rows if row.logged is None),
            "log_to_archive": (row.logged for row in self._rows if row.logged is not None),
            "commit_to_archive": (row.committed for row in self._rows),
        }
        found = dict(self._newest)
        for hop, begun in ages.items():
            oldest = min(begun, default=None)
            if oldest is not None:
                found[hop] = max(found.get(hop, 0.0), now - oldest)
        return found

    def pending(self) -> dict[str, int]:
        """Hop -> rows that are on it."""
        waiting = sum(row.logged is None for row in self._rows)
        return {
            "commit_to_log": waiting,
            "log_to_archive": len(self._rows) - waiting,
            "commit_to_archive": len(self._rows),
        }

    def _tell(self, hop: str, seconds: float) -> None:
        self._newest[hop] = seconds
        self._arrived(hop, seconds)


class Probe:
    """Commits rows and looks for them. Not for threads to share. Raises the `ServiceError` of who doesn't answer."""

    def __init__(
        self,
        endpoints: Endpoints,
        track: Track,
        archive: ArchiveReader | None,
        *,
        every_seconds: float,
        sink: str = SINK,
    ) -> None:
        self._endpoints = endpoints
        self._track = track
        self._every = every_seconds
        self._sink = sink
        self._topic = endpoints.topic_of(WATERMARK_TABLE)
        self._due = 0.0
        self._postgres: psycopg.Connection[tuple[int]] | None = None
        self._consumer: Consumer | None = None
        self._archive = archive

    def step(self) -> None:
        """Commit a row if it is time, and look for those on the way."""
        if self._consumer is None:
            self._consumer = self._tail()  # before the first row: nothing is missed
        if time.monotonic() >= self._due and not self._track.full:
            self._due = time.monotonic() + self._every
            begun = time.monotonic()
            self._track.committed(self._commit(), begun)
        self._look_in_log(self._consumer)
        if self._track.awaiting_archive:
            self._look_in_archive(self._consumer)

    def close(self) -> None:
        """Close the connections."""
        if self._consumer is not None:
            self._consumer.close()
        self._consumer = None
        self._drop()

    def _commit(self) -> int:
        try:
            if self._postgres is None:
                self._postgres = psycopg.connect(
                    self._endpoints.postgres.conninfo("owner"), autocommit=True, connect_timeout=3
                )
            row = self._postgres.execute(
                f"INSERT INTO {WATERMARK_TABLE} AS w (name, token) "
                "VALUES (%s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ON CONFLICT (name) "
                "DO UPDATE SET token = greatest(w.token + 1, excluded.token), at = clock_timestamp() RETURNING token",
                [NAME],
            ).fetchone()
        except psycopg.Error as error:
            self._drop()
            raise PostgresError(f"the probe row can't be written: {str(error).strip().splitlines()[0]}") from error
        assert row is not None
        return row[0]

    def _tail(self) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self._endpoints.bootstrap_servers,
                "group.id": f"connect-{self._sink}",  # only to read what the sink committed; it joins no group
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "queued.max.messages.kbytes": 1024,
                "log_level": 0,
            }
        )
        try:
            metadata = consumer.list_topics(self._topic, timeout=5).topics[self._topic]
            if metadata.error is not None or not metadata.partitions:
                raise KafkaError(f"there is no topic `{self._topic}`")
            consumer.assign(
                [
                    TopicPartition(
                        self._topic,
                        number,
                        consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=5)[1],
                    )
                    for number in metadata.partitions
                ]
            )
        except KafkaException as error:
            consumer.close()
            raise KafkaError(f"the probe's topic can't be read: {error.args[0].str()}") from error
        except KafkaError:
            consumer.close()
            raise
        return consumer

    def _look_in_log(self, consumer: Consumer) -> None:
        for message in consumer.consume(200, timeout=0.2):
            value, partition, offset = message.value(), message.partition(), message.offset()
            if message.error() is not None or value is None or partition is None or offset is None:
                continue
            token = read_token(value) if NAME.encode() in (message.key() or b"") else None
            if token is not None:
                self._track.logged(token, (partition, offset), time.monotonic())

    def _look_in_archive(self, consumer: Consumer) -> None:
        if self._archive is not None:
            token = self._archive.highest(self._topic, _TOKEN)
            if token is not None:
                self._track.archived(token, time.monotonic())
            return
        # A sink that writes objects itself commits its offsets after the upload.
        try:
            partitions = [TopicPartition(self._topic, each.partition) for each in consumer.assignment()]
            for each in consumer.committed(partitions, timeout=3):
                self._track.archived_up_to(each.partition, each.offset, time.monotonic())
        except KafkaException as error:
            raise KafkaError(f"the sink's offsets can't be read: {error.args[0].str()}") from error

    def _drop(self) -> None:
        if self._postgres is not None:
            with contextlib.suppress(psycopg.Error):
                self._postgres.close()
        self._postgres = None


def read_token(value: bytes) -> int | None:
    """The token in a record of the probe row: Avro's long behind the row's name, in the last image there is.

    >>> read_token(b"...\\x0emonitor\\x80\\x01...")
    64
    """
    at = value.rfind(_NAME_BYTES)
    if at < 0:
        return None
    number, shift = 0, 0
    for byte in value[at + len(_NAME_BYTES) : at + len(_NAME_BYTES) + 10]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
    return None
