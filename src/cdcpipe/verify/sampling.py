"""Samples of a running pipeline for `cdcpipe.verify.progress`. A server that doesn't answer leaves its part None."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ServiceError
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.verify.progress import ObjectState, Place, Sample, SlotState, Writer

if TYPE_CHECKING:
    from cdcpipe.ledger.objects import Bucket

__all__ = ["Sampler", "parse_lsn", "source_lsn"]

_SLOT = """
SELECT plugin, confirmed_flush_lsn::text, restart_lsn::text, wal_status,
       to_jsonb(s) ->> 'invalidation_reason', pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8
FROM pg_replication_slots s WHERE slot_name = %s
"""

_MARKERS_MAX = 100
"""A longer gap than this is work to do, whatever it holds."""


def parse_lsn(text: str | None) -> int | None:
    """`16/B374D848` as a number."""
    if text is None:
        return None
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def source_lsn(client: ConnectClient, connector: str) -> int | None:
    """The highest LSN in the connector's durable offset; None when it has none yet."""
    found = [
        value
        for each in client.offsets(connector)
        for name, value in (each.offset or {}).items()
        if name in ("lsn", "lsn_commit", "lsn_proc") and isinstance(value, int)
    ]
    return max(found, default=None)


def _bucket(endpoints: Endpoints) -> Bucket:
    # Only now: it brings pyarrow, which a monitor that lists nothing needn't have in memory.
    from cdcpipe.ledger.objects import Bucket

    return Bucket(endpoints.s3)


