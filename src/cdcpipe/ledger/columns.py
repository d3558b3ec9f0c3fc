"""The canonical form for whole columns: SQL expressions that DuckDB runs over Arrow, no row in Python.

`text_sql` (what PostgreSQL prints) and `connect_sql` (what Debezium writes) give the payload of a column as VARCHAR.
Where a value has the common form they stay in SQL; the rest goes, value by value, through the scalar definition in
`canonical`, registered as a function. So a short cut may be narrow, never wrong: dates of five digits and before
Christ, for one, which DuckDB reads as other dates, are not taken by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from cdcpipe.ledger import canonical
from cdcpipe.ledger.canonical import Modes, family_of
from cdcpipe.ledger.catalogue import Type

__all__ = ["Cell", "Engine", "image_sql", "literal", "name", "text_sql", "unknown_sql"]

CACHE_ENTRIES_MAX = 100_000


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """`text` as an SQL identifier."""
    return '"' + text.replace('"', '""') + '"'


class Engine:
    """A DuckDB connection of one's own, with the scalar forms as functions. Not for two threads at once."""

    def __init__(self, *, threads: int = 1, memory_bytes: int = 1 << 30) -> None:
        self.connection = duckdb.connect(":memory:")
        self.connection.sql(f"SET threads = {threads}")
        self.connection.sql(f"SET memory_limit = '{memory_bytes // (1 << 20)}MiB'")
        self.connection.sql("SET arrow_lossless_conversion = true")
        self.connection.sql("SET TimeZone = 'UTC'")
        self._functions: dict[object, str] = {}

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The answer of `sql` over Arrow tables, which it may name."""
        for alias, table in tables.items():
            self.connection.register(alias, table)
        try:
            return self.connection.sql(sql).to_arrow_table()
        finally:
            for alias in tables:
                self.connection.unregister(alias)

    def scalar(self, key: object, function: Callable[[str], str]) -> str:
        """The name under which `function` can be called in SQL; one for each `key`. Never called with null."""
        known = self._functions.get(key)
        if known is not None:
            return known
        label = f"scalar_{len(self._functions)}"
        cache: dict[str, str] = {}

        def call(column: pa.Array) -> pa.Array:
            answers: list[str | None] = []
            for text in column.to_pylist():
                if text is None:
                    answers.append(None)
                    continue
                answer = cache.get(text)
                if answer is None:
                    if len(cache) >= CACHE_ENTRIES_MAX:
                        cache.clear()
                    answer = cache[text] = function(text)
                answers.append(answer)
            return pa.array(answers, pa.string())

        self.connection.create_function(
            label, call, ["VARCHAR"], "VARCHAR", type=PythonUDFType.ARROW, null_handling=FunctionNullHandling.SPECIAL
        )
        self._functions[key] = label
        return label


# --- what PostgreSQL prints -------------------------------------------------------


def strip_sql(x: str) -> str:
    """A decimal without trailing zeros."""
    return f"CASE WHEN suffix({x}, '0') AND contains({x}, '.') THEN rtrim(rtrim({x}, '0'), '.') ELSE {x} END"


def text_sql(engine: Engine, x: str, type_: Type, modes: Modes) -> str:
    """The payload of column `x`, which holds PostgreSQL's text. KeyError for a type without a family."""
    family = family_of(type_, modes)
    if family is None:
        raise KeyError(str(type_))
    direct = _direct_sql(x, family, type_)
    if direct is not None:
        return direct
    slow = engine.scalar(
        ("text", type_, modes), functools.partial(canonical.payload_from_text, type_=type_, modes=modes)
    )
    fast = _fast_sql(x, family, type_, modes)
    rest = f"CASE WHEN {x} IS NOT NULL THEN {slow}({x}) END"
    return f"coalesce({fast}, {rest})" if fast else rest


