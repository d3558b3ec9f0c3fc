"""What Debezium makes of a column's default: an Avro default, or none.

Debezium doesn't evaluate SQL. It reads the text of the expression: a literal becomes its value, a function call the
zero of the type, anything else nothing at all. So `DEFAULT now()` is registered as 1970, and `DEFAULT 1 + 2` not at
all, though both fill old rows alike. Types without a mapper (bytea, inet, arrays, domains, ...) never have a default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final

from cdcpipe.errors import ConfigError, MissingExtra
from cdcpipe.schemas.connect_types import ConnectSchema
from cdcpipe.schemas.table import PgType

__all__ = ["NO_DEFAULT", "Expression", "default_value", "read_expression"]


class _NoDefault:
    def __repr__(self) -> str:
        return "NO_DEFAULT"


NO_DEFAULT: Final = _NoDefault()
"""The schema has no default."""


class Expression:
    """A default expression as Debezium sees it: `literal` text, a `call`, the name of an SQL `value`, or neither."""

    __slots__ = ("call", "literal", "null", "value")

    def __init__(
        self, literal: str | None = None, *, call: bool = False, value: str | None = None, null: bool = False
    ) -> None:
        self.literal = literal
        self.call = call
        self.value = value
        self.null = null


def read_expression(sql: str) -> Expression:
    """Parse a default expression, as written in DDL or as given by `pg_get_expr`. Raises `ConfigError`."""
    try:
        from pglast import ast, parse_sql
        from pglast.parser import ParseError
    except ImportError as error:
        raise MissingExtra("schemas", "reading SQL") from error
    try:
        parsed: tuple[Any, ...] = tuple(parse_sql(f"SELECT {sql}") or ())
    except ParseError as error:
        raise ConfigError(f"`{sql}` is not an SQL expression: {error}") from error
    node: Any = parsed[0].stmt.targetList[0].val
    while isinstance(node, ast.TypeCast):
        node = node.arg
    negative = False
    if isinstance(node, ast.A_Expr) and node.lexpr is None and node.name and node.name[-1].sval == "-":
        node, negative = node.rexpr, True
    if isinstance(node, ast.A_Const):
        if node.isnull:
            return Expression(null=True)
        return Expression(("-" if negative else "") + _constant(node.val))
    if negative:
        return Expression()
    if isinstance(node, ast.FuncCall):
        return Expression(call=True)
    if isinstance(node, ast.SQLValueFunction):
        return Expression(value=str(sql).strip().split("::")[0].strip("() "))
    return Expression()


def _constant(value: Any) -> str:
    for attribute in ("ival", "fval", "sval", "bsval"):
        if hasattr(value, attribute):
            content = getattr(value, attribute)
            return content.lstrip("bBxX") if attribute == "bsval" else str(content)
    return "true" if value.boolval else "false"


def default_value(type_: PgType, sql: str, schema: ConnectSchema) -> Any:
    """The default of a column's schema in Avro's JSON form, or `NO_DEFAULT`."""
    name = "enum" if type_.kind == "enum" else type_.name
    if name not in _READERS or schema.type == "struct":
        return NO_DEFAULT
    expression = read_expression(sql)
    if expression.null:
        return NO_DEFAULT
    if expression.call:
        return _zero(name, schema)
    if expression.value is not None:
        if name in ("date", "time", "timestamp", "timestamptz"):
            return _zero(name, schema)
        return expression.value.upper() if name in ("text", "varchar", "bpchar") else NO_DEFAULT
    if expression.literal is None:
        return NO_DEFAULT
    try:
        return _READERS[name](expression.literal, type_, schema)
    except (ValueError, InvalidOperation, OverflowError):
        return NO_DEFAULT


def _zero(name: str, schema: ConnectSchema) -> Any:
    """What a function call becomes."""
    match name:
        case "uuid":
            return "00000000-0000-0000-0000-000000000000"
        case "json" | "jsonb":
            return "{}"
        case "date":
            return _date("1970-01-01", _ANY, schema)
        case "timestamp" | "timestamptz":
            return _READERS[name]("1970-01-01 00:00:00+00", _ANY, schema)
        case "time":
            return _time("00:00:00", _ANY, schema)
        case "bool":
            return False
        case "numeric":
            return _numeric("0", _ANY, schema)
        case "int2" | "int4" | "int8":
            return 0
        case "float4" | "float8":
            return 0.0
        case "text" | "varchar" | "bpchar":
            return ""
    return NO_DEFAULT


_ANY: Final = PgType("")


def _integer(text: str, _type: PgType, _schema: ConnectSchema) -> int:
    return int(text)


def _float(text: str, _type: PgType, _schema: ConnectSchema) -> Any:
    special = {"nan": "NaN", "infinity": "Infinity", "-infinity": "-Infinity"}.get(text.lower())
    return special or float(text)


def _text(text: str, _type: PgType, _schema: ConnectSchema) -> str:
    return text


def _jsonb(text: str, _type: PgType, _schema: ConnectSchema) -> str:
    """As jsonb prints it: short keys first, one space after a comma and a colon."""

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: ordered(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key.encode()))
            }
        return [ordered(item) for item in value] if isinstance(value, list) else value

    return json.dumps(ordered(json.loads(text)), ensure_ascii=False)


def _bool(text: str, _type: PgType, _schema: ConnectSchema) -> bool:
    return text.lower() in ("true", "t", "yes", "on", "1")


def _bit(text: str, type_: PgType, schema: ConnectSchema) -> Any:
    if schema.type == "boolean":
        return text == "1"
    length = -(-len(text) // 8)
    return int(text, 2).to_bytes(length, "little").decode("latin-1")


def _numeric(text: str, type_: PgType, schema: ConnectSchema) -> Any:
    number = Decimal(text)
    if not number.is_finite():
        return NO_DEFAULT
    scale = type_.modifiers[1] if len(type_.modifiers) > 1 else 0
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    if scale > -exponent:
        number = number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_EVEN)
    if schema.type == "float64":
        return float(number)
    if schema.type == "string":
        return f"{number:f}"
    unscaled = int(number.scaleb(int(dict(schema.parameters)["scale"])))
    length = (unscaled + (unscaled < 0)).bit_length() // 8 + 1
    return unscaled.to_bytes(length, "big", signed=True).decode("latin-1")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _micros(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _fraction(text: str) -> str:
    """Java's ISO form: no fraction when it is zero, else without needless zeros in groups of three digits."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _in_unit(micros: int, schema: ConnectSchema) -> int:
    word = (schema.name or "").rpartition(".")[2]
    if word.startswith("Nano"):
        return micros * 1000
    return micros if word.startswith("Micro") else micros // 1000


