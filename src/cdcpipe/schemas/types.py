"""What Debezium 3.7 makes of a PostgreSQL type: a Kafka Connect schema, for every handling mode.

    connect_schema(type, modes)      the schema of a column of that type; None: Debezium leaves the column out
    key_schema, envelope_schema      what is registered for a table's key and value

Compared column by column with what the real connector registers, see `tests/stack/test_schemas_types.py`.
https://debezium.io/documentation/reference/3.7/connectors/postgresql.html#postgresql-data-types
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from cdcpipe.errors import ConfigError
from cdcpipe.schemas.connect_types import ConnectField, ConnectSchema, ConnectType, avro_name
from cdcpipe.schemas.defaults import NO_DEFAULT, default_value
from cdcpipe.schemas.table import UNBOUNDED, Column, PgType, Table

__all__ = ["Modes", "connect_schema", "envelope_schema", "key_schema", "oddities", "row_schema"]

DecimalMode = Literal["precise", "double", "string"]
TimeMode = Literal["adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"]
IntervalMode = Literal["numeric", "string"]
HstoreMode = Literal["json", "map"]
BinaryMode = Literal["bytes", "base64", "base64-url-safe", "hex"]


@dataclass(frozen=True, slots=True)
class Modes:
    """The connector's settings that decide about types. Defaults are those of `cdcpipe.connect`."""

    decimal: DecimalMode = "precise"
    time: TimeMode = "adaptive"
    interval: IntervalMode = "string"
    hstore: HstoreMode = "json"
    binary: BinaryMode = "bytes"
    money_fraction_digits: int = 2
    include_unknown: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Modes:
        """From a connector's configuration; what it leaves out has Debezium's own default. Raises `ConfigError`."""
        if config.get("column.propagate.source.type") or config.get("datatype.propagate.source.type"):
            raise ConfigError("schemas with propagated source types can't be predicted")
        chosen = {
            "decimal": config.get("decimal.handling.mode", "precise"),
            "time": config.get("time.precision.mode", "adaptive"),
            "interval": config.get("interval.handling.mode", "numeric"),
            "hstore": config.get("hstore.handling.mode", "json"),
            "binary": config.get("binary.handling.mode", "bytes"),
        }
        for name, value in chosen.items():
            if value not in _ALLOWED[name]:
                raise ConfigError(f"`{value}` is no {name} handling mode", hint=f"one of {', '.join(_ALLOWED[name])}")
        return cls(
            cast(DecimalMode, chosen["decimal"]),
            cast(TimeMode, chosen["time"]),
            cast(IntervalMode, chosen["interval"]),
            cast(HstoreMode, chosen["hstore"]),
            cast(BinaryMode, chosen["binary"]),
            int(config.get("money.fraction.digits", "2")),
            config.get("include.unknown.datatypes", "false").lower() == "true",
        )


_ALLOWED: Final = {
    "decimal": ("precise", "double", "string"),
    "time": ("adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"),
    "interval": ("numeric", "string"),
    "hstore": ("json", "map"),
    "binary": ("bytes", "base64", "base64-url-safe", "hex"),
}

_TEXT: Final[ConnectType] = "string"
_PLAIN: Final[dict[str, ConnectType]] = {
    "bool": "boolean",
    "int2": "int16",
    "int4": "int32",
    "int8": "int64",
    "oid": "int64",
    "float4": "float32",
    "float8": "float64",
    **dict.fromkeys(("text", "varchar", "bpchar", "char", "name", "citext", "isbn"), _TEXT),
    **dict.fromkeys(("cidr", "inet", "macaddr", "macaddr8"), _TEXT),
    **dict.fromkeys(("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"), _TEXT),
}
_SEMANTIC: Final = {
    "json": "io.debezium.data.Json",
    "jsonb": "io.debezium.data.Json",
    "uuid": "io.debezium.data.Uuid",
    "xml": "io.debezium.data.Xml",
    "ltree": "io.debezium.data.Ltree",
    "tsvector": "io.debezium.data.Tsvector",
    "timestamptz": "io.debezium.time.ZonedTimestamp",
    "timetz": "io.debezium.time.ZonedTime",
}
# Arrays that the connector has no schema for; other unknown ones fall under `include.unknown.datatypes`.
_NO_ARRAY: Final = frozenset({"money", "name", "interval", "varbit", "xml", "point", "refcursor"})
_GEOMETRY: Final = "io.debezium.data.geometry"


