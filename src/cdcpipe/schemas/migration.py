"""What a migration will do to the pipeline, said before it is run.

    catalog = Catalog.from_database(connection)          # or Catalog.from_ddl(text)
    plan = plan_evolution(catalog, migration, prefix="cdc", mode=Mode.FULL_TRANSITIVE, history=registry.history)

Rows may be written between any two statements, so every state that a table is in after a statement is a version that
Debezium may register; inside `BEGIN ... COMMIT` only the last one. Each is compared, in all seven modes, with what is
registered and with the versions before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cdcpipe.schemas.archive import ArchiveChange, archive_changes
from cdcpipe.schemas.avro import Schema, parse
from cdcpipe.schemas.catalog import Catalog, Publication, streamed
from cdcpipe.schemas.compatibility import Conflict, Incompatibility, Mode, Verdict, check, misreadings, problems
from cdcpipe.schemas.connect_types import ConnectSchema, to_avro
from cdcpipe.schemas.ddl import Statement, apply, statements
from cdcpipe.schemas.effect import STRENGTH, Effect
from cdcpipe.schemas.hazards import Hazard, hazards_of, safer_steps
from cdcpipe.schemas.table import Table
from cdcpipe.schemas.types import Modes, envelope_schema, key_schema, oddities, row_schema

__all__ = ["History", "Plan", "Step", "SubjectPlan", "TablePlan", "plan_evolution"]

History = Callable[[str], Sequence[str]]
"""Subject -> texts of its registered versions, oldest first; empty when there are none."""

Outcome = Literal["unchanged", "new-version", "refused", "new-subject", "no-key", "gone"]


@dataclass(frozen=True, slots=True)
class Step:
    """A statement of the migration: what it changes, and the strongest lock that it takes."""

    text: str
    effects: tuple[Effect, ...]
    in_transaction: bool
    hazards: tuple[Hazard, ...] = ()

    @property
    def lock(self) -> str:
        """The strongest lock, empty for none."""
        return max((effect.lock for effect in self.effects), key=STRENGTH.index, default="")


@dataclass(frozen=True, slots=True)
class SubjectPlan:
    """What becomes of a subject. `versions` are the new schemas (decoded Avro), in the order of their registration.

    `verdicts` hold every mode's, over all new versions; `outcome` is that in the declared mode.
    """

    subject: str
    outcome: Outcome
    versions: tuple[Any, ...]
    verdicts: dict[Mode, Verdict]
    misreadings: tuple[Incompatibility, ...] = ()
    old_readers: tuple[Incompatibility, ...] = ()
    new_readers: tuple[Incompatibility, ...] = ()

    def conflicts(self, mode: Mode) -> tuple[Conflict, ...]:
        """Why the registry refuses it in that mode."""
        return self.verdicts[mode].conflicts if mode in self.verdicts else ()


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What becomes of a table's topic, subjects and archive. `name` is the new one."""

    name: str
    old_name: str | None
    topic: str
    key: SubjectPlan
    value: SubjectPlan
    archive: tuple[ArchiveChange, ...]
    notes: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the registry refuses key or value, so that the source's task fails at the next row."""
        return "refused" in (self.key.outcome, self.value.outcome)

    @property
    def task(self) -> str:
        """The state that the source's task will have after the next row of this table."""
        return "FAILED" if self.refused else "RUNNING"


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole migration. `ok`: everything is registered in `mode`, and nothing is misread or lost."""

    mode: Mode
    steps: tuple[Step, ...]
    tables: tuple[TablePlan, ...]
    safer: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the migration may be run as it is."""
        return not any(
            table.refused
            or table.key.misreadings
            or table.value.misreadings
            or any(change.harmful for change in table.archive)
            for table in self.tables
        )

    @property
    def hazards(self) -> tuple[tuple[int, Hazard], ...]:
        """Number of the step (from 1) and hazard."""
        return tuple((number, hazard) for number, step in enumerate(self.steps, 1) for hazard in step.hazards)


@dataclass(slots=True)
class _Track:
    """A table on its way through the migration."""

    first: Table | None
    states: list[Table | None] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


