"""Avro records from Kafka, decoded to Arrow by Polars, a schema at a time.

Payloads of one writer's schema, joined, are the body of a block of an Avro container file: with a header before them
Polars reads them straight into columns, several times faster than record by record. What its reader can't follow is
written out first, without a change to the bytes that the schema describes:
- a named type used again is inlined under a new name (Debezium's `Value` in `before` and `after`);
- a map becomes an array of key and value, which Avro encodes alike;
- logical types are dropped, so that values come as they are stored; `wire` reads them from the schema.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from cdcpipe.errors import EvidenceError

__all__ = ["Wire", "flatten", "read", "wire_of"]

Physical = Literal[
    "boolean", "int", "long", "float", "double", "string", "bytes", "array", "map", "record",
    "decimal", "date", "time", "timestamp",
]  # fmt: skip
"""Avro's types, then those that only Arrow has."""
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "string", "bytes")

_MAGIC = b"Obj\x01"
_SYNC = b"cdcpipe ledger 1"


@dataclass(frozen=True, slots=True)
class Wire:
    """How a column is written: its stored type, and the name of its meaning.

    `name` is Connect's (`io.debezium.time.MicroTimestamp`), or one made from Avro's logical type.
    """

    physical: Physical
    name: str = ""
    scale: int = 0
    element: Wire | None = None
    fields: tuple[tuple[str, Wire], ...] = ()

    def field(self, name: str) -> Wire | None:
        """A field of a record."""
        return next((wire for label, wire in self.fields if label == name), None)


_LOGICAL = {
    "decimal": "org.apache.kafka.connect.data.Decimal",
    "date": "org.apache.kafka.connect.data.Date",
    "time-millis": "org.apache.kafka.connect.data.Time",
    "time-micros": "io.debezium.time.MicroTime",
    "timestamp-millis": "org.apache.kafka.connect.data.Timestamp",
    "timestamp-micros": "io.debezium.time.MicroTimestamp",
    "timestamp-nanos": "io.debezium.time.NanoTimestamp",
    "uuid": "io.debezium.data.Uuid",
}


def _full_name(schema: dict[str, Any], namespace: str) -> tuple[str, str]:
    name = str(schema["name"])
    space = str(schema.get("namespace", name.rpartition(".")[0] or namespace))
    return (name if "." in name else f"{space}.{name}" if space else name), space


def _branch(schema: Any) -> Any:
    """The one type that is not null in a union. ValueError for any other union: Connect doesn't write them."""
    if not isinstance(schema, list):
        return schema
    others = [each for each in schema if each != "null"]
    if len(others) != 1:
        raise ValueError(f"a union of {len(others)} types")
    return others[0]


def wire_of(schema: Any) -> Wire:
    """The wire form of a parsed Avro schema."""
    return _wire(schema, "", {})


def _wire(schema: Any, namespace: str, named: dict[str, Wire]) -> Wire:
    schema = _branch(schema)
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return Wire(schema)  # type: ignore[arg-type]
        return named[schema if schema in named else f"{namespace}.{schema}"]
    kind = schema["type"]
    if isinstance(kind, dict | list):
        return _wire(kind, namespace, named)
    name = schema.get("connect.name") or _LOGICAL.get(schema.get("logicalType", ""), "")
    match kind:
        case "record":
            full, space = _full_name(schema, namespace)
            fields = tuple((str(f["name"]), _wire(f["type"], space, named)) for f in schema["fields"])
            named[full] = Wire("record", name, fields=fields)
            return named[full]
        case "array":
            return Wire("array", name, element=_wire(schema["items"], namespace, named))
        case "map":
            return Wire("map", name, element=_wire(schema["values"], namespace, named))
        case "enum" | "fixed":
            full, _ = _full_name(schema, namespace)
            named[full] = Wire("string" if kind == "enum" else "bytes", name, int(schema.get("scale", 0)))
            return named[full]
        case _:
            parameters = schema.get("connect.parameters", {})
            scale = int(schema.get("scale", parameters.get("scale", 0)))
            return Wire(kind, name, scale)


def flatten(schema: Any) -> Any:
    """The same encoding in a schema that Polars can follow."""
    return _flatten(schema, "", {}, [0])


def _flatten(schema: Any, namespace: str, named: dict[str, Any], count: list[int]) -> Any:
    if isinstance(schema, list):
        return [_flatten(each, namespace, named, count) for each in schema]
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return schema
        full = schema if schema in named else f"{namespace}.{schema}"
        definition, space = named[full]
        return _flatten(definition, space, named, count)
    kind = schema["type"]
    if isinstance(kind, dict | list):
        return _flatten(kind, namespace, named, count)
    count[0] += 1
    label = f"t{count[0]}"
    match kind:
        case "record":
            full, space = _full_name(schema, namespace)
            named[full] = (schema, namespace)
            fields = [{"name": f["name"], "type": _flatten(f["type"], space, named, count)} for f in schema["fields"]]
            return {"type": "record", "name": label, "fields": fields}
        case "array":
            return {"type": "array", "items": _flatten(schema["items"], namespace, named, count)}
        case "map":
            value = _flatten(schema["values"], namespace, named, count)
            fields = [{"name": "key", "type": "string"}, {"name": "value", "type": value}]
            return {"type": "array", "items": {"type": "record", "name": label, "fields": fields}}
        case "enum":
            named[_full_name(schema, namespace)[0]] = (schema, namespace)
            return {"type": "enum", "name": label, "symbols": schema["symbols"]}
        case "fixed":
            named[_full_name(schema, namespace)[0]] = (schema, namespace)
            return {"type": "fixed", "name": label, "size": schema["size"]}
        case _:
            return kind


def _long(value: int) -> bytes:
    """Avro's zig-zag variable-length integer, for what is not negative."""
    value <<= 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read(payloads: Sequence[bytes], flat: Any) -> pa.Table:
    """The records `payloads`, without the five bytes before them, as columns. EvidenceError when they don't fit.

    Fields of a record that is null are null.
    """
    body = b"".join(payloads)
    schema = json.dumps(flat).encode()
    header = b"".join(
        [
            _MAGIC,
            _long(2),
            *(_long(len(part)) + part for part in (b"avro.schema", schema, b"avro.codec", b"null")),
            _long(0),
            _SYNC,
        ]
    )
    block = _long(len(payloads)) + _long(len(body)) + body + _SYNC
    try:
        frame = pl.read_avro(io.BytesIO(header + block))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:  # OSError: cut off
        raise EvidenceError(f"{len(payloads)} Avro records don't fit their schema: {error}") from error
    if frame.height != len(payloads):
        raise EvidenceError(f"{len(payloads)} Avro records don't fit their schema: {frame.height} were read")
    return frame.to_arrow()
