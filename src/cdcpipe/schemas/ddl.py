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
from cdcpipe.schemas.catalog import Catalog, Publication
from cdcpipe.schemas.table import Column, PgType, Table, UniqueIndex

__all__ = ["Effect", "Statement", "apply", "statements"]

AEL: Final = "ACCESS EXCLUSIVE"
SRE: Final = "SHARE ROW EXCLUSIVE"
SHARE: Final = "SHARE"
SUE: Final = "SHARE UPDATE EXCLUSIVE"
ROW: Final = "ROW EXCLUSIVE"
STRENGTH: Final = ("", ROW, SUE, SHARE, SRE, AEL)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, its text, and the parser's node."""

    text: str
    node: Any


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement does to a table. `code` names the kind of change, `column` the column if it is about one.

    `rewrites`: every row is written anew under the lock. `scans`: every row is read under it.
    """

    code: str
    table: str
    what: str
    lock: str = ""
    column: str = ""
    rewrites: bool = False
    scans: bool = False


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


# Types --------------------------------------------------------------------------------------------

_SERIAL: Final = {
    "serial": "int4",
    "serial4": "int4",
    "bigserial": "int8",
    "serial8": "int8",
    "smallserial": "int2",
    "serial2": "int2",
}


def read_type(catalog: Catalog, node: Any) -> PgType:
    """A `TypeName` of the parser."""
    name = node.names[-1].sval
    name = _SERIAL.get(name, name)
    modifiers = tuple(_integer(item) for item in node.typmods or ())
    if name == "interval":
        modifiers = modifiers[1:]
    array = bool(node.arrayBounds)
    known = catalog.types.get(name)
    if known is not None:
        return replace(known, array=array)
    return PgType(name, modifiers, array)


def _integer(node: Any) -> int:
    value = getattr(node, "val", None)
    return int(getattr(value, "ival", 0))


def _expression(node: Any) -> str:
    from pglast.stream import RawStream

    return str(RawStream()(node))


def _column(catalog: Catalog, node: Any) -> tuple[Column, list[Any]]:
    """A column definition, and its constraints that concern the table."""
    serial = node.typeName.names[-1].sval in _SERIAL
    column = Column(
        node.colname, read_type(catalog, node.typeName), serial, "nextval('s'::regclass)" if serial else None
    )
    rest = []
    for constraint in node.constraints or ():
        match constraint.contype.name:
            case "CONSTR_NOTNULL":
                column = replace(column, not_null=True)
            case "CONSTR_DEFAULT":
                column = replace(column, default=_expression(constraint.raw_expr))
            case "CONSTR_IDENTITY":
                column = replace(column, generated="identity", not_null=True)
            case "CONSTR_GENERATED":
                virtual = str(getattr(constraint, "generated_kind", "s")) == "v"
                column = replace(column, generated="virtual" if virtual else "stored")
            case "CONSTR_PRIMARY":
                column = replace(column, not_null=True)
                rest.append(constraint)
            case "CONSTR_UNIQUE" | "CONSTR_CHECK" | "CONSTR_FOREIGN":
                rest.append(constraint)
    return column, rest


def _constrain(table: Table, constraint: Any, column: str | None = None) -> Table:
    """A table with a constraint added, as far as it is about the key or about NOT NULL."""
    kind = constraint.contype.name
    names = tuple(key.sval for key in constraint.keys or ()) or ((column,) if column else ())
    if kind in ("CONSTR_PRIMARY", "CONSTR_UNIQUE") and constraint.indexname:
        index = next((i for i in table.unique if i.name == constraint.indexname), None)
        names = index.columns if index else names
        table = replace(table, unique=tuple(i for i in table.unique if i is not index))
    if kind == "CONSTR_PRIMARY":
        columns = tuple(replace(c, not_null=True) if c.name in names else c for c in table.columns)
        return replace(table, primary_key=names, columns=columns)
    if kind == "CONSTR_UNIQUE":
        name = constraint.conname or constraint.indexname or f"{table.name}_{'_'.join(names)}_key"
        return replace(table, unique=(*table.unique, UniqueIndex(name, names)))
    if kind == "CONSTR_CHECK" and not constraint.skip_validation:
        return replace(table, checks=table.checks | _not_null_columns(constraint.raw_expr))
    return table


def _not_null_columns(node: Any) -> frozenset[str]:
    if type(node).__name__ == "NullTest" and node.nulltesttype.name == "IS_NOT_NULL":
        fields = getattr(node.arg, "fields", None)
        return frozenset({fields[-1].sval}) if fields else frozenset()
    return frozenset()


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
            column, constraints = _column(catalog, element)
            table = replace(table, columns=(*table.columns, column))
            later += [(constraint, column.name) for constraint in constraints]
        elif type(element).__name__ == "Constraint":
            later.append((element, None))
    for constraint, name in later:
        table = _constrain(table, constraint, name)
    catalog.put(table)
    what = f"new partition of {parent.full_name}" if parent else "new table"
    return [Effect("create-partition" if parent else "create-table", table.full_name, what)]


def _alter_table(catalog: Catalog, node: Any) -> list[Effect]:
    relation = node.relation
    if node.objtype.name != "OBJECT_TABLE":
        return []
    effects = []
    for command in node.cmds:
        table = catalog.find(relation.relname, relation.schemaname)
        handler = _COMMANDS.get(command.subtype.name)
        if handler is None:
            word = command.subtype.name.removeprefix("AT_")
            effects.append(Effect("other", table.full_name, f"{word} (nothing that change events show)", AEL))
            continue
        changed, effect = handler(catalog, table, command)
        if effect is not None:
            effects.append(effect)
        if changed is not None:
            catalog.put(changed)
            _inherit(catalog, table, changed)
    return effects


def _inherit(catalog: Catalog, before: Table, after: Table) -> None:
    """Partitions have their parent's columns and key."""
    if before.columns == after.columns and before.primary_key == after.primary_key:
        return
    for child in list(catalog.tables.values()):
        if child.parent == after.full_name:
            changed = replace(child, columns=after.columns, primary_key=after.primary_key, checks=after.checks)
            catalog.put(changed)
            _inherit(catalog, child, changed)


