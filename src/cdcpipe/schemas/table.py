"""A table as far as change events show it: columns with their types, key, replica identity.

A value of these classes is made from a live catalog (`catalog.read_table`) or from DDL (`ddl.apply`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

__all__ = ["Column", "PgType", "Table", "UniqueIndex"]

TypeKind = Literal["base", "enum", "domain", "composite", "range", "unknown"]

UNBOUNDED: Final = 2147483647


@dataclass(frozen=True, slots=True)
class PgType:
    """A PostgreSQL type. `name` is the catalog's (`int4`, `timestamptz`); a domain has its `base`.

    `modifiers` are those in parentheses: `(12, 2)` of a numeric, `(3,)` of a timestamp.
    """

    name: str
    modifiers: tuple[int, ...] = ()
    array: bool = False
    kind: TypeKind = "base"
    labels: tuple[str, ...] = ()
    base: PgType | None = None

    @property
    def element(self) -> PgType:
        """The type of an array's elements."""
        return replace(self, array=False)

    def __str__(self) -> str:
        shown = _SHOWN.get(self.name, self.name)
        inner = f"({','.join(map(str, self.modifiers))})" if self.modifiers else ""
        return f"{shown}{inner}{'[]' if self.array else ''}"


_SHOWN: Final = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "bpchar": "char",
    "varbit": "bit varying",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `default` is an SQL expression; `generated` is how its value comes about otherwise."""

    name: str
    type: PgType
    not_null: bool = False
    default: str | None = None
    generated: Literal["", "stored", "virtual", "identity"] = ""


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """A unique index or constraint; `plain` without expressions and predicate."""

    name: str
    columns: tuple[str, ...]
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `replica_identity` is `default`, `full`, `nothing`, or `index:NAME`."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    unique: tuple[UniqueIndex, ...] = ()
    replica_identity: str = "default"
    partitioned: bool = False
    parent: str | None = None
    published: bool | None = None
    """Whether the publication has it; None: not known."""
    publish_via_root: bool = False
    checks: frozenset[str] = field(default_factory=frozenset)
    """Names of the columns that a validated `CHECK (column IS NOT NULL)` speaks of."""

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of Debezium's message key: the primary key, else the first plain unique index, else none."""
        if self.primary_key:
            return self.primary_key
        return next((index.columns for index in self.unique if index.plain), ())

    def with_column(self, name: str, change: Column | None) -> Table:
        """The same table with that column changed, or without it."""
        columns = tuple(c if c.name != name else change for c in self.columns)
        return replace(self, columns=tuple(c for c in columns if c is not None))
