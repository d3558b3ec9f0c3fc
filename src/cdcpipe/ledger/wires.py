"""The canonical form of what Debezium writes: Avro or JSON values by Connect's schema, Parquet values by Arrow's types.

`payload` is the plain definition for one value, `wire_sql` the short cuts for a column, as in `canonical` and
`columns`.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-data-types
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdcpipe.ledger import canonical
from cdcpipe.ledger.avro import Wire
from cdcpipe.ledger.canonical import Modes, encode, family_of, scaled
from cdcpipe.ledger.catalogue import Type
from cdcpipe.ledger.columns import Engine, cut_sql, literal, strip_sql

__all__ = ["family_of_wire", "is_toast", "payload", "payload_array", "toast_mask", "wire_of_arrow", "wire_sql"]

_DEBEZIUM: Final = "io.debezium."
_CONNECT: Final = "org.apache.kafka.connect.data."

# What Debezium 3.7 makes of an infinite time, seen on the real connector: of a timestamp in microseconds, in
# milliseconds, of a date. None of them is a time that PostgreSQL can store.
_INFINITE: Final = {
    (1 << 63) - 1: "infinity",
    -(1 << 63): "-infinity",
    9_223_372_036_825_200_000: "infinity",
    -9_223_372_036_832_400_000: "-infinity",
}
_INFINITE_DAYS: Final = {2_146_033_979: "infinity", -2_147_472_691: "-infinity"}

_SPECIAL_NUMBERS: Final = {
    "NaN": "NaN",
    "NAN": "NaN",
    "Infinity": "Infinity",
    "POSITIVE_INFINITY": "Infinity",
    "-Infinity": "-Infinity",
    "NEGATIVE_INFINITY": "-Infinity",
}

_FAMILIES: Final = {
    f"{_CONNECT}Decimal": "n",
    f"{_DEBEZIUM}data.VariableScaleDecimal": "n",
    f"{_DEBEZIUM}data.Bits": "x",
    f"{_DEBEZIUM}data.Json": "j",
    f"{_DEBEZIUM}data.geometry.Point": "p",
    f"{_CONNECT}Date": "d",
    f"{_DEBEZIUM}time.Date": "d",
    f"{_DEBEZIUM}time.IsoDate": "d",
    **dict.fromkeys([f"{_CONNECT}Time", f"{_DEBEZIUM}time.Time", f"{_DEBEZIUM}time.MicroTime"], "t"),
    **dict.fromkeys([f"{_DEBEZIUM}time.NanoTime", f"{_DEBEZIUM}time.IsoTime"], "t"),
    **dict.fromkeys([f"{_CONNECT}Timestamp", f"{_DEBEZIUM}time.Timestamp", f"{_DEBEZIUM}time.MicroTimestamp"], "w"),
    **dict.fromkeys([f"{_DEBEZIUM}time.NanoTimestamp", f"{_DEBEZIUM}time.IsoTimestamp"], "w"),
    f"{_DEBEZIUM}time.ZonedTimestamp": "W",
    f"{_DEBEZIUM}time.ZonedTime": "z",
    f"{_DEBEZIUM}time.MicroDuration": "v",
    f"{_DEBEZIUM}time.Interval": "v",
}

_PHYSICAL_FAMILIES: Final = {
    "boolean": "b", "int": "n", "long": "n", "decimal": "n", "float": "f", "double": "f", "string": "s",
    "bytes": "y", "map": "h", "array": "a", "date": "d", "time": "t", "timestamp": "w",
}  # fmt: skip

# Microseconds of a unit of each name, as (multiply, divide).
_UNITS: Final = {
    f"{_CONNECT}Time": (1000, 1),
    f"{_DEBEZIUM}time.Time": (1000, 1),
    f"{_DEBEZIUM}time.NanoTime": (1, 1000),
    f"{_CONNECT}Timestamp": (1000, 1),
    f"{_DEBEZIUM}time.Timestamp": (1000, 1),
    f"{_DEBEZIUM}time.NanoTimestamp": (1, 1000),
}


def family_of_wire(wire: Wire) -> str | None:
    """The family of a column that the catalogue doesn't know, from what the file says of it."""
    return _FAMILIES.get(wire.name) or _PHYSICAL_FAMILIES.get(wire.physical)