Changed = tuple[Table | None, Effect | None]


def _add_column(catalog: Catalog, table: Table, command: Any) -> Changed:
    column, constraints = _column(catalog, command.def_)
    if table.column(column.name) is not None:
        if command.missing_ok:
            return None, None
        raise ConfigError(f"`{table.full_name}` has a column `{column.name}` already")
    changed = replace(table, columns=(*table.columns, column))
    for constraint in constraints:
        changed = _constrain(changed, constraint, column.name)
    rewrites = column.generated in ("stored", "identity") or (
        column.default is not None and not _constant_default(column.default)
    )
    shown = f"{column.name} {column.type}" + (" NOT NULL" if column.not_null else "")
    shown += f" DEFAULT {column.default}" if column.default is not None else ""
    return changed, Effect("add-column", table.full_name, f"add {shown}", AEL, column.name, rewrites)


_STABLE: Final = frozenset(
    {"now", "current_timestamp", "transaction_timestamp", "statement_timestamp", "current_date", "localtimestamp"}
)


def _constant_default(sql: str) -> bool:
    """Whether the default is evaluated once for all old rows, so that they aren't written anew."""
    from cdcpipe.schemas.defaults import read_expression

    expression = read_expression(sql)
    if expression.call:
        return sql.split("(")[0].rpartition(".")[2].lower() in _STABLE
    return expression.literal is not None or expression.null or expression.value is not None


