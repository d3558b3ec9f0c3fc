"""DDL, read by PostgreSQL's own parser (`pglast`), applied to a `Catalog`: what changes, and under which lock.

    for statement in statements(sql):
        effects = apply(catalog, statement)

Only what matters to change events is followed; a statement without meaning for them gives no effect. Locks are those of
https://www.postgresql.org/docs/18/explicit-locking.html and of ALTER TABLE's own page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from cdcpipe.errors import ConfigError, MissingExtra
from cdcpipe.schemas.alter import alter_table, constrain, existing, inherit, read_column, read_type
from cdcpipe.schemas.catalog import Catalog, Publication
from cdcpipe.schemas.effect import AEL, ROW, SHARE, SUE, Effect
from cdcpipe.schemas.table import Column, PgType, Table, UniqueIndex

__all__ = ["Statement", "apply", "statements"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, its text, and the parser's node."""

    text: str
    node: Any


def statements(sql: str) -> tuple[Statement, ...]:
    """The statements of a migration file. Raises `ConfigError` with the place of a syntax error."""
    try:
        from pglast import parse_sql
        from pglast.parser import ParseError
    except ImportError as error:
        raise MissingExtra("schemas", "reading DDL") from error
    try:
        parsed = parse_sql(sql)
    except ParseError as error:
        place = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else None
        line = "" if place is None else f"line {sql.count(chr(10), 0, place) + 1}: "
        raise ConfigError(f"the migration is not valid PostgreSQL: {line}{error.args[0]}") from error
    found = []
    for raw in parsed:
        begin, length = raw.stmt_location or 0, raw.stmt_len
        text = sql.encode()[begin : begin + length if length else None].decode().strip()
        found.append(Statement(text, raw.stmt))
    return tuple(found)


def apply(catalog: Catalog, statement: Statement) -> tuple[Effect, ...]:
    """Change `catalog` as the statement does, and say what it did. Raises `ConfigError` for an unknown table."""
    handler = _HANDLERS.get(type(statement.node).__name__)
    return tuple(handler(catalog, statement.node)) if handler else ()


# Tables -------------------------------------------------------------------------------------------


def _create_table(catalog: Catalog, node: Any) -> list[Effect]:
    relation = node.relation
    schema = relation.schemaname or catalog.search_path[0]
    table = Table(schema, relation.relname, (), partitioned=node.partspec is not None)
    parent = None
    if node.partbound is not None:
        above = node.inhRelations[0]
        parent = catalog.find(above.relname, above.schemaname)
        table = replace(
            parent, schema=schema, name=relation.relname, partitioned=node.partspec is not None, parent=parent.full_name
        )
    later: list[tuple[Any, str | None]] = []
    for element in node.tableElts or ():
        if type(element).__name__ == "ColumnDef":
            column, constraints = read_column(catalog, element)
            table = replace(table, columns=(*table.columns, column))
            later += [(constraint, column.name) for constraint in constraints]
        elif type(element).__name__ == "Constraint":
            later.append((element, None))
    for constraint, name in later:
        table = constrain(table, constraint, name)
    catalog.put(table)
    what = f"new partition of {parent.full_name}" if parent else "new table"
    return [Effect("create-partition" if parent else "create-table", table.full_name, what)]


def _rename(catalog: Catalog, node: Any) -> list[Effect]:
    kind = node.renameType.name
    if kind == "OBJECT_COLUMN" and node.relation is not None:
        table = catalog.find(node.relation.relname, node.relation.schemaname)
        column = existing(table, node.subname)

        def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(node.newname if name == node.subname else name for name in names)

        changed = replace(
            table.with_column(node.subname, replace(column, name=node.newname)),
            primary_key=renamed(table.primary_key),
            unique=tuple(replace(index, columns=renamed(index.columns)) for index in table.unique),
        )
        catalog.put(changed)
        inherit(catalog, table, changed)
        what = f"{node.subname} is now called {node.newname}"
        return [Effect("rename-column", table.full_name, what, AEL, node.newname)]
    if kind == "OBJECT_TABLE":
        table = catalog.find(node.relation.relname, node.relation.schemaname)
        return _moved(catalog, table, replace(table, name=node.newname))
    return []


