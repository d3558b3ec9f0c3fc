"""What differs between two pipelines, key by key, with defaults in mind, and which differences move data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdcpipe.connect.pipeline import Part, Pipeline
from cdcpipe.connect.plugins import plugin
from cdcpipe.connect.references import redacted

__all__ = ["Difference", "differences"]

_RISKS: dict[tuple[str, str], str] = {
    ("connector", "name"): "offsets and consumer groups hang on the name: the connector starts anew",
    ("connector", "connector.class"): "another plugin reads none of the stored offsets",
    ("connector", "topic.prefix"): "stored offsets and topics hang on the prefix: the connector starts anew",
    ("connector", "slot.name"): "the old slot keeps its WAL, and the new one begins now: what lies between is lost",
    ("connector", "publication.name"): "what the new publication doesn't hold is not captured",
    ("connector", "database.dbname"): "stored offsets belong to the other database",
    ("connector", "table.include.list"): "a table that comes in has no snapshot: signal an incremental one",
    ("connector", "message.key.columns"): "changes of one row go to another partition than before",
    ("connector", "topic.creation.default.partitions"): "topics of one pipeline get different partition counts",
    ("connector", "topics"): "a topic that comes in is read from where `auto.offset.reset` says",
    ("connector", "topics.regex"): "a topic that comes in is read from where `auto.offset.reset` says",
    ("connector", "consumer.override.group.id"): "the sink reads its topics anew",
    ("connector", "iceberg.control.topic"): "files that the old control topic names are never added",
    ("connector", "iceberg.connect.group-id"): "the sink reads its topics anew",
    ("connector", "path.format"): "rows of one hour lie in two folders",
    ("connector", "topics.dir"): "the archive goes on in another folder",
    ("connector", "flush.size"): "files that are written again after a crash end elsewhere: repeated rows",
    ("connector", "rotate.interval.ms"): "files that are written again after a crash end elsewhere: repeated rows",
    ("connector", "key.converter"): "a key's new bytes may go to another partition, and topics hold both forms",
    ("connector", "value.converter"): "topics hold records of both forms",
    ("worker", "group.id"): "another cluster: it knows no connector and no offset",
    ("worker", "config.storage.topic"): "the cluster knows none of its connectors",
    ("worker", "offset.storage.topic"): "the cluster knows none of its offsets: sources start anew",
    ("topic", "partitions"): "the next change of a key goes to another partition: order is lost",
    ("topic", "cleanup.policy"): "compaction removes all but a key's last change",
    ("topic", "retention.ms"): "records older than this are deleted at once",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that differs. None: not there; `default` is what the plugin then takes. Credentials are hidden."""

    kind: str
    name: str
    key: str
    old: str | None
    new: str | None
    default: str | None = None
    risk: str | None = None


def _parts(pipeline: Pipeline) -> dict[tuple[str, str], Part]:
    return {(part.kind, part.name): part for part in pipeline.parts()}


def differences(old: Pipeline, new: Pipeline) -> tuple[Difference, ...]:
    """Every difference, in order. A single connector on each side is compared, whatever it is named."""
    before, after = _parts(old), _parts(new)
    if len(old.connectors) == len(new.connectors) == 1 and old.connectors[0].name != new.connectors[0].name:
        before[("connector", new.connectors[0].name)] = before.pop(("connector", old.connectors[0].name))
    found: list[Difference] = []
    for kind, name in dict.fromkeys((*before, *after)):
        found.extend(_between(kind, name, before.get((kind, name)), after.get((kind, name))))
    return tuple(found)


def _between(kind: str, name: str, old: Part | None, new: Part | None) -> Iterator[Difference]:
    if old is None or new is None:
        yield Difference(kind, name, "", None if old is None else "there", None if new is None else "there")
        return
    keys = plugin(new.java_class)
    for key in dict.fromkeys((*old.config, *new.config)):
        first, second = old.config.get(key), new.config.get(key)
        default = keys.keys[key].default if keys and key in keys.keys else None
        if first == second:
            continue
        # A key that is left out and one that is given its default say the same.
        same = default is not None and (default if first is None else first) == (default if second is None else second)
        yield Difference(
            kind,
            name,
            key,
            _shown(key, first, second),
            _shown(key, second, first),
            default if first is None or second is None else None,
            None if same else _RISKS.get((kind, key)),
        )


def _shown(key: str, text: str | None, other: str | None) -> str | None:
    if text is None:
        return None
    shown = redacted(key, text)
    return f"{shown} (another)" if other is not None and shown != text and shown == redacted(key, other) else shown
