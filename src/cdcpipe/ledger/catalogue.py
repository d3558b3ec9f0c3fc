"""What the captured tables are made of: columns with their PostgreSQL types, primary keys, replica identity.

The canonical form of a value depends on the type of its column. PostgreSQL knows it; an Avro or Parquet file says it
only in part (`inet`, `text` and `numeric` in string mode are all strings). So the catalogue is read once from
PostgreSQL and kept in the manifest of each ledger; a column that it doesn't know is judged by what the file says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import psycopg

from cdcpipe.errors import EvidenceError

__all__ = ["Catalogue", "Column", "Identity", "Table", "Type", "type_of"]

Identity = Literal["full", "default", "index", "nothing"]
Kind = Literal["base", "enum", "range", "multirange", "composite", "array", "pseudo"]

_IDENTITIES: dict[str, Identity] = {"f": "full", "d": "default", "i": "index", "n": "nothing"}
_KINDS: dict[str, Kind] = {
    "b": "base",
    "e": "enum",
    "r": "range",
    "m": "multirange",
    "c": "composite",
    "p": "pseudo",
}


@dataclass(frozen=True, slots=True)
class Type:
    """A PostgreSQL type, domains resolved. `typmod` is -1 when there is none."""

    name: str
    kind: Kind = "base"
    typmod: int = -1
    element: Type | None = None
    """Of an array."""

    def __str__(self) -> str:
        return f"{self.element}[]" if self.element else self.name


@dataclass(frozen=True, slots=True)
class Column:
    """A column, by name."""

    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Table:
    """A captured table. `key` has the primary key's columns by name; `identity_columns` those of REPLICA IDENTITY."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    identity: Identity = "default"
    identity_columns: tuple[str, ...] = ()

    def type(self, column: str) -> Type | None:
        """The type of `column`, None when the table (as it was read) has none of that name."""
        return next((each.type for each in self.columns if each.name == column), None)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The tables by `schema.table`, and the next transaction id at the time: it tells the epoch of a 32-bit xid."""

    tables: dict[str, Table] = field(default_factory=dict)
    xid_next: int = 0

    @classmethod
    def read(cls, connection: psycopg.Connection[Any], *, publication: str | None = None) -> Self:
        """The tables of `publication`, or all ordinary tables. EvidenceError when the publication is not there."""
        if publication is not None:
            found = connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [publication]).fetchone()
            if found is None:
                raise EvidenceError(
                    f"there is no publication `{publication}` in database `{connection.info.dbname}`",
                    hint="name the publication that the source connector reads",
                )
        oids = [row[0] for row in connection.execute(_TABLES, {"publication": publication})]
        return cls(read_tables(connection, oids), read_xid_next(connection))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for a manifest."""
        return {
            name: {
                "columns": {column.name: _type_to_json(column.type) for column in table.columns},
                "key": list(table.key),
                "identity": table.identity,
                "identity_columns": list(table.identity_columns),
            }
            for name, table in self.tables.items()
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any], xid_next: int = 0) -> Self:
        """The way back."""
        return cls(
            {
                name: Table(
                    name,
                    tuple(Column(column, _type_from_json(type_)) for column, type_ in table["columns"].items()),
                    tuple(table["key"]),
                    table["identity"],
                    tuple(table["identity_columns"]),
                )
                for name, table in raw.items()
            },
            xid_next,
        )

    def only(self, names: Iterable[str]) -> Self:
        """The same for fewer tables."""
        wanted = set(names)
        return replace(self, tables={name: table for name, table in self.tables.items() if name in wanted})


_TABLES = """
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND CASE WHEN %(publication)s::text IS NULL THEN n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
      ELSE EXISTS (SELECT 1 FROM pg_publication_tables p
                   WHERE p.pubname = %(publication)s AND p.schemaname = n.nspname AND p.tablename = c.relname) END
"""