def _moved(catalog: Catalog, table: Table, moved: Table) -> list[Effect]:
    del catalog.tables[table.full_name]
    catalog.put(moved)
    for child in list(catalog.tables.values()):
        if child.parent == table.full_name:
            catalog.put(replace(child, parent=moved.full_name))
    for name, publication in catalog.publications.items():
        if table.full_name in publication.tables:
            tables = publication.tables - {table.full_name} | {moved.full_name}
            catalog.publications[name] = replace(publication, tables=tables)
    return [Effect("rename-table", table.full_name, f"is now called {moved.full_name}", AEL, moved.full_name)]


def _set_schema(catalog: Catalog, node: Any) -> list[Effect]:
    if node.objectType.name != "OBJECT_TABLE":
        return []
    table = catalog.find(node.relation.relname, node.relation.schemaname)
    return _moved(catalog, table, replace(table, schema=node.newschema))


def _drop(catalog: Catalog, node: Any) -> list[Effect]:
    effects = []
    if node.removeType.name == "OBJECT_TABLE":
        for names in node.objects:
            parts = [part.sval for part in names]
            try:
                table = catalog.find(parts[-1], parts[-2] if len(parts) > 1 else None)
            except ConfigError:
                if node.missing_ok:
                    continue
                raise
            del catalog.tables[table.full_name]
            effects.append(Effect("drop-table", table.full_name, "is dropped", AEL))
    elif node.removeType.name == "OBJECT_INDEX":
        for names in node.objects:
            for table in list(catalog.tables.values()):
                unique = tuple(index for index in table.unique if index.name != names[-1].sval)
                if unique != table.unique:
                    catalog.put(replace(table, unique=unique))
                    effects.append(Effect("unique", table.full_name, f"index {names[-1].sval} dropped", AEL))
    return effects


def _truncate(catalog: Catalog, node: Any) -> list[Effect]:
    tables = [catalog.find(r.relname, r.schemaname) for r in node.relations]
    return [Effect("truncate", table.full_name, "is emptied", AEL) for table in tables]


def _index(catalog: Catalog, node: Any) -> list[Effect]:
    table = catalog.find(node.relation.relname, node.relation.schemaname)
    lock = SUE if node.concurrent else SHARE
    if node.unique:
        columns = tuple(part.name for part in node.indexParams if part.name)
        plain = len(columns) == len(node.indexParams) and node.whereClause is None
        index = UniqueIndex(node.idxname or f"{table.name}_{'_'.join(columns)}_idx", columns, plain)
        catalog.put(replace(table, unique=(*table.unique, index)))
        return [Effect("unique", table.full_name, f"unique index {index.name}", lock, scans=True)]
    return [Effect("index", table.full_name, f"index {node.idxname or ''}".rstrip(), lock, scans=True)]


def _comment(catalog: Catalog, node: Any) -> list[Effect]:
    if node.objtype.name not in ("OBJECT_COLUMN", "OBJECT_TABLE"):
        return []
    parts = [part.sval for part in node.object]
    if node.objtype.name == "OBJECT_COLUMN":
        parts = parts[:-1]
    table = catalog.find(parts[-1], parts[-2] if len(parts) > 1 else None)
    return [Effect("comment", table.full_name, "a comment", SUE)]


def _rows(catalog: Catalog, node: Any) -> list[Effect]:
    table = catalog.find(node.relation.relname, node.relation.schemaname)
    word = type(node).__name__.removesuffix("Stmt").lower()
    return [Effect("backfill" if word == "update" else "rows", table.full_name, f"{word}s rows", ROW)]


# Types and publications -----------------------------------------------------------------------------


def _users(catalog: Catalog, name: str) -> list[tuple[Table, Column]]:
    return [
        (table, column)
        for table in catalog.tables.values()
        for column in table.columns
        if column.type.name == name or (column.type.base is not None and column.type.base.name == name)
    ]


def _create_enum(catalog: Catalog, node: Any) -> list[Effect]:
    name = node.typeName[-1].sval
    catalog.types[name] = PgType(name, kind="enum", labels=tuple(value.sval for value in node.vals or ()))
    return []


