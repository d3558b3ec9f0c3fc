"""Avro types and places in the words of somebody who looks at a table."""

from __future__ import annotations

from typing import Final

from cdcpipe.schemas.avro import Array, Enum, Fixed, Map, Record, Schema, Union_

__all__ = ["column_of", "columns", "describe"]

_CONNECT: Final = {
    "io.debezium.time.Date": "date",
    "io.debezium.time.Time": "time in milliseconds",
    "io.debezium.time.MicroTime": "time in microseconds",
    "io.debezium.time.NanoTime": "time in nanoseconds",
    "io.debezium.time.Timestamp": "timestamp in milliseconds",
    "io.debezium.time.MicroTimestamp": "timestamp in microseconds",
    "io.debezium.time.NanoTimestamp": "timestamp in nanoseconds",
    "io.debezium.time.ZonedTimestamp": "timestamptz (text)",
    "io.debezium.time.ZonedTime": "timetz (text)",
    "io.debezium.time.MicroDuration": "interval in microseconds",
    "io.debezium.time.Interval": "interval (text)",
    "io.debezium.data.Json": "json",
    "io.debezium.data.Uuid": "uuid",
    "io.debezium.data.Xml": "xml",
    "io.debezium.data.Enum": "enum",
    "io.debezium.data.Ltree": "ltree",
    "io.debezium.data.Bits": "bit string",
    "io.debezium.data.TsVector": "tsvector",
    "io.debezium.data.VariableScaleDecimal": "numeric of any scale",
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time in milliseconds",
    "org.apache.kafka.connect.data.Timestamp": "timestamp in milliseconds",
}


def describe(schema: Schema) -> str:
    """A type in a few words: `decimal(12,2)`, `timestamp in microseconds`, `int or null`."""
    meaning = schema.meaning
    if meaning.logical_type == "decimal":
        return f"decimal({meaning.precision},{meaning.scale})"
    if meaning.connect_name is not None and meaning.connect_name in _CONNECT:
        return _CONNECT[meaning.connect_name]
    if meaning.connect_name == "org.apache.kafka.connect.data.Decimal":
        precision = meaning.parameter("connect.decimal.precision") or "?"
        return f"decimal({precision},{meaning.parameter('scale') or '?'})"
    if meaning.connect_name == "io.debezium.data.VariableScaleDecimal":
        return "numeric of any scale"
    if meaning.parameter("__debezium.source.column.type"):
        return str(meaning.parameter("__debezium.source.column.type")).lower()
    match schema:
        case Array(items=items):
            return f"array of {describe(items)}"
        case Map(values=values):
            return f"map of {describe(values)}"
        case Union_(branches=branches):
            rest = [describe(branch) for branch in branches if branch.type != "null"]
            null = ["null"] if len(rest) < len(branches) else []
            return " or ".join([*rest, *null]) or "nothing"
        case Record(fullname=name) | Enum(fullname=name):
            return f"{schema.type} `{name}`"
        case Fixed(fullname=name, size=size):
            return f"fixed `{name}` of {size} bytes"
    return f"{meaning.logical_type} ({schema.type})" if meaning.logical_type else schema.type


def column_of(table: str | None, path: tuple[str, ...]) -> str:
    """`schema.table.column` for a path through a Debezium schema, else the path itself."""
    if table is not None and path and path[0] in ("before", "after"):
        path = path[1:]
    text = table or ""
    for part in path:
        text += part if part in ("[]", "{}") else f".{part}" if text else part
    return text or "the schema"


def columns(schema: Schema) -> dict[str, Schema]:
    """The columns of a Debezium key or envelope, or the fields of any other record, by name."""
    if not isinstance(schema, Record):
        return {"value": schema}
    row = schema
    if "before" in schema.fields and "after" in schema.fields:
        inner = schema.fields["after"].schema
        found = inner.sole if isinstance(inner, Union_) else inner
        if isinstance(found, Record):
            row = found
    return {name: member.schema for name, member in row.fields.items()}
