"""Single message transforms (SMTs) and predicates, in the order in which a connector applies them.

https://kafka.apache.org/documentation/#connect_transforms

`transforms=(InsertField(name="meta", topic_field="kafka_topic"),)` becomes `transforms=meta`,
`transforms.meta.type=...`, `transforms.meta.topic.field=kafka_topic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field, StringConstraints, field_validator

from cdcpipe.connect.model import Config, Item, Key, Prefixed, Text, read_under, take_prefix
from cdcpipe.errors import ConfigError

__all__ = [
    "DebeziumTransform",
    "ExtractNewRecordState",
    "Filter",
    "HasHeaderKey",
    "InsertField",
    "OtherPredicate",
    "OtherTransform",
    "Predicate",
    "RecordIsTombstone",
    "RegexRouter",
    "ReplaceField",
    "StepsAt",
    "TopicNameMatches",
    "Transform",
]

Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


class Step(Config):
    """A named transform or predicate. `target` picks the class's Key or Value form where it has both."""

    class_name: ClassVar[str]
    targeted: ClassVar[bool] = False

    name: Annotated[Alias, Field(exclude=True)]
    """The name under `transforms` or `predicates`; unique within a connector."""

    @property
    def step_class(self) -> str:
        """The Java class of this step."""
        if self.targeted:
            return f"{self.class_name}${str(getattr(self, 'target')).capitalize()}"  # noqa: B009 - on the subclass
        return self.class_name


class Transform(Step):
    """What every transform has."""

    predicate: Annotated[Alias | None, Key("predicate")] = None
    """Apply only to records that this predicate holds for. Default: to all."""

    negate: Annotated[bool | None, Key("negate")] = None
    """Apply only to records that the predicate does not hold for. Default false."""


class TargetedTransform(Transform):
    """A transform with a Key and a Value form."""

    targeted = True

    target: Annotated[Literal["key", "value"], Field(exclude=True)] = "value"
    """The part of the record that is changed."""


class InsertField(TargetedTransform):
    """Kafka's InsertField: adds topic, partition, offset and timestamp, so that an archived row names its record.

    https://kafka.apache.org/documentation/#org.apache.kafka.connect.transforms.InsertField
    """

    class_name = "org.apache.kafka.connect.transforms.InsertField"

    topic_field: Annotated[str | None, Key("topic.field")] = None
    """Field for the topic's name. Default none."""

    partition_field: Annotated[str | None, Key("partition.field")] = None
    """Field for the partition. Default none."""

    offset_field: Annotated[str | None, Key("offset.field")] = None
    """Field for the offset; sinks only. Default none."""

    timestamp_field: Annotated[str | None, Key("timestamp.field")] = None
    """Field for the record's timestamp. Default none."""

    static_field: Annotated[str | None, Key("static.field")] = None
    """Field for a constant. Default none."""

    static_value: Annotated[str | None, Key("static.value")] = None
    """The constant. Default none."""

    replace_null_with_default: Annotated[bool | None, Key("replace.null.with.default")] = None
    """False keeps nulls that have a default. Default true, which changes data: null becomes the default."""


class ReplaceField(TargetedTransform):
    """Kafka's ReplaceField: keeps, drops or renames top-level fields."""

    class_name = "org.apache.kafka.connect.transforms.ReplaceField"

    include: Annotated[tuple[Item, ...] | None, Key("include", many=True)] = None
    """Fields to keep. Default: all."""

    exclude: Annotated[tuple[Item, ...] | None, Key("exclude", many=True)] = None
    """Fields to drop. Default none."""

    renames: Annotated[tuple[Item, ...] | None, Key("renames", many=True)] = None
    """Pairs `old:new`. Default none."""

    replace_null_with_default: Annotated[bool | None, Key("replace.null.with.default")] = None
    """False keeps nulls that have a default. Default true."""


class RegexRouter(Transform):
    """Kafka's RegexRouter: renames the topic."""

    class_name = "org.apache.kafka.connect.transforms.RegexRouter"

    regex: Annotated[str, Key("regex")]
    """Java regular expression that must match the whole topic name."""

    replacement: Annotated[str, Key("replacement")]
    """The new name; `$1` is the first group."""


class Filter(Transform):
    """Kafka's Filter: drops every record that its predicate holds for. A drop is a loss unless it is declared."""

    class_name = "org.apache.kafka.connect.transforms.Filter"


class ExtractNewRecordState(Transform):
    """Debezium's "unwrap": the row instead of the envelope. Before image, transaction and source are gone.

    https://debezium.io/documentation/reference/stable/transformations/event-flattening.html
    """

    class_name = "io.debezium.transforms.ExtractNewRecordState"

    delete_tombstone_handling_mode: Annotated[
        Literal["drop", "tombstone", "rewrite", "rewrite-with-tombstone", "delete-to-tombstone"] | None,
        Key("delete.tombstone.handling.mode"),
    ] = "rewrite"
    """What becomes of a delete. `rewrite` keeps it as a row with `__deleted`. Debezium's default: tombstone."""

    add_fields: Annotated[tuple[Item, ...] | None, Key("add.fields", many=True)] = None
    """Fields of the envelope to keep, such as `op`, `source.lsn`, `source.txId`. Default none."""

    add_fields_prefix: Annotated[str | None, Key("add.fields.prefix")] = None
    """Prefix of the added fields. Default `__`."""

    add_headers: Annotated[tuple[Item, ...] | None, Key("add.headers", many=True)] = None
    """Fields of the envelope to put into headers. Default none."""

    drop_fields_header_name: Annotated[str | None, Key("drop.fields.header.name")] = None
    """Header that lists the fields to drop. Default none."""

    route_by_field: Annotated[str | None, Key("route.by.field")] = None
    """Field whose value names the topic. Default none."""


