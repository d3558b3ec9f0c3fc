"""The canonical form: one value, the same bytes, wherever it was read. The slow, plain definition.

A value is written as `<family><length>:<payload>`: the family is one letter, the length counts bytes of UTF-8. Null is
`~`, an unchanged TOAST value is `?`. So `"12" + "3"` is not `"1" + "23"`, null is not empty, text is not a number.

| family | types | payload |
| --- | --- | --- |
| `b` | boolean, bit(1) | `t`, `f` |
| `n` | int2, int4, int8, oid, numeric, money | decimal without exponent or trailing zeros; `NaN`, `Infinity` |
| `f` | float4, float8; numeric and money in mode `double` | the double in shortest form, `-0.0` kept; `nan`, `inf` |
| `s` | text, varchar, char, name, citext, xml, ltree, enum, uuid, inet, cidr, macaddr, ranges, … | the text |
| `d` | date | days since 1970-01-01 |
| `t` | time | microseconds of the day, 24:00 is 86400000000 |
| `z` | timetz | microseconds of the day in UTC; the offset is lost in Debezium |
| `w` | timestamp | microseconds since 1970-01-01; `infinity`, `-infinity` |
| `W` | timestamptz | the same, UTC |
| `v` | interval | `months,days,microseconds`; mode `numeric`: microseconds with a month of 30.4375 days |
| `j` | json, jsonb | as jsonb prints it |
| `y` | bytea | hex |
| `h` | hstore | a JSON object, keys in order |
| `x` | bit(n), varbit | the number that the bits make, in hex; Debezium keeps no length |
| `p` | point | both coordinates, as `f` |
| `a` | arrays | the elements one after the other, each as a value; bounds are lost in Debezium |

A **row image** has the columns that are not null, by name: `<length>:<name><value>`; a **key** has the key's
columns alike.

Some of Debezium's modes carry less than PostgreSQL stores (`double`, `connect`, `numeric` intervals). The form is
made for `Modes`, so that both sides are cut alike: two ledgers can only be compared when they were made for the same
modes. What no mode excuses (a wrapped nanosecond timestamp, a rounded decimal in `precise`) stays a difference.

A type without a family is *unsupported*: it is left out, and named in the ledger's `unknown`.

`columns` does the same for whole columns at once. It takes its short cuts where a value has the common form and comes
here for the rest; tests hold the two against each other.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from cdcpipe.ledger.catalogue import Type

__all__ = [
    "NULL",
    "TOAST",
    "Modes",
    "encode",
    "family_of",
    "from_text",
    "image",
    "payload_from_text",
]

NULL: Final = "~"
TOAST: Final = "?"

US_PER_DAY: Final = 86_400_000_000
DAYS_PER_MONTH: Final = 365.25 / 12
"""Debezium's MicroDuration.DAYS_PER_MONTH_AVG."""


@dataclass(frozen=True, slots=True)
class Modes:
    """The connector's settings that decide how a value is written. Defaults are those of `cdcpipe.connect`."""

    decimal: Literal["precise", "double", "string"] = "precise"
    time: Literal["adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"] = (
        "adaptive"
    )
    interval: Literal["numeric", "string"] = "string"
    hstore: Literal["json", "map"] = "json"
    binary: Literal["bytes", "base64", "base64-url-safe", "hex"] = "bytes"
    money_fraction_digits: int = 2
    placeholder: str = "__debezium_unavailable_value"

    @classmethod
    def from_config(cls, config: dict[str, str]) -> Modes:
        """From a connector's configuration as Connect's REST API gives it; what it lacks has Debezium's default."""
        return cls(
            decimal=config.get("decimal.handling.mode", "precise"),  # type: ignore[arg-type]
            time=config.get("time.precision.mode", "adaptive"),  # type: ignore[arg-type]
            interval=config.get("interval.handling.mode", "numeric"),  # type: ignore[arg-type]
            hstore=config.get("hstore.handling.mode", "json"),  # type: ignore[arg-type]
            binary=config.get("binary.handling.mode", "bytes"),  # type: ignore[arg-type]
            money_fraction_digits=int(config.get("money.fraction.digits", "2")),
            placeholder=config.get("unavailable.value.placeholder", "__debezium_unavailable_value"),
        )

    def to_json(self) -> dict[str, str]:
        """What decides whether two ledgers can be compared: the modes that lose something."""
        return {
            "decimal": "double" if self.decimal == "double" else "exact",
            "time": "milliseconds" if self.time == "connect" else "microseconds",
            "interval": self.interval,
        }