class Sampler:
    """Takes samples. Connections are kept and made again after a failure; a context manager.

    `source` and `sink` are names in Connect; `slot` the source's slot. `prefixes` are the folders of the archive to
    list; listing costs, so it is done each `list_every` samples. `writers` asks who holds the sink's partitions, which
    only librdkafka's admin client can: it ends the whole process by an assertion when a broker goes away in the middle
    (confluentinc/librdkafka#4605, open), so leave that to a process that may die.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        source: str,
        sink: str,
        slot: str,
        prefixes: Iterable[str] = (),
        list_every: int = 10,
        writers: bool = False,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._endpoints = endpoints
        self._source, self._sink, self._slot = source, sink, slot
        self._prefixes, self._list_every = tuple(prefixes), list_every
        self._timeout = timeout_seconds
        self._postgres: psycopg.Connection[Any] | None = None
        self._connect = ConnectClient(endpoints.connect_url, timeout_seconds=timeout_seconds)
        self._kafka: dict[str, Any] = {"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0}
        self._admin = AdminClient(self._kafka) if writers else None
        self._bucket = _bucket(endpoints) if self._prefixes else None
        self._consumer: Consumer | None = None
        self._member: Consumer | None = None
        self._gaps: dict[Place, tuple[tuple[int, int], bool | None]] = {}
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connect.close()
        for consumer in (self._consumer, self._member):
            if consumer is not None:
                consumer.close()
        self._consumer = self._member = None
        self._drop()

    def take(self) -> Sample:
        """A sample of now: the slot first, then the source's offset."""
        at, wall = time.monotonic(), datetime.now(UTC)
        wal, slot = self._slot_state()
        lsn = connectors = group = ends = writers = None
        with suppress(ServiceError):
            lsn = source_lsn(self._connect, self._source)
        with suppress(ServiceError):
            connectors = self._connectors()
        with suppress(KafkaException):
            group = self._group_offsets()
            ends = self._ends(group)
            writers = None if self._admin is None else self._writers(self._admin)
        objects = None
        if self._bucket is not None and self._number % self._list_every == 0:
            with suppress(ServiceError):
                objects = {
                    each.name: ObjectState(each.etag, each.bytes)
                    for prefix in self._prefixes
                    for each in self._bucket.list(prefix)
                }
        self._number += 1
        return Sample(at, wall, wal, slot, lsn, group, ends, objects, connectors, writers)

    def every(self, seconds: float) -> Iterator[Sample]:
        """A sample each `seconds`, without end."""
        due = time.monotonic()
        while True:
            yield self.take()
            due = max(due + seconds, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _slot_state(self) -> tuple[int | None, SlotState | None]:
        try:
            if self._postgres is None:
                self._postgres = psycopg.connect(
                    self._endpoints.postgres.conninfo("witness"), autocommit=True, connect_timeout=int(self._timeout)
                )
            wal = self._postgres.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            row = self._postgres.execute(_SLOT, [self._slot]).fetchone()
        except psycopg.Error:
            self._drop()
            return None, None
        now = parse_lsn(wal[0]) if wal else None
        if row is None:
            return now, SlotState(self._slot, exists=False)
        plugin, flushed, restart, status, reason, retained = row
        return now, SlotState(
            self._slot, True, plugin, parse_lsn(flushed), parse_lsn(restart), status, reason, retained
        )

    def _drop(self) -> None:
        if self._postgres is not None:
            with suppress(psycopg.Error):
                self._postgres.close()
            self._postgres = None

    def _connectors(self) -> dict[str, str]:
        states = {}
        for name in (self._source, self._sink):
            status = self._connect.status(name)
            states[name] = status.state
            states |= {f"{name}/{task.id}": task.state for task in status.tasks}
        return states

    def _group(self) -> str:
        return f"connect-{self._sink}"

    def _asking(self) -> Consumer:
        """Asks in the name of the sink's group, and never joins it: it subscribes to nothing, and commits nothing."""
        if self._member is None:
            own = {"group.id": self._group(), "enable.auto.commit": False, "reconnect.backoff.max.ms": 500}
            self._member = Consumer({**self._kafka, **own})
        return self._member

    def _group_offsets(self) -> dict[Place, int]:
        asking, prefixes = self._asking(), self._endpoints.change_topic_prefixes
        places = [
            TopicPartition(name, number)
            for name, topic in asking.list_topics(timeout=self._timeout).topics.items()
            for number in topic.partitions
            if name.startswith(prefixes)
        ]
        found = asking.committed(places, timeout=self._timeout) if places else []
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def _ends(self, group: dict[Place, int]) -> dict[Place, int]:
        ends = {
            place: int(self._asking().get_watermark_offsets(TopicPartition(*place), timeout=self._timeout)[1])
            for place in group
        }
        return {place: self._without_markers(place, group[place], end) for place, end in ends.items()}

    def _without_markers(self, place: Place, offset: int, end: int) -> int:
        """`end`, or `offset` where nothing that a read_committed consumer would get lies between: its position stops
        before transaction markers, and a sink that is done would look as if it stood. Looked at once it stays."""
        if not 0 < end - offset <= _MARKERS_MAX:
            self._gaps.pop(place, None)
            return end
        gap, empty = self._gaps.get(place, (None, None))
        if gap != (offset, end):
            self._gaps[place] = ((offset, end), None)
            return end
        if empty is None:
            empty = self._is_empty(place, offset)
            self._gaps[place] = ((offset, end), empty)
        return offset if empty else end

    def _is_empty(self, place: Place, offset: int) -> bool | None:
        """Whether no committed record lies from `offset` on; None when Kafka doesn't say."""
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._kafka,
                    "group.id": "cdcpipe-sampler",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 256,
                }
            )
        self._consumer.assign([TopicPartition(*place, offset)])
        try:
            message = self._consumer.poll(self._timeout)
        finally:
            self._consumer.unassign()
        if message is None:
            return None
        error = message.error()
        return False if error is None else True if error.name() == "_PARTITION_EOF" else None

    def _writers(self, admin: AdminClient) -> dict[str, tuple[Writer, ...]]:
        """Members of the sink's group by the partition they hold: a partition that two hold has two writers."""
        asked = admin.describe_consumer_groups([self._group()], request_timeout=self._timeout)
        held: dict[str, list[Writer]] = {}
        for member in asked[self._group()].result().members:
            for each in member.assignment.topic_partitions if member.assignment else ():
                held.setdefault(f"{each.topic}/{each.partition}", []).append(Writer(member.member_id, 0))
        return {seat: tuple(writers) for seat, writers in held.items()}
