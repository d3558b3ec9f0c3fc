"""ALTER TABLE, and the definitions of columns and constraints, as the parser gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from cdcpipe.errors import ConfigError
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.effect import AEL, SRE, SUE, Effect
from cdcpipe.schemas.table import Column, PgType, Table, UniqueIndex

__all__ = ["alter_table", "constrain", "existing", "inherit", "read_column", "read_type"]

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


def read_column(catalog: Catalog, node: Any) -> tuple[Column, list[Any]]:
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


def constrain(table: Table, constraint: Any, column: str | None = None) -> Table:
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


def alter_table(catalog: Catalog, node: Any) -> list[Effect]:
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
            inherit(catalog, table, changed)
    return effects


def inherit(catalog: Catalog, before: Table, after: Table) -> None:
    """Partitions have their parent's columns and key."""
    if before.columns == after.columns and before.primary_key == after.primary_key:
        return
    for child in list(catalog.tables.values()):
        if child.parent == after.full_name:
            changed = replace(child, columns=after.columns, primary_key=after.primary_key, checks=after.checks)
            catalog.put(changed)
            inherit(catalog, child, changed)


Changed = tuple[Table | None, Effect | None]


def _add_column(catalog: Catalog, table: Table, command: Any) -> Changed:
    column, constraints = read_column(catalog, command.def_)
    if table.column(column.name) is not None:
        if command.missing_ok:
            return None, None
        raise ConfigError(f"`{table.full_name}` has a column `{column.name}` already")
    changed = replace(table, columns=(*table.columns, column))
    for constraint in constraints:
        changed = constrain(changed, constraint, column.name)
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


def existing(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise ConfigError(
            f"`{table.full_name}` has no column `{name}`", hint=f"it has {', '.join(c.name for c in table.columns)}"
        )
    return column


def _alter_type(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = existing(table, command.name)
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
    column = existing(table, command.name)
    default = None if command.def_ is None else _expression(command.def_)
    what = f"{column.name}: " + ("no default any more" if default is None else f"default {default}")
    effect = Effect("set-default", table.full_name, what, AEL, column.name)
    return table.with_column(column.name, replace(column, default=default)), effect


def _set_not_null(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = existing(table, command.name)
    if column.not_null:
        return None, None
    scans = column.name not in table.checks
    effect = Effect("set-not-null", table.full_name, f"{column.name} becomes NOT NULL", AEL, column.name, scans=scans)
    return table.with_column(column.name, replace(column, not_null=True)), effect


def _drop_not_null(catalog: Catalog, table: Table, command: Any) -> Changed:
    column = existing(table, command.name)
    effect = Effect("drop-not-null", table.full_name, f"{column.name} may be null", AEL, column.name)
    return table.with_column(column.name, replace(column, not_null=False)), effect


def _add_constraint(catalog: Catalog, table: Table, command: Any) -> Changed:
    constraint = command.def_
    kind = constraint.contype.name
    changed = constrain(table, constraint)
    name = constraint.conname or ""
    if kind == "CONSTR_PRIMARY":
        what = f"primary key ({', '.join(changed.primary_key)})"
        return changed, Effect("primary-key", table.full_name, what, AEL, scans=not constraint.indexname)
    if kind == "CONSTR_UNIQUE":
        return changed, Effect("unique", table.full_name, f"unique {name}", AEL, scans=not constraint.indexname)
    if kind == "CONSTR_NOTNULL":
        names = tuple(key.sval for key in constraint.keys or ())
        for column in names:
            changed = changed.with_column(column, replace(existing(table, column), not_null=True))
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
        column = existing(table, command.name)
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
