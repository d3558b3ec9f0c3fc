"""Values that pipelines get wrong, by PostgreSQL type: edges of ranges, infinities, eras, unicode, values out of line.

Each stands with the text that PostgreSQL prints for it (time zone UTC, date style ISO, `bytea_output` hex) and, where
Python has such a value, with that. The tags say which trap it is, so that a test can leave out what its pipeline is
known to refuse: see failure-modes.md D17 (TOAST) and D20 (numerics, temporals).
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Final

__all__ = ["CORPUS", "NO_PYTHON", "TAGS", "NastyValue"]


class _NoPython(Enum):
    NO_PYTHON = "no_python"


NO_PYTHON: Final = _NoPython.NO_PYTHON

TAGS = {
    "infinity": "an infinite number, date or timestamp; a range without an end",
    "nan": "not a number",
    "bc": "a year before Christ",
    "year_10000": "a year of five digits or more",
    "nanoseconds": "outside of what a 64-bit count of nanoseconds holds (1677-09-21 to 2262-04-11)",
    "hour_24": "24:00:00, which is not 00:00:00",
    "offset_seconds": "a time zone offset with seconds",
    "digits": "more digits than 38",
    "toast": "stored out of line: an update that leaves it alone doesn't carry it",
    "null_inside": "a NULL within an array",
    "nested": "an array of arrays, or one whose indices don't start at 1",
    "sentinel": "looks like a placeholder, or like null",
    "unicode": "beyond ASCII",
    "control": "a control character, or white space that is trimmed by some",
    "json_number": "a JSON number that a double doesn't hold",
}


@dataclass(frozen=True, slots=True)
class NastyValue:
    """A value of `type`. `sql` is an expression for it, `text` how PostgreSQL prints it.

    `python` is what psycopg reads it as (in binary, for a `real`), `NO_PYTHON` where Python has no such value.
    """

    type: str
    sql: str
    text: str
    python: object = NO_PYTHON
    tags: frozenset[str] = field(default_factory=frozenset)


def _hash_text(prefix: str, count: int) -> tuple[str, str]:
    """A text that doesn't compress, as SQL and as itself."""
    sql = f"(SELECT string_agg(md5('{prefix}' || i), '' ORDER BY i) FROM generate_series(1, {count}) AS i)"
    return sql, "".join(hashlib.md5(f"{prefix}{i}".encode()).hexdigest() for i in range(1, count + 1))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _plain(type_: str, text: str, python: object = NO_PYTHON, *tags: str, given: str | None = None) -> NastyValue:
    """A value that is written as it is printed, or as `given`."""
    return NastyValue(type_, _literal(text if given is None else given) + f"::{type_}", text, python, frozenset(tags))


def _integers() -> list[NastyValue]:
    values = []
    for type_, bits in (("smallint", 16), ("integer", 32), ("bigint", 64)):
        edge = 2 ** (bits - 1)
        values += [_plain(type_, str(value), value) for value in (0, -1, edge - 1, -edge)]
    # the edge of the whole numbers that a double, and so JavaScript, holds
    values += [_plain("bigint", str(value), value) for value in (2**53 + 1, -(2**53) - 1)]
    values += [_plain("oid", "4294967295", 4294967295), _plain("oid", "0", 0)]
    return values


def _floats() -> list[NastyValue]:
    inf, nan = float("inf"), float("nan")
    values = []
    for type_ in ("real", "double precision"):
        values += [
            _plain(type_, "0", 0.0),
            _plain(type_, "-0", -0.0),
            _plain(type_, "NaN", nan, "nan"),
            _plain(type_, "Infinity", inf, "infinity"),
            _plain(type_, "-Infinity", -inf, "infinity"),
            _plain(type_, "0.5", 0.5),
        ]
    values += [
        _plain("real", "3.4028235e+38", 3.4028234663852886e38),
        _plain("real", "1e-45", 1.401298464324817e-45),
        _plain("real", "0.1", 0.10000000149011612),  # not the 0.1 of a double
        _plain("double precision", "0.1", 0.1),
        _plain("double precision", "1.7976931348623157e+308", 1.7976931348623157e308),
        _plain("double precision", "5e-324", 5e-324),
        _plain("double precision", "0.30000000000000004", 0.1 + 0.2),
    ]
    return values


