"""Kafka Connect schemas, and how Connect's Avro converter (Confluent's, and Apicurio's fork of it) writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

__all__ = ["ConnectField", "ConnectSchema", "avro_name", "to_avro"]

ConnectType = Literal[
    "int8", "int16", "int32", "int64", "float32", "float64", "boolean", "string", "bytes", "array", "map", "struct"
]


@dataclass(frozen=True, slots=True)
class ConnectField:
    """A field of a struct."""

    name: str
    schema: ConnectSchema


@dataclass(frozen=True, slots=True)
class ConnectSchema:
    """One of Connect's schemas. `default` is in Avro's JSON form; `has_default` tells null from none."""

    type: ConnectType
    name: str | None = None
    version: int | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    optional: bool = False
    has_default: bool = False
    default: Any = None
    doc: str | None = None
    items: ConnectSchema | None = None
    fields: tuple[ConnectField, ...] = ()

    def as_optional(self, optional: bool = True) -> ConnectSchema:
        """The same, nullable or not."""
        return replace(self, optional=optional)


_AVRO: Final[Mapping[str, str]] = {
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "boolean": "boolean",
    "string": "string",
    "bytes": "bytes",
}
_LOGICAL: Final[Mapping[str, str]] = {
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time-millis",
    "org.apache.kafka.connect.data.Timestamp": "timestamp-millis",
    "org.apache.kafka.connect.data.Decimal": "decimal",
}
_DECIMAL_PRECISION_DEFAULT: Final = 64  # AvroData's, for a decimal without connect.decimal.precision


def avro_name(name: str) -> str:
    """A table's or column's name as Debezium adjusts it for Avro (`schema.name.adjustment.mode=avro`)."""
    if not name:
        return name
    first = name[0] if re.match(r"[A-Za-z_]", name) else f"_{name[0]}" if name[0].isdigit() else "_"
    return first + re.sub(r"[^A-Za-z0-9_]", "_", name[1:])


def to_avro(schema: ConnectSchema) -> Any:
    """The Avro schema, decoded JSON, that the converter registers for `schema`."""
    return _Writer().write(schema, "")


class _Writer:
    """A struct is written whole where it is met first, and by its name after that."""

    def __init__(self) -> None:
        self._written: set[str] = set()

    def write(self, schema: ConnectSchema, namespace: str) -> Any:
        base = self._base(schema, namespace)
        if not schema.optional:
            return base
        # Avro takes a union's default from its first branch.
        return [base, "null"] if schema.has_default and schema.default is not None else ["null", base]

    def _base(self, schema: ConnectSchema, namespace: str) -> Any:
        if schema.type == "struct":
            return self._struct(schema, namespace)
        node: dict[str, Any]
        if schema.type == "array":
            assert schema.items is not None
            node = {"type": "array", "items": self.write(schema.items, namespace)}
        elif schema.type == "map":
            node = self._map(schema, namespace)
        else:
            node = {"type": _AVRO[schema.type]}
        if schema.name == "org.apache.kafka.connect.data.Decimal":
            parameters = dict(schema.parameters)
            node["scale"] = int(parameters["scale"])
            node["precision"] = int(parameters.get("connect.decimal.precision", _DECIMAL_PRECISION_DEFAULT))
        self._annotate(node, schema)
        if schema.type in ("int8", "int16"):
            node["connect.type"] = schema.type
        if schema.name is not None and schema.name in _LOGICAL:
            node["logicalType"] = _LOGICAL[schema.name]
        return node["type"] if len(node) == 1 else node

    def _annotate(self, node: dict[str, Any], schema: ConnectSchema) -> None:
        if schema.doc is not None:
            node["connect.doc"] = schema.doc
        if schema.version is not None:
            node["connect.version"] = schema.version
        if schema.parameters:
            node["connect.parameters"] = dict(schema.parameters)
        if schema.has_default and schema.default is not None:
            node["connect.default"] = schema.default
        if schema.name is not None:
            node["connect.name"] = schema.name

    def _map(self, schema: ConnectSchema, namespace: str) -> dict[str, Any]:
        assert schema.items is not None
        if not schema.fields:
            return {"type": "map", "values": self.write(schema.items, namespace)}
        # A map whose keys aren't text is a list of entries; `fields` holds the key's schema.
        entry = "io.confluent.connect.avro.MapEntry"
        self._written.add(entry)
        members = [("key", schema.fields[0].schema), ("value", schema.items)]
        return {
            "type": "array",
            "items": {
                "type": "record",
                "name": "MapEntry",
                "namespace": "io.confluent.connect.avro",
                "fields": [
                    {"name": name, "type": self.write(member, "io.confluent.connect.avro")} for name, member in members
                ],
            },
        }

    def _struct(self, schema: ConnectSchema, namespace: str) -> Any:
        assert schema.name is not None
        own, _, name = schema.name.rpartition(".")
        if schema.name in self._written:
            return name if own == namespace else schema.name
        self._written.add(schema.name)
        node: dict[str, Any] = {"type": "record", "name": name}
        if own != namespace:
            node["namespace"] = own
        node["fields"] = [self._field(member, own) for member in schema.fields]
        self._annotate(node, schema)
        return node

    def _field(self, member: ConnectField, namespace: str) -> dict[str, Any]:
        node: dict[str, Any] = {"name": member.name, "type": self.write(member.schema, namespace)}
        if member.schema.has_default and member.schema.default is not None:
            node["default"] = member.schema.default
        elif member.schema.optional:
            node["default"] = None
        return node