_FAMILIES: Final[dict[str, str]] = {
    "bool": "b",
    **dict.fromkeys(["int2", "int4", "int8", "oid"], "n"),
    **dict.fromkeys(["float4", "float8"], "f"),
    **dict.fromkeys(["text", "varchar", "bpchar", "char", "name", "citext", "xml", "ltree", "uuid", "tsvector"], "s"),
    **dict.fromkeys(["inet", "cidr", "macaddr", "macaddr8"], "s"),
    **dict.fromkeys(["int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"], "s"),
    "date": "d",
    "time": "t",
    "timetz": "z",
    "timestamp": "w",
    "timestamptz": "W",
    "interval": "v",
    "json": "j",
    "jsonb": "j",
    "bytea": "y",
    "hstore": "h",
    "bit": "x",
    "varbit": "x",
    "point": "p",
}

# Arrays of these have no schema in Debezium: the column is left out of its records.
_NO_ARRAYS: Final = {"bytea", "money", "name", "interval", "varbit", "xml", "point", "bit"}


def family_of(type_: Type, modes: Modes) -> str | None:
    """The family's letter, or None: no canonical form, `unknown`."""
    if type_.kind == "array":
        if type_.element is None or type_.element.name in _NO_ARRAYS or type_.element.kind == "array":
            return None
        return "a" if family_of(type_.element, modes) else None
    if type_.kind == "enum":
        return "s"
    if type_.kind not in ("base", "range"):
        return None
    if type_.name in ("numeric", "money"):
        return "f" if modes.decimal == "double" else "n"
    if type_.name == "bit" and type_.typmod in (1, -1):
        return "b"
    return _FAMILIES.get(type_.name)


def encode(family: str, payload: str | None) -> str:
    """`<family><length>:<payload>`, or `~` for null."""
    if payload is None:
        return NULL
    return f"{family}{len(payload.encode())}:{payload}"


def image(values: dict[str, str]) -> str:
    """The row image (or key) of encoded values by column."""
    return "".join(f"{len(name.encode())}:{name}{value}" for name, value in sorted(values.items()) if value != NULL)


def from_text(text: str | None, type_: Type, modes: Modes) -> str:
    """The encoded value of what PostgreSQL's output function wrote.

    The session must have DateStyle ISO, IntervalStyle postgres, TimeZone UTC, bytea_output hex, lc_monetary C and
    extra_float_digits above 0. KeyError for a type without a family.
    """
    family = family_of(type_, modes)
    if family is None:
        raise KeyError(f"type {type_} has no canonical form")
    return encode(family, None if text is None else payload_from_text(text, type_, modes))


def payload_from_text(text: str, type_: Type, modes: Modes) -> str:
    """The payload of a value that is not null."""
    match family_of(type_, modes):
        case "b":
            return {"t": "t", "f": "f", "1": "t", "0": "f"}[text]
        case "n":
            return number(money_digits(text, modes) if type_.name == "money" else text)
        case "f":
            if type_.name == "float4":
                return double(single(text))
            return double(float(money_digits(text, modes) if type_.name == "money" else text))
        case "d":
            return text if text.endswith("infinity") else str(days(text))
        case "t":
            return cut(time_us(text), modes)
        case "z":
            return str(timetz_us(text))
        case "w":
            return text if text.endswith("infinity") else cut(timestamp_us(text), modes)
        case "W":
            return text if text.endswith("infinity") else str(timestamp_us(text))
        case "v":
            return interval(interval_from_text(text), modes)
        case "j":
            return text if type_.name == "jsonb" else json_text(text)
        case "y":
            return text.removeprefix("\\x")
        case "h":
            return hstore(hstore_from_text(text))
        case "x":
            return f"{int(text or '0', 2):x}"
        case "p":
            x, y = text.strip("()").split(",")
            return point(float(x), float(y))
        case "a":
            assert type_.element is not None
            return array(array_from_text(text), type_.element, modes)
        case _:
            return range_utc(text) if type_.name == "tstzrange" else text


# --- numbers -----------------------------------------------------------------


def number(text: str) -> str:
    """A decimal as PostgreSQL prints it (no exponent), without trailing zeros and without `-0`."""
    if text in ("NaN", "Infinity", "-Infinity"):
        return text
    if "e" in text or "E" in text:
        text = format(Decimal(text), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "", "-") else text