def _leaf(kind: ConnectType, name: str, version: int = 1) -> ConnectSchema:
    return ConnectSchema(kind, name, version)


def _struct(name: str, doc: str, version: int, **members: ConnectSchema) -> ConnectSchema:
    fields = tuple(ConnectField(member, schema) for member, schema in members.items())
    return ConnectSchema("struct", name, version, doc=doc, fields=fields)


_INT32: Final = ConnectSchema("int32")
_FLOAT64: Final = ConnectSchema("float64")
_STRING: Final = ConnectSchema("string")
_BYTES: Final = ConnectSchema("bytes")
_POINT: Final = _struct(
    f"{_GEOMETRY}.Point",
    "Geometry (POINT)",
    1,
    x=_FLOAT64,
    y=_FLOAT64,
    wkb=_BYTES.as_optional(),
    srid=_INT32.as_optional(),
)
_EXTENSIONS: Final = ConnectSchema("map", items=_STRING, optional=True)


def _geometry(name: str, doc: str) -> ConnectSchema:
    return _struct(f"{_GEOMETRY}.{name}", doc, 2, wkb=_BYTES, srid=_INT32.as_optional(), extensions=_EXTENSIONS)


_FIXED: Final[dict[str, ConnectSchema]] = {
    "point": _POINT,
    "line": _struct(f"{_GEOMETRY}.Line", "Geometry (LINE)", 1, a=_FLOAT64, b=_FLOAT64, c=_FLOAT64),
    "circle": _struct(f"{_GEOMETRY}.Circle", "Geometry (CIRCLE)", 1, center=_POINT, radius=_FLOAT64),
    **{name: _geometry("Geometry", "Geometry") for name in ("lseg", "box", "path", "polygon", "geometry")},
    "geography": _geometry("Geography", "Geography"),
    "vector": ConnectSchema("array", "io.debezium.data.DoubleVector", 1, items=_FLOAT64),
    "halfvec": ConnectSchema("array", "io.debezium.data.FloatVector", 1, items=ConnectSchema("float32")),
    "sparsevec": _struct(
        "io.debezium.data.SparseDoubleVector",
        "Sparse double vector",
        1,
        dimensions=ConnectSchema("int16"),
        vector=ConnectSchema("map", items=_FLOAT64, fields=(ConnectField("key", ConnectSchema("int16")),)),
    ),
}
_VARIABLE_SCALE: Final = _struct(
    "io.debezium.data.VariableScaleDecimal", "Variable scaled decimal", 1, scale=_INT32, value=_BYTES
)


def connect_schema(type_: PgType, modes: Modes = Modes()) -> ConnectSchema | None:
    """The schema of a column of that type, required and without default; None: the column is left out."""
    return _array(type_, modes) if type_.array else _scalar(type_, modes)


def _scalar(type_: PgType, modes: Modes) -> ConnectSchema | None:
    if type_.kind == "domain" and type_.base is not None:
        return connect_schema(type_.base, modes)
    if type_.kind == "enum":
        return ConnectSchema("string", "io.debezium.data.Enum", 1, (("allowed", ",".join(type_.labels)),))
    name = type_.name
    if name in _PLAIN:
        return ConnectSchema(_PLAIN[name])
    if name in _SEMANTIC:
        return _leaf("string", _SEMANTIC[name])
    if name in _FIXED:
        return _FIXED[name]
    match name:
        case "numeric":
            return _numeric(type_, modes)
        case "money":
            return _decimal(modes, None, modes.money_fraction_digits)
        case "bytea":
            return _binary(modes)
        case "bit" | "varbit":
            length = type_.modifiers[0] if type_.modifiers else 1 if name == "bit" else UNBOUNDED
            if length <= 1:
                return ConnectSchema("boolean")
            return ConnectSchema("bytes", "io.debezium.data.Bits", 1, (("length", str(length)),))
        case "date" | "time" | "timestamp":
            return _time(name, type_.modifiers[0] if type_.modifiers else 6, modes)
        case "interval":
            text = modes.interval == "string"
            return (
                _leaf("string", "io.debezium.time.Interval")
                if text
                else _leaf("int64", "io.debezium.time.MicroDuration")
            )
        case "hstore":
            json_ = modes.hstore == "json"
            return (
                _leaf("string", "io.debezium.data.Json") if json_ else ConnectSchema("map", items=_STRING.as_optional())
            )
    return _binary(modes) if modes.include_unknown else None