def _alter_enum(catalog: Catalog, node: Any) -> list[Effect]:
    name = node.typeName[-1].sval
    known = catalog.types.get(name)
    if known is None:
        raise ConfigError(f"there is no type `{name}`")
    labels = list(known.labels)
    if node.oldVal:
        labels[labels.index(node.oldVal)] = node.newVal
        what = f"value {node.oldVal} of {name} is now called {node.newVal}"
    elif node.newVal in labels and node.skipIfNewValExists:
        return []
    else:
        place = len(labels)
        if node.newValNeighbor:
            place = labels.index(node.newValNeighbor) + (1 if node.newValIsAfter else 0)
        labels.insert(place, node.newVal)
        what = f"{name} has the new value {node.newVal}"
    catalog.retyped(replace(known, labels=tuple(labels)))
    return [
        Effect("rename-enum-value" if node.oldVal else "add-enum-value", table.full_name, what, "", column.name)
        for table, column in _users(catalog, name)
    ]


def _create_domain(catalog: Catalog, node: Any) -> list[Effect]:
    name = node.domainname[-1].sval
    catalog.types[name] = PgType(name, kind="domain", base=read_type(catalog, node.typeName))
    return []


def _create_composite(catalog: Catalog, node: Any) -> list[Effect]:
    catalog.types[node.typevar.relname] = PgType(node.typevar.relname, kind="composite")
    return []


def _publication_objects(catalog: Catalog, node: Any) -> tuple[set[str], set[str]]:
    tables, schemas = set(), set()
    for item in node.pubobjects or ():
        if item.pubtable is not None:
            relation = item.pubtable.relation
            tables.add(f"{relation.schemaname or catalog.search_path[0]}.{relation.relname}")
        elif item.name:
            schemas.add(item.name)
    return tables, schemas


def _option(node: Any, name: str) -> str | None:
    for option in node.options or ():
        if option.defname == name:
            return str(getattr(option.arg, "sval", getattr(option.arg, "boolval", option.arg)))
    return None


def _create_publication(catalog: Catalog, node: Any) -> list[Effect]:
    tables, schemas = _publication_objects(catalog, node)
    catalog.publications[node.pubname] = Publication(
        node.pubname,
        bool(node.for_all_tables),
        frozenset(tables),
        frozenset(schemas),
        _option(node, "publish_generated_columns") == "stored",
        _option(node, "publish_via_partition_root") in ("true", "True", "on"),
    )
    return []


def _alter_publication(catalog: Catalog, node: Any) -> list[Effect]:
    tables, schemas = _publication_objects(catalog, node)
    known = catalog.publications.get(node.pubname) or Publication(node.pubname)
    action = getattr(getattr(node, "action", None), "name", "AP_AddObjects")
    if not tables and not schemas:
        generated = _option(node, "publish_generated_columns")
        root = _option(node, "publish_via_partition_root")
        changed = replace(
            known,
            generated=known.generated if generated is None else generated == "stored",
            via_root=known.via_root if root is None else root in ("true", "True", "on"),
        )
    elif action == "AP_DropObjects":
        changed = replace(known, tables=known.tables - tables, schemas=known.schemas - schemas)
    elif action == "AP_SetObjects":
        changed = replace(known, tables=frozenset(tables), schemas=frozenset(schemas))
    else:
        changed = replace(known, tables=known.tables | tables, schemas=known.schemas | schemas)
    catalog.publications[node.pubname] = changed
    effects = []
    for table in catalog.tables.values():
        was, is_ = known.has(table), changed.has(table)
        if was != is_ or (is_ and table.full_name in tables):
            what = f"publication {node.pubname} " + ("has it now" if is_ else "doesn't have it any more")
            effects.append(Effect("publish" if is_ else "unpublish", table.full_name, what, SUE))
    return effects


_HANDLERS: Final[dict[str, Callable[[Catalog, Any], list[Effect]]]] = {
    "CreateStmt": _create_table,
    "AlterTableStmt": alter_table,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _set_schema,
    "DropStmt": _drop,
    "TruncateStmt": _truncate,
    "IndexStmt": _index,
    "CommentStmt": _comment,
    "UpdateStmt": _rows,
    "InsertStmt": _rows,
    "DeleteStmt": _rows,
    "CreateEnumStmt": _create_enum,
    "AlterEnumStmt": _alter_enum,
    "CreateDomainStmt": _create_domain,
    "CompositeTypeStmt": _create_composite,
    "CreatePublicationStmt": _create_publication,
    "AlterPublicationStmt": _alter_publication,
}