def wire_of_arrow(type_: pa.DataType, column: Type | None, modes: Modes) -> Wire:
    """The wire form of a Parquet column. A file doesn't say in which unit an integer counts time: `column` does."""
    if pa.types.is_decimal(type_):
        return Wire("decimal", f"{_CONNECT}Decimal", type_.scale)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        element = column.element if column else None
        return Wire("array", element=wire_of_arrow(type_.value_type, element, modes))
    if pa.types.is_map(type_):
        return Wire("map", element=wire_of_arrow(type_.item_type, None, modes))
    if pa.types.is_struct(type_):
        fields = tuple((field.name, wire_of_arrow(field.type, None, modes)) for field in type_)
        names = {field.name for field in type_}
        return Wire(
            "record", f"{_DEBEZIUM}data.VariableScaleDecimal" if names == {"scale", "value"} else "", 0, None, fields
        )
    for matches, physical in _ARROW:
        if matches(type_):
            return Wire(physical, _time_name(physical, column, modes) if column else "")  # type: ignore[arg-type]
    return Wire("string", f"arrow {type_}")


_ARROW: Final = [
    (pa.types.is_boolean, "boolean"),
    (lambda t: pa.types.is_integer(t) and t.bit_width <= 32, "int"),
    (pa.types.is_integer, "long"),
    (pa.types.is_float32, "float"),
    (pa.types.is_floating, "double"),
    (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), "string"),
    (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t), "bytes"),
    (pa.types.is_timestamp, "timestamp"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
]


def _time_name(physical: str, column: Type, modes: Modes) -> str:
    """Debezium's type for an integer that counts time, by its `time.precision.mode`."""
    if physical not in ("int", "long") or column.name not in ("time", "timestamp"):
        return ""
    kind = "Time" if column.name == "time" else "Timestamp"
    if modes.time == "connect":
        return f"{_CONNECT}{kind}"
    if modes.time == "nanoseconds":
        return f"{_DEBEZIUM}time.Nano{kind}"
    coarse = 0 <= column.typmod <= 3 and modes.time in ("adaptive", "adaptive_time_microseconds")
    if coarse and not (kind == "Time" and modes.time == "adaptive_time_microseconds"):
        return f"{_DEBEZIUM}time.{kind}"
    return f"{_DEBEZIUM}time.Micro{kind}"


# --- one value ------------------------------------------------------------------------


def payload(value: Any, wire: Wire, family: str, type_: Type | None, modes: Modes) -> str:
    """The payload of a value that is not null. ValueError or KeyError when it is none of that family."""
    match family:
        case "b":
            return "t" if value else "f"
        case "n":
            return _number(value, wire)
        case "f":
            return canonical.double(float(value))
        case "d":
            return _date(value)
        case "t" | "w":
            return _time(value, wire, family, modes)
        case "W":
            return _zoned(value)
        case "z":
            return str(canonical.timetz_us(value))
        case "v":
            return (
                str(value) if isinstance(value, int) else canonical.interval(canonical.interval_from_iso(value), modes)
            )
        case "j":
            return value if type_ is not None and type_.name == "jsonb" else canonical.json_text(value)
        case "y":
            return (canonical.bytes_from_mode(value, modes) if isinstance(value, str) else bytes(value)).hex()
        case "h":
            return canonical.hstore(_pairs(value))
        case "x":
            return f"{int(value) if isinstance(value, bool) else int.from_bytes(value, 'little'):x}"
        case "p":
            return canonical.point(value["x"], value["y"])
        case "a":
            return _array(value, wire, type_, modes)
        case _:
            text = str(value)
            return canonical.range_utc(text) if type_ is not None and type_.name == "tstzrange" else text


def _number(value: Any, wire: Wire) -> str:
    match value:
        case bool():
            return str(int(value))
        case int():
            return str(value)
        case bytes():
            return scaled(int.from_bytes(value, "big", signed=True), wire.scale)
        case dict():
            return scaled(int.from_bytes(value["value"], "big", signed=True), value["scale"])
        case Decimal():
            return canonical.number(format(value, "f"))
        case str():
            return _SPECIAL_NUMBERS.get(value) or canonical.number(value)
        case _:
            return canonical.number(repr(value))


def _date(value: Any) -> str:
    if isinstance(value, dt.date):
        return str(value.toordinal() - dt.date(1970, 1, 1).toordinal())
    if isinstance(value, int):
        return _INFINITE_DAYS.get(value) or str(value)
    return str(value) if value.endswith("infinity") else str(canonical.days(value.removesuffix("Z")))


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _micros(value: dt.datetime) -> int:
    value = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value
    return (value - _EPOCH) // dt.timedelta(microseconds=1)


