"""JSON records from Kafka, as Connect's JsonConverter writes them, to Arrow.

Slower than Avro: each record is a Python object once. Records without their schema are refused: nothing says then what
their values mean (a decimal is base64, and so is bytea; a number may be a time).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.avro import Wire

__all__ = ["read", "wire_of"]

_PHYSICAL = {
    "int8": "int", "int16": "int", "int32": "int", "int64": "long", "float": "float", "float32": "float",
    "double": "double", "float64": "double", "boolean": "boolean", "string": "string", "bytes": "bytes",
}  # fmt: skip

_ARROW = {
    "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(),
    "string": pa.string(), "bytes": pa.binary(),
}  # fmt: skip


def wire_of(schema: dict[str, Any]) -> Wire:
    """The wire form of a Connect schema in JSON."""
    name = schema.get("name") or ""
    match schema["type"]:
        case "struct":
            fields = tuple((field["field"], wire_of(field)) for field in schema["fields"])
            return Wire("record", name, fields=fields)
        case "array":
            return Wire("array", name, element=wire_of(schema["items"]))
        case "map":
            return Wire("map", name, element=wire_of(schema["values"]))
        case kind:
            scale = int((schema.get("parameters") or {}).get("scale", 0))
            return Wire(_PHYSICAL[kind], name, scale)  # type: ignore[arg-type]


def _arrow(wire: Wire) -> pa.DataType:
    match wire.physical:
        case "record":
            return pa.struct([pa.field(name, _arrow(field)) for name, field in wire.fields])
        case "array":
            return pa.list_(_arrow(wire.element or Wire("string")))
        case "map":
            return pa.map_(pa.string(), _arrow(wire.element or Wire("string")))
        case physical:
            return _ARROW[physical]


def _value(value: Any, wire: Wire) -> Any:
    if value is None:
        return None
    match wire.physical:
        case "record":
            return {name: _value(value.get(name), field) for name, field in wire.fields}
        case "array":
            return [_value(each, wire.element or Wire("string")) for each in value]
        case "map":
            # A map with keys that are not strings comes as a list of pairs.
            pairs = value.items() if isinstance(value, dict) else value
            return [(key, _value(each, wire.element or Wire("string"))) for key, each in pairs]
        case "bytes":
            return base64.b64decode(value)
        case "float" | "double":
            # NaN and the infinities come as text.
            return float(value)
        case _:
            return value


def read(payloads: Sequence[bytes]) -> tuple[pa.Table, Wire]:
    """The records as columns, and how they are written. EvidenceError when they are not JSON objects, or differ."""
    try:
        parsed = [json.loads(payload) for payload in payloads]
    except ValueError as error:
        raise EvidenceError(f"not JSON: {error}") from error
    if not all(isinstance(each, dict) for each in parsed):
        raise EvidenceError("JSON, but not an object")
    try:
        if set(parsed[0]) == {"schema", "payload"} and parsed[0]["schema"] is not None:
            if any(each.get("schema") != parsed[0]["schema"] for each in parsed):
                raise EvidenceError("records of more than one JSON schema")
            wire = wire_of(parsed[0]["schema"])
            rows = [_value(each["payload"], wire) for each in parsed]
            return pa.Table.from_pylist(rows, pa.schema(list(_arrow(wire)))), wire
        raise EvidenceError("JSON without a schema: its types can't be told; set schemas.enable, or use Avro")
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise EvidenceError(f"JSON that doesn't fit its schema: {error}") from error
