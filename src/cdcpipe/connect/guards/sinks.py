"""Guards that hold for every sink: what it reads, what it drops, how a row names its record."""

from __future__ import annotations

from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, Unanswered, guard
from cdcpipe.connect.pipeline import AIVEN_S3, CONFLUENT_S3, Part, Pipeline

_KAFKA = "https://kafka.apache.org/documentation"
_SMT = "org.apache.kafka.connect.transforms"
_INSERT = f"{_SMT}.InsertField"
_FILTER = f"{_SMT}.Filter"
_TOMBSTONE = f"{_SMT}.predicates.RecordIsTombstone"
_UNWRAP = "io.debezium.transforms.ExtractNewRecordState"
_ICEBERG_METADATA = "org.apache.iceberg.connect.transforms.KafkaMetadataTransform"
_PLACE = ("topic.field", "partition.field", "offset.field")


@guard(
    "SNK-ISO-01",
    "error",
    "the sink reads records of transactions that were aborted, or are still open",
    cure="set `consumer.override.isolation.level=read_committed`",
    source=f"{_KAFKA}/#consumerconfigs_isolation.level",
    keys=("consumer.override.isolation.level", "consumer.isolation.level"),
    profiles=EXACTLY_ONCE,
)
def _uncommitted(pipeline: Pipeline) -> Answer:
    default = pipeline.worker.get("consumer.isolation.level") if pipeline.worker else ""
    for part in pipeline.sinks:
        if part.word("consumer.override.isolation.level", default) != "read_committed":
            yield Hit(part, "consumer.override.isolation.level")


@guard(
    "SNK-OFS-01",
    "error",
    "a sink without an offset begins at the end of its topics: a new topic's or a late sink's records are lost",
    cure="set `consumer.override.auto.offset.reset=earliest`",
    source=f"{_KAFKA}/#consumerconfigs_auto.offset.reset",
    keys=("consumer.override.auto.offset.reset", "consumer.auto.offset.reset"),
)
def _from_the_end(pipeline: Pipeline) -> Answer:
    default = (pipeline.worker.get("consumer.auto.offset.reset") if pipeline.worker else "") or "earliest"
    for part in pipeline.sinks:
        if part.word("consumer.override.auto.offset.reset", default) == "latest":
            yield Hit(part, "consumer.override.auto.offset.reset")


@guard(
    "SNK-GRP-01",
    "error",
    "two sinks read as one consumer group, and each gets a part of the partitions",
    cure="remove `consumer.override.group.id`, or give each sink its own",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-458",
    keys=("consumer.override.group.id",),
)
def _shared_group(pipeline: Pipeline) -> Answer:
    seen: dict[str, Part] = {}
    for part in pipeline.sinks:
        group = part.get("consumer.override.group.id", f"connect-{part.name}")
        first = seen.setdefault(group, part)
        if first is not part:
            yield Hit(part, "consumer.override.group.id", f"sink `{first.name}` has it, too")


@guard(
    "SNK-ERR-01",
    "error",
    "records that can't be converted are dropped without a trace: offsets pass them, and they are nowhere",
    cure="set `errors.deadletterqueue.topic.name`, or `errors.tolerance=none`",
    source="https://github.com/confluentinc/kafka-connect-jdbc/issues/1597",
    keys=("errors.tolerance", "errors.deadletterqueue.topic.name"),
)
def _no_queue(pipeline: Pipeline) -> Answer:
    for part in pipeline.sinks:
        if part.word("errors.tolerance", "none") == "all" and not part.get("errors.deadletterqueue.topic.name"):
            yield Hit(part, "errors.tolerance")


@guard(
    "SNK-ERR-02",
    "warning",
    "a dead letter doesn't say which topic, partition and offset it comes from, nor why it failed",
    cure="set `errors.deadletterqueue.context.headers.enable=true`",
    source=f"{_KAFKA}/#sinkconnectorconfigs_errors.deadletterqueue.context.headers.enable",
    keys=("errors.deadletterqueue.context.headers.enable",),
)
def _no_context(pipeline: Pipeline) -> Answer:
    key = "errors.deadletterqueue.context.headers.enable"
    for part in pipeline.sinks:
        if part.get("errors.deadletterqueue.topic.name") and part.word(key, "false") != "true":
            yield Hit(part, key)