def _numerics() -> list[NastyValue]:
    many = "9" * 60 + "." + "1" * 60
    huge = "8" + "".join(
        str(int(hashlib.md5(f"{i}".encode()).hexdigest(), 16)) for i in range(540)
    )  # "main" storage: only past a page
    values = [
        _plain("numeric", "NaN", Decimal("NaN"), "nan"),
        _plain("numeric", "Infinity", Decimal("Infinity"), "infinity"),
        _plain("numeric", "-Infinity", Decimal("-Infinity"), "infinity"),
        _plain("numeric", many, Decimal(many), "digits"),
        _plain("numeric", huge, Decimal(huge), "digits", "toast"),
    ]
    for text in ("0", "0.000", "1.10", "-1.1", "1" + "0" * 30, "0." + "0" * 29 + "1", "9" * 38):
        values.append(_plain("numeric", text, Decimal(text)))
    for text in ("0.00", "-0.01", "9999999999999999.99", "-9999999999999999.99"):
        values.append(_plain("numeric(18,2)", text, Decimal(text)))
    for text in ("99999999999999999999999999999999999999", "-1"):
        values.append(_plain("numeric(38,0)", text, Decimal(text)))
    values.append(_plain("numeric(5,0)", "-99999", Decimal(-99999)))
    values.append(_plain("numeric(5,2)", "NaN", Decimal("NaN"), "nan"))
    values.append(_plain("numeric(5,2)", "-999.99", Decimal("-999.99")))
    # a scale below zero rounds to thousands, one above the precision holds small fractions
    values.append(_plain("numeric(3,-3)", "123000", Decimal(123000), given="123456"))
    values.append(_plain("numeric(3,5)", "0.00999", Decimal("0.00999")))
    return values


def _texts() -> list[NastyValue]:
    strings: list[tuple[str, tuple[str, ...]]] = [
        ("", ()),
        (" ", ("control",)),
        ("trailing  ", ("control",)),
        ("NULL", ("sentinel",)),
        ("null", ("sentinel",)),
        ("\\N", ("sentinel",)),
        ("__debezium_unavailable_value", ("sentinel",)),
        ("quote ' \" backslash \\ slash /", ()),
        ("tab\t newline\n return\r bell\x07 escape\x1b delete\x7f", ("control",)),
        ("e\u0301 and \u00e9", ("unicode",)),
        ("\U0001f469\u200d\U0001f680 \U0001f3f3\ufe0f\u200d\U0001f308 \U00010348", ("unicode",)),
        ("\u0645\u0631\u062d\u0628\u0627 \u202eabc\u202c", ("unicode",)),
        ("\ufeffbyte order mark", ("unicode", "control")),
        ("\u2028line separator, \u00a0 no-break, \u0085 next line", ("unicode", "control")),
        ("\ufffd\uffff\U0010ffff", ("unicode",)),
        ("{}", ("sentinel",)),
        ("1e5", ()),
        ("a" * 20_000, ("toast",)),  # compresses well: in line or not is up to PostgreSQL
    ]
    values = [_plain("text", text, text, *tags) for text, tags in strings]
    sql, large = _hash_text("text", 200)
    values.append(NastyValue("text", sql, large, large, frozenset({"toast"})))
    values += [_plain("varchar(40)", text, text) for text in ("", "x" * 40, "ü" * 40)]
    values.append(_plain("char(5)", "ab   ", "ab   ", given="ab"))
    values.append(_plain("char(5)", "     ", "     ", given=""))
    values.append(_plain('"char"', "x", "x"))
    values.append(_plain("name", "a" * 63, "a" * 63, given="a" * 80))
    return values


def _bytes() -> list[NastyValue]:
    every = bytes(range(256))
    values = [_plain("bytea", "\\x" + raw.hex(), raw) for raw in (b"", b"\x00", b"\xff\xfe\x00", every, b"abc")]
    sql, text = _hash_text("bytea", 150)
    values.append(NastyValue("bytea", f"decode({sql}, 'hex')", "\\x" + text, bytes.fromhex(text), frozenset({"toast"})))
    values.append(_plain("boolean", "t", True))
    values.append(_plain("boolean", "f", False))
    for bits in ("101", "000"):
        values.append(_plain("bit(3)", bits, bits))
    for bits in ("1", "0"):
        values.append(_plain("bit(1)", bits, bits))
    for bits in ("", "1", "0" * 65):
        values.append(_plain("bit varying", bits, bits))
    return values


def _dates() -> list[NastyValue]:
    days = ("1970-01-01", "1969-12-31", "2000-02-29", "0001-01-01", "9999-12-31", "1582-10-10", "1900-01-01")
    values = [
        _plain("date", day, date.fromisoformat(day), *(["nanoseconds"] if not "1678" < day < "2262" else []))
        for day in days
    ]
    for text, tag in (
        ("infinity", "infinity"),
        ("-infinity", "infinity"),
        ("4713-11-24 BC", "bc"),
        ("0001-12-31 BC", "bc"),
        ("10000-01-01", "year_10000"),
        ("5874897-12-31", "year_10000"),
    ):
        values.append(_plain("date", text, NO_PYTHON, tag, *([] if tag == "infinity" else ["nanoseconds"])))
    values += [
        _plain("time", "00:00:00", time(0)),
        _plain("time", "23:59:59.999999", time(23, 59, 59, 999_999)),
        _plain("time", "24:00:00", NO_PYTHON, "hour_24"),
        _plain("time", "12:00:00.000001", time(12, 0, 0, 1)),
        _plain("time(3)", "12:34:56.789", time(12, 34, 56, 789_000)),
        _plain("timetz", "00:00:00+15:59"),
        _plain("timetz", "00:00:00-15:59"),
        _plain("timetz", "24:00:00+00", NO_PYTHON, "hour_24"),
        _plain("timetz", "12:00:00.5+01:02:03", NO_PYTHON, "offset_seconds"),
    ]
    return values


