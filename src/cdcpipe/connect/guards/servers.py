"""Guards that ask the servers: versions of the plugins and brokers, topics, and what Connect says of the configs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cdcpipe.connect.facts import Facts
from cdcpipe.connect.guards.database import captured_by, some
from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, Unanswered, live_guard
from cdcpipe.connect.pipeline import DEBEZIUM_POSTGRES, ICEBERG, Part, Pipeline

_DBZ = "https://github.com/debezium/dbz/issues"
_CONNECT = ("connect",)
_METADATA_4_3 = 30  # metadata.version 4.3-IV0


def _older(version: str, floor: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < floor


def _running(pipeline: Pipeline, facts: Facts, java_class: str) -> Iterator[tuple[Part, str] | Unanswered]:
    for part in pipeline.of_class(java_class):
        version = facts.plugins.get(java_class, "")
        if re.match(r"\d+\.\d+", version):
            yield part, version
        elif java_class in facts.plugins:
            yield Unanswered(f"the version of {java_class} is unknown")


@live_guard(
    "DBZ-VER-01",
    "error",
    "this Debezium skips changes after a restart: several at one LSN (COPY, multi-row INSERT), and on PostgreSQL 17 "
    "and newer a transaction that begins where the last one ended",
    cure="update Debezium to 3.7 or newer",
    source=f"{_DBZ}/1554",
    keys=("connector.class",),
    needs=_CONNECT,
)
def _old_debezium(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in _running(pipeline, facts, DEBEZIUM_POSTGRES):
        if isinstance(found, Unanswered):
            yield found
        elif _older(found[1], (3, 7)):
            yield Hit(found[0], "connector.class", f"it is {found[1]}")


@live_guard(
    "DBZ-VER-03",
    "warning",
    "Debezium 3.7.0 loses or repeats rows of a COPY when it is killed within it: they share an LSN, and it counts them "
    "wrong",
    cure="update Debezium to 3.7.1, or let COPY write row by row (`cdcpipe.stack.rowwise`), or don't COPY into them",
    source=f"{_DBZ}/1554",
    keys=("table.include.list",),
    needs=("connect", "postgres"),
)
def _miscounted(pipeline: Pipeline, facts: Facts) -> Answer:
    versions: dict[str, str] = {}
    for found in _running(pipeline, facts, DEBEZIUM_POSTGRES):
        if isinstance(found, Unanswered):
            yield found
        else:
            versions[found[0].name] = found[1]
    for source in captured_by(pipeline, facts):
        if isinstance(source, Unanswered):
            yield source
            continue
        part, _, tables = source
        bare = sorted(table.name for table in tables if not table.row_by_row)
        if bare and versions.get(part.name, "").startswith("3.7.0."):
            yield Hit(part, "table.include.list", some(bare))


@live_guard(
    "DBZ-VER-02",
    "error",
    "this Debezium loses the common snapshot of its threads: the initial load isn't of one moment",
    cure="set `snapshot.max.threads=1`, or update Debezium to 3.7 or newer",
    source=f"{_DBZ}/2330",
    keys=("snapshot.max.threads",),
    needs=_CONNECT,
)
def _threads(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in _running(pipeline, facts, DEBEZIUM_POSTGRES):
        if isinstance(found, Unanswered):
            yield found
        elif _older(found[1], (3, 7)) and found[0].number("snapshot.max.threads", 1) > 1:
            yield Hit(found[0], "snapshot.max.threads", f"it is {found[1]}")


@live_guard(
    "ICE-VER-01",
    "error",
    "this Iceberg sink can commit files twice, or never, after a rebalance",
    cure="update the Iceberg sink to 1.12 or newer",
    source="https://github.com/apache/iceberg/issues/17340",
    keys=("connector.class",),
    needs=_CONNECT,
)
def _old_iceberg(pipeline: Pipeline, facts: Facts) -> Answer:
    for found in _running(pipeline, facts, ICEBERG):
        if isinstance(found, Unanswered):
            yield found
        elif _older(found[1], (1, 12)):
            yield Hit(found[0], "connector.class", f"it is {found[1]}")


@live_guard(
    "KFK-TXN-01",
    "error",
    "the brokers' transactions let a late commit or abort end a later transaction",
    cure="raise the feature: kafka-features.sh upgrade --feature transaction.version=2 (Kafka 4.0 or newer)",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-890",
    keys=("connector.class",),
    needs=("kafka",),
    profiles=EXACTLY_ONCE,
)
def _old_transactions(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        if facts.transaction_version is None:
            yield Unanswered("the brokers don't say their transaction.version in plain text")
        elif facts.transaction_version < 2:
            yield Hit(part, "connector.class", f"transaction.version is {facts.transaction_version}")


@live_guard(
    "KFK-TXN-02",
    "error",
    "the worker's producers speak the older transaction protocol, where a late commit can end a later transaction",
    cure="update Kafka Connect to 4.0 or newer",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-890",
    keys=("connector.class",),
    needs=_CONNECT,
    profiles=EXACTLY_ONCE,
)
def _old_clients(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        if _older(facts.worker_version, (4, 0)):
            yield Hit(part, "connector.class", f"the worker is {facts.worker_version}")


@live_guard(
    "KFK-TXN-03",
    "warning",
    "a broker that starts can end a transaction without its markers when no replica of a partition leads: then it "
    "hangs, or what was aborted is committed",
    cure="run brokers of 4.2, or a release with KAFKA-20734 (4.3.0 to 4.4.0 lack it); three replicas make it rare",
    source="https://github.com/apache/kafka/pull/22680",
    keys=("connector.class",),
    needs=("kafka",),
    profiles=EXACTLY_ONCE,
)
def _markers_lost(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.sources:
        if facts.metadata_version is None:
            yield Unanswered("the brokers don't say their metadata.version in plain text")
        elif facts.metadata_version >= _METADATA_4_3:
            yield Hit(
                part, "connector.class", f"metadata.version is {facts.metadata_version}, so they are 4.3 or newer"
            )


@live_guard(
    "TOP-PRT-02",
    "error",
    "the topic has another partition count than declared: changing it moves keys to other partitions",
    cure="declare what is there; to have more, make a new topic and re-snapshot into it",
    source="https://kafka.apache.org/documentation/#basic_ops_modify_topic",
    keys=("partitions",),
    needs=("kafka",),
)
def _partitions(pipeline: Pipeline, facts: Facts) -> Answer:
    for live in facts.topics:
        declared = pipeline.declared_partitions.get(live.name)
        if declared and declared != live.number("partitions", declared):
            topic = pipeline.topic(live.name)
            assert topic is not None
            yield Hit(topic, "partitions", f"declared is {declared}")


@live_guard(
    "CON-PLG-01",
    "error",
    "the plugin isn't installed on the worker that was asked",
    cure="install it below the worker's `plugin.path`",
    source="https://kafka.apache.org/documentation/#connectconfigs_plugin.path",
    keys=("connector.class",),
    needs=_CONNECT,
)
def _not_installed(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.connectors:
        if part.java_class not in facts.plugins:
            yield Hit(part, "connector.class")


@live_guard(
    "CON-VAL-01",
    "error",
    "Kafka Connect refuses the config",
    cure="correct what it names",
    source="https://kafka.apache.org/documentation/#connect_rest",
    keys=(),
    needs=_CONNECT,
)
def _refused(pipeline: Pipeline, facts: Facts) -> Answer:
    for part in pipeline.connectors:
        for key, messages in facts.refusals.get(part.name, {}).items():
            yield Hit(part, key, "; ".join(messages))