@guard(
    "SNK-ROW-01",
    "error",
    "an archived row doesn't name its topic, partition and offset, so a lost or repeated one can't be told",
    cure=f"add a transform of type `{_INSERT}$Value` with topic.field, partition.field and offset.field",
    source=f"{_KAFKA}/#{_INSERT}",
    keys=("transforms", "format.output.fields"),
)
def _row_without_place(pipeline: Pipeline) -> Answer:
    for part in pipeline.sinks:
        if part.java_class == AIVEN_S3:
            if "offset" not in part.words("format.output.fields", "value"):
                yield Hit(part, "format.output.fields")
            continue
        found: set[str] = set()
        for name, java_class in part.transforms():
            if java_class == _ICEBERG_METADATA:
                found.update(_PLACE)
            if java_class == _INSERT and part.get(f"transforms.{name}.type").endswith("$Value"):
                found.update(key for key in _PLACE if part.get(f"transforms.{name}.{key}"))
        if missing := [key for key in _PLACE if key not in found]:
            yield Hit(part, "transforms", f"{', '.join(missing)} missing")


@guard(
    "SNK-ROW-02",
    "error",
    "a null in a column with a default is archived as the default",
    cure="set `replace.null.with.default=false` on the transform",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-1040",
    keys=("transforms.<name>.replace.null.with.default",),
)
def _null_becomes_default(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        for name, java_class in part.transforms():
            key = f"transforms.{name}.replace.null.with.default"
            if java_class in {_INSERT, f"{_SMT}.ReplaceField"} and part.word(key, "true") != "false":
                yield Hit(part, key, f"transform `{name}`")


def _drops_tombstones(part: Part) -> bool:
    """A transform of this connector takes tombstones out of the stream."""
    for name, java_class in part.transforms():
        predicate = part.get(f"transforms.{name}.predicate")
        is_tombstone = predicate and part.get(f"predicates.{predicate}.type") == _TOMBSTONE
        if java_class == _FILTER and is_tombstone and part.word(f"transforms.{name}.negate", "false") == "false":
            return True
        handling = part.word(f"transforms.{name}.delete.tombstone.handling.mode", "tombstone")
        if java_class == _UNWRAP and handling in {"drop", "rewrite"}:
            return True
    return False


@guard(
    "SNK-TMB-01",
    "error",
    "the source follows each delete by a record without value, which this sink stops at or drops unseen",
    cure="set `tombstones.on.delete=false` on the source, or filter tombstones by a RecordIsTombstone predicate",
    source="https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-property-tombstones-on-delete",
    keys=("tombstones.on.delete", "behavior.on.null.values"),
)
def _tombstones(pipeline: Pipeline) -> Answer:
    takers = [part for part in pipeline.sinks if not _takes_tombstones(part)]
    if takers and not pipeline.sources:
        yield Unanswered("no source config was given, and its default is to write tombstones")
    for source in pipeline.sources:
        if source.word("tombstones.on.delete", "true") != "true" or _drops_tombstones(source):
            continue
        for part in takers:
            yield Hit(source, "tombstones.on.delete", f"sink `{part.name}`")


def _takes_tombstones(part: Part) -> bool:
    if _drops_tombstones(part):
        return True
    return part.java_class == CONFLUENT_S3 and part.word("behavior.on.null.values", "fail") in {"ignore", "write"}


@guard(
    "SNK-DRP-01",
    "warning",
    "a filter drops records: each is a hole in the archive unless it is declared",
    cure="capture less at the source (`table.include.list`), or declare the drop where the archive is verified",
    source="https://issues.apache.org/jira/browse/KAFKA-15296",
    keys=("transforms",),
)
def _filters(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        for name, java_class in part.transforms():
            predicate = part.get(f"transforms.{name}.predicate")
            harmless = part.get(f"predicates.{predicate}.type") == _TOMBSTONE if predicate else False
            if java_class in {_FILTER, "io.debezium.transforms.Filter"} and not harmless:
                yield Hit(part, f"transforms.{name}.type", f"transform `{name}`")


@guard(
    "SNK-ENV-01",
    "warning",
    "the before image, the transaction and the operation are taken out before the archive: it is no audit trail",
    cure="archive the whole envelope, or add op, source.lsn, source.txId and transaction.total_order by `add.fields`",
    source="https://debezium.io/documentation/reference/stable/transformations/event-flattening.html",
    keys=("transforms.<name>.add.fields",),
    profiles=EXACTLY_ONCE,
)
def _unwrapped(pipeline: Pipeline) -> Answer:
    for part in pipeline.connectors:
        for name, java_class in part.transforms():
            kept = set(part.words(f"transforms.{name}.add.fields"))
            if java_class == _UNWRAP and not {"op", "source.lsn"} <= {field.partition(":")[0] for field in kept}:
                yield Hit(part, f"transforms.{name}.type", f"transform `{name}`")