def _time(value: Any, wire: Wire, family: str, modes: Modes) -> str:
    if isinstance(value, dt.datetime):
        return canonical.cut(_micros(value), modes)
    if isinstance(value, dt.time):
        return canonical.cut(canonical.time_us(value.isoformat()), modes)
    if isinstance(value, str):
        if value.endswith("infinity"):
            return value
        micros = canonical.time_us(value) if family == "t" else canonical.timestamp_us(value)
        return canonical.cut(micros, modes)
    if family == "w" and value in _INFINITE:
        return _INFINITE[value]
    multiply, divide = _UNITS.get(wire.name, (1, 1))
    return canonical.cut(value * multiply // divide, modes)


def _zoned(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return str(_micros(value))
    return str(value) if value.endswith("infinity") else str(canonical.timestamp_us(value))


def _pairs(value: Any) -> dict[str, str | None]:
    if isinstance(value, str):
        value = json.loads(value)
    if isinstance(value, dict):
        return value
    # Maps come as lists: of records from Polars, of pairs from Arrow.
    return dict((pair["key"], pair["value"]) if isinstance(pair, dict) else pair for pair in value)


def _array(value: Any, wire: Wire, type_: Type | None, modes: Modes) -> str:
    element_wire = wire.element or Wire("string")
    element_type = type_.element if type_ is not None else None
    family = family_of(element_type, modes) if element_type is not None else family_of_wire(element_wire)
    if family is None:
        raise KeyError(str(element_type))
    return "".join(
        encode(family, None if each is None else payload(each, element_wire, family, element_type, modes))
        for each in value
    )


# --- unchanged TOAST ----------------------------------------------------------------------

_UUID_PLACEHOLDER_PREFIX: Final = "b68a35a7-"


def is_toast(value: Any, wire: Wire, modes: Modes) -> bool:
    """Whether `value` is what Debezium writes for a value that the WAL did not hold."""
    placeholder = modes.placeholder
    match value:
        case str():
            return value == placeholder or (wire.name.endswith("Json") and value == _json_placeholder(placeholder))
        case bytes():
            return value == placeholder.encode()
        case [str(only)]:
            return only == placeholder or only.startswith(_UUID_PLACEHOLDER_PREFIX)
        case [int(), *_]:
            return bool(value == list(placeholder.encode()))
        case [{"key": key, "value": _}]:
            return bool(key == placeholder)
        case [(key, _)]:
            return bool(key == placeholder)
        case dict():
            return list(value) == [placeholder]
        case _:
            return False


def _json_placeholder(placeholder: str) -> str:
    return json.dumps({placeholder: placeholder}, separators=(",", ":"))


def toast_mask(values: pa.Array, wire: Wire, family: str, modes: Modes) -> pa.Array | None:
    """Where a column of text or bytes has placeholders; None where it has none."""
    placeholder = modes.placeholder
    written: list[str] | list[bytes]
    if wire.physical == "bytes" and family == "y":
        written = [placeholder.encode()]
    elif wire.physical == "string" and family in ("s", "j", "y", "h"):
        written = [placeholder]
        if family == "y":
            raw = placeholder.encode()
            written += [raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
        if family in ("h", "j"):
            written.append(_json_placeholder(placeholder))
    else:
        return None
    hits = pc.is_in(values, value_set=pa.array(written, values.type))
    return hits if pc.any(hits).as_py() else None


# --- a column ---------------------------------------------------------------------------------


def wire_sql(engine: Engine, x: str, wire: Wire, family: str, type_: Type | None, modes: Modes) -> str | None:
    """The payload of column `x` as VARCHAR; None where each value must be read in Python (`payload_array`)."""
    direct = _direct_sql(x, wire, family, type_)
    if direct is not None:
        return direct
    if wire.physical in ("int", "long") and family in ("t", "w"):
        return _unit_sql(x, wire, family, modes)
    if wire.physical == "timestamp" and family in ("w", "W"):
        return f"{cut_sql(f'epoch_us({x}::TIMESTAMP)', modes) if family == 'w' else f'epoch_us({x})'}::VARCHAR"
    if wire.physical == "time" and family == "t":
        return f"{cut_sql(f'epoch_us({x}::TIME)', modes)}::VARCHAR"
    if wire.physical != "string":
        return None
    slow = engine.scalar(
        ("wire", wire, family, type_, modes),
        functools.partial(payload, wire=wire, family=family, type_=type_, modes=modes),
    )
    rest = f"CASE WHEN {x} IS NOT NULL THEN {slow}({x}) END"
    if family == "W":
        plain = f"strlen({x}) BETWEEN 20 AND 27 AND substr({x}, 5, 1) = '-' AND suffix({x}, 'Z')"
        return f"coalesce(CASE WHEN {plain} THEN epoch_us(try_cast({x} AS TIMESTAMP))::VARCHAR END, {rest})"
    if family == "n":
        plain = f"regexp_full_match({x}, '-?[0-9]+(\\.[0-9]+)?') AND {x} NOT LIKE '-0%'"
        return f"coalesce(CASE WHEN {plain} THEN {strip_sql(x)} END, {rest})"
    return rest


def _direct_sql(x: str, wire: Wire, family: str, type_: Type | None) -> str | None:
    match family, wire.physical:
        case "b", "boolean":
            return f"CASE WHEN {x} THEN 't' WHEN NOT {x} THEN 'f' END"
        case "n", "int" | "long":
            return f"{x}::VARCHAR"
        case "n", "decimal":
            # Never `-0`, and never an exponent: DuckDB's decimals are integers with a scale.
            return strip_sql(f"({x}::VARCHAR)")
        case "f", "float" | "double":
            return f"CASE WHEN isnan({x}) THEN 'nan' ELSE {x}::DOUBLE::VARCHAR END"
        case "f", "string":
            return f"CASE WHEN isnan({x}::DOUBLE) THEN 'nan' ELSE {x}::DOUBLE::VARCHAR END"
        case "s", "string" if type_ is None or type_.name != "tstzrange":
            return x
        case "v", "int" | "long":
            return f"{x}::VARCHAR"
        case "d", "int" | "long":
            return _infinite_sql(x, _INFINITE_DAYS, f"{x}::VARCHAR")
        case "d", "date":
            return f"({x} - DATE '1970-01-01')::VARCHAR"
        case "j", "string" if type_ is not None and type_.name == "jsonb":
            return x
        case "y", "bytes":
            return f"lower(hex({x}))"
        case _:
            return None


def _unit_sql(x: str, wire: Wire, family: str, modes: Modes) -> str:
    multiply, divide = _UNITS.get(wire.name, (1, 1))
    micros = f"{x}::BIGINT"
    if multiply > 1:
        # Milliseconds may be out of range in microseconds.
        micros = f"{x}::HUGEINT * {multiply}"
    elif divide > 1:
        micros = f"(({x} - (({x} % {divide}) + {divide}) % {divide}) // {divide})"
    finite = f"({cut_sql(micros, modes)})::VARCHAR"
    if family == "t":
        return finite
    return _infinite_sql(x, _INFINITE, finite)


def _infinite_sql(x: str, infinite: dict[int, str], finite: str) -> str:
    cases = " ".join(f"WHEN {value} THEN {literal(text)}" for value, text in infinite.items())
    return f"CASE {x}::BIGINT {cases} ELSE {finite} END"


def payload_array(
    column: pa.ChunkedArray, wire: Wire, family: str, type_: Type | None, modes: Modes
) -> tuple[pa.Array, pa.Array | None]:
    """The payloads of a column, value by value, and where it is a placeholder (None: nowhere)."""
    if family == "n" and wire.physical == "bytes":
        decimals = _decimals(column, wire.scale)
        if decimals is not None:
            return decimals, None
    texts: list[str | None] = []
    toasts: list[bool] = []
    for value in column.to_pylist():
        hit = value is not None and is_toast(value, wire, modes)
        toasts.append(hit)
        texts.append(None if value is None or hit else payload(value, wire, family, type_, modes))
    return pa.array(texts, pa.string()), pa.array(toasts) if any(toasts) else None


def _decimals(column: pa.ChunkedArray, scale: int) -> pa.Array | None:
    """Big-endian two's complement bytes as decimals, for DuckDB to print; None when some are too long for 128 bits."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    array = array.cast(pa.large_binary())
    count = len(array)
    if not 0 <= scale <= 38:
        return None
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, count + 1, array.offset * 8)
    lengths = np.diff(offsets)
    if len(lengths) and int(lengths.max()) > 15:
        return None
    raw = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    words = np.zeros((count, 16), np.uint8)
    negative = (lengths > 0) & (raw[np.minimum(offsets[:-1], len(raw) - 1)] >= 0x80)
    words[negative] = 0xFF
    for place in range(int(lengths.max()) if len(lengths) else 0):
        # The least significant byte is the last one.
        rows = np.flatnonzero(lengths > place)
        words[rows, place] = raw[offsets[rows + 1] - 1 - place]
    mask = None
    if array.null_count:
        mask = pa.py_buffer(np.packbits(array.is_valid().to_numpy(zero_copy_only=False), bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.decimal128(38, scale), count, [mask, pa.py_buffer(words)], array.null_count)
