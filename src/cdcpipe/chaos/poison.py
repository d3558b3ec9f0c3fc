"""A fault of the data itself: records in a change topic that no converter can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from confluent_kafka import KafkaException, Producer

from cdcpipe.errors import FaultError
from cdcpipe.faults.fault import Fault, Trace, register
from cdcpipe.stack.stack import Stack

__all__ = ["Poison"]


@register
@dataclass(frozen=True, slots=True)
class Poison(Fault):
    """`count` records of the wire format's magic byte, an unknown schema and rubbish, in partition 0 of `topic`."""

    kind: ClassVar[str] = "poison"
    provokes: ClassVar[tuple[str, ...]] = ("K6", "I6")

    topic: str
    count: int = 5

    @property
    def target(self) -> str:
        return self.topic

    def supports(self, stack: Stack) -> str | None:
        return None

    def inject(self, stack: Stack, trace: Trace) -> None:
        producer = Producer({"bootstrap.servers": stack.endpoints.bootstrap_servers, "log_level": 0})
        failed: list[str] = []
        try:
            for number in range(self.count):
                value = b"\0\x7f\xff\xff\xf0" + bytes([number]) * 20
                producer.produce(
                    self.topic,
                    value=value,
                    key=value,
                    partition=0,
                    on_delivery=lambda error, _: failed.append(str(error)) if error else None,
                )
            left = producer.flush(20)
        except KafkaException as error:
            raise FaultError(f"`{self.topic}` can't be written to: {error.args[0].str()}") from error
        if left or failed:
            raise FaultError(f"{left or len(failed)} poisoned records were not written: {failed[:1]}")

    def recover(self, stack: Stack, trace: Trace) -> None:
        """What is in a log stays there."""