def plan_evolution(
    catalog: Catalog,
    migration: str,
    *,
    prefix: str = "cdc",
    modes: Modes | None = None,
    mode: Mode = Mode.FULL_TRANSITIVE,
    history: History | None = None,
    publication: str | None = None,
) -> Plan:
    """The plan of `migration`, SQL with any number of statements, for the tables of `catalog`.

    Without `history`, a table that exists is taken to be registered once, as it is. `publication` is the one that the
    connector reads; without it, it isn't judged whether tables are published. Raises `ConfigError` for SQL that isn't
    valid, and for tables and columns that aren't there.
    """
    work, modes = catalog.copy(), modes or Modes()
    tracks: dict[str, _Track] = {}
    steps = []
    inside = False
    touched: set[str] = set()
    for statement in statements(migration):
        word = _transaction(statement)
        inside = {"begin": True, "end": False}.get(word, inside)
        before = dict(work.tables)
        effects = apply(work, statement)
        _follow(tracks, before, work, effects, touched)
        if not inside or any(effect.code in ("backfill", "rows") for effect in effects):
            _settle(tracks, work, touched)
        published = work.publications.get(publication) if publication else None
        hazards = tuple(hazards_of(effects, before, work, published, inside))
        steps.append(Step(statement.text, effects, inside, hazards))
    _settle(tracks, work, touched)
    planner = _Planner(prefix, modes, mode, history, work.publications.get(publication) if publication else None)
    tables = tuple(plan for name, track in tracks.items() if (plan := planner.table(name, track)) is not None)
    all_effects = [effect for step in steps for effect in step.effects]
    refused = frozenset(plan.name for plan in tables if plan.refused)
    return Plan(mode, tuple(steps), tables, safer_steps(all_effects, catalog, mode, refused))


def _transaction(statement: Statement) -> str:
    kind = getattr(getattr(statement.node, "kind", None), "name", "")
    if type(statement.node).__name__ != "TransactionStmt":
        return ""
    return "begin" if kind in ("TRANS_STMT_BEGIN", "TRANS_STMT_START") else "end"


def _follow(
    tracks: dict[str, _Track], before: dict[str, Table], work: Catalog, effects: Sequence[Effect], touched: set[str]
) -> None:
    """Note which tables changed, under the name that they have now."""
    for effect in effects:
        name = effect.table
        track = tracks.setdefault(name, _Track(before.get(name)))
        track.effects.append(effect)
        if effect.code == "rename-table":
            tracks[effect.column] = tracks.pop(name)
            touched.discard(name)
            name = effect.column
        touched.add(name)
    for name, table in work.tables.items():  # partitions, which follow their parent
        if name in before and before[name] != table and name not in touched:
            tracks.setdefault(name, _Track(before[name]))
            touched.add(name)


def _settle(tracks: dict[str, _Track], work: Catalog, touched: set[str]) -> None:
    """The state that rows may now be written in."""
    for name in touched:
        tracks[name].states.append(work.tables.get(name))
    touched.clear()