def scaled(unscaled: int, scale: int) -> str:
    """`unscaled * 10**-scale` as `number` writes it."""
    if scale <= 0:
        return str(unscaled * 10**-scale)
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    return number(("-" if unscaled < 0 else "") + digits[:-scale] + "." + digits[-scale:])


def double(value: float) -> str:
    """The shortest text that gives the same double (Python's repr, DuckDB's cast). -0 is not 0; all NaNs are one."""
    return repr(value)


def single(text: str) -> float:
    """A float4 as the double that it is."""
    value: float = struct.unpack(">f", struct.pack(">f", float(text)))[0]
    return value


def point(x: float, y: float) -> str:
    """A point."""
    return f"{double(x)},{double(y)}"


def money_digits(text: str, modes: Modes) -> str:
    """`-$1,234.56` as `-1234.56`."""
    return re.sub(r"[^0-9.\-]", "", text)


# --- dates and times -----------------------------------------------------------

_DATE = re.compile(r"^([+-]?\d+)-(\d\d)-(\d\d)")
_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?")
_ZONE = re.compile(r"(?:(Z)|([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?)$")


def days(text: str) -> int:
    """Days since 1970-01-01 of an ISO date; `BC` after it, or a year below 1, as in ISO 8601."""
    found = _DATE.match(text)
    if found is None:
        raise ValueError(f"not a date: {text!r}")
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    if text.endswith("BC"):
        year = 1 - year
    return days_from_civil(year, month, day)


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, any year (0 is 1 BC)."""
    shifted = year - (month <= 2)
    era = shifted // 400
    year_of_era = shifted - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def _clock(found: re.Match[str]) -> int:
    fraction = int((found[4] or "0").ljust(9, "0")) // 1000
    return ((int(found[1]) * 60 + int(found[2])) * 60 + int(found[3] or 0)) * 1_000_000 + fraction


def _offset_us(text: str) -> int:
    found = _ZONE.search(text)
    if found is None or found[1]:
        return 0
    seconds = int(found[3]) * 3600 + int(found[4] or 0) * 60 + int(found[5] or 0)
    return (-seconds if found[2] == "-" else seconds) * 1_000_000


def time_us(text: str) -> int:
    """Microseconds of the day of `HH:MM[:SS[.ffffff]]`; a zone is ignored."""
    found = _TIME.match(text)
    if found is None:
        raise ValueError(f"not a time: {text!r}")
    return _clock(found)


def timetz_us(text: str) -> int:
    """Microseconds of the day in UTC."""
    return (time_us(text) - _offset_us(text)) % US_PER_DAY


def timestamp_us(text: str) -> int:
    """Microseconds since 1970-01-01T00:00:00Z of an ISO timestamp; without a zone it is taken as UTC."""
    body = text.removesuffix(" BC")
    date = _DATE.match(body)
    if date is None:
        raise ValueError(f"not a timestamp: {text!r}")
    rest = body[date.end() :].lstrip("T ")
    day = days(date[0] + (" BC" if text.endswith("BC") else ""))
    return day * US_PER_DAY + (time_us(rest) - _offset_us(rest) if rest else 0)


def cut(microseconds: int, modes: Modes) -> str:
    """To milliseconds where mode `connect` keeps no more; towards minus infinity, as Java's `toEpochMilli`."""
    return str(microseconds // 1000 * 1000 if modes.time == "connect" else microseconds)


# --- intervals -------------------------------------------------------------------

_INTERVAL = re.compile(r"([+-]?\d+) (year|mon|day)s?")
_INTERVAL_TIME = re.compile(r"([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?$")
_ISO = re.compile(
    r"^P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+(?:\.\d+)?(?:E-?\d+)?)S)?)?$"
)


def interval_from_text(text: str) -> tuple[int, int, int]:
    """Months, days, microseconds, of IntervalStyle `postgres`."""
    if text.endswith("infinity"):
        return (0, 0, (1 << 63) - 1 if text == "infinity" else -(1 << 63))
    units = {"year": 0, "mon": 0, "day": 0}
    for amount, unit in _INTERVAL.findall(text):
        units[unit] = int(amount)
    micros = 0
    if found := _INTERVAL_TIME.search(text):
        micros = (int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])) * 1_000_000
        micros += int((found[5] or "0").ljust(6, "0"))
        micros = -micros if found[1] == "-" else micros
    return units["year"] * 12 + units["mon"], units["day"], micros


