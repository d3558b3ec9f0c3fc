"""What Kafka Connect itself gives every connector, source or sink. https://kafka.apache.org/documentation/#connectconfigs"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cdcpipe.connect.converters import Converter, ConverterAt
from cdcpipe.connect.deadletter import DeadLetterQueue
from cdcpipe.connect.model import Config, Inline, Item, Key, Millis, Prefixed, Text
from cdcpipe.connect.transforms import Predicate, StepsAt, Transform, unique_names

__all__ = ["Connector", "Sink", "Source"]


class Connector(Config):
    """What every connector has."""

    name: Annotated[Item, Key("name")]
    """Unique in the Connect cluster. Offsets and consumer groups hang on it: a renamed connector starts anew."""

    tasks_max: Annotated[int | None, Key("tasks.max"), Field(ge=1)] = 1
    """How many tasks at most. Default 1."""

    key_converter: Annotated[Converter | None, ConverterAt("key.converter")] = None
    """Converter of keys. Default: the worker's."""

    value_converter: Annotated[Converter | None, ConverterAt("value.converter")] = None
    """Converter of values. Default: the worker's."""

    header_converter: Annotated[Converter | None, ConverterAt("header.converter")] = None
    """Converter of headers. Default: the worker's (SimpleHeaderConverter)."""

    predicates: Annotated[tuple[Predicate, ...], StepsAt("predicates"), AfterValidator(unique_names)] = ()
    """Predicates that transforms refer to by name."""

    transforms: Annotated[tuple[Transform, ...], StepsAt("transforms"), AfterValidator(unique_names)] = ()
    """Transforms, applied in this order."""

    config_action_reload: Annotated[Literal["none", "restart"] | None, Key("config.action.reload")] = None
    """What to do when a config provider's secret changes. Default restart."""


class Source(Connector):
    """What every source has."""

    exactly_once_support: Annotated[Literal["required", "requested"] | None, Key("exactly.once.support")] = "required"
    """`required`: refuse to start unless worker and connector can do exactly-once (KIP-618). Default requested."""

    transaction_boundary: Annotated[Literal["poll", "interval", "connector"] | None, Key("transaction.boundary")] = (
        "poll"
    )
    """When a producer transaction ends. `poll`: with each batch."""

    transaction_boundary_interval_ms: Annotated[Millis | None, Key("transaction.boundary.interval.ms")] = None
    """With `interval`: how often, in ms. Default: the worker's `offset.flush.interval.ms`."""

    offsets_storage_topic: Annotated[str | None, Key("offsets.storage.topic")] = None
    """An offsets topic of the connector's own. Default: the worker's."""

    topic_creation_partitions: Annotated[int | None, Key("topic.creation.default.partitions"), Field(ge=-1)] = None
    """Partitions of topics that Connect creates. Adding partitions later moves keys.
    -1: the brokers' own. Default: topics are made by the brokers."""

    topic_creation_replication_factor: Annotated[
        int | None, Key("topic.creation.default.replication.factor"), Field(ge=-1)
    ] = None
    """Replicas of topics that Connect creates. -1: the brokers' own. Default: topics are made by the brokers."""

    topic_creation_config: Annotated[Mapping[str, Text], Prefixed("topic.creation.default.")] = Field(
        default_factory=dict
    )
    """Further settings of topics that Connect creates, such as `min.insync.replicas`."""

    topic_creation_groups: Annotated[Mapping[str, Text], Prefixed("topic.creation.")] = Field(default_factory=dict)
    """`groups` and the rules of each, without `topic.creation.`."""

    errors_tolerance: Annotated[Literal["none", "all"] | None, Key("errors.tolerance")] = None
    """`all` drops what a converter or transform can't take: a source has no dead letter queue. Default none."""

    errors_retry_timeout_ms: Annotated[int | None, Key("errors.retry.timeout"), Field(ge=-1)] = None
    """How long a failed conversion is tried again, in ms; -1 for ever. Default 0."""

    errors_retry_delay_max_ms: Annotated[Millis | None, Key("errors.retry.delay.max.ms")] = None
    """The longest wait between two tries. Default 60000."""

    errors_log_enable: Annotated[bool | None, Key("errors.log.enable")] = None
    """Log each failure. Default false."""

    errors_log_include_messages: Annotated[bool | None, Key("errors.log.include.messages")] = None
    """Log the record itself. Default false."""

    producer_overrides: Annotated[Mapping[str, Text], Prefixed("producer.override.")] = Field(default_factory=dict)
    """Settings of this connector's producers, without `producer.override.`."""

    admin_overrides: Annotated[Mapping[str, Text], Prefixed("admin.override.")] = Field(default_factory=dict)
    """Settings of this connector's admin client, without `admin.override.`."""


class Sink(Connector):
    """What every sink has."""

    topics: Annotated[tuple[Item, ...] | None, Key("topics", many=True)] = None
    """Topics to read; either this or `topics_regex`. Default none."""

    topics_regex: Annotated[str | None, Key("topics.regex")] = None
    """Java regular expression of topics to read. Default none."""

    dead_letter_queue: Annotated[DeadLetterQueue | None, Inline(DeadLetterQueue)] = None
    """Where records go that can't be converted. None: the task stops at the first one.
    Default: the task stops at the first one."""

    isolation_level: Annotated[
        Literal["read_committed", "read_uncommitted"] | None, Key("consumer.override.isolation.level")
    ] = "read_committed"
    """`read_committed` reads nothing of an aborted transaction. Kafka's default: read_uncommitted."""

    auto_offset_reset: Annotated[
        Literal["earliest", "latest", "none"] | None, Key("consumer.override.auto.offset.reset")
    ] = "earliest"
    """Where to begin without an offset. Connect's default: earliest."""

    consumer_overrides: Annotated[Mapping[str, Text], Prefixed("consumer.override.")] = Field(default_factory=dict)
    """Further settings of this connector's consumers, without `consumer.override.`."""

    producer_overrides: Annotated[Mapping[str, Text], Prefixed("producer.override.")] = Field(default_factory=dict)
    """Settings of the dead letter queue's producer, without `producer.override.`."""

    admin_overrides: Annotated[Mapping[str, Text], Prefixed("admin.override.")] = Field(default_factory=dict)
    """Settings of this connector's admin client, without `admin.override.`."""
