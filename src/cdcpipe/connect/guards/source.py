"""Guards of the Debezium PostgreSQL source: slot, publication, offsets, exactly-once, heartbeats, failures."""

from __future__ import annotations

from collections.abc import Iterator

from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, guard
from cdcpipe.connect.pipeline import Part, Pipeline

_DOCS = "https://debezium.io/documentation/reference/stable/connectors/postgresql.html"


def _is(part: Part, key: str, default: str, *allowed: str) -> bool:
    return part.word(key, default) in allowed


@guard(
    "SRC-EOS-01",
    "error",
    "the connector starts on a worker that can't do exactly-once, and then repeats changes after a crash",
    cure="set `exactly.once.support=required`",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-618",
    keys=("exactly.once.support",),
    profiles=EXACTLY_ONCE,
)
def _eos_not_required(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if not _is(part, "exactly.once.support", "requested", "required"):
            yield Hit(part, "exactly.once.support")


@guard(
    "SRC-EOS-02",
    "error",
    "a producer transaction doesn't end with the batch that it holds",
    cure="set `transaction.boundary=poll`",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-618",
    keys=("transaction.boundary",),
    profiles=EXACTLY_ONCE,
)
def _boundary_not_poll(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if not _is(part, "transaction.boundary", "poll", "poll"):
            yield Hit(part, "transaction.boundary")


@guard(
    "SRC-TX-01",
    "error",
    "without transaction metadata a torn transaction can't be told from a whole one",
    cure="set `provide.transaction.metadata=true`",
    source=f"{_DOCS}#postgresql-transaction-metadata",
    keys=("provide.transaction.metadata",),
    profiles=EXACTLY_ONCE,
)
def _no_transaction_metadata(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if not _is(part, "provide.transaction.metadata", "false", "true"):
            yield Hit(part, "provide.transaction.metadata")


def _shared(pipeline: Pipeline, key: str, default: str) -> Iterator[tuple[Part, Part]]:
    """Pairs of sources of one database that have the same value."""
    seen: dict[tuple[str, ...], Part] = {}
    for part in pipeline.sources:
        where = (part.word("database.hostname"), part.get("database.port", "5432"), part.get("database.dbname"))
        first = seen.setdefault((*where, part.get(key, default)), part)
        if first is not part:
            yield first, part


@guard(
    "SRC-SLOT-01",
    "error",
    "two connectors share one slot, and each gets a part of the changes",
    cure="give each connector a `slot.name` of its own",
    source=f"{_DOCS}#postgresql-property-slot-name",
    keys=("slot.name",),
)
def _shared_slot(pipeline: Pipeline) -> Answer:
    for first, second in _shared(pipeline, "slot.name", "debezium"):
        yield Hit(second, "slot.name", f"connector `{first.name}` has it, too")


@guard(
    "SRC-SLOT-02",
    "warning",
    "the slot is Debezium's default, `debezium`, which the next connector will share",
    cure="set `slot.name` to a name of this connector's own",
    source=f"{_DOCS}#postgresql-property-slot-name",
    keys=("slot.name",),
)
def _default_slot(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "slot.name", "debezium", "debezium"):
            yield Hit(part, "slot.name")


@guard(
    "SRC-SLOT-03",
    "error",
    "the slot is dropped on each orderly stop, and the changes until the next start are lost",
    cure="set `slot.drop.on.stop=false`",
    source=f"{_DOCS}#postgresql-property-slot-drop-on-stop",
    keys=("slot.drop.on.stop",),
)
def _slot_dropped(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "slot.drop.on.stop", "false", "true"):
            yield Hit(part, "slot.drop.on.stop")


@guard(
    "SRC-SLOT-04",
    "error",
    "the connector starts although the slot no longer holds its position, and what lies between is lost",
    cure="remove the key: its default, true, refuses such a start",
    source="https://issues.redhat.com/browse/DBZ-5739",
    keys=("internal.log.position.check.enable",),
)
def _position_unchecked(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "internal.log.position.check.enable", "true", "false"):
            yield Hit(part, "internal.log.position.check.enable")


@guard(
    "SRC-PUB-01",
    "error",
    "two connectors share one publication: what one changes in it, the other loses",
    cure="give each connector a `publication.name` of its own",
    source=f"{_DOCS}#postgresql-property-publication-name",
    keys=("publication.name",),
)
def _shared_publication(pipeline: Pipeline) -> Answer:
    for first, second in _shared(pipeline, "publication.name", "dbz_publication"):
        yield Hit(second, "publication.name", f"connector `{first.name}` has it, too")


@guard(
    "SRC-PUB-02",
    "warning",
    "the publication is Debezium's default, `dbz_publication`, which the next connector will share",
    cure="set `publication.name` to a name of this connector's own",
    source=f"{_DOCS}#postgresql-property-publication-name",
    keys=("publication.name",),
)
def _default_publication(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "publication.name", "dbz_publication", "dbz_publication"):
            yield Hit(part, "publication.name")


@guard(
    "SRC-PUB-03",
    "error",
    "the connector rewrites the publication on each start, under open transactions, whose changes can be lost",
    cure="make the publication yourself and set `publication.autocreate.mode=disabled`",
    source="https://github.com/debezium/dbz/issues/1970",
    keys=("publication.autocreate.mode",),
)
def _filtered_publication(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "publication.autocreate.mode", "all_tables", "filtered"):
            yield Hit(part, "publication.autocreate.mode")


@guard(
    "SRC-PUB-04",
    "warning",
    "the connector makes a publication of every table of the database, as a superuser",
    cure="make the publication yourself and set `publication.autocreate.mode=disabled`",
    source=f"{_DOCS}#postgresql-property-publication-autocreate-mode",
    keys=("publication.autocreate.mode",),
)
def _everything_published(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "publication.autocreate.mode", "all_tables", "all_tables"):
            yield Hit(part, "publication.autocreate.mode")


@guard(
    "SRC-OFS-01",
    "error",
    "a slot that was made anew or moved on is not noticed, and what lies between is lost without a word",
    cure="set `offset.mismatch.strategy=trust_offset`",
    source=f"{_DOCS}#postgresql-property-offset-mismatch-strategy",
    keys=("offset.mismatch.strategy",),
)
def _offset_unvalidated(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "offset.mismatch.strategy", "no_validation", "no_validation"):
            yield Hit(part, "offset.mismatch.strategy")


@guard(
    "SRC-OFS-02",
    "error",
    "where slot and stored offset differ the slot is believed, and what lies between is skipped by design",
    cure="set `offset.mismatch.strategy=trust_offset`",
    source=f"{_DOCS}#postgresql-property-offset-mismatch-strategy",
    keys=("offset.mismatch.strategy",),
    profiles=EXACTLY_ONCE,
)
def _slot_trusted(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "offset.mismatch.strategy", "no_validation", "trust_slot", "trust_greater_lsn"):
            yield Hit(part, "offset.mismatch.strategy")


@guard(
    "SRC-LSN-01",
    "error",
    "the driver confirms WAL to PostgreSQL ahead of any stored offset",
    cure="set `lsn.flush.mode=connector`, and keep the slot moving by heartbeats",
    source=f"{_DOCS}#postgresql-property-lsn-flush-mode",
    keys=("lsn.flush.mode",),
    profiles=EXACTLY_ONCE,
)
def _driver_confirms(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "lsn.flush.mode", "connector", "connector_and_driver"):
            yield Hit(part, "lsn.flush.mode")


@guard(
    "SRC-LSN-02",
    "error",
    "the driver moves the slot ahead of the offsets and the slot is believed on the next start: changes are skipped",
    cure="set `lsn.flush.mode=connector`, or `offset.mismatch.strategy=trust_offset`",
    source="https://github.com/debezium/dbz/issues/1863",
    keys=("lsn.flush.mode", "offset.mismatch.strategy"),
)
def _driver_confirms_and_slot_trusted(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        ahead = _is(part, "lsn.flush.mode", "connector", "connector_and_driver")
        if ahead and _is(part, "offset.mismatch.strategy", "no_validation", "trust_slot", "trust_greater_lsn"):
            yield Hit(part, "lsn.flush.mode", f"with offset.mismatch.strategy={part.get('offset.mismatch.strategy')}")


@guard(
    "SRC-LSN-03",
    "error",
    "nobody confirms WAL to PostgreSQL, which keeps it until the disk is full",
    cure="set `lsn.flush.mode=connector`",
    source=f"{_DOCS}#postgresql-property-lsn-flush-mode",
    keys=("lsn.flush.mode", "flush.lsn.source"),
)
def _nobody_confirms(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "lsn.flush.mode", "connector", "manual"):
            yield Hit(part, "lsn.flush.mode")
        elif "lsn.flush.mode" not in part.config and _is(part, "flush.lsn.source", "true", "false"):
            yield Hit(part, "flush.lsn.source")


@guard(
    "SRC-HB-01",
    "error",
    "without heartbeats the slot stands still while captured tables rest, and WAL fills the disk",
    cure="set `heartbeat.interval.ms` to some seconds, such as 5000",
    source="https://issues.redhat.com/browse/DBZ-892",
    keys=("heartbeat.interval.ms",),
)
def _no_heartbeats(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.number("heartbeat.interval.ms", 0) <= 0:
            yield Hit(part, "heartbeat.interval.ms")


@guard(
    "SRC-HB-02",
    "warning",
    "heartbeats write nothing to the database, so a slot of resting tables can't move, and nothing marks progress",
    cure="set `heartbeat.action.query` to a write of the watermark table, which is in the publication",
    source=f"{_DOCS}#postgresql-property-heartbeat-action-query",
    keys=("heartbeat.action.query",),
)
def _no_watermark(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if part.number("heartbeat.interval.ms", 0) > 0 and not part.get("heartbeat.action.query"):
            yield Hit(part, "heartbeat.action.query")


@guard(
    "SRC-SNAP-01",
    "error",
    "a snapshot is taken again into the same topics, over newer changes, without a mark",
    cure="set `snapshot.mode=initial`, or `no_data`, and re-snapshot by a signal",
    source="https://github.com/MaterializeInc/materialize/issues/14211",
    keys=("snapshot.mode",),
    profiles=EXACTLY_ONCE,
)
def _snapshot_again(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "snapshot.mode", "initial", "always", "when_needed"):
            yield Hit(part, "snapshot.mode")


@guard(
    "SRC-ERR-01",
    "error",
    "a source has no dead letter queue: what a converter or transform can't take is dropped",
    cure="set `errors.tolerance=none`",
    source="https://kafka.apache.org/documentation/#sourceconnectorconfigs_errors.tolerance",
    keys=("errors.tolerance",),
)
def _source_tolerates(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if _is(part, "errors.tolerance", "none", "all"):
            yield Hit(part, "errors.tolerance")


@guard(
    "SRC-ERR-02",
    "error",
    "a change that can't be read is left out and the connector goes on",
    cure="set `event.processing.failure.handling.mode=fail`",
    source=f"{_DOCS}#postgresql-property-event-processing-failure-handling-mode",
    keys=("event.processing.failure.handling.mode",),
)
def _unreadable_left_out(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if not _is(part, "event.processing.failure.handling.mode", "fail", "fail"):
            yield Hit(part, "event.processing.failure.handling.mode")


@guard(
    "SRC-OPS-01",
    "error",
    "inserts, updates or deletes are not captured, so the archive can't equal the table",
    cure="set `skipped.operations=none`",
    source=f"{_DOCS}#postgresql-property-skipped-operations",
    keys=("skipped.operations",),
)
def _operations_skipped(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if {"c", "u", "d"} & set(part.word("skipped.operations", "t").replace(" ", "").split(",")):
            yield Hit(part, "skipped.operations")


@guard(
    "SRC-OPS-02",
    "error",
    "a TRUNCATE leaves no trace, and the archive goes on holding the rows",
    cure="set `skipped.operations=none`: Debezium's default is t",
    source=f"{_DOCS}#postgresql-property-skipped-operations",
    keys=("skipped.operations",),
    profiles=EXACTLY_ONCE,
)
def _truncate_skipped(pipeline: Pipeline) -> Answer:
    for part in pipeline.sources:
        if "t" in part.word("skipped.operations", "t").replace(" ", "").split(","):
            yield Hit(part, "skipped.operations")
