"""Guards of topics: replicas, retention, compaction, partitions."""

from __future__ import annotations

from collections.abc import Iterator

from cdcpipe.connect.guards.rule import Answer, Hit, Unanswered, guard
from cdcpipe.connect.pipeline import ICEBERG, Part, Pipeline

_KAFKA = "https://kafka.apache.org/documentation"
_DAY_MS = 86_400_000
_INTERNAL = ("config.storage.topic", "offset.storage.topic", "status.storage.topic")


def _internal_names(pipeline: Pipeline) -> dict[str, str]:
    """Name -> key of Connect's own topics: the worker's, and those that a source has for its own offsets."""
    worker = pipeline.worker
    names = {} if worker is None else {worker.get(key): key for key in _INTERNAL if worker.get(key)}
    own = "offsets.storage.topic"
    return names | {source.get(own): own for source in pipeline.sources if source.get(own)}


def _created(pipeline: Pipeline) -> Iterator[tuple[Part, str]]:
    """Sources with rules for topics that Connect makes, and the prefix of each group."""
    for part in pipeline.sources:
        groups = ("default", *part.words("topic.creation.groups"))
        for group in groups:
            prefix = f"topic.creation.{group}."
            if any(key.startswith(prefix) for key in part.config):
                yield part, prefix


def _changes(pipeline: Pipeline) -> Iterator[Part]:
    """Declared topics of change events: those of a source's prefix but its transactions, and not Connect's own."""
    internal = _internal_names(pipeline)
    for source in pipeline.sources:
        prefix = source.get("topic.prefix")
        if not prefix:
            continue
        for topic in pipeline.topics:
            own = topic.name.startswith(f"{prefix}.") and topic.name.count(".") >= prefix.count(".") + 2
            if own and topic.name not in internal:
                yield topic


@guard(
    "TOP-ULE-01",
    "error",
    "a replica that lacks acknowledged records may become the leader, and they are lost",
    cure="set `unclean.leader.election.enable=false`",
    source=f"{_KAFKA}/#topicconfigs_unclean.leader.election.enable",
    keys=("unclean.leader.election.enable",),
)
def _unclean(pipeline: Pipeline) -> Answer:
    key = "unclean.leader.election.enable"
    for topic in pipeline.topics:
        if topic.word(key, "false") == "true":
            yield Hit(topic, key)
    for part, prefix in _created(pipeline):
        if part.word(f"{prefix}{key}", "false") == "true":
            yield Hit(part, f"{prefix}{key}")


@guard(
    "TOP-ISR-01",
    "error",
    "a record counts as written when one replica has it: that broker's death loses it",
    cure="set `min.insync.replicas=2` with 3 replicas",
    source=f"{_KAFKA}/#topicconfigs_min.insync.replicas",
    keys=("min.insync.replicas",),
)
def _min_isr(pipeline: Pipeline) -> Answer:
    if not pipeline.replicated:
        return
    for topic in pipeline.topics:
        if topic.number("min.insync.replicas", 1) < 2:
            yield Hit(topic, "min.insync.replicas")
    for part, prefix in _created(pipeline):
        if part.number(f"{prefix}min.insync.replicas", 1) < 2:
            yield Hit(part, f"{prefix}min.insync.replicas")


@guard(
    "TOP-RF-01",
    "error",
    "with fewer than 3 replicas no broker can be lost without losing records or standing still",
    cure="set the replication factor to 3",
    source=f"{_KAFKA}/#replication",
    keys=("replication.factor",),
)
def _replicas(pipeline: Pipeline) -> Answer:
    if not pipeline.replicated:
        return
    for topic in pipeline.topics:
        if 0 < topic.number("replication.factor", -1) < 3:
            yield Hit(topic, "replication.factor")
    for part, prefix in _created(pipeline):
        if 0 < part.number(f"{prefix}replication.factor", -1) < 3:
            yield Hit(part, f"{prefix}replication.factor")


@guard(
    "TOP-CTL-01",
    "error",
    "the Iceberg sink's commits are deleted by age, size or compaction, and with them files that nobody has added yet",
    cure="set `cleanup.policy=delete`, `retention.ms=-1` and `retention.bytes=-1` on the control topic",
    source="https://github.com/apache/iceberg/issues/17551",
    keys=("retention.ms", "retention.bytes", "cleanup.policy"),
)
def _control_kept(pipeline: Pipeline) -> Answer:
    for sink in pipeline.of_class(ICEBERG):
        name = sink.get("iceberg.control.topic", "control-iceberg")
        topic = pipeline.topic(name)
        if topic is None:
            yield Unanswered(f"the settings of the control topic `{name}` were not given")
        elif topic.word("cleanup.policy", "delete") != "delete":
            yield Hit(topic, "cleanup.policy")
        elif topic.number("retention.ms", 7 * _DAY_MS) >= 0:
            yield Hit(topic, "retention.ms")
        elif topic.number("retention.bytes", -1) >= 0:
            yield Hit(topic, "retention.bytes")


