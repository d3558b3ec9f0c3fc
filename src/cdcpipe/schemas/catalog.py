"""The part of a database that a migration and its change events depend on, from DDL or from a live server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cdcpipe.errors import ConfigError, PostgresError
from cdcpipe.schemas.table import Column, PgType, Table, UniqueIndex

if TYPE_CHECKING:
    import psycopg

__all__ = ["Catalog", "Publication", "streamed"]


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication; `tables` are full names, `schemas` those published whole."""

    name: str
    all_tables: bool = False
    tables: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()
    generated: bool = False
    via_root: bool = False

    def has(self, table: Table) -> bool:
        """Whether changes of `table` are published."""
        return self.all_tables or table.full_name in self.tables or table.schema in self.schemas


def streamed(table: Table, publication: Publication | None) -> Table:
    """What pgoutput sends of the table: generated columns only if the publication says so (PostgreSQL 18)."""
    published = publication is not None and publication.generated
    left_out = ("virtual",) if published else ("virtual", "stored")
    return replace(table, columns=tuple(column for column in table.columns if column.generated not in left_out))


@dataclass(slots=True)
class Catalog:
    """Tables by full name, user types and publications by name. Plain names are looked up along `search_path`."""

    tables: dict[str, Table] = field(default_factory=dict)
    types: dict[str, PgType] = field(default_factory=dict)
    publications: dict[str, Publication] = field(default_factory=dict)
    search_path: tuple[str, ...] = ("public",)

    def copy(self) -> Catalog:
        """An independent copy; what it holds is immutable."""
        return Catalog(dict(self.tables), dict(self.types), dict(self.publications), self.search_path)

    def find(self, name: str, schema: str | None = None) -> Table:
        """The table of that name. Raises `ConfigError` that names what is there."""
        for candidate in (schema,) if schema else self.search_path:
            found = self.tables.get(f"{candidate}.{name}")
            if found is not None:
                return found
        known = ", ".join(sorted(self.tables)) or "none"
        raise ConfigError(
            f"there is no table `{schema + '.' if schema else ''}{name}`",
            hint=f"tables known: {known}; give the current ones with a live database or with their DDL",
        )

    def put(self, table: Table) -> None:
        """Add or replace a table."""
        self.tables[table.full_name] = table

    def retyped(self, type_: PgType) -> None:
        """Put a changed user type into every column and domain that uses it."""
        self.types[type_.name] = type_
        for name, known in self.types.items():
            if known.base is not None and known.base.name == type_.name:
                self.types[name] = replace(known, base=type_)
        for table in list(self.tables.values()):
            columns = tuple(
                replace(c, type=replace(self.types[c.type.name], array=c.type.array))
                if c.type.kind in ("enum", "domain") and c.type.name in self.types
                else c
                for c in table.columns
            )
            if columns != table.columns:
                self.put(replace(table, columns=columns))

    @classmethod
    def from_ddl(cls, sql: str) -> Catalog:
        """What the DDL makes, from nothing. Raises `ConfigError`."""
        from cdcpipe.schemas.ddl import apply, statements

        catalog = cls()
        for statement in statements(sql):
            apply(catalog, statement)
        return catalog

    @classmethod
    def from_database(cls, connection: psycopg.Connection[Any]) -> Catalog:
        """What a server holds, in all schemas but its own. Raises `PostgresError`."""
        import psycopg as client

        try:
            return _read(connection)
        except client.Error as error:
            raise PostgresError(f"the catalog can't be read: {str(error).strip()}") from error


_TYPES = """
SELECT t.oid::int8, t.typname, t.typtype::text, t.typcategory::text, t.typelem::int8, t.typbasetype::int8, t.typtypmod,
       (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
       n.nspname NOT IN ('pg_catalog', 'information_schema') AS own
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
"""
_COLUMNS = """
SELECT n.nspname, c.relname, c.relkind::text, c.relreplident::text, a.attname, a.atttypid::int8, a.atttypmod,
       a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity::text, a.attgenerated::text,
       (SELECT p.inhparent::regclass::text FROM pg_inherits p WHERE p.inhrelid = c.oid LIMIT 1)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY n.nspname, c.relname, a.attnum
"""
_INDEXES = """
SELECT n.nspname, c.relname, i.relname, x.indisprimary, x.indisreplident,
       (SELECT array_agg(a.attname ORDER BY k.place) FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(number, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number WHERE k.place <= x.indnkeyatts),
       x.indexprs IS NULL AND x.indpred IS NULL
FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE x.indisunique AND x.indisvalid AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY i.relname
"""
_CHECKS = """
SELECT n.nspname, c.relname, pg_get_constraintdef(k.oid) FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'c' AND k.convalidated
"""