class DebeziumTransform(Transform):
    """Iceberg's own unwrap: the row with a `_cdc` struct (op, ts, offset, source, target, key).

    https://iceberg.apache.org/docs/latest/kafka-connect/#debeziumtransform
    """

    class_name = "org.apache.iceberg.connect.transforms.DebeziumTransform"

    cdc_target_pattern: Annotated[str | None, Key("cdc.target.pattern")] = None
    """How `_cdc.target` is made, from `{db}` and `{table}`. Default `{db}.{table}`."""


class OtherTransform(Transform):
    """A transform that this package has no model for; its settings are kept as they are."""

    class_name = ""

    java_class: Annotated[str, Field(exclude=True)]
    """The Java class, with `$Key` or `$Value` where it has them."""

    options: Annotated[Mapping[str, Text], Prefixed("")] = Field(default_factory=dict)
    """Its settings, without `transforms.<name>.`."""

    @field_validator("java_class")
    @classmethod
    def _has_no_model(cls, java_class: str) -> str:
        return _demand_no_model(java_class, _TRANSFORMS)

    @property
    def step_class(self) -> str:
        return self.java_class


class Predicate(Step):
    """What every predicate has."""


class RecordIsTombstone(Predicate):
    """Holds for a record whose value is null."""

    class_name = "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone"


class TopicNameMatches(Predicate):
    """Holds for a record of a topic whose whole name matches."""

    class_name = "org.apache.kafka.connect.transforms.predicates.TopicNameMatches"

    pattern: Annotated[str, Key("pattern")]
    """Java regular expression."""


class HasHeaderKey(Predicate):
    """Holds for a record that has this header."""

    class_name = "org.apache.kafka.connect.transforms.predicates.HasHeaderKey"

    header: Annotated[str, Key("name")]
    """The header's name."""


class OtherPredicate(Predicate):
    """A predicate that this package has no model for; its settings are kept as they are."""

    class_name = ""

    java_class: Annotated[str, Field(exclude=True)]
    """The Java class."""

    options: Annotated[Mapping[str, Text], Prefixed("")] = Field(default_factory=dict)
    """Its settings, without `predicates.<name>.`."""

    @field_validator("java_class")
    @classmethod
    def _has_no_model(cls, java_class: str) -> str:
        return _demand_no_model(java_class, _PREDICATES)

    @property
    def step_class(self) -> str:
        return self.java_class


def _demand_no_model(java_class: str, models: tuple[type[Step], ...]) -> str:
    base, _, target = java_class.partition("$")
    for model in models:
        if model.class_name == base and model.targeted == bool(target):
            raise ValueError(f"there is a model for this class: `{model.__name__}`")
    return java_class


_TRANSFORMS: tuple[type[Transform], ...] = (
    InsertField,
    ReplaceField,
    RegexRouter,
    Filter,
    ExtractNewRecordState,
    DebeziumTransform,
)
_PREDICATES: tuple[type[Predicate], ...] = (RecordIsTombstone, TopicNameMatches, HasHeaderKey)
_OTHER: dict[str, type[OtherTransform] | type[OtherPredicate]] = {
    "transforms": OtherTransform,
    "predicates": OtherPredicate,
}


class StepsAt:
    """The codec of a field that holds transforms or predicates: names at `group`, settings at `group.<name>.`."""

    __slots__ = ("group",)

    def __init__(self, group: Literal["transforms", "predicates"]) -> None:
        self.group = group

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, tuple)
        if not value:
            return {}
        config: dict[str, str] = {self.group: ",".join(step.name for step in value)}
        for step in value:
            prefix = f"{self.group}.{step.name}."
            config[f"{prefix}type"] = step.step_class
            config.update({f"{prefix}{key}": text for key, text in step.to_config().items()})
        return config

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        names = [name.strip() for name in remaining.pop(self.group, "").split(",") if name.strip()]
        return tuple(self._step(name, remaining, keep_unknown) for name in names)

    def _step(self, name: str, remaining: dict[str, str], keep_unknown: bool) -> Step:
        prefix = f"{self.group}.{name}."
        settings = take_prefix(remaining, prefix)
        java_class = settings.pop("type", None)
        if java_class is None:
            raise ConfigError(f'$["{self.group}"]: `{name}` has no `{prefix}type`')
        base, _, target = java_class.partition("$")
        models: tuple[type[Step], ...] = _TRANSFORMS if self.group == "transforms" else _PREDICATES
        for model in models:
            if model.class_name == base and model.targeted == bool(target):
                given = {"name": name, "target": target.lower()} if target else {"name": name}
                return read_under(prefix, model, settings, keep_unknown, given)
        return read_under(prefix, _OTHER[self.group], settings, keep_unknown, {"name": name, "java_class": java_class})

    def keys(self) -> Iterator[str]:
        yield self.group


class Named(Protocol):
    """What is told apart by its name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def unique_names(items: tuple[N, ...]) -> tuple[N, ...]:
    """A validator: refuses two of one name, of which Connect would keep one."""
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice")
    return items