def _timestamps() -> list[NastyValue]:
    moments = (
        "1970-01-01 00:00:00",
        "1969-12-31 23:59:59.999999",
        "2038-01-19 03:14:08",
        "2024-03-31 02:30:00",  # doesn't exist in central Europe
        "2016-12-31 23:59:59.000001",
        "1677-09-21 00:12:43.145224",  # the microsecond before nanoseconds begin
        "2262-04-11 23:47:16.854776",  # the one after they end
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59.999999",
    )
    values = []
    for text in moments:
        tags = () if "1677-10" < text < "2262-04-11 23:47:16.854775" else ("nanoseconds",)
        naive = datetime.fromisoformat(text)
        values.append(_plain("timestamp", text, naive, *tags))
        values.append(_plain("timestamptz", text + "+00", naive.replace(tzinfo=UTC), *tags))
    for type_, zone in (("timestamp", ""), ("timestamptz", "+00")):
        values += [
            _plain(type_, "infinity", NO_PYTHON, "infinity"),
            _plain(type_, "-infinity", NO_PYTHON, "infinity"),
            _plain(type_, f"4713-11-24 00:00:00{zone} BC", NO_PYTHON, "bc", "nanoseconds"),
            _plain(type_, f"0044-03-15 12:00:00{zone} BC", NO_PYTHON, "bc", "nanoseconds"),
            _plain(type_, f"10000-01-01 00:00:00{zone}", NO_PYTHON, "year_10000", "nanoseconds"),
            _plain(type_, f"294276-12-31 23:59:59.999999{zone}", NO_PYTHON, "year_10000", "nanoseconds"),
        ]
    values += [
        _plain("timestamp(0)", "2024-12-31 23:59:59", datetime(2024, 12, 31, 23, 59, 59)),
        _plain("timestamp(0)", "2025-01-01 00:00:00", datetime(2025, 1, 1), given="2024-12-31 23:59:59.5"),
        _plain("timestamptz(3)", "2024-12-31 23:59:59.123+00", datetime(2024, 12, 31, 23, 59, 59, 123_000, UTC)),
        _plain(
            "timestamptz",
            "1891-03-15 12:00:00+00",
            datetime(1891, 3, 15, 12, tzinfo=UTC),
            given="1891-03-15 12:09:21+00:09:21",
        ),
    ]
    for text in (
        "00:00:00",
        "-00:00:00.000001",
        "1 mon",
        "30 days",
        "24:00:00",
        "1 year 2 mons 3 days 04:05:06.789",
        "-1 years -2 mons +3 days -04:05:06",
        "178000000 years",
    ):
        values.append(_plain("interval", text))
    return values


def _documents() -> list[NastyValue]:
    sql, large = _hash_text("json", 150)
    values = [
        _plain("json", '{"b": 1, "a": 2, "a": 3}'),  # order and repeated keys are kept
        _plain("json", " [1, 2 ] "),
        _plain("json", "null", None, "sentinel"),  # a JSON null is not an SQL NULL
        _plain("json", '"\\u0000 is no text"'),
        _plain("json", "12345678901234567890.123456789", NO_PYTHON, "json_number"),
        _plain("jsonb", '{"a": 3, "b": 1}', {"a": 3, "b": 1}, given='{"b": 1, "a": 2, "a": 3}'),
        _plain("jsonb", "null", None, "sentinel"),
        _plain("jsonb", "{}", {}),
        _plain("jsonb", "[]", []),
        _plain("jsonb", '""', ""),
        _plain("jsonb", "1.10", 1.1),  # jsonb keeps a number's scale
        _plain("jsonb", "1" + "0" * 400, NO_PYTHON, "json_number", given="1e400"),
        _plain("jsonb", "9007199254740993", 9007199254740993, "json_number"),
        _plain(
            "jsonb", '{"": {"": [null, {"\U0001f600": "\\\\"}]}}', {"": {"": [None, {"\U0001f600": "\\"}]}}, "unicode"
        ),
        NastyValue(
            "jsonb", f"jsonb_build_object('k', {sql})", f'{{"k": "{large}"}}', {"k": large}, frozenset({"toast"})
        ),
        NastyValue(
            "json", f"json_build_object('k', {sql})", f'{{"k" : "{large}"}}', {"k": large}, frozenset({"toast"})
        ),
    ]
    return values


