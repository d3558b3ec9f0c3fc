"""Guards of the Connect worker, and of what connectors need of it."""

from __future__ import annotations

from collections.abc import Iterator

from cdcpipe.connect.guards.rule import EXACTLY_ONCE, Answer, Hit, Unanswered, guard
from cdcpipe.connect.pipeline import Part, Pipeline
from cdcpipe.connect.references import references

_KIP_618 = "https://cwiki.apache.org/confluence/display/KAFKA/KIP-618"
_NO_WORKER = "no worker settings were given"
_KAFKA = "https://kafka.apache.org/documentation"


@guard(
    "WRK-EOS-01",
    "error",
    "exactly-once sources are not enabled, so changes are repeated after a crash",
    cure="set `exactly.once.source.support=enabled` (a live cluster goes through `preparing` first)",
    source=_KIP_618,
    keys=("exactly.once.source.support",),
    profiles=EXACTLY_ONCE,
)
def _eos_disabled(pipeline: Pipeline) -> Answer:
    if not pipeline.sources:
        return
    if pipeline.worker is None:
        yield Unanswered(_NO_WORKER)
    elif pipeline.worker.word("exactly.once.source.support", "disabled") != "enabled":
        yield Hit(pipeline.worker, "exactly.once.source.support")


@guard(
    "WRK-EOS-02",
    "error",
    "without the sessioned protocol a worker's requests can't be told from a stranger's, and zombies can't be fenced",
    cure="remove `connect.protocol`, or set it to `sessioned`",
    source=_KIP_618,
    keys=("connect.protocol",),
    profiles=EXACTLY_ONCE,
)
def _protocol(pipeline: Pipeline) -> Answer:
    worker = pipeline.worker
    if worker is not None and worker.word("connect.protocol", "sessioned") != "sessioned":
        yield Hit(worker, "connect.protocol")


@guard(
    "WRK-OVR-01",
    "error",
    "connectors may not override client settings, so `consumer.override.*` and `producer.override.*` are refused",
    cure="set `connector.client.config.override.policy=All`",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-458",
    keys=("connector.client.config.override.policy",),
)
def _no_overrides(pipeline: Pipeline) -> Answer:
    worker = pipeline.worker
    if worker is None or worker.word("connector.client.config.override.policy", "all") != "none":
        return
    for part in pipeline.connectors:
        if any(key.startswith(("consumer.override.", "producer.override.", "admin.override.")) for key in part.config):
            yield Hit(worker, "connector.client.config.override.policy", f"connector `{part.name}` has overrides")
            return


def _producers(pipeline: Pipeline) -> Iterator[tuple[Part, str]]:
    """Parts with settings of source producers, and the prefix that those have there."""
    if pipeline.worker is not None:
        yield pipeline.worker, "producer."
    for part in pipeline.sources:
        yield part, "producer.override."


@guard(
    "WRK-ACK-01",
    "error",
    "a record counts as written before its replicas have it: a broker's death loses it",
    cure="remove the key: Connect's own value is `acks=all`",
    source=f"{_KAFKA}/#producerconfigs_acks",
    keys=("producer.acks", "producer.override.acks"),
)
def _acks(pipeline: Pipeline) -> Answer:
    for part, prefix in _producers(pipeline):
        if part.word(f"{prefix}acks", "all") not in {"all", "-1"}:
            yield Hit(part, f"{prefix}acks")


@guard(
    "WRK-ACK-02",
    "error",
    "without an idempotent producer a retry repeats or swaps records",
    cure="remove the key; `enable.idempotence=true` is Kafka's own value",
    source=f"{_KAFKA}/#producerconfigs_enable.idempotence",
    keys=("producer.enable.idempotence", "producer.override.enable.idempotence"),
)
def _idempotence(pipeline: Pipeline) -> Answer:
    for part, prefix in _producers(pipeline):
        if part.word(f"{prefix}enable.idempotence", "true") != "true":
            yield Hit(part, f"{prefix}enable.idempotence")


@guard(
    "WRK-RF-01",
    "error",
    "the topic that this makes can't lose a broker: with the offsets goes the place in the WAL",
    cure="set the replication factor to 3",
    source=f"{_KAFKA}/#connectconfigs_offset.storage.replication.factor",
    keys=(
        "config.storage.replication.factor",
        "offset.storage.replication.factor",
        "status.storage.replication.factor",
    ),
)
def _internal_replicas(pipeline: Pipeline) -> Answer:
    worker = pipeline.worker
    if worker is None or not pipeline.replicated:
        return
    for kind in ("config", "offset", "status"):
        key = f"{kind}.storage.replication.factor"
        if 0 < worker.number(key, 3) < 3:
            yield Hit(worker, key)


@guard(
    "WRK-PRV-01",
    "error",
    "a reference names a config provider that the worker hasn't got, so it is taken for the value itself",
    cure="add the provider to `config.providers`",
    source="https://cwiki.apache.org/confluence/display/KAFKA/KIP-297",
    keys=("config.providers",),
)
def _unknown_provider(pipeline: Pipeline) -> Answer:
    if pipeline.worker is None:
        if any(references(text) for part in pipeline.connectors for text in part.config.values()):
            yield Unanswered(_NO_WORKER)
        return
    known = pipeline.worker.words("config.providers")
    for part in (*pipeline.connectors, pipeline.worker):
        for key, text in part.config.items():
            for name in references(text):
                if name not in known:
                    yield Hit(part, key, f"`{name}`")