def interval_from_iso(text: str) -> tuple[int, int, int]:
    """Months, days, microseconds, of ISO 8601 as Debezium writes it."""
    found = _ISO.match(text)
    if found is None:
        raise ValueError(f"not an ISO 8601 interval: {text!r}")
    years, months, day, hours, minutes = (int(found[group] or 0) for group in range(1, 6))
    seconds = Decimal((found[6] or "") + (found[7] or "0"))
    micros = (hours * 3600 + minutes * 60) * 1_000_000 + int((seconds * 1_000_000).to_integral_value())
    return years * 12 + months, day, micros


def interval(parts: tuple[int, int, int], modes: Modes) -> str:
    """In mode `numeric` as Debezium's MicroDuration computes it, in doubles; else the three parts."""
    months, day, micros = parts
    if modes.interval == "string":
        return f"{months},{day},{micros}"
    sign = -1 if micros < 0 else 1
    seconds, fraction = divmod(abs(micros), 1_000_000)
    hours, minutes = seconds // 3600 * sign, seconds % 3600 // 60 * sign
    rest = (seconds % 60 + fraction / 1_000_000) * sign
    total = ((months * DAYS_PER_MONTH + day) * 24 + hours) * 60 + minutes
    return str(int((total * 60 + rest) * 1e6))


# --- json, hstore, arrays, ranges --------------------------------------------------


class _Number(str):
    """A JSON number that keeps its digits."""

    __slots__ = ()


def _json_number(text: str) -> _Number:
    value = Decimal(text)
    written = format(value, "f")
    return _Number(written if value else written.removeprefix("-"))


def _jsonb(value: Any) -> str:
    match value:
        case _Number():
            return str(value)
        case dict():
            members = sorted((len(key.encode()), key.encode(), key) for key in value)
            return "{" + ", ".join(f"{_jsonb(key)}: {_jsonb(value[key])}" for *_, key in members) + "}"
        case list():
            return "[" + ", ".join(map(_jsonb, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def json_text(text: str) -> str:
    """As jsonb prints it: keys by length, then bytes; the last of two equal keys; numbers keep their scale.

    What jsonb would refuse (a lone surrogate) stays as it is.
    """
    try:
        value = json.loads(text, parse_float=_json_number, parse_int=_json_number, parse_constant=_json_number)
        written = _jsonb(value)
        written.encode()
    except (ValueError, ArithmeticError, RecursionError):
        return text
    return written


_HSTORE = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def hstore_from_text(text: str) -> dict[str, str | None]:
    """An hstore as PostgreSQL prints it."""
    return {
        _ESCAPE.sub(r"\1", found[1]): None if found[2] is None else _ESCAPE.sub(r"\1", found[2])
        for found in _HSTORE.finditer(text)
    }


def hstore(pairs: dict[str, str | None]) -> str:
    """As a JSON object with its keys in order."""
    return _jsonb(dict(pairs))


_ARRAY_TOKEN = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|((?:[^{},"\\]|\\.)+)', re.DOTALL)


def array_from_text(text: str) -> list[Any]:
    """Elements as text, None for NULL; lists within for more than one dimension. Lower bounds are dropped."""
    root: list[Any] = []
    stack = [root]
    for found in _ARRAY_TOKEN.finditer(text[text.index("{") :]):
        token = found[0]
        if token == "{":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif token == "}":
            stack.pop()
        elif found[1] is not None:
            stack[-1].append(_ESCAPE.sub(r"\1", found[1]))
        elif token != ",":
            stack[-1].append(None if token.upper() == "NULL" else _ESCAPE.sub(r"\1", token))
    first: list[Any] = root[0]
    return first


def array(elements: list[Any], element: Type, modes: Modes) -> str:
    """The payload of an array of texts."""
    return "".join(
        encode("a", array(each, element, modes)) if isinstance(each, list) else from_text(each, element, modes)
        for each in elements
    )


_STAMP = re.compile(r'"([^"]*)"')


def range_utc(text: str) -> str:
    """A tstzrange with its bounds in UTC, however the session's time zone wrote them."""

    def utc(found: re.Match[str]) -> str:
        return f'"{timestamp_us(found[1])}"'

    return _STAMP.sub(utc, text)


# --- text forms of bytes -------------------------------------------------------------


def bytes_from_mode(text: str, modes: Modes) -> bytes:
    """A bytea that Debezium wrote as text in one of the binary modes."""
    match modes.binary:
        case "hex":
            return bytes.fromhex(text)
        case "base64-url-safe":
            return base64.urlsafe_b64decode(text)
        case _:
            return base64.b64decode(text)
