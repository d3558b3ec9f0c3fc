"""Topic settings. https://kafka.apache.org/documentation/#topicconfigs"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from cdcpipe.connect.model import Config, Item, Key, Prefixed, Text

__all__ = ["TopicConfig"]


class TopicConfig(Config):
    """A topic: `name`, `partitions` and `replication_factor` for creation, `to_config()` for its settings.

    The defaults are those of a topic that holds what can't be made again.
    """

    name: Annotated[Item, Field(exclude=True)]
    """The topic."""

    partitions: Annotated[int, Field(ge=1, exclude=True)] = 1
    """Partitions. Adding some later sends the next change of a key to another partition."""

    replication_factor: Annotated[int, Field(ge=1, exclude=True)] = 3
    """Replicas. Less than 3 can't lose a broker and go on safely."""

    cleanup_policy: Annotated[Literal["delete", "compact", "compact,delete"] | None, Key("cleanup.policy")] = "delete"
    """What happens to old records. Compaction removes intermediate changes of a key."""

    retention_ms: Annotated[int | None, Key("retention.ms"), Field(ge=-1)] = None
    """How long records are kept, in ms; -1 for ever. Kafka's default: 604800000 (7 days)."""

    retention_bytes: Annotated[int | None, Key("retention.bytes"), Field(ge=-1)] = None
    """How many bytes a partition keeps; -1 for no bound. Default -1."""

    min_insync_replicas: Annotated[int | None, Key("min.insync.replicas"), Field(ge=1)] = None
    """How many replicas must have a record before `acks=all` is answered. Default 1."""

    unclean_leader_election_enable: Annotated[bool | None, Key("unclean.leader.election.enable")] = False
    """True lets a replica lead that lacks acknowledged records: they are lost. Default false."""

    max_message_bytes: Annotated[int | None, Key("max.message.bytes"), Field(ge=0)] = None
    """Largest batch. Default 1048588."""

    compression_type: Annotated[
        Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"] | None, Key("compression.type")
    ] = None
    """Codec at the broker. Default producer."""

    message_timestamp_type: Annotated[Literal["CreateTime", "LogAppendTime"] | None, Key("message.timestamp.type")] = (
        None
    )
    """Whose clock stamps records. Default CreateTime."""

    segment_ms: Annotated[int | None, Key("segment.ms"), Field(ge=1)] = None
    """Age at which a segment is closed, in ms. Default 604800000."""

    segment_bytes: Annotated[int | None, Key("segment.bytes"), Field(ge=1048576)] = None
    """Size at which a segment is closed. Default 1073741824."""

    config: Annotated[Mapping[str, Text], Prefixed("")] = Field(default_factory=dict)
    """Further settings."""

    @classmethod
    def for_changes(cls, name: str, *, partitions: int, replication_factor: int, min_insync_replicas: int) -> Self:
        """A topic of change events."""
        return cls(
            name=name,
            partitions=partitions,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
        )

    @classmethod
    def for_iceberg_control(cls, name: str, *, replication_factor: int, min_insync_replicas: int) -> Self:
        """The control topic of an Iceberg sink: one partition, kept for ever (apache/iceberg#17551)."""
        return cls(
            name=name,
            replication_factor=replication_factor,
            min_insync_replicas=min_insync_replicas,
            retention_ms=-1,
            retention_bytes=-1,
        )