def _timestamp(text: str, _type: PgType, schema: ConnectSchema) -> Any:
    moment = _moment(text)
    if schema.type == "string":
        return _fraction(moment.strftime("%Y-%m-%dT%H:%M:%S.%f")) + "Z"
    return _in_unit(_micros(moment - _EPOCH), schema)


def _timestamptz(text: str, _type: PgType, _schema: ConnectSchema) -> str:
    return _moment(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _date(text: str, _type: PgType, schema: ConnectSchema) -> Any:
    day = date.fromisoformat(text)
    return f"{day.isoformat()}Z" if schema.type == "string" else (day - date(1970, 1, 1)).days


def _time(text: str, _type: PgType, schema: ConnectSchema) -> Any:
    moment = datetime.fromisoformat(f"1970-01-01T{text}").replace(tzinfo=UTC)
    if schema.type == "string":
        return _fraction(moment.strftime("%H:%M:%S.%f")) + "Z"
    return _in_unit(_micros(moment - _EPOCH), schema)


_UNIT: Final = re.compile(r"([+-]?\d+)\s*(year|yr|mon|month|day|week|hour|hr|h|min|minute|sec|second|s)s?\b")
_CLOCK: Final = re.compile(r"(-?)(\d+):(\d+)(?::(\d+(?:\.\d+)?))?")


def _interval(text: str, _type: PgType, schema: ConnectSchema) -> Any:
    months = days = 0
    seconds = Decimal(0)
    rest = text
    for match in _UNIT.finditer(text):
        count, unit = int(match[1]), match[2]
        rest = rest.replace(match[0], "", 1)
        if unit in ("year", "yr"):
            months += 12 * count
        elif unit in ("mon", "month"):
            months += count
        elif unit in ("day", "week"):
            days += count * (7 if unit == "week" else 1)
        else:
            seconds += count * (3600 if unit[0] == "h" else 60 if unit[0] == "m" else 1)
    clock = _CLOCK.search(rest)
    if clock:
        sign = -1 if clock[1] else 1
        seconds += sign * (int(clock[2]) * 3600 + int(clock[3]) * 60 + Decimal(clock[4] or 0))
        rest = rest.replace(clock[0], "", 1)
    if rest.strip():
        raise ValueError(text)
    if schema.type == "int64":
        return int((Decimal(months) * Decimal("30.4375") + days) * 86_400_000_000 + seconds * 1_000_000)
    hours, left = divmod(seconds, 3600)
    minutes, left = divmod(left, 60)
    shown = f"{left.normalize():f}" if left else "0"
    return f"P{months // 12}Y{months % 12}M{days}DT{int(hours)}H{int(minutes)}M{shown}S"


_READERS: Final[dict[str, Callable[[str, PgType, ConnectSchema], Any]]] = {
    "int2": _integer,
    "int4": _integer,
    "int8": _integer,
    "float4": _float,
    "float8": _float,
    "numeric": _numeric,
    "text": _text,
    "varchar": _text,
    "bpchar": _text,
    "json": _text,
    "jsonb": _jsonb,
    "xml": _text,
    "uuid": _text,
    "enum": _text,
    "bool": _bool,
    "bit": _bit,
    "varbit": _bit,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "interval": _interval,
}