@guard(
    "TOP-CHG-01",
    "error",
    "compaction removes all but the last change of a key",
    cure="set `cleanup.policy=delete`",
    source=f"{_KAFKA}/#compaction",
    keys=("cleanup.policy",),
)
def _changes_compacted(pipeline: Pipeline) -> Answer:
    for topic in _changes(pipeline):
        if "compact" in topic.word("cleanup.policy", "delete"):
            yield Hit(topic, "cleanup.policy")
    for part, prefix in _created(pipeline):
        if "compact" in part.word(f"{prefix}cleanup.policy", "delete"):
            yield Hit(part, f"{prefix}cleanup.policy")


@guard(
    "TOP-CHG-02",
    "warning",
    "a sink that stands still for a day loses changes: they are deleted before it reads them",
    cure="set `retention.ms` to a week or more",
    source=f"{_KAFKA}/#topicconfigs_retention.ms",
    keys=("retention.ms",),
)
def _changes_deleted_soon(pipeline: Pipeline) -> Answer:
    for topic in _changes(pipeline):
        if 0 <= topic.number("retention.ms", 7 * _DAY_MS) < _DAY_MS:
            yield Hit(topic, "retention.ms")
    for part, prefix in _created(pipeline):
        if 0 <= part.number(f"{prefix}retention.ms", 7 * _DAY_MS) < _DAY_MS:
            yield Hit(part, f"{prefix}retention.ms")


@guard(
    "TOP-INT-01",
    "error",
    "Connect's own topic is not compacted: configs, offsets or states are deleted by age",
    cure="set `cleanup.policy=compact`",
    source=f"{_KAFKA}/#connect_running",
    keys=("cleanup.policy",),
)
def _internal_compacted(pipeline: Pipeline) -> Answer:
    for topic in pipeline.topics:
        if topic.name in _internal_names(pipeline) and topic.word("cleanup.policy", "delete") != "compact":
            yield Hit(topic, "cleanup.policy")


@guard(
    "TOP-INT-02",
    "error",
    "the topic of connector configs has more than one partition, so configs have no order",
    cure="make it with 1 partition",
    source=f"{_KAFKA}/#connectconfigs_config.storage.topic",
    keys=("partitions",),
)
def _config_partitions(pipeline: Pipeline) -> Answer:
    for topic in pipeline.topics:
        if _internal_names(pipeline).get(topic.name) == "config.storage.topic" and topic.number("partitions", 1) > 1:
            yield Hit(topic, "partitions")


@guard(
    "TOP-TX-01",
    "warning",
    "the transaction topic has more than one partition, so BEGIN and END records have no order",
    cure="make it with 1 partition",
    source="https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-transaction-metadata",
    keys=("partitions",),
)
def _transaction_partitions(pipeline: Pipeline) -> Answer:
    for source in pipeline.sources:
        name = f"{source.get('topic.prefix')}.{source.get('topic.transaction', 'transaction')}"
        topic = pipeline.topic(name)
        if topic is not None and topic.number("partitions", 1) > 1:
            yield Hit(topic, "partitions")


@guard(
    "TOP-PRT-01",
    "error",
    "the topic has another partition count than the source would make: a change of it moves keys to other partitions",
    cure="give `topic.creation.default.partitions` and the declared topic the same number, and never change it",
    source=f"{_KAFKA}/#basic_ops_modify_topic",
    keys=("partitions",),
)
def _partitions_disagree(pipeline: Pipeline) -> Answer:
    for part, prefix in _created(pipeline):
        if prefix != "topic.creation.default." or part.words("topic.creation.groups"):
            continue
        wanted = part.number(f"{prefix}partitions", -1)
        if wanted < 1:
            continue
        for topic in _changes(pipeline):
            if topic.name.startswith(f"{part.get('topic.prefix')}.") and topic.number("partitions", wanted) != wanted:
                yield Hit(topic, "partitions", f"connector `{part.name}` would make it with {wanted}")