_COLUMNS = """
SELECT n.nspname || '.' || c.relname, c.relreplident::text, a.attname, a.atttypid, a.atttypmod,
       coalesce((pk.indkey::int2[])[0:pk.indnkeyatts - 1] @> ARRAY[a.attnum], false),
       coalesce((ri.indkey::int2[])[0:ri.indnkeyatts - 1] @> ARRAY[a.attnum], false)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index pk ON pk.indrelid = c.oid AND pk.indisprimary
LEFT JOIN pg_index ri ON ri.indrelid = c.oid AND ri.indisreplident
WHERE c.oid = ANY(%s::oid[])
ORDER BY c.oid, a.attnum
"""

_TYPES = """
WITH RECURSIVE resolved AS (
  SELECT t.oid AS asked, t.oid, t.typtype, t.typbasetype, t.typtypmod, -1 AS typmod FROM pg_type t
  WHERE t.oid = ANY(%s::oid[])
  UNION ALL
  SELECT r.asked, t.oid, t.typtype, t.typbasetype, t.typtypmod,
         CASE WHEN r.typmod = -1 THEN r.typtypmod ELSE r.typmod END
  FROM resolved r JOIN pg_type t ON t.oid = r.typbasetype WHERE r.typtype = 'd'
)
SELECT r.asked, t.typname, t.typtype::text, r.typmod, t.typelem, t.typcategory::text
FROM resolved r JOIN pg_type t ON t.oid = r.oid WHERE r.typtype <> 'd'
"""


def read_types(connection: psycopg.Connection[Any], oids: Iterable[int]) -> dict[int, Type]:
    """Types by OID. A type that was dropped since is missing."""
    types: dict[int, Type] = {}
    elements: dict[int, tuple[int, Type]] = {}
    for asked, name, typtype, typmod, element, category in connection.execute(_TYPES, [list(oids)]):
        type_ = Type(name, _KINDS.get(typtype, "base"), typmod)
        if category == "A" and element:
            elements[asked] = (element, type_)
        types[asked] = type_
    if elements:
        inner = read_types(connection, {element for element, _ in elements.values()})
        for asked, (element, type_) in elements.items():
            found = inner.get(element, Type("unknown"))
            types[asked] = replace(type_, kind="array", element=found)
    return types


def type_of(resolved: Type, typmod: int) -> Type:
    """The type of a column with its own `typmod` (a domain's typmod is kept where the column has none)."""
    if typmod == -1:
        return resolved
    if resolved.element is not None:
        return replace(resolved, typmod=typmod, element=replace(resolved.element, typmod=typmod))
    return replace(resolved, typmod=typmod)


def read_tables(connection: psycopg.Connection[Any], oids: Iterable[int]) -> dict[str, Table]:
    """Tables by name, for the relations `oids`."""
    rows = connection.execute(_COLUMNS, [list(oids)]).fetchall()
    types = read_types(connection, {row[3] for row in rows})
    tables: dict[str, list[Any]] = {}
    for row in rows:
        tables.setdefault(row[0], []).append(row)
    return {
        name: Table(
            name,
            tuple(Column(row[2], type_of(types[row[3]], row[4])) for row in rows),
            tuple(sorted(row[2] for row in rows if row[5])),
            _IDENTITIES[rows[0][1]],
            _identity_columns(_IDENTITIES[rows[0][1]], rows),
        )
        for name, rows in tables.items()
    }


def _identity_columns(identity: Identity, rows: list[Any]) -> tuple[str, ...]:
    match identity:
        case "full":
            return tuple(sorted(row[2] for row in rows))
        case "default":
            return tuple(sorted(row[2] for row in rows if row[5]))
        case "index":
            return tuple(sorted(row[2] for row in rows if row[6]))
        case _:
            return ()


def read_xid_next(connection: psycopg.Connection[Any]) -> int:
    """The next transaction id, 64 bits."""
    row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8").fetchone()
    assert row is not None
    return int(row[0])


def _type_to_json(type_: Type) -> dict[str, Any]:
    raw: dict[str, Any] = {"name": type_.name, "kind": type_.kind, "typmod": type_.typmod}
    if type_.element is not None:
        raw["element"] = _type_to_json(type_.element)
    return raw


def _type_from_json(raw: dict[str, Any]) -> Type:
    element = _type_from_json(raw["element"]) if "element" in raw else None
    return Type(raw["name"], raw["kind"], raw["typmod"], element)
