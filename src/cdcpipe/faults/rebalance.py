"""Rebalances: a second worker joins Connect's group and leaves it again, and tasks move between them; a member that
nobody knows joins a consumer group.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from confluent_kafka import Consumer, KafkaException

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError, FaultError, KafkaError, UsageError
from cdcpipe.faults.fault import Fault, Trace, register
from cdcpipe.stack.component import Component, ComponentState
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.pipeline import control_topic
from cdcpipe.stack.stack import Stack

__all__ = ["ForeignMember", "Rebalance"]


@runtime_checkable
class _Scalable(Protocol):
    """A stack with servers that it doesn't start by itself."""

    @property
    def spares(self) -> Mapping[str, Component]: ...


@register
@dataclass(frozen=True, slots=True)
class Rebalance(Fault):
    """A second worker joins, and leaves after `seconds`, `times` times in all. When it leaves `hard`, by SIGKILL, the
    others wait for its session to end first."""

    kind: ClassVar[str] = "rebalance"
    provokes: ClassVar[tuple[str, ...]] = ("K2", "K7", "C1", "I1", "I2", "I3")
    needs: ClassVar[str] = "a stack with a second worker: a local one, `up --proxied`"
    effect_seconds_max: ClassVar[float] = 120.0

    worker: str = "connect-2"
    times: int = 1
    hard: bool = False
    stay_seconds: float = 5.0

    @property
    def target(self) -> str:
        return self.worker

    def supports(self, stack: Stack) -> str | None:
        if not isinstance(stack, _Scalable) or self.worker not in stack.spares:
            return (
                f"this stack has no second worker `{self.worker}` (a local stack has one with `cdcpipe up --proxied`)"
            )
        return None

    def inject(self, stack: Stack, trace: Trace) -> None:
        worker = _worker(stack, self.worker)
        for _ in range(self.times - 1):
            worker.start()
            _wait(worker, self.effect_seconds_max)
            time.sleep(self.stay_seconds)  # how long it stays, as asked; nothing is waited for
            self._leave(worker)
        worker.start()

    def _leave(self, worker: Component) -> None:
        if self.hard:
            worker.kill()
        else:
            worker.stop()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        """It has joined once it was given a connector or a task."""
        readiness = _worker(stack, self.worker).readiness()
        if not readiness.ready:
            return f"`{self.worker}` is not ready: {readiness.reason}"
        return None if len(_owners(stack)) > 1 else "one worker has everything"

    def recover(self, stack: Stack, trace: Trace) -> None:
        self._leave(_worker(stack, self.worker))

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        if _worker(stack, self.worker).state() is not ComponentState.STOPPED:
            return f"`{self.worker}` still runs"
        owners = _owners(stack)
        return None if len(owners) == 1 else f"tasks are with {len(owners)} workers, or not all of them run"


@register
@dataclass(frozen=True, slots=True)
class ForeignMember(Fault):
    """A consumer that is none of the pipeline's joins a group and leaves it after `stay_seconds`, `times` times in all:
    the others give their partitions back and begin again at the committed offsets, once when it comes and once when it
    goes. It commits nothing. A coordinator of Iceberg's sink that was replaced and lives on does that to its successor
    (apache/iceberg#16016, #13763).

    `group`: the sink's coordinator by default. `topic`: what it subscribes to, the control topic by default.
    """

    kind: ClassVar[str] = "foreign-member"
    provokes: ClassVar[tuple[str, ...]] = ("K2", "I1", "I2", "I3")
    effect_seconds_max: ClassVar[float] = 60.0

    group: str = f"connect-{SINK}-coord"
    topic: str | None = None
    times: int = 1
    stay_seconds: float = 2.0
    pause_seconds: float = 3.0

    def check(self) -> None:
        if not (self.group and self.times):
            raise UsageError(f"`{self.kind}`: group must have a name, and times be at least 1")

    @property
    def target(self) -> str:
        return f"group {self.group}"

    def supports(self, stack: Stack) -> str | None:
        return None

    def inject(self, stack: Stack, trace: Trace) -> None:
        topic = self.topic or control_topic(stack.endpoints.topic_prefix)
        for number in range(self.times):
            if number:
                time.sleep(self.pause_seconds)  # the others have the group for themselves, as asked
            trace[f"partitions_{number + 1}"] = self._visit(stack.endpoints.bootstrap_servers, topic)

    def _visit(self, bootstrap_servers: str, topic: str) -> int:
        """Join, stay, leave; how many partitions it was given."""
        given: list[int] = []
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": self.group,
                "client.id": "zz-cdcpipe-fault",  # the last in the group's order, which gets a partition last
                "enable.auto.commit": False,
                "session.timeout.ms": 10_000,
                "log_level": 0,
            }
        )
        try:
            consumer.subscribe([topic], on_assign=lambda _, partitions: given.append(len(partitions)))
            deadline = time.monotonic() + self.effect_seconds_max
            while not given:
                if time.monotonic() > deadline:
                    raise FaultError(f"group `{self.group}` took no new member in {self.effect_seconds_max:g} s")
                consumer.poll(0.1)
            leaves = time.monotonic() + self.stay_seconds
            while (left := leaves - time.monotonic()) > 0:
                consumer.poll(min(0.1, left))
        except KafkaException as error:
            raise KafkaError(f"group `{self.group}` can't be joined: {error.args[0].str()}") from error
        finally:
            consumer.close()
        return given[0]

    def recover(self, stack: Stack, trace: Trace) -> None:
        """It has left; that of a process that was killed is thrown out when its session ends."""


def _worker(stack: Stack, name: str) -> Component:
    assert isinstance(stack, _Scalable)
    return stack.spares[name]


def _wait(worker: Component, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not worker.readiness().ready:
        time.sleep(0.1)


def _owners(stack: Stack) -> set[str]:
    """The workers that have a connector or a task of the pipeline; empty while something doesn't run or is not told."""
    owners = set()
    try:
        with ConnectClient(stack.endpoints.connect_url, timeout_seconds=5) as client:
            for status in (client.status(name) for name in (SOURCE, SINK)):
                if not status.running:
                    return set()
                owners |= {status.worker_id, *(task.worker_id for task in status.tasks)}
    except ConnectError:
        return set()
    return owners