class _Planner:
    """Turns the states of a table into a plan."""

    def __init__(
        self, prefix: str, modes: Modes, mode: Mode, history: History | None, publication: Publication | None
    ) -> None:
        self._prefix = prefix
        self._modes = modes
        self._mode = mode
        self._history = history
        self._publication = publication

    def table(self, name: str, track: _Track) -> TablePlan | None:
        states = [state for state in track.states if state is not None]
        if not states:
            if track.first is None:
                return None
            return self._gone(name, track)
        last, first = states[-1], track.first
        moved = first is not None and first.full_name != last.full_name
        topic = f"{self._prefix}.{last.full_name}"
        known = None if moved else first
        return TablePlan(
            last.full_name,
            first.full_name if first is not None else None,
            topic,
            self._subject(f"{topic}-key", known, states, self._key),
            self._subject(f"{topic}-value", known, states, self._value),
            archive_changes(self._row(known), self._row_of(last)),
            tuple(self._notes(last, first)),
            tuple(track.effects),
        )

    def _gone(self, name: str, track: _Track) -> TablePlan:
        topic = f"{self._prefix}.{name}"
        gone = [SubjectPlan(f"{topic}-{part}", "gone", (), {}) for part in ("key", "value")]
        notes = ("no more records; topic, subjects and archive stay",)
        return TablePlan(name, name, topic, gone[0], gone[1], (), notes, tuple(track.effects))

    def _key(self, table: Table) -> ConnectSchema | None:
        return key_schema(table, self._prefix, self._modes)

    def _value(self, table: Table) -> ConnectSchema | None:
        return envelope_schema(streamed(table, self._publication), self._prefix, self._modes)

    def _row_of(self, table: Table) -> ConnectSchema:
        return row_schema(streamed(table, self._publication), "row", self._modes)

    def _row(self, table: Table | None) -> ConnectSchema | None:
        return None if table is None else self._row_of(table)

    def _subject(
        self,
        subject: str,
        first: Table | None,
        states: Sequence[Table],
        schema_of: Callable[[Table], ConnectSchema | None],
    ) -> SubjectPlan:
        registered = list(self._history(subject)) if self._history is not None else []
        current = None if first is None else _avro(schema_of(first))
        if not registered and current is not None and self._history is None:
            registered = [json.dumps(current)]
        known = [json.loads(text) for text in registered]
        versions: list[Any] = []
        last = known[-1] if known else None
        for state in states:
            schema = _avro(schema_of(state))
            if schema is not None and schema != last:
                versions.append(schema)
                last = schema
        if _avro(schema_of(states[-1])) is None:
            return SubjectPlan(subject, "no-key", (), {})
        return self._judged(subject, registered, known, versions)

    def _judged(
        self, subject: str, registered: Sequence[str], known: Sequence[Any], versions: Sequence[Any]
    ) -> SubjectPlan:
        history: list[Schema] = [parse(text) for text in registered]
        # A schema that is registered already is taken in every mode.
        fresh = [(version, parse(json.dumps(version))) for version in versions if version not in known]
        verdicts = {}
        for mode in Mode:
            conflicts: list[Conflict] = []
            past = list(history)
            for _, schema in fresh:
                conflicts += check(schema, past, mode).conflicts
                past.append(schema)
            verdicts[mode] = Verdict(mode, tuple(dict.fromkeys(conflicts)))
        if not versions:
            return SubjectPlan(subject, "unchanged", (), verdicts)
        outcome: Outcome = "new-version" if history else "new-subject"
        if verdicts[self._mode].conflicts:
            outcome = "refused"
        new = parse(json.dumps(versions[-1]))
        old = history[-1] if history else new
        return SubjectPlan(
            subject,
            outcome,
            tuple(versions),
            verdicts,
            tuple(dict.fromkeys((*misreadings(new, old), *misreadings(old, new)))),
            problems(old, new),
            problems(new, old),
        )

    def _notes(self, table: Table, first: Table | None) -> list[str]:
        notes = []
        for column in table.columns:
            if first is None or first.column(column.name) is None or first.column(column.name) != column:
                notes += [f"{column.name}: {text}" for text in oddities(column.type, self._modes)]
        if first is not None and first.key != table.key:
            was, is_ = ", ".join(first.key) or "none", ", ".join(table.key) or "none"
            notes.append(
                f"the message key changes from ({was}) to ({is_}): records of one row may lie on another partition "
                "than before, where readers see them in another order; drain the consumers first"
            )
        if not table.key and table.replica_identity in ("default", "nothing"):
            notes.append("no key and no replica identity: PostgreSQL refuses UPDATE and DELETE of a published table")
        if self._publication is not None and not self._publication.has(table) and not table.partitioned:
            notes.append(f"publication {self._publication.name} doesn't have this table: its changes aren't captured")
        if any(column.generated == "stored" for column in table.columns) and not (
            self._publication is not None and self._publication.generated
        ):
            notes.append(
                "generated columns aren't streamed unless the publication says so; a snapshot has them, and a restart "
                "may register the schema with them and then without"
            )
        return notes


def _avro(schema: ConnectSchema | None) -> Any:
    return None if schema is None else to_avro(schema)