def _binary(modes: Modes) -> ConnectSchema:
    return _BYTES if modes.binary == "bytes" else _STRING


def _decimal(modes: Modes, precision: int | None, scale: int) -> ConnectSchema:
    if modes.decimal != "precise":
        return ConnectSchema("float64" if modes.decimal == "double" else "string")
    parameters = [("scale", str(scale))]
    if precision is not None:
        parameters.append(("connect.decimal.precision", str(precision)))
    return ConnectSchema("bytes", "org.apache.kafka.connect.data.Decimal", 1, tuple(parameters))


def _numeric(type_: PgType, modes: Modes) -> ConnectSchema:
    if not type_.modifiers:
        return _VARIABLE_SCALE if modes.decimal == "precise" else _decimal(modes, None, 0)
    precision, scale = type_.modifiers[0], type_.modifiers[1] if len(type_.modifiers) > 1 else 0
    # A negative scale is kept in 11 bits of the type modifier, and Debezium reads them without the sign.
    return _decimal(modes, precision, scale if scale >= 0 else scale + 2048)


_UNITS: Final = {
    "date": {
        "connect": ("int32", "org.apache.kafka.connect.data.Date"),
        "isostring": ("string", "io.debezium.time.IsoDate"),
    },
    "time": {
        "connect": ("int32", "org.apache.kafka.connect.data.Time"),
        "isostring": ("string", "io.debezium.time.IsoTime"),
    },
    "timestamp": {
        "connect": ("int64", "org.apache.kafka.connect.data.Timestamp"),
        "isostring": ("string", "io.debezium.time.IsoTimestamp"),
    },
}


def _time(name: str, precision: int, modes: Modes) -> ConnectSchema:
    if modes.time in _UNITS[name]:
        kind, semantic = _UNITS[name][modes.time]
        return _leaf(cast(ConnectType, kind), semantic)
    if name == "date":
        return _leaf("int32", "io.debezium.time.Date")
    word = "Time" if name == "time" else "Timestamp"
    adaptive = modes.time == "adaptive" or (modes.time == "adaptive_time_microseconds" and name == "timestamp")
    if modes.time == "nanoseconds":
        return _leaf("int64", f"io.debezium.time.Nano{word}")
    if adaptive and precision <= 3:
        return _leaf("int32" if name == "time" else "int64", f"io.debezium.time.{word}")
    return _leaf("int64", f"io.debezium.time.Micro{word}")


def _array(type_: PgType, modes: Modes) -> ConnectSchema | None:
    element = type_.element
    if element.name == "bit" and element.kind == "base":
        return _scalar(element, modes)  # sic: the connector takes bit[] for bit
    if element.kind == "base" and element.name in _NO_ARRAY:
        return None
    if element.kind == "enum":
        inner = _scalar(element, modes)
        return None if inner is None else ConnectSchema("array", items=inner)
    if element.kind == "base":
        known = _scalar(element, Modes(modes.decimal, modes.time, modes.interval, modes.hstore, modes.binary))
        if known is not None:
            # The connector builds these two from the element's JDBC type, which knows no null.
            strict = element.name in ("tsvector", "vector", "halfvec", "sparsevec")
            return ConnectSchema("array", items=known.as_optional(not strict))
    return ConnectSchema("array", items=_binary(modes)) if modes.include_unknown else None


# Tables -------------------------------------------------------------------------------------------


def column_schema(column: Column, modes: Modes) -> ConnectSchema | None:
    """The schema of a column, with its default and whether it may be null; None: it is left out."""
    schema = connect_schema(column.type, modes)
    if schema is None:
        return None
    schema = schema.as_optional(not column.not_null)
    if column.default is None or column.generated or column.type.array or column.type.kind == "domain":
        return schema
    value = default_value(column.type, column.default, schema)
    if value is NO_DEFAULT:
        return schema
    return ConnectSchema(
        schema.type,
        schema.name,
        schema.version,
        schema.parameters,
        schema.optional,
        True,
        value,
        schema.doc,
        schema.items,
    )


