"""Locks, races and silent gaps of single DDL statements, and safer ways to the same end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cdcpipe.schemas.catalog import Catalog, Publication
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.defaults import read_expression
from cdcpipe.schemas.effect import AEL, Effect
from cdcpipe.schemas.table import Table

__all__ = ["Hazard", "hazards_of", "safer_steps"]


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something to know before a statement is run. `code` is that of failure-modes (D11, ...) or a word."""

    code: str
    text: str


_NOT_IN_JSON = frozenset({"nan", "infinity", "-infinity"})
_TEXTS = frozenset({"text", "varchar", "bpchar"})
_STALE = frozenset({"drop-column", "rename-column", "alter-type", "set-not-null", "drop-not-null", "set-default"})


def hazards_of(
    effects: Sequence[Effect],
    before: Mapping[str, Table],
    after: Catalog,
    publication: Publication | None,
    in_transaction: bool,
) -> Iterator[Hazard]:
    """The hazards of one statement, each once."""
    yield from dict.fromkeys(_hazards(effects, before, after, publication, in_transaction))


def _hazards(
    effects: Sequence[Effect],
    before: Mapping[str, Table],
    after: Catalog,
    publication: Publication | None,
    in_transaction: bool,
) -> Iterator[Hazard]:
    for effect in effects:
        existed = effect.table in before
        if existed and effect.lock == AEL:
            if effect.rewrites:
                yield Hazard("rewrite", f"{effect.table}: every row is written anew while nobody can read or write")
            elif effect.scans:
                yield Hazard("scan", f"{effect.table}: every row is read while nobody can read or write")
            elif effect.code != "truncate":
                yield Hazard(
                    "lock", f"{effect.table}: ACCESS EXCLUSIVE; set a lock_timeout, readers queue up behind it"
                )
        yield from _of_code(effect, after)
        yield from _defaults_no_schema_can_hold(effect, after)
        if effect.code in _STALE and existed:
            yield Hazard(
                "D19",
                f"{effect.table}: Debezium reads nullability and defaults from the catalog of now, also for older WAL; "
                "let the slot catch up before, and don't restart the connector across the change",
            )
        if effect.code in ("create-table", "create-partition") and publication is not None:
            table = after.tables.get(effect.table)
            if table is not None and not table.partitioned and not publication.has(table):
                yield Hazard(
                    "D12", f"{effect.table}: not in publication {publication.name}; rows before it is are lost"
                )
    if in_transaction and any(effect.code == "add-enum-value" for effect in effects):
        yield Hazard("enum", "a new enum value can't be used in the transaction that adds it")


def _defaults_no_schema_can_hold(effect: Effect, after: Catalog) -> Iterator[Hazard]:
    """JSON has no NaN. Avro's parser takes it as text for a float, not for a union with null: a registry says 42201."""
    table = after.tables.get(effect.table)
    if table is None or effect.code not in ("create-table", "add-column", "set-default"):
        return
    for column in table.columns:
        if column.default is None or effect.column not in (None, "", column.name):
            continue
        default = read_expression(column.default)
        literal = (default.literal or "").strip().lower()
        is_json = column.type.name in ("json", "jsonb")
        if (literal == "{}" and (is_json or column.type.name in _TEXTS)) or (is_json and default.call):
            yield Hazard(
                "default-not-in-apicurio",
                f"{effect.table}.{column.name}: Apicurio Registry 3.3.3 takes the default {{}} for a map's and "
                "refuses it through its Confluent API (42201), and the connector stops; Confluent's registry takes it. "
                "Drop the default, or use Apicurio's converter (`cdcpipe up --converter apicurio`)",
            )
        optional = not column.not_null and column.name not in table.primary_key
        if literal in _NOT_IN_JSON and optional and column.type.name in ("float4", "float8"):
            yield Hazard(
                "default-not-in-avro",
                f"{effect.table}.{column.name}: no Avro union has the default {literal}; the registry refuses to "
                "register it (42201), and the connector stops. Make the column NOT NULL, or drop the default",
            )