def _direct_sql(x: str, family: str, type_: Type) -> str | None:
    """Where SQL alone does it for every value."""
    match family, type_.name:
        case "b", "bool":
            return x
        case "n", "numeric":
            return strip_sql(x)
        case "n", "int2" | "int4" | "int8" | "oid":
            return x
        case "f", "float8" | "numeric":
            return f"{x}::DOUBLE::VARCHAR"
        case "f", "float4":
            return f"{x}::FLOAT::DOUBLE::VARCHAR"
        case "j", "jsonb":
            return x
        case "y", "bytea":
            return f"substr({x}, 3)"
        case "s", other if other != "tstzrange":
            return x
        case _:
            return None


def _fast_sql(x: str, family: str, type_: Type, modes: Modes) -> str | None:
    """Where SQL does it for the common form, and gives null for any other."""
    match family:
        case "d":
            plain = f"strlen({x}) = 10 AND substr({x}, 5, 1) = '-'"
            return f"CASE WHEN {plain} THEN (try_cast({x} AS DATE) - DATE '1970-01-01')::VARCHAR END"
        case "t":
            return cut_sql(f"epoch_us(try_cast({x} AS TIME))", modes) + "::VARCHAR"
        case "w":
            plain = f"strlen({x}) BETWEEN 19 AND 26 AND substr({x}, 5, 1) = '-' AND NOT suffix({x}, 'BC')"
            micros = cut_sql(f"epoch_us(try_cast({x} AS TIMESTAMP))", modes)
            return f"CASE WHEN {plain} THEN {micros}::VARCHAR END"
        case "W":
            plain = f"strlen({x}) BETWEEN 22 AND 29 AND substr({x}, 5, 1) = '-' AND suffix({x}, '+00')"
            return f"CASE WHEN {plain} THEN epoch_us(try_cast({x} AS TIMESTAMP))::VARCHAR END"
        case "b":
            return f"CASE {x} WHEN '1' THEN 't' WHEN '0' THEN 'f' END"
        case _:
            return None


def cut_sql(micros: str, modes: Modes) -> str:
    """Microseconds, cut to milliseconds towards minus infinity in mode `connect`."""
    if modes.time != "connect":
        return micros
    return f"({micros} - (({micros} % 1000) + 1000) % 1000)"


# --- row images -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of a row image, in SQL. `toast` is a condition under which its value is an unchanged TOAST."""

    name: str
    family: str
    payload: str
    nullable: bool = True
    toast: str | None = None

    def at(self, payload: str) -> Cell:
        """The same with its payload elsewhere."""
        return replace(self, payload=payload)


def image_sql(cells: Sequence[Cell]) -> str:
    """The row image of `cells` as VARCHAR; never null."""
    parts: list[str] = []
    for cell in sorted(cells, key=lambda each: each.name):
        head = f"{len(cell.name.encode())}:{cell.name}"
        p = cell.payload
        flat = f"{literal(head + cell.family)}, strlen({p}), ':', {p}"
        if cell.toast is not None:
            parts.append(
                f"CASE WHEN {cell.toast} THEN {literal(head + canonical.TOAST)} "
                f"WHEN {p} IS NOT NULL THEN concat({flat}) END"
            )
        elif cell.nullable:
            parts.append(f"CASE WHEN {p} IS NOT NULL THEN concat({flat}) END")
        else:
            parts.append(flat)
    return f"concat({', '.join(parts)})" if parts else "''"


def unknown_sql(entries: Sequence[tuple[str, str]]) -> str:
    """A list of the texts whose condition holds, null when none does. `entries` are (condition, text)."""
    if not entries:
        return "NULL::VARCHAR[]"
    each = ", ".join(f"CASE WHEN {condition} THEN {literal(text)} END" for condition, text in entries)
    found = f"list_filter([{each}], lambda e: e IS NOT NULL)"
    return f"CASE WHEN {' OR '.join(f'({condition})' for condition, _ in entries)} THEN {found} END"
