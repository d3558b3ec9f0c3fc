"""One judgement: the ledgers in the engine, and the stages that fill table `findings`.

A stage that can't be run leaves its reason in `failures`; the checks that rest on it are then inconclusive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.store import Manifest
from cdcpipe.verify import images, sequence, sink, source
from cdcpipe.verify.engine import Backend
from cdcpipe.verify.evidence import Evidence, Terms
from cdcpipe.verify.folders import promised_hour
from cdcpipe.verify.tables import (
    ARCHIVE,
    BOUNDS,
    CHANGE,
    DEAD_LETTERS,
    FILTERED,
    FINDING,
    LOG,
    OBJECT_HOURS,
    OBJECT_TIMES,
    PARTITIONS,
    SKIPPED,
    TABLES,
    TOMBSTONES,
    TRANSACTIONS,
    UNDECODED,
    Expr,
)

__all__ = ["Case", "Totals"]

_SIDE_VIEWS: Final = {
    "dead_letters": DEAD_LETTERS,
    "tombstones": TOMBSTONES,
    "undecoded": UNDECODED,
    "transactions": TRANSACTIONS,
}


@dataclass(frozen=True, slots=True)
class Totals:
    """What there was to look at."""

    expected: int = 0
    streamed: int = 0
    read: int = 0
    unidentified: int = 0
    archived: int = 0
    keyless: int = 0
    truncates: int = 0


@dataclass(slots=True)
class Case:
    """The evidence under `terms`, in `engine`. `run()` once; then read `findings`, `totals`, `failures`, `seconds`."""

    engine: Backend
    wal: Evidence | None
    log: Evidence | None
    archive: Evidence | None
    terms: Terms
    failures: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    hours_known: bool = False
    has_ends: bool = False

    @property
    def has_wal(self) -> bool:
        """Whether there is a witness of the source."""
        return self.wal is not None

    @property
    def later(self) -> Evidence | None:
        """What is compared with the source: the log, or without one the archive."""
        return self.log or self.archive

    def run(self) -> None:
        """Fill `findings`."""
        self._stage("prepare", self._prepare)
        if "prepare" in self.failures:
            for stage in ("source", "order", "chain", "transactions", "sink", "objects"):
                self.failures[stage] = self.failures["prepare"]
            return
        if self.later is not None:
            self._stage("source", self._source)
            for stage, work in (("order", self._order), ("chain", self._chain), ("transactions", self._transactions)):
                if "source" in self.failures:
                    self.failures[stage] = self.failures["source"]
                else:
                    self._stage(stage, work)
        if self.archive is not None:
            self._stage("objects", self._objects)
            if "objects" in self.failures:
                self.failures["sink"] = self.failures["objects"]
            elif self.log is not None:
                self._stage("sink", self._sink)
            else:
                self._stage("sink", self._archive_alone)

    def _stage(self, name: str, work: Callable[[], None]) -> None:
        start = time.perf_counter()
        try:
            work()
        except EvidenceError as error:
            self.failures[name] = error.message
        except Exception as error:  # noqa: BLE001 - a check that raised is inconclusive, whatever it was
            self.failures[name] = f"the check failed: {type(error).__name__}: {error}"
        self.seconds[name] = time.perf_counter() - start

    # --- stages ------------------------------------------------------------

    def _prepare(self) -> None:
        self._comparable()
        later = self.later
        for name, evidence in (("wal", self.wal), ("log", later), ("archive", self.archive)):
            self.engine.define(name, CHANGE, None if evidence is None else evidence.changes)
        for name, table in _SIDE_VIEWS.items():
            given = None if self.log is None else self.log.side.get(name)
            self.engine.define(name, _kinds(table), given)
        for name, evidence in (("wal", self.wal), ("log", later), ("archive", self.archive)):
            given = None if evidence is None else evidence.side.get("images")
            self.engine.define(f"{name}_images", images.IMAGE, given)
        times = None if self.archive is None else self.archive.side.get("objects")
        self.engine.define("object_times", _kinds(OBJECT_TIMES), times)
        self.engine.define_rows("findings", FINDING, [])
        self._prepare_bounds()
        row = self.engine.rows(totals_of)[0]
        self.totals = Totals(**{name: int(value or 0) for name, value in row.items()})
        self.has_ends = self.engine.count("transactions") > 0

    def _comparable(self) -> None:
        manifests = [e.manifest for e in (self.wal, self.log, self.archive) if e is not None and e.manifest is not None]
        modes = {tuple(sorted(each.modes.items())) for each in manifests if each.modes}
        if len(modes) > 1:
            raise EvidenceError(
                "the ledgers were made for different value modes of the connector, so their images can't be compared",
                hint="read the ledgers again with the modes of the connector that ran",
            )

    def _prepare_bounds(self) -> None:
        cut, manifest = self.terms.cut, None if self.wal is None else self.wal.manifest
        slots = () if manifest is None else manifest.slots
        begin = min((slot.begin_lsn for slot in slots), default=None)
        end = max((slot.end_lsn for slot in slots), default=None)
        self.engine.define_rows("bounds", _kinds(BOUNDS), [(begin, end, cut.commit_lsn)])
        known = {} if self.log is None else _partitions(self.log.manifest)
        rows = [
            (*place, *known.get(place, (None, None)), cut.offsets.get(place))
            for place in sorted({*known, *cut.offsets})
        ]
        self.engine.define_rows("partitions", _kinds(PARTITIONS), rows)
        self.engine.define_rows("skipped", _kinds(SKIPPED), [(op,) for op in self.terms.skipped_operations])
        self.engine.define_rows("filtered", _kinds(FILTERED), [(name,) for name in self.terms.filtered_tables])
        self.engine.define_rows("tables", _kinds(TABLES), sorted(self._identities().items()))

    def _identities(self) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for evidence in (self.archive, self.log, self.wal):
            tables: Mapping[str, Any] = (
                {} if evidence is None or evidence.manifest is None else evidence.manifest.tables
            )
            found |= {name: table.get("identity") == "full" for name, table in tables.items()}
        return found

    def _source(self) -> None:
        engine, totals = self.engine, self.totals
        if totals.unidentified and not totals.streamed:
            raise EvidenceError(
                f"{totals.unidentified} changes carry no transaction metadata, so they have no identity",
                hint="set `provide.transaction.metadata=true` on the source connector, or verify the state at a cut",
            )
        if not self.has_wal:
            engine.save("repeats", source.repeats, True)
            engine.save("set_aside", source.set_aside, False)
            engine.save("tx", source.log_transactions)
            self._repeats()
            return
        blocks = engine.save("source_blocks", source.source_blocks)
        made = (
            ("pairs", source.pairs, ()),
            ("repeats", source.repeats, (False,)),
            ("set_aside", source.set_aside, (True,)),
        )
        for name, relation, arguments in made:
            if blocks:
                engine.save(name, relation, *arguments)
            else:
                engine.save_empty(name, relation, *arguments)
        if blocks and engine.rows(source.wal_repeats):
            raise EvidenceError("the wal ledger has a change twice, so it is no witness; read it again")
        engine.save("tx", source.wal_transactions)
        engine.save("snapshots", source.snapshots)
        if not blocks:
            return
        engine.save("first_streamed", source.first_streamed)
        engine.save("orphans", source.orphans)
        for relation in (source.missing, source.phantoms, source.differing):
            engine.append("findings", relation)
        self._tell_schemas_apart("source", "wal", "log")
        self._repeats()

    def _repeats(self) -> None:
        if not self.has_wal:
            self.engine.save("snapshots", source.snapshots)
        if self.engine.count("repeats"):
            self.engine.save("repeat_tails", sequence.repeat_tails)
            self.engine.append("findings", sequence.repeat_findings, self.has_wal)

    def _order(self) -> None:
        if self.engine.save("order_breaks", sequence.order_breaks, self.has_wal):
            self.engine.save("late", sequence.late, self.has_wal)
            self.engine.append("findings", sequence.late_findings, self.has_wal)

    def _chain(self) -> None:
        self.engine.save("full_tables", sequence.full_tables)
        if self.has_wal and self.totals.read:
            self.engine.append("findings", sequence.snapshot_findings)
        if not self.engine.save("chain", sequence.chain, self.has_wal):
            return
        self.engine.save("chain_details", sequence.chain_details, self.has_wal)
        self.engine.save("truncates", sequence.truncates)
        self.engine.save("blamed", sequence.blamed_keys, self.has_wal)
        self.engine.append("findings", sequence.chain_findings, self.has_wal, self.terms.resnapshots)

    def _transactions(self) -> None:
        self.engine.append("findings", source.torn, self.has_wal)
        if not self.has_wal and self.has_ends:
            self.engine.append("findings", source.emptied)

    def _objects(self) -> None:
        self.engine.save("objects", sink.objects)
        names = [row["object"] for row in self.engine.rows(object_names)]
        rows = []
        for name in names:
            hour = promised_hour(name) or (None, None)
            self.hours_known = self.hours_known or hour[0] is not None
            rows.append((name, name.rpartition("/")[0], *hour))
        self.engine.define_rows("object_hours", _kinds(OBJECT_HOURS), rows)
        if not self.hours_known:
            return
        if self.terms.filed_by == "commit":
            self.engine.append("findings", sink.misfiled_by_commit)
            return
        if self.engine.count("object_times"):
            self.engine.append("findings", sink.misfiled_by_time)
            return
        skew = int(self.terms.clock_skew_seconds * 1_000_000)
        early = self.engine.save("early_rows", sink.early_rows, skew)
        self.engine.save("proper", sink.proper, skew)
        if self.engine.save("filed_late", sink.filed_late, skew) or early:
            self.engine.append("findings", sink.misfiled, skew)

    def _sink(self) -> None:
        engine = self.engine
        if engine.count("undecoded"):
            engine.append("findings", sink.unaccounted)
        if engine.save("sink_blocks", sink.sink_blocks):
            engine.save("archive_pairs", sink.archive_pairs)
            engine.save("archive_repeats", sink.archive_repeats, False)
            engine.save("holes", sink.holes)
            for relation in (sink.missing_rows, sink.phantom_rows, sink.differing_rows):
                engine.append("findings", relation)
            self._tell_schemas_apart("sink", "log", "archive")
        else:
            engine.save_empty("archive_repeats", sink.archive_repeats, False)
        engine.append("findings", sink.undelivered)
        self._overlaps(whole=False)

    def _archive_alone(self) -> None:
        self.engine.save("archive_repeats", sink.archive_repeats, True)
        self._overlaps(whole=True)

    def _overlaps(self, *, whole: bool) -> None:
        self.engine.save("overlaps", sink.overlaps, whole)
        self.engine.append("findings", sink.overlap_findings, whole)
        self.engine.append("findings", sink.repeat_rows, whole)

    def _tell_schemas_apart(self, place: str, earlier: str, later: str) -> None:
        drifted = self.engine.rows(images.drifted, place, f"{earlier}_images", f"{later}_images")
        wrong = [
            (row["topic"], row["partition"], row["offset"], row["xid"], place)
            for row in drifted
            if images.is_wrong_schema(row["expected_image"], row["found_image"])
        ]
        if wrong:
            self.engine.rename_findings("wrong-schema-decode", wrong)


def _kinds(table: Expr) -> dict[str, str]:
    return {name: str(kind) for name, kind in table.schema().items()}


def _partitions(manifest: Manifest | None) -> dict[tuple[str, int], tuple[int, int]]:
    """Offsets that the log ledger covers: what retention took before it was read is not covered."""
    if manifest is None:
        return {}
    return {
        (each.topic, each.partition): (max(each.begin, each.first_available), each.end) for each in manifest.partitions
    }


def totals_of() -> Expr:
    """One row: what there is to look at."""
    streamed = LOG["op"].isin(("c", "u", "d", "t"))
    identified = streamed & LOG["xid"].notnull() & LOG["seq"].notnull()
    log = LOG.agg(
        streamed=identified.sum(),
        unidentified=(streamed & ~identified).sum(),
        read=(LOG["op"] == "r").sum(),
        keyless=(streamed & LOG["key"].isnull() & (LOG["op"] != "t")).sum(),
        truncates=(LOG["op"] == "t").sum(),
    )
    wal = source.expected()
    archived = ARCHIVE.filter(ARCHIVE["op"] != "m")
    return log.cross_join(wal.agg(expected=wal.count())).cross_join(archived.agg(archived=archived.count()))


def object_names() -> Expr:
    """The objects of the archive."""
    return sink.saved_objects().filter(lambda t: t["object"].notnull()).select("object").distinct()
