"""The dead letter queue of a sink: where records go that a converter or transform can't take.

It holds what fails in conversion and transformation only; what the sink itself fails to write goes there only
if the connector uses Connect's ErrantRecordReporter. https://kafka.apache.org/documentation/#sinkconnectconfigs
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cdcpipe.connect.model import Config, Key, Millis

__all__ = ["DeadLetterQueue"]


class DeadLetterQueue(Config):
    """`errors.*` of a sink. With `tolerance="all"` and a topic, no record is dropped without a trace."""

    topic: Annotated[str | None, Key("errors.deadletterqueue.topic.name")]
    """The topic. None with `tolerance="none"` only: stop at the first bad record."""

    replication_factor: Annotated[int | None, Key("errors.deadletterqueue.topic.replication.factor")] = None
    """Replicas of the topic when Connect creates it. Default 3."""

    context_headers: Annotated[bool | None, Key("errors.deadletterqueue.context.headers.enable")] = True
    """Write topic, partition, offset and the error into headers, without which a record's origin is lost."""

    tolerance: Annotated[Literal["none", "all"] | None, Key("errors.tolerance")] = "all"
    """`all`: bad records go to the topic and the sink goes on. Default none: the task fails."""

    log_enable: Annotated[bool | None, Key("errors.log.enable")] = True
    """Log each failure. Default false."""

    log_include_messages: Annotated[bool | None, Key("errors.log.include.messages")] = False
    """Log the record itself, which may hold personal data. Default false."""

    retry_timeout_ms: Annotated[int | None, Key("errors.retry.timeout"), Field(ge=-1)] = None
    """How long a failed operation is tried again, in ms; -1 for ever. Default 0."""

    retry_delay_max_ms: Annotated[Millis | None, Key("errors.retry.delay.max.ms")] = None
    """The longest wait between two tries. Default 60000."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.extra:
            raise ValueError("give keys without a field to the sink's own `extra`")
        if not self.to_config():
            raise ValueError("says nothing: leave it out")
        return self
