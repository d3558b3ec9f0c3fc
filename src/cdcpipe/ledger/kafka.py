"""Reading partitions of Kafka topics from given offsets to given ends, committed records only."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import stamina
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from cdcpipe.errors import EvidenceError, KafkaError
from cdcpipe.ledger.store import PartitionRead

__all__ = ["Offsets", "PartitionReader"]

log = logging.getLogger("cdcpipe.ledger.log")

Offsets = Mapping[tuple[str, int], int]
"""Offsets by topic and partition."""

_GONE = (Code.UNKNOWN_TOPIC_OR_PART, Code._UNKNOWN_PARTITION, Code._UNKNOWN_TOPIC, Code.UNKNOWN_TOPIC_ID)


@dataclass(slots=True)
class _Range:
    begin: int
    end: int
    first_available: int
    position: int
    records: int = 0
    done: bool = False


@dataclass(slots=True)
class PartitionReader:
    """All partitions of `topics`, from `begin` (default: the first offset there is) to before `end` (default: the last
    stable offset now). Iterate over `batches()`, then look at `partitions()` and `reasons`.

    `reasons` says what of it could not be read. EvidenceError when a topic is not there at the beginning.
    """

    bootstrap_servers: str
    topics: Sequence[str]
    begin: Offsets = field(default_factory=dict)
    end: Offsets = field(default_factory=dict)
    timeout_seconds: float = 30.0
    """How long nothing may come before what is missing is given up."""
    client: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the client: security, for one."""
    reasons: list[str] = field(default_factory=list)
    _ranges: dict[tuple[str, int], _Range] = field(default_factory=dict)

    def batches(self, *, records: int = 20_000) -> Iterator[list[Any]]:
        """Lists of messages, at most `records` each. Some may lie beyond their partition's end: see `ends`."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                # A group is asked for by the client, but nothing is ever committed and no one joins it.
                "group.id": "cdcpipe-ledger",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.min.bytes": 1,
                "fetch.max.bytes": 64 << 20,
                "max.partition.fetch.bytes": 16 << 20,
                "queued.max.messages.kbytes": 128 << 10,
                "queued.min.messages": 200_000,
                "allow.auto.create.topics": False,
                "logger": log,
                **self.client,
            }
        )
        try:
            self._ask_ranges(consumer)
            wanted = [TopicPartition(*each, r.position) for each, r in self._ranges.items() if not r.done]
            if wanted:
                consumer.assign(wanted)
                yield from self._consume(consumer, records)
        except KafkaException as error:
            raise KafkaError(f"can't read from {self.bootstrap_servers}: {error.args[0]}") from error
        finally:
            consumer.close()

    @property
    def ends(self) -> Offsets:
        """Where each partition's range ends (exclusive)."""
        return {each: r.end for each, r in self._ranges.items()}

    def count(self, topic: str, partition: int, records: int) -> None:
        """Note that `records` of a partition were taken."""
        self._ranges[topic, partition].records += records

    def partitions(self) -> tuple[PartitionRead, ...]:
        """What was read, for a manifest."""
        return tuple(
            PartitionRead(topic, partition, r.begin, r.end, r.records, r.first_available)
            for (topic, partition), r in sorted(self._ranges.items())
        )

    def _ask_ranges(self, consumer: Consumer) -> None:
        known = consumer.list_topics(timeout=20).topics
        missing = [topic for topic in self.topics if topic not in known or known[topic].error is not None]
        if missing:
            raise EvidenceError(
                f"the cluster at {self.bootstrap_servers} has no topic {', '.join(f'`{topic}`' for topic in missing)}",
                hint="it was deleted or never written; what it held can't be judged",
            )
        for topic in self.topics:
            for partition in known[topic].partitions:
                low, high = _watermarks(consumer, TopicPartition(topic, partition))
                begin = self.begin.get((topic, partition), low)
                end = self.end.get((topic, partition), high)
                if begin < low:
                    self.reasons.append(
                        f"{topic}/{partition}: offsets {begin} to {low - 1} are gone: the topic's retention took them"
                    )
                if end > high:
                    self.reasons.append(f"{topic}/{partition}: ends at {high}, before the asked {end}")
                position = max(begin, low)
                end = min(end, high)
                self._ranges[topic, partition] = _Range(begin, end, low, position, done=position >= end)

    def _consume(self, consumer: Consumer, records: int) -> Iterator[list[Any]]:
        heard = time.monotonic()
        while not all(r.done for r in self._ranges.values()):
            messages = consumer.consume(records, timeout=0.5)
            good = [message for message in messages if message.error() is None]
            for message in messages:
                if message.error() is not None:
                    self._note(message)
            if good:
                heard = time.monotonic()
                yield good
            self._note_positions(consumer)
            if time.monotonic() - heard > self.timeout_seconds:
                for (topic, partition), r in self._ranges.items():
                    if not r.done:
                        self.reasons.append(
                            f"{topic}/{partition}: nothing came for {self.timeout_seconds:g} s at offset {r.position}, "
                            f"before its end {r.end}: a transaction is open there, or the broker is away"
                        )
                        r.done = True

    def _note(self, message: Any) -> None:
        error = message.error()
        where = (message.topic(), message.partition())
        if error.code() == Code._PARTITION_EOF:
            r = self._ranges[where]
            r.position = max(r.position, message.offset())
            r.done = r.done or r.position >= r.end
        elif error.code() in (*_GONE, Code._AUTO_OFFSET_RESET):
            for each, r in self._ranges.items():
                if each == where or (where[1] is None and each[0] == where[0]):
                    if not r.done:
                        self.reasons.append(f"{each[0]}/{each[1]}: vanished at offset {r.position}: {error.str()}")
                    r.done = True
        elif error.fatal() or not error.retriable():
            log.warning("while reading %s: %s", where, error.str())

    def _note_positions(self, consumer: Consumer) -> None:
        waiting = [TopicPartition(*each) for each, r in self._ranges.items() if not r.done]
        if not waiting:
            return
        finished: list[TopicPartition] = []
        for each in consumer.position(waiting):
            r = self._ranges[each.topic, each.partition]
            if each.offset > r.position and each.offset != OFFSET_BEGINNING:
                r.position = each.offset
            if r.position >= r.end:
                r.done = True
                finished.append(TopicPartition(each.topic, each.partition))
        if finished:
            consumer.pause(finished)


def _watermarks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """First and last stable offset. A leader that is just elected is asked again."""
    for attempt in stamina.retry_context(on=_may_pass, attempts=10, timeout=30):
        with attempt:
            low, high = consumer.get_watermark_offsets(place, timeout=20)
    return low, high


def _may_pass(error: Exception) -> bool:
    passing = (Code.NOT_LEADER_FOR_PARTITION, Code.LEADER_NOT_AVAILABLE, Code._TRANSPORT, Code._TIMED_OUT)
    return isinstance(error, KafkaException) and error.args[0].code() in passing