def _arrays() -> list[NastyValue]:
    values = [
        _plain("integer[]", "{}", []),
        _plain("integer[]", "{NULL}", [None], "null_inside"),
        _plain("integer[]", "{1,NULL,-2147483648}", [1, None, -(2**31)], "null_inside"),
        _plain("integer[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]], "nested"),
        _plain("integer[]", "[0:1]={7,8}", [7, 8], "nested"),
        _plain("text[]", "{}", []),
        _plain(
            "text[]",
            '{"",NULL,"NULL","a,b","{}","\\"","\\\\"}',
            ["", None, "NULL", "a,b", "{}", '"', "\\"],
            "null_inside",
        ),
        _plain("numeric(10,3)[]", "{1.100,NaN,NULL}", NO_PYTHON, "nan", "null_inside"),
        _plain("timestamptz[]", '{"2024-01-01 00:00:00+00"}', [datetime(2024, 1, 1, tzinfo=UTC)]),
        _plain("date[]", "{infinity,2024-01-01}", NO_PYTHON, "infinity"),
        _plain("boolean[]", "{t,f,NULL}", [True, False, None], "null_inside"),
        _plain("uuid[]", "{00000000-0000-0000-0000-000000000000}", [uuid.UUID(int=0)]),
        _plain("jsonb[]", '{"{\\"a\\": 1}",NULL}', [{"a": 1}, None], "null_inside"),
        _plain("bytea[]", '{"\\\\x00ff","\\\\x"}', [b"\x00\xff", b""]),
    ]
    hashes = [hashlib.md5(f"{i}".encode()).hexdigest() for i in range(1, 301)]
    series = "FROM generate_series(1, 300) AS i)"
    ids = [uuid.UUID(each) for each in hashes]
    numbers = [i * 2654435761 % 2**31 for i in range(1, 3001)]
    many = (
        "(SELECT array_agg((i * 2654435761 % 2147483648)::integer ORDER BY i) "
        "FROM generate_series(1::bigint, 3000) AS i)"
    )
    large = frozenset({"toast"})
    values += [
        NastyValue(
            "text[]", f"(SELECT array_agg(md5(i::text) ORDER BY i) {series}", f"{{{','.join(hashes)}}}", hashes, large
        ),
        NastyValue(
            "uuid[]",
            f"(SELECT array_agg(md5(i::text)::uuid ORDER BY i) {series}",
            f"{{{','.join(map(str, ids))}}}",
            ids,
            large,
        ),
        NastyValue("integer[]", many, f"{{{','.join(map(str, numbers))}}}", numbers, large),
    ]
    return values


def _others() -> list[NastyValue]:
    values = [
        _plain("uuid", str(each), each)
        for each in (uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID(int=1 << 64))
    ]
    for type_, texts in (
        ("money", ("$0.00", "-$92,233,720,368,547,758.08", "$92,233,720,368,547,758.07")),
        ("inet", ("192.168.0.1", "10.1.2.3/8", "::1", "::ffff:1.2.3.4/96")),
        ("cidr", ("0.0.0.0/0", "2001:db8::/32")),
        ("macaddr", ("08:00:2b:01:02:03",)),
        ("macaddr8", ("08:00:2b:ff:fe:01:02:03",)),
        ("point", ("(0,-1.5)", "(1e+300,-0)")),
        ("polygon", ("((0,0),(1,1),(1,0))",)),
        ("int4range", ("empty", "[1,10)", "(,)")),
        ("numrange", ("(1.10,2.2]", "empty")),
        ("tstzrange", ('["2024-01-01 00:00:00+00",)', '["2024-01-01 00:00:00+00",infinity]')),
        ("daterange", ("[2024-01-01,2024-02-01)", "(,2024-01-01)")),
        ("int4multirange", ("{}", "{[1,3),[5,7)}")),
        ("tsvector", ("'a':1A 'b':2", "")),
        ("pg_lsn", ("0/0", "FFFFFFFF/FFFFFFFF")),
        ("xid8", ("0", "18446744073709551615")),
        ("public.nasty_enum", ("a", "ünï 'quoted'", " ")),
        ("public.nasty_domain", ("42",)),
        ("public.nasty_pair", ('(1,"a b")', "(,)", '(2,"")')),
    ):
        values += [_plain(type_, text) for text in texts]
    return values


CORPUS: tuple[NastyValue, ...] = (
    *_integers(),
    *_floats(),
    *_numerics(),
    *_texts(),
    *_bytes(),
    *_dates(),
    *_timestamps(),
    *_documents(),
    *_arrays(),
    *_others(),
)