def _read(connection: psycopg.Connection[Any]) -> Catalog:
    rows = {row[0]: row[1:] for row in connection.execute(_TYPES).fetchall()}
    catalog = Catalog(search_path=_search_path(connection))
    for name, kind, _, _, _, _, _, own in rows.values():
        if own and kind in "edc":
            oid = next(oid for oid, row in rows.items() if row[0] == name and row[1] == kind)
            catalog.types[name] = _type(rows, oid, -1)
    columns: dict[tuple[str, str], list[Column]] = {}
    heads: dict[tuple[str, str], Any] = {}
    for (
        schema,
        name,
        relkind,
        identity,
        column,
        oid,
        modifier,
        not_null,
        default,
        attidentity,
        generated,
        parent,
    ) in connection.execute(_COLUMNS).fetchall():
        heads[schema, name] = (relkind, identity, parent)
        found = columns.setdefault((schema, name), [])
        if column is None:
            continue
        how = "identity" if attidentity else {"s": "stored", "v": "virtual"}.get(generated, "")
        type_ = _type(rows, oid, modifier)
        found.append(Column(column, type_, not_null, default, how))  # type: ignore[arg-type] # one of the literals
    for (schema, name), members in columns.items():
        catalog.put(_table(schema, name, tuple(members), heads[schema, name]))
    _read_indexes(catalog, connection)
    _read_checks(catalog, connection)
    _read_publications(catalog, connection)
    return catalog


def _search_path(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    row = connection.execute("SELECT current_schemas(false)").fetchone()
    return tuple(row[0]) if row and row[0] else ("public",)


def _table(schema: str, name: str, columns: tuple[Column, ...], head: Any) -> Table:
    relkind, identity, parent = head
    identities = {"d": "default", "f": "full", "n": "nothing", "i": "index:"}
    return Table(
        schema,
        name,
        columns,
        replica_identity=identities[identity],
        partitioned=relkind == "p",
        parent=None if parent is None else parent if "." in parent else f"public.{parent}",
    )


def _type(rows: dict[int, Any], oid: int, modifier: int) -> PgType:
    name, kind, category, element, base, base_modifier, labels, _ = rows[oid]
    if category == "A" and element:
        return replace(_type(rows, element, modifier), array=True)
    if kind == "e":
        return PgType(name, kind="enum", labels=tuple(labels or ()))
    if kind == "d":
        return PgType(name, kind="domain", base=_type(rows, base, base_modifier))
    if kind == "c":
        return PgType(name, kind="composite")
    return PgType(name, _modifiers(name, modifier))


def _modifiers(name: str, modifier: int) -> tuple[int, ...]:
    """What was in parentheses, out of `atttypmod`."""
    if modifier < 0:
        return ()
    if name == "numeric":
        scale = (modifier - 4) & 0x7FF
        return ((modifier - 4) >> 16 & 0xFFFF, scale - 2048 if scale > 1023 else scale)
    if name in ("varchar", "bpchar"):
        return (modifier - 4,)
    if name == "interval":
        return () if modifier & 0xFFFF == 0xFFFF else (modifier & 0xFFFF,)
    return (modifier,)


def _read_indexes(catalog: Catalog, connection: psycopg.Connection[Any]) -> None:
    for schema, table, index, primary, replica, columns, plain in connection.execute(_INDEXES).fetchall():
        known = catalog.tables.get(f"{schema}.{table}")
        if known is None:
            continue
        names = tuple(columns or ())
        if replica:
            known = replace(known, replica_identity=f"index:{index}")
        if primary:
            known = replace(known, primary_key=names)
        else:
            known = replace(known, unique=(*known.unique, UniqueIndex(index, names, plain)))
        catalog.put(known)


def _read_checks(catalog: Catalog, connection: psycopg.Connection[Any]) -> None:
    for schema, table, definition in connection.execute(_CHECKS).fetchall():
        known = catalog.tables.get(f"{schema}.{table}")
        if known is not None:
            column = definition.removeprefix("CHECK ((").removesuffix(" IS NOT NULL))").strip('"')
            if known.column(column) is not None:
                catalog.put(replace(known, checks=known.checks | {column}))


def _read_publications(catalog: Catalog, connection: psycopg.Connection[Any]) -> None:
    row = connection.execute("SELECT current_setting('server_version_num')::int").fetchone()
    generated = "p.pubgencols <> 'n'" if row and row[0] >= 180000 else "false"
    query = f"SELECT p.pubname, p.puballtables, p.pubviaroot, {generated} FROM pg_publication p"
    for name, everything, root, with_generated in connection.execute(query.encode()).fetchall():
        tables = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s", [name]
        ).fetchall()
        schemas = connection.execute(
            "SELECT n.nspname FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid "
            "JOIN pg_namespace n ON n.oid = s.pnnspid WHERE p.pubname = %s",
            [name],
        ).fetchall()
        catalog.publications[name] = Publication(
            name,
            everything,
            frozenset(row[0] for row in tables),
            frozenset(row[0] for row in schemas),
            with_generated,
            root,
        )
