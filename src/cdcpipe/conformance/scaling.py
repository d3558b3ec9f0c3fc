"""What partitions give: how fast a group of consumers gets through one topic, each with a fixed cost a record."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException

from cdcpipe.errors import KafkaError
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["Throughput", "measure"]

_BATCH = 25
# How long one consumer works at all the records: far longer than reading them takes, as one that does something with
# each of them does. Without it the brokers, who share a machine with us here, would be measured.
_WORK_SECONDS = 6.0
_JOIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """`rate` records a second, by the `working` members that had a partition."""

    rate: float
    working: int


class _Member(threading.Thread):
    """One consumer of the group. It waits until all have their partitions, then works."""

    def __init__(self, endpoints: Endpoints, topic: str, group: str, ready: threading.Barrier, run: _Run) -> None:
        super().__init__(name="scaling-member", daemon=True)
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": 10_000,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
        self._topic, self._ready, self._run_ = topic, ready, run
        self._joined = threading.Event()
        self.partitions = 0
        self.error: str = ""

    def run(self) -> None:
        consumer = Consumer(self._config)
        try:
            consumer.subscribe(
                [self._topic],
                on_assign=lambda _, places: self._assigned(len(places)),
                on_revoke=lambda _, __: self._assigned(0),
            )
            self._await_members(consumer)
            self._work(consumer)
        except (KafkaException, threading.BrokenBarrierError) as error:
            self.error = str(error)
            self._ready.abort()
        finally:
            consumer.close()

    def _assigned(self, partitions: int) -> None:
        self.partitions = partitions

    def _await_members(self, consumer: Consumer) -> None:
        """Poll until the group is stable: a consumer that doesn't poll can't take part in its rebalances."""
        deadline = time.monotonic() + _JOIN_SECONDS
        while not self._run_.stable() and time.monotonic() < deadline:
            consumer.poll(0.05)  # what comes meanwhile is left out: the group begins anew with each rebalance
        self._ready.wait(_JOIN_SECONDS)

    def _work(self, consumer: Consumer) -> None:
        while not self._run_.done():
            messages = [each for each in consumer.consume(_BATCH, 0.1) if each.error() is None]
            # The work itself, not a wait for something.
            time.sleep(len(messages) * _WORK_SECONDS / self._run_.records)
            self._run_.add(len(messages))


class _Run:
    """Counts for all members."""

    def __init__(self, expected: int, records: int) -> None:
        self.expected, self.records = expected, records
        self.members: list[_Member] = []
        self.count = 0
        self.idle_until = time.monotonic() + 120
        self._lock = threading.Lock()

    def stable(self) -> bool:
        """All partitions are given out, and nobody who could have one is without: the first to join has them all."""
        counts = [member.partitions for member in self.members]
        working = sum(count > 0 for count in counts)
        return sum(counts) == self.expected and working == min(len(counts), self.expected)

    def add(self, count: int) -> None:
        with self._lock:
            self.count += count

    def done(self) -> bool:
        return self.count >= 0.9 * self.records or time.monotonic() > self.idle_until


def measure(endpoints: Endpoints, topic: str, *, members: int, records: int) -> Throughput:
    """Read `records` of `topic` by a new group of `members` consumers.

    Raises `KafkaError` when the group does not come about.
    """
    probe = Consumer({"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "cdcpipe-scaling", "log_level": 0})
    try:
        partitions = len(probe.list_topics(topic, timeout=20).topics[topic].partitions)
    finally:
        probe.close()
    run, group = _Run(partitions, records), f"cdcpipe-scaling-{uuid.uuid4().hex[:8]}"
    begin: list[float] = []
    ready = threading.Barrier(members, action=lambda: begin.append(time.monotonic()))
    run.members = [_Member(endpoints, topic, group, ready, run) for _ in range(members)]
    for member in run.members:
        member.start()
    for member in run.members:
        member.join(_JOIN_SECONDS * 5)
    errors = [member.error for member in run.members if member.error]
    if errors or not begin:
        raise KafkaError(f"a group of {members} consumers of {topic} did not come about: {'; '.join(errors)}")
    seconds = time.monotonic() - begin[0]
    return Throughput(run.count / seconds, sum(member.partitions > 0 for member in run.members))
