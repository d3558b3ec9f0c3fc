"""What a change of a table does to its archive: the Iceberg table that the sink keeps, or Parquet files by hour.

The Iceberg sink adds columns, widens int to long and float to double, and makes columns optional; it never drops,
narrows or renames, and converts what comes to the type that the column has (apache/iceberg, `SchemaUtils` and
`RecordConverter` of kafka-connect). That conversion may round, or stop the sink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from cdcpipe.schemas.connect_types import ConnectField, ConnectSchema

__all__ = ["ArchiveChange", "archive_changes", "archive_type"]

Action = Literal["add", "keep", "widen", "optional", "convert", "lossy", "fragile", "stop"]


@dataclass(frozen=True, slots=True)
class ArchiveChange:
    """What happens to one column of the archive.

    `action`: `add`ed; `keep`: it stays, null in new rows; `widen`ed; made `optional`; values are `convert`ed to the
    type that is there; `lossy`: and lose something or mean something else without a word; `fragile`: and the first
    that doesn't fit stops the sink; `stop`: the next record stops it.
    """

    column: str
    action: Action
    text: str

    @property
    def harmful(self) -> bool:
        """Whether archived data are wrong or missing afterwards."""
        return self.action in ("lossy", "fragile", "stop")


_SIMPLE: Final = {
    "boolean": "boolean",
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "string": "string",
    "bytes": "binary",
}
_LOGICAL: Final = {
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time",
    "org.apache.kafka.connect.data.Timestamp": "timestamptz",
}
_PRECISION: Final = 38


def archive_type(schema: ConnectSchema) -> str:
    """The Iceberg type that the sink gives a column of that schema, as pyiceberg prints it."""
    if schema.name == "org.apache.kafka.connect.data.Decimal":
        return f"decimal({_PRECISION}, {dict(schema.parameters)['scale']})"
    if schema.name in _LOGICAL:
        return _LOGICAL[schema.name]
    if schema.type == "array":
        assert schema.items is not None
        return f"list<{archive_type(schema.items)}>"
    if schema.type == "map":
        assert schema.items is not None
        key = archive_type(schema.fields[0].schema) if schema.fields else "string"
        return f"map<{key}, {archive_type(schema.items)}>"
    if schema.type == "struct":
        return "struct<" + ", ".join(f"{f.name}: {archive_type(f.schema)}" for f in schema.fields) + ">"
    return _SIMPLE[schema.type]


def unwritable(field: ConnectField) -> str | None:
    """Why a column can't be archived at all, or None."""
    schema = field.schema
    if schema.name == "org.apache.kafka.connect.data.Decimal":
        scale = int(dict(schema.parameters)["scale"])
        if scale > _PRECISION:
            return f"a decimal of scale {scale} is no Parquet type: the sink stops at the table's first record"
    return None


def archive_changes(old: ConnectSchema | None, new: ConnectSchema) -> tuple[ArchiveChange, ...]:
    """What happens to the row's columns in the archive; `old` is None for a new table."""
    found = []
    for field in new.fields:
        stop = unwritable(field)
        if stop is not None:
            found.append(ArchiveChange(field.name, "stop", stop))
    if old is None:
        return tuple(found)
    before, after = ({f.name: f for f in row.fields} for row in (old, new))
    for name, field in after.items():
        if name not in before:
            found.append(ArchiveChange(name, "add", f"new column, {archive_type(field.schema)}; null in rows before"))
    for name, field in before.items():
        if name in after:
            found += _changed(name, field.schema, after[name].schema)
        elif field.schema.optional:
            found.append(ArchiveChange(name, "keep", "stays, null in new rows"))
        else:
            found.append(ArchiveChange(name, "stop", "stays and is required, but new records don't have it"))
    return tuple(found)


def _changed(name: str, old: ConnectSchema, new: ConnectSchema) -> list[ArchiveChange]:
    found = []
    if new.optional and not old.optional:
        found.append(ArchiveChange(name, "optional", "becomes optional"))
    was, becomes = archive_type(old), archive_type(new)
    if was == becomes:
        if _unit(old) != _unit(new) and (_unit(old) or _unit(new)):
            text = f"holds {_unit(old) or was} before and {_unit(new) or becomes} after, as the same {was}"
            found.append(ArchiveChange(name, "lossy", text))
        return found
    if (was, becomes) in (("int", "long"), ("float", "double")):
        found.append(ArchiveChange(name, "widen", f"{was} becomes {becomes}"))
    else:
        found.append(_converted(name, was, becomes))
    return found


def _unit(schema: ConnectSchema) -> str:
    """The unit of a time that is stored as a number."""
    word = (schema.name or "").rpartition(".")[2]
    if schema.type not in ("int32", "int64"):
        return ""
    for prefix, unit in (("Micro", "microseconds"), ("Nano", "nanoseconds"), ("Timestamp", "milliseconds")):
        if word.startswith(prefix):
            return unit
    return {"Time": "milliseconds", "Date": "days"}.get(word, "")


_NUMBERS: Final = ("int", "long", "float", "double")


def _converted(name: str, was: str, becomes: str) -> ArchiveChange:
    kind, other = was.split("(")[0], becomes.split("(")[0]
    if kind == other == "decimal":
        scales = [int(text.rstrip(")").split(",")[1]) for text in (was, becomes)]
        if scales[1] > scales[0]:
            text = f"stays {was}: values are rounded to {scales[0]} digits without an error"
            return ArchiveChange(name, "lossy", text)
        return ArchiveChange(name, "convert", f"stays {was}")
    if kind == "string" and other in (*_NUMBERS, "boolean", "list", "map", "struct"):
        return ArchiveChange(name, "convert", f"stays string: {becomes} is written as text")
    if kind in _NUMBERS and other in _NUMBERS:
        order = _NUMBERS.index(kind) < _NUMBERS.index(other)
        return ArchiveChange(name, "lossy" if order else "convert", f"stays {was}: {becomes} is cut to it")
    if kind in _NUMBERS and other == "decimal":
        return ArchiveChange(name, "lossy", f"stays {was}: {becomes} is cut to it")
    if kind == "decimal" and other in _NUMBERS:
        return ArchiveChange(name, "convert", f"stays {was}")
    text = f"stays {was}: {becomes} is read as that, and the first value that can't be stops the sink"
    return ArchiveChange(name, "fragile", text)
