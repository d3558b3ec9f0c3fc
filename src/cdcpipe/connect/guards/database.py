"""Guards that ask PostgreSQL: publication, replica identity, slot, settings, version."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from cdcpipe.connect.facts import DatabaseFacts, Facts, Table
from cdcpipe.connect.guards.rule import Answer, Hit, Unanswered, live_guard
from cdcpipe.connect.pipeline import Part, Pipeline

__all__ = ["captured_by", "some"]

_PG = "https://www.postgresql.org/docs/current"
_DBZ = "https://github.com/debezium/dbz/issues"
_DOCS = "https://debezium.io/documentation/reference/stable/connectors/postgresql.html"
_POSTGRES = ("postgres",)
_SHOWN = 5
# First minor releases in which a catalogue change no longer races logical decoding (release notes of May 2025).
_FLOORS = {13: 21, 14: 18, 15: 13, 16: 9, 17: 5}


def _database(facts: Facts) -> DatabaseFacts:
    assert facts.database is not None
    return facts.database


def some(names: list[str]) -> str:
    """The first few names, and how many there are more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more


def _patterns(part: Part, key: str) -> list[re.Pattern[str]]:
    # As Debezium reads them: anchored, without regard to case, commas escaped by a backslash.
    words = [word.strip().replace("\\,", ",") for word in re.split(r"(?<!\\),", part.get(key)) if word.strip()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # Java's set operations, which Python would read otherwise
        try:
            return [re.compile(word, re.IGNORECASE) for word in words]
        except FutureWarning as warning:
            raise re.error(str(warning)) from warning


def _captured(part: Part, database: DatabaseFacts) -> Iterator[Table]:
    """The tables that the connector means to capture. Raises `re.error` for an expression that only Java reads."""
    tables, schemas = _patterns(part, "table.include.list"), _patterns(part, "schema.include.list")
    not_tables, not_schemas = _patterns(part, "table.exclude.list"), _patterns(part, "schema.exclude.list")
    for name, table in database.tables.items():
        schema = name.split(".")[0]
        if tables and not any(one.fullmatch(name) for one in tables):
            continue
        if schemas and not any(one.fullmatch(schema) for one in schemas):
            continue
        if any(one.fullmatch(name) for one in not_tables) or any(one.fullmatch(schema) for one in not_schemas):
            continue
        yield table


def captured_by(pipeline: Pipeline, facts: Facts) -> Iterator[tuple[Part, DatabaseFacts, list[Table]] | Unanswered]:
    """Each source of the database that was asked, with its captured tables."""
    database = _database(facts)
    for part in pipeline.sources:
        if part.get("database.dbname") not in {"", database.database} and "${" not in part.get("database.dbname"):
            yield Unanswered(f"`{part.name}` reads database `{part.get('database.dbname')}`, which was not asked")
            continue
        try:
            yield part, database, list(_captured(part, database))
        except re.error as error:
            yield Unanswered(f"`{part.name}`: a table expression can't be read here: {error}")


def _publication_name(part: Part) -> str:
    return part.get("publication.name", "dbz_publication")


@live_guard(
    "PG-PUB-01",
    "error",
    "the publication doesn't exist, and the connector doesn't make one",
    cure="CREATE PUBLICATION it for the captured tables",
    source=f"{_PG}/sql-createpublication.html",
    keys=("publication.name",),
    needs=_POSTGRES,
)
def _no_publication(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in captured_by(pipeline, facts):
        if isinstance(found, Unanswered):
            yield found
            continue
        part, database, _ = found
        by_hand = part.word("publication.autocreate.mode", "all_tables") in {"disabled", "no_tables"}
        if by_hand and _publication_name(part) not in database.publications:
            yield Hit(part, "publication.name")


@live_guard(
    "PG-PUB-02",
    "error",
    "the publication doesn't cover every captured table: changes of the others never leave PostgreSQL",
    cure="ALTER PUBLICATION it ADD the tables, or capture less",
    source=f"{_DBZ}/1970",
    keys=("publication.name", "table.include.list"),
    needs=_POSTGRES,
)
def _not_covered(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in captured_by(pipeline, facts):
        if isinstance(found, Unanswered):
            yield found
            continue
        part, database, tables = found
        publication = database.publications.get(_publication_name(part))
        covered = publication.tables if publication is not None else None
        missing = [table.name for table in tables if covered is not None and table.name not in covered]
        if missing:
            yield Hit(part, "publication.name", some(missing))


@live_guard(
    "PG-PUB-03",
    "error",
    "the publication leaves operations out that the connector means to capture",
    cure="ALTER PUBLICATION it SET (publish = 'insert, update, delete, truncate')",
    source=f"{_PG}/sql-createpublication.html",
    keys=("publication.name", "skipped.operations"),
    needs=_POSTGRES,
)
def _operations(pipeline: Pipeline, facts: Facts) -> Answer:
    letters = {"c": "insert", "u": "update", "d": "delete", "t": "truncate"}
    for part in pipeline.sources:
        publication = _database(facts).publications.get(_publication_name(part))
        skipped = {word.lower() for word in part.words("skipped.operations", "t")}
        wanted = {operation for letter, operation in letters.items() if letter not in skipped}
        if publication is not None and (missing := sorted(wanted - publication.operations)):
            yield Hit(part, "publication.name", ", ".join(missing))


@live_guard(
    "PG-PUB-04",
    "error",
    "the publication has row filters or column lists: what they leave out never leaves PostgreSQL",
    cure="publish whole tables, or leave columns out by `column.exclude.list`, where it can be seen",
    source=f"{_PG}/logical-replication-row-filter.html",
    keys=("publication.name",),
    needs=_POSTGRES,
)
def _filtered(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        publication = _database(facts).publications.get(_publication_name(part))
        if publication is not None and (names := [*publication.row_filters, *publication.column_lists]):
            yield Hit(part, "publication.name", some(sorted(set(names))))


@live_guard(
    "PG-PUB-05",
    "error",
    "the watermark or signal table isn't in the publication, so what is written there never comes out",
    cure="ALTER PUBLICATION it ADD the table",
    source=f"{_DOCS}#postgresql-property-heartbeat-action-query",
    keys=("heartbeat.action.query", "signal.data.collection"),
    needs=_POSTGRES,
)
def _watermark(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        publication = _database(facts).publications.get(_publication_name(part))
        if publication is None:
            continue
        written = re.search(
            r"(?:insert\s+into|update|delete\s+from)\s+([\w.\"]+)", part.get("heartbeat.action.query"), re.IGNORECASE
        )
        wanted = {
            "heartbeat.action.query": written[1].replace('"', "") if written else "",
            "signal.data.collection": part.get("signal.data.collection"),
        }
        for key, table in wanted.items():
            name = table if "." in table else f"public.{table}"
            if table and name not in publication.tables:
                yield Hit(part, key, f"`{name}`")


@live_guard(
    "PG-RID-01",
    "error",
    "updates and deletes of the table come without a key, or are refused by PostgreSQL",
    cure="give the table a primary key, or REPLICA IDENTITY FULL",
    source=f"{_PG}/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY",
    keys=("table.include.list", "message.key.columns"),
    needs=_POSTGRES,
)
def _no_key(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in captured_by(pipeline, facts):
        if isinstance(found, Unanswered):
            yield found
            continue
        part, _, tables = found
        without = [one.name for one in tables if one.identity == "n" or (one.identity == "d" and not one.has_key)]
        if without:
            yield Hit(part, "table.include.list", some(without))


@live_guard(
    "PG-RID-02",
    "warning",
    "an UPDATE that leaves a large value alone comes without it, and no image of the row before the change",
    cure="ALTER TABLE it REPLICA IDENTITY FULL, or have readers take the placeholder as unknown",
    source="https://github.com/debezium/dbz/issues/2418",
    keys=("table.include.list",),
    needs=_POSTGRES,
)
def _toast(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in captured_by(pipeline, facts):
        if isinstance(found, Unanswered):
            yield found
            continue
        part, _, tables = found
        if names := [one.name for one in tables if one.identity in "di" and one.toastable]:
            yield Hit(part, "table.include.list", some(names))


@live_guard(
    "PG-SLT-01",
    "error",
    "the slot has lost WAL that the connector still needs",
    cure="re-snapshot what the slot has lost, then make a new slot; raise `max_slot_wal_keep_size`",
    source=f"{_PG}/view-pg-replication-slots.html",
    keys=("slot.name",),
    needs=_POSTGRES,
)
def _lost(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        slot = _database(facts).slots.get(part.get("slot.name", "debezium"))
        if slot is not None and (slot.wal_status in {"lost", "unreserved"} or slot.reason):
            yield Hit(part, "slot.name", slot.reason or f"wal_status {slot.wal_status}")


@live_guard(
    "PG-SLT-02",
    "error",
    "the slot belongs to another plugin or database",
    cure="give the connector a slot of its own",
    source=f"{_DOCS}#postgresql-property-slot-name",
    keys=("slot.name",),
    needs=_POSTGRES,
)
def _foreign(pipeline: Pipeline, facts: Facts) -> Answer:
    database = _database(facts)
    for part in pipeline.sources:
        slot = database.slots.get(part.get("slot.name", "debezium"))
        if slot is not None and (
            slot.plugin != part.get("plugin.name", "decoderbufs") or slot.database != database.database
        ):
            yield Hit(part, "slot.name", f"plugin {slot.plugin or 'none'}, database {slot.database or 'none'}")


@live_guard(
    "PG-SLT-03",
    "warning",
    "the database has a standby that doesn't carry the slot: after a failover changes are missing",
    cure="set `slot.failover=true` and `synchronized_standby_slots` (PostgreSQL 17 or newer)",
    source=f"{_PG}/logical-replication-failover.html",
    keys=("slot.failover",),
    needs=_POSTGRES,
)
def _failover(pipeline: Pipeline, facts: Facts) -> Answer:
    database = _database(facts)
    for part in pipeline.sources:
        slot = database.slots.get(part.get("slot.name", "debezium"))
        follows = slot.failover if slot is not None else part.word("slot.failover", "false") == "true"
        if database.standbys and not (follows and database.settings.get("synchronized_standby_slots")):
            yield Hit(part, "slot.failover", f"{database.standbys} standby")


@live_guard(
    "PG-SET-01",
    "error",
    "PostgreSQL doesn't write what logical decoding needs",
    cure="set `wal_level = logical` and restart PostgreSQL",
    source=f"{_PG}/runtime-config-wal.html#GUC-WAL-LEVEL",
    keys=("plugin.name",),
    needs=_POSTGRES,
)
def _wal_level(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        if (level := _database(facts).settings.get("wal_level")) != "logical":
            yield Hit(part, "plugin.name", f"wal_level is {level}")


@live_guard(
    "PG-SET-02",
    "warning",
    "PostgreSQL gives a slot up that nobody reads for a while: a connector that stood still that long has lost changes",
    cure="set `idle_replication_slot_timeout = 0`, and watch the WAL that slots hold",
    source=f"{_PG}/runtime-config-replication.html#GUC-IDLE-REPLICATION-SLOT-TIMEOUT",
    keys=("slot.name",),
    needs=_POSTGRES,
)
def _idle(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        if (timeout := _database(facts).settings.get("idle_replication_slot_timeout", "0")) not in {"0", "-1"}:
            yield Hit(part, "slot.name", f"idle_replication_slot_timeout is {timeout} s")


@live_guard(
    "PG-VER-01",
    "error",
    "this PostgreSQL decodes with a stale catalogue when DDL races an open transaction, and loses changes",
    cure="update to 13.21, 14.18, 15.13, 16.9, 17.5 or newer",
    source="https://www.postgresql.org/docs/release/17.5/",
    keys=("database.hostname",),
    needs=_POSTGRES,
)
def _old_postgres(pipeline: Pipeline, facts: Facts) -> Answer:
    major, minor = divmod(_database(facts).version, 10_000)
    for part in pipeline.sources:
        if major < min(_FLOORS) or minor < _FLOORS.get(major, 0):
            yield Hit(part, "database.hostname", f"it is {major}.{minor}")