def _drop_column(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = table.column(command.name)
    if column is None:
        if command.missing_ok:
            return None, None
        raise ConfigError(f"`{table.full_name}` has no column `{command.name}`")
    changed = replace(
        table.with_column(command.name, None),
        primary_key=() if command.name in table.primary_key else table.primary_key,
        unique=tuple(index for index in table.unique if command.name not in index.columns),
    )
    return changed, Effect("drop-column", table.full_name, f"drop {command.name}", AEL, command.name)


def _existing(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise ConfigError(
            f"`{table.full_name}` has no column `{name}`", hint=f"it has {', '.join(c.name for c in table.columns)}"
        )
    return column


def _alter_type(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = _existing(table, command.name)
    type_ = read_type(catalog, command.def_.typeName)
    what = f"{column.name}: {column.type} becomes {type_}"
    rewrites = command.def_.raw_default is not None or not _binary_coercible(column.type, type_)
    effect = Effect("alter-type", table.full_name, what, AEL, column.name, rewrites)
    return table.with_column(column.name, replace(column, type=type_)), effect


def _binary_coercible(old: PgType, new: PgType) -> bool:
    """Whether PostgreSQL leaves the rows as they are."""
    if old == new:
        return True
    if old.array or new.array:
        return False
    texts = ("varchar", "text")
    if old.name in texts and new.name in texts:
        return not new.modifiers or (bool(old.modifiers) and old.modifiers <= new.modifiers)
    if old.name == new.name == "numeric" and old.modifiers:
        if not new.modifiers:
            return True
        scale = [m[1] if len(m) > 1 else 0 for m in (old.modifiers, new.modifiers)]
        return scale[0] == scale[1] and old.modifiers[0] <= new.modifiers[0]
    if old.name == new.name and old.name in ("timestamp", "timestamptz", "time", "timetz", "varbit"):
        return not new.modifiers or (bool(old.modifiers) and old.modifiers <= new.modifiers)
    return (old.name, new.name) == ("cidr", "inet")


def _set_default(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = _existing(table, command.name)
    default = None if command.def_ is None else _expression(command.def_)
    what = f"{column.name}: " + ("no default any more" if default is None else f"default {default}")
    effect = Effect("set-default", table.full_name, what, AEL, column.name)
    return table.with_column(column.name, replace(column, default=default)), effect


def _set_not_null(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = _existing(table, command.name)
    if column.not_null:
        return None, None
    scans = column.name not in table.checks
    effect = Effect("set-not-null", table.full_name, f"{column.name} becomes NOT NULL", AEL, column.name, scans=scans)
    return table.with_column(column.name, replace(column, not_null=True)), effect


def _drop_not_null(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = _existing(table, command.name)
    effect = Effect("drop-not-null", table.full_name, f"{column.name} may be null", AEL, column.name)
    return table.with_column(column.name, replace(column, not_null=False)), effect


def _add_constraint(catalog: Catalog, table: Table, command: Any) -> Changed:
    constraint = command.def_
    kind = constraint.contype.name
    changed = _constrain(table, constraint)
    name = constraint.conname or ""
    if kind == "CONSTR_PRIMARY":
        what = f"primary key ({', '.join(changed.primary_key)})"
        return changed, Effect("primary-key", table.full_name, what, AEL, scans=not constraint.indexname)
    if kind == "CONSTR_UNIQUE":
        return changed, Effect("unique", table.full_name, f"unique {name}", AEL, scans=not constraint.indexname)
    if kind == "CONSTR_NOTNULL":
        names = tuple(key.sval for key in constraint.keys or ())
        for column in names:
            changed = changed.with_column(column, replace(_existing(table, column), not_null=True))
        effect = Effect("set-not-null", table.full_name, f"{', '.join(names)} becomes NOT NULL", AEL, names[0])
        return changed, replace(effect, scans=not constraint.skip_validation)
    lock = SRE if kind == "CONSTR_FOREIGN" else AEL
    what = f"{kind.removeprefix('CONSTR_').lower()} constraint {name}".rstrip()
    return changed, Effect("constraint", table.full_name, what, lock, scans=not constraint.skip_validation)


def _drop_constraint(catalog: Catalog, table: Table, command: Any) -> Changed:
    if command.name == f"{table.name}_pkey":
        return replace(table, primary_key=()), Effect("primary-key", table.full_name, "no primary key any more", AEL)
    unique = tuple(index for index in table.unique if index.name != command.name)
    effect = Effect("constraint", table.full_name, f"constraint {command.name} dropped", AEL)
    return replace(table, unique=unique), effect


def _validate(catalog: Catalog, table: Table, command: Any) -> Changed:
    return None, Effect("constraint", table.full_name, f"constraint {command.name} validated", SUE, scans=True)


def _replica_identity(catalog: Catalog, table: Table, command: Any) -> Changed:
    identity = {"d": "default", "f": "full", "n": "nothing", "i": f"index:{command.def_.name}"}[
        str(command.def_.identity_type)
    ]
    effect = Effect("replica-identity", table.full_name, f"replica identity {identity}", AEL)
    return replace(table, replica_identity=identity), effect


def _attach(catalog: Catalog, table: Table, command: Any) -> Changed:
    child = catalog.find(command.def_.name.relname, command.def_.name.schemaname)
    catalog.put(replace(child, parent=table.full_name))
    return None, Effect("attach-partition", table.full_name, f"{child.full_name} becomes a partition", SUE, scans=True)


def _detach(catalog: Catalog, table: Table, command: Any) -> Changed:
    child = catalog.find(command.def_.name.relname, command.def_.name.schemaname)
    catalog.put(replace(child, parent=None))
    lock = SUE if command.def_.concurrent else AEL
    return None, Effect("detach-partition", table.full_name, f"{child.full_name} is no partition any more", lock)


def _generated(generated: Any, code: str) -> Callable[[Catalog, Table, Any], Changed]:
    def change(catalog: Catalog, table: Table, command: Any) -> Changed:
        column = _existing(table, command.name)
        words = f"{column.name} is generated ({generated})" if generated else f"{column.name} is a plain column"
        effect = Effect(code, table.full_name, words, AEL, column.name)
        return table.with_column(column.name, replace(column, generated=generated)), effect

    return change


_COMMANDS: Final[dict[str, Callable[[Catalog, Table, Any], Changed]]] = {
    "AT_AddColumn": _add_column,
    "AT_DropColumn": _drop_column,
    "AT_AlterColumnType": _alter_type,
    "AT_ColumnDefault": _set_default,
    "AT_SetNotNull": _set_not_null,
    "AT_DropNotNull": _drop_not_null,
    "AT_AddConstraint": _add_constraint,
    "AT_DropConstraint": _drop_constraint,
    "AT_ValidateConstraint": _validate,
    "AT_ReplicaIdentity": _replica_identity,
    "AT_AttachPartition": _attach,
    "AT_DetachPartition": _detach,
    "AT_AddIdentity": _generated("identity", "identity"),
    "AT_DropIdentity": _generated("", "identity"),
    "AT_DropExpression": _generated("", "generated"),
}


def _rename(catalog: Catalog, node: Any) -> list[Effect]:
    kind = node.renameType.name
    if kind == "OBJECT_COLUMN" and node.relation is not None:
        table = catalog.find(node.relation.relname, node.relation.schemaname)
        column = _existing(table, node.subname)

        def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(node.newname if name == node.subname else name for name in names)

        changed = replace(
            table.with_column(node.subname, replace(column, name=node.newname)),
            primary_key=renamed(table.primary_key),
            unique=tuple(replace(index, columns=renamed(index.columns)) for index in table.unique),
        )
        catalog.put(changed)
        _inherit(catalog, table, changed)
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
    "AlterTableStmt": _alter_table,
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