def row_schema(table: Table, name: str, modes: Modes, columns: tuple[str, ...] | None = None) -> ConnectSchema:
    """A struct of the table's columns, or of those named, in that order; those without a schema are left out."""
    chosen = table.columns if columns is None else tuple(c for n in columns if (c := table.column(n)) is not None)
    fields = []
    for column in chosen:
        schema = column_schema(column, modes)
        if schema is not None:
            fields.append(ConnectField(avro_name(column.name), schema))
    return ConnectSchema("struct", name, fields=tuple(fields))


def _namespace(table: Table, prefix: str) -> str:
    return ".".join(avro_name(part) for part in (*prefix.split("."), table.schema, table.name))


def key_schema(table: Table, prefix: str, modes: Modes = Modes()) -> ConnectSchema | None:
    """What is registered for the key of the table's records; None: they have no key."""
    return row_schema(table, f"{_namespace(table, prefix)}.Key", modes, table.key) if table.key else None


_OPTIONAL_INT64: Final = ConnectSchema("int64", optional=True)
_SNAPSHOT: Final = ConnectSchema(
    "string",
    "io.debezium.data.Enum",
    1,
    (("allowed", "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"),),
    optional=True,
    has_default=True,
    default="false",
)
_SOURCE: Final = ConnectSchema(
    "struct",
    "io.debezium.connector.postgresql.Source",
    1,
    fields=tuple(
        ConnectField(name, schema)
        for name, schema in {
            "version": _STRING,
            "connector": _STRING,
            "name": _STRING,
            "ts_ms": ConnectSchema("int64"),
            "snapshot": _SNAPSHOT,
            "db": _STRING,
            "sequence": _STRING.as_optional(),
            "ts_us": _OPTIONAL_INT64,
            "ts_ns": _OPTIONAL_INT64,
            "schema": _STRING,
            "table": _STRING,
            "txId": _OPTIONAL_INT64,
            "lsn": _OPTIONAL_INT64,
            "xmin": _OPTIONAL_INT64,
            "origin": _STRING.as_optional(),
            "origin_lsn": _OPTIONAL_INT64,
        }.items()
    ),
)
_TRANSACTION: Final = ConnectSchema(
    "struct",
    "event.block",
    1,
    optional=True,
    fields=(
        ConnectField("id", _STRING),
        ConnectField("total_order", ConnectSchema("int64")),
        ConnectField("data_collection_order", ConnectSchema("int64")),
    ),
)


def envelope_schema(table: Table, prefix: str, modes: Modes = Modes()) -> ConnectSchema:
    """What is registered for the value of the table's records: row before and after, source, transaction, times."""
    namespace = _namespace(table, prefix)
    row = row_schema(table, f"{namespace}.Value", modes).as_optional()
    return ConnectSchema(
        "struct",
        f"{namespace}.Envelope",
        2,
        fields=(
            ConnectField("before", row),
            ConnectField("after", row),
            ConnectField("source", _SOURCE),
            ConnectField("transaction", _TRANSACTION),
            ConnectField("op", _STRING),
            ConnectField("ts_ms", _OPTIONAL_INT64),
            ConnectField("ts_us", _OPTIONAL_INT64),
            ConnectField("ts_ns", _OPTIONAL_INT64),
        ),
    )


def oddities(type_: PgType, modes: Modes = Modes()) -> tuple[str, ...]:
    """What somebody who looks at the column would not expect of its events, each a sentence."""
    found = []
    base = type_
    while base.kind == "domain" and base.base is not None:
        base = base.base
    if connect_schema(type_, modes) is None:
        found.append("Debezium has no schema for this type and leaves the column out (`include.unknown.datatypes`)")
    if base.name == "numeric" and len(base.modifiers) > 1 and base.modifiers[1] < 0 and modes.decimal == "precise":
        found.append(f"the negative scale {base.modifiers[1]} is registered as {base.modifiers[1] + 2048}")
    if base.name == "numeric" and not base.modifiers and modes.decimal == "precise":
        found.append("numeric without precision becomes a record of scale and bytes (VariableScaleDecimal)")
    if base.name in ("numeric", "money") and modes.decimal == "double":
        found.append("decimal.handling.mode=double rounds")
    if base.name in ("time", "timestamp") and modes.time == "connect" and (not base.modifiers or base.modifiers[0] > 3):
        found.append("time.precision.mode=connect cuts microseconds")
    if base.name == "bit" and type_.array:
        found.append("the connector takes bit[] for bit")
    if base.name == "interval" and modes.interval == "numeric":
        found.append("a month counts as 30.4375 days")
    return tuple(found)
