"""Guards of keys: what a plugin doesn't know it ignores, and with it the protection that the key stood for."""

from __future__ import annotations

from collections.abc import Iterator

from cdcpipe.connect.guards.rule import Answer, Hit, guard
from cdcpipe.connect.pipeline import Part, Pipeline
from cdcpipe.connect.plugins import PluginKeys, nearest, plugin

_IGNORED_BY_ICEBERG = ("iceberg.tables.cdc-field", "iceberg.tables.upsert-mode-enabled")  # ICE-APP-01 says more
_CLIENTS = ("consumer.override.", "producer.override.", "admin.override.")
_SOURCE = "https://kafka.apache.org/documentation/#connect_configuring"
_STEP_KEYS = ("type", "predicate", "negate")


def _own_prefixes(part: Part) -> Iterator[str]:
    """Prefixes that the config itself opens up: topic creation groups, Debezium's converters and post processors."""
    for group in ("default", *part.words("topic.creation.groups")):
        yield f"topic.creation.{group}."
    for key in ("converters", "post.processors", "custom.metric.tags"):
        for name in part.words(key):
            yield f"{name}."


def _under(part: Part, keys: PluginKeys) -> Iterator[tuple[str, str, PluginKeys | None]]:
    """(key, what is left of it, whose key that is) for each key; None for a plugin without a catalogue."""
    steps = {
        f"{group}.{name}.": plugin(part.get(f"{group}.{name}.type"))
        for group in ("transforms", "predicates")
        for name in part.words(group)
    }
    for slot in ("key.converter", "value.converter", "header.converter"):
        steps[f"{slot}."] = plugin(part.get(slot)) if slot in part.config else None
    for key in part.config:
        prefix = next((prefix for prefix in steps if key.startswith(prefix) and not keys.knows(key)), None)
        yield (key, key, keys) if prefix is None else (key, key[len(prefix) :], steps[prefix])


@guard(
    "KEY-01",
    "error",
    "the plugin doesn't know this key, so it is ignored",
    cure="correct the key, or remove it",
    source=_SOURCE,
    keys=(),
)
def _unknown(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        keys = plugin(part.java_class)
        if keys is None:
            continue
        own = tuple(_own_prefixes(part))
        for key, rest, owner in _under(part, keys):
            if owner is None or owner.knows(rest) or key in _IGNORED_BY_ICEBERG or key.startswith((*_CLIENTS, *own)):
                continue
            if owner is not keys and rest in _STEP_KEYS:
                continue
            near = nearest(rest, owner.keys)
            yield Hit(part, key, f"did you mean `{key[: len(key) - len(rest)]}{near}`?" if near else "")


@guard(
    "KEY-02",
    "error",
    "a key without which the plugin doesn't start is missing",
    cure="give it a value",
    source=_SOURCE,
    keys=(),
)
def _missing(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        keys = plugin(part.java_class)
        for info in keys.keys.values() if keys else ():
            if info.required and info.name not in part.config and info.name != "name":
                yield Hit(part, info.name, f"`{info.name}`")
        for group in ("transforms", "predicates"):
            for name in part.words(group):
                if not part.get(f"{group}.{name}.type"):
                    yield Hit(part, f"{group}.{name}.type", f"`{group}.{name}.type`")
        if part in pipeline.sinks and "topics" in part.config and "topics.regex" in part.config:
            yield Hit(part, "topics", "`topics` and `topics.regex` exclude each other")


@guard(
    "KEY-03",
    "error",
    "the value is none of those that the plugin takes",
    cure="take one of those",
    source=_SOURCE,
    keys=(),
)
def _no_such_value(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        keys = plugin(part.java_class)
        for key, rest, owner in _under(part, keys) if keys else ():
            info = owner.keys.get(rest) if owner else None
            text = part.get(key)
            if info and info.values and "${" not in text and text.lower() not in {v.lower() for v in info.values}:
                yield Hit(part, key, f"one of {', '.join(v or 'nothing' for v in info.values)}")