def _of_code(effect: Effect, after: Catalog) -> Iterator[Hazard]:
    match effect.code:
        case "add-enum-value" | "rename-enum-value":
            yield Hazard(
                "D11", f"{effect.table}: ALTER TYPE takes no lock on the table; transactions that are open race it"
            )
        case "publish" | "unpublish":
            yield Hazard(
                "D11",
                f"{effect.table}: ALTER PUBLICATION doesn't wait for open transactions; their changes may be missed "
                "(PostgreSQL before 17.5, 16.9, 15.13); run it while none is open",
            )
        case "add-column" if " DEFAULT " in effect.what:
            yield Hazard(
                "silent-fill",
                f"{effect.table}.{effect.column}: rows that are there get the default without an event; consumers and "
                "archive see it when the row is next changed",
            )
        case "alter-type" if effect.rewrites:
            yield Hazard("silent-fill", f"{effect.table}.{effect.column}: rows are converted without an event")
        case "generated" | "add-column" if "stored" in effect.what:
            yield Hazard("D12", f"{effect.table}.{effect.column}: generated columns are published only if told so")
        case "replica-identity":
            yield Hazard("before", f"{effect.table}: what `before` holds changes with the next record")
        case "primary-key":
            yield Hazard(
                "key", f"{effect.table}: until it has a key again, UPDATE and DELETE fail unless the identity is FULL"
            )
        case "truncate":
            yield Hazard(
                "truncate", f"{effect.table}: one event of op t, or none if the connector skips it (the default)"
            )


def safer_steps(effects: Sequence[Effect], catalog: Catalog, mode: Mode, refused: frozenset[str]) -> tuple[str, ...]:
    """Steps to the same end that the registry takes in `mode`, for the changes of tables that it refuses."""
    backward, forward = "backward" in mode.directions, "forward" in mode.directions
    lines: list[str] = []
    for effect in effects:
        if effect.table not in refused:
            continue
        lines += _safer(effect, catalog, mode, backward=backward, forward=forward)
    return tuple(dict.fromkeys(lines))


def _safer(effect: Effect, catalog: Catalog, mode: Mode, *, backward: bool, forward: bool) -> list[str]:
    table, column = effect.table, effect.column
    match effect.code:
        case "add-column" if "NOT NULL" in effect.what and "DEFAULT" not in effect.what and backward:
            return [
                f"ALTER TABLE {table} ADD COLUMN {column} <type>;  -- nullable",
                f"UPDATE {table} SET {column} = <value> WHERE {column} IS NULL;  -- in batches; every row is an event",
                *_check_instead(table, column),
            ]
        case "set-not-null" if backward:
            return _check_instead(table, column)
        case "drop-column" if forward:
            return _drop_required(table, column, mode)
        case "rename-column" if forward:
            old = effect.what.split(" is now called ")[0]
            return [
                f"-- keep {table}.{old}; give readers the new name in a view, or map it in the consumer",
                f"ALTER TABLE {table} ADD COLUMN {column} <type>;  -- nullable; write both, backfill, move the readers",
                *_drop_required(table, old, mode),
            ]
        case "alter-type":
            return [
                f"ALTER TABLE {table} ADD COLUMN {column}_new <type>;  -- nullable",
                f"UPDATE {table} SET {column}_new = {column} WHERE {column}_new IS NULL;  -- in batches",
                f"-- a trigger writes both; move the readers to {column}_new; drop {column} when nobody reads it",
            ]
        case "drop-not-null" if forward:
            return [
                f"-- {table}.{column}: old readers take no null; move them to a schema that does first (mode BACKWARD)"
            ]
        case "primary-key":
            return [
                f"-- {table}: a new key means a new order for readers: stop the writers, drain, change the key, and",
                "-- let the consumers start anew; or make a new table and move the rows",
            ]
    return []


def _check_instead(table: str, column: str) -> list[str]:
    name = table.rpartition(".")[2]
    return [
        f"ALTER TABLE {table} ADD CONSTRAINT {name}_{column}_set CHECK ({column} IS NOT NULL) NOT VALID;",
        f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}_{column}_set;  -- not SET NOT NULL",
    ]


def _drop_required(table: str, column: str, mode: Mode) -> list[str]:
    if mode.transitive:
        return [
            f"-- {table}.{column} was registered without a default, and {mode} knows every version: it can't go;",
            "-- leave it and stop using it, or relax the subject's mode for one registration",
        ]
    return [
        f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT <literal>;  -- registers a version with a default",
        f"-- write a row, and move the readers to that version; then ALTER TABLE {table} DROP COLUMN {column};",
    ]
