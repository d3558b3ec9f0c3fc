"""Each guard has a pipeline that breaks it and nothing else; the pipelines that the builders give break none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
from tests.unit.connect_pipelines import changed, facts, pipeline, twin

from cdcpipe.connect.facts import Facts, Publication, Slot, Table
from cdcpipe.connect.guards import PROFILES, Guard, Profile, check, guards
from cdcpipe.connect.pipeline import DEBEZIUM_POSTGRES, ICEBERG, Part, Pipeline, Place

Change = Callable[[Pipeline], Pipeline]
OVERRIDES = "connector.client.config.override.policy"
FILTER = "org.apache.kafka.connect.transforms.Filter"
UNWRAP = "io.debezium.transforms.ExtractNewRecordState"
JSON = "org.apache.kafka.connect.json.JsonConverter"


_SIDES = ("key", "value")
_STRINGS: dict[str, str | None] = {
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
}


class Broken(NamedTuple):
    """A pipeline that breaks `rule` only, in this profile."""

    rule: str
    change: Change
    flavour: str = "iceberg"
    profile: Profile = "exactly_once"


def at(part: str) -> Callable[[dict[str, str | None]], Change]:
    return lambda changes: lambda whole: changed(whole, part, changes)


def source(key: str, value: str | None) -> Change:
    return at("source")({key: value})


def sink(key: str, value: str | None) -> Change:
    return at("sink")({key: value})


def worker(key: str, value: str | None) -> Change:
    return at("worker")({key: value})


def topic(name: str, key: str, value: str | None) -> Change:
    return at(name)({key: value})


def without_converters(part: str) -> dict[str, str | None]:
    whole = next(one for one in pipeline("iceberg").connectors if one.name == part)
    return {key: None for key in whole.config if key.startswith(("key.converter", "value.converter"))}


def json_everywhere(whole: Pipeline) -> Pipeline:
    plain: dict[str, str | None] = {
        "value.converter": JSON,
        "value.converter.schemas.enable": "false",
        "value.converter.replace.null.with.default": "false",
        "key.converter": JSON,
    }
    for part in ("source", "sink"):
        whole = changed(changed(whole, part, without_converters(part)), part, plain)
    return whole


BROKEN = [
    Broken("SRC-EOS-01", source("exactly.once.support", "requested")),
    Broken("SRC-EOS-01", source("exactly.once.support", None)),
    Broken("SRC-EOS-02", source("transaction.boundary", "interval")),
    Broken("SRC-TX-01", source("provide.transaction.metadata", None)),
    Broken("SRC-SLOT-01", lambda p: twin(p, "source", {"publication.name": "b", "topic.prefix": "b"})),
    Broken("SRC-SLOT-02", source("slot.name", None)),
    Broken("SRC-SLOT-03", source("slot.drop.on.stop", "true")),
    Broken("SRC-SLOT-04", source("internal.log.position.check.enable", "false")),
    Broken("SRC-PUB-01", lambda p: twin(p, "source", {"slot.name": "b", "topic.prefix": "b"})),
    Broken("SRC-PUB-02", source("publication.name", "dbz_publication")),
    Broken("SRC-PUB-03", source("publication.autocreate.mode", "filtered")),
    Broken("SRC-PUB-04", source("publication.autocreate.mode", None)),
    Broken("SRC-OFS-01", source("offset.mismatch.strategy", None)),
    Broken("SRC-OFS-02", source("offset.mismatch.strategy", "trust_slot")),
    Broken("SRC-OFS-02", source("offset.mismatch.strategy", "trust_greater_lsn")),
    Broken("SRC-LSN-01", source("lsn.flush.mode", "connector_and_driver")),
    Broken(
        "SRC-LSN-02",
        at("source")({"lsn.flush.mode": "connector_and_driver", "offset.mismatch.strategy": "trust_slot"}),
        profile="at_least_once",
    ),
    Broken("SRC-LSN-03", source("lsn.flush.mode", "manual")),
    Broken("SRC-LSN-03", at("source")({"lsn.flush.mode": None, "flush.lsn.source": "false"})),
    Broken("SRC-HB-01", source("heartbeat.interval.ms", None)),
    Broken("SRC-HB-01", source("heartbeat.interval.ms", "0")),
    Broken("SRC-HB-02", source("heartbeat.action.query", None)),
    Broken("SRC-SNAP-01", source("snapshot.mode", "always")),
    Broken("SRC-SNAP-01", source("snapshot.mode", "when_needed")),
    Broken("SRC-ERR-01", source("errors.tolerance", "all")),
    Broken("SRC-ERR-02", source("event.processing.failure.handling.mode", "skip")),
    Broken("SRC-OPS-01", source("skipped.operations", "d")),
    Broken("SRC-OPS-02", source("skipped.operations", None)),
    Broken("VAL-01", source("decimal.handling.mode", "double")),
    Broken("VAL-02", source("time.precision.mode", "connect")),
    Broken("VAL-03", source("interval.handling.mode", None)),
    Broken("VAL-04", source("event.converting.failure.handling.mode", None)),
    Broken("VAL-05", source("unavailable.value.placeholder", None)),
    Broken(
        "VAL-06",
        at("source")(
            {
                "post.processors": "again",
                "again.type": "io.debezium.processors.reselect.ReselectColumnsPostProcessor",
            }
        ),
    ),
    Broken("VAL-07", source("schema.refresh.mode", "columns_diff_exclude_unchanged_toast")),
    Broken("VAL-08", source("field.name.adjustment.mode", None)),
    Broken("WRK-EOS-01", worker("exactly.once.source.support", None)),
    Broken("WRK-EOS-01", worker("exactly.once.source.support", "preparing")),
    Broken("WRK-EOS-02", worker("connect.protocol", "compatible")),
    Broken("WRK-OVR-01", worker(OVERRIDES, "None")),
    Broken("WRK-ACK-01", source("producer.override.acks", "1")),
    Broken("WRK-ACK-01", worker("producer.acks", "0")),
    Broken("WRK-ACK-02", worker("producer.enable.idempotence", "false")),
    Broken("WRK-RF-01", worker("offset.storage.replication.factor", "1")),
    Broken("WRK-PRV-01", source("database.password", "${vault:/a:b}")),
    Broken("TOP-ULE-01", topic("connect-offsets", "unclean.leader.election.enable", "true")),
    Broken("TOP-ULE-01", source("topic.creation.default.unclean.leader.election.enable", "true")),
    Broken("TOP-ISR-01", topic("shop.public.orders", "min.insync.replicas", "1")),
    Broken("TOP-ISR-01", topic("shop.public.orders", "min.insync.replicas", None)),
    Broken("TOP-ISR-01", source("topic.creation.default.min.insync.replicas", None)),
    Broken("TOP-RF-01", topic("shop.public.orders", "replication.factor", "2")),
    Broken("TOP-RF-01", source("topic.creation.default.replication.factor", "1")),
    Broken("TOP-CTL-01", topic("shop.iceberg-control", "retention.ms", None)),
    Broken("TOP-CTL-01", topic("shop.iceberg-control", "retention.bytes", "1000000")),
    Broken("TOP-CTL-01", topic("shop.iceberg-control", "cleanup.policy", "compact")),
    Broken("TOP-CHG-01", topic("shop.public.orders", "cleanup.policy", "compact")),
    Broken("TOP-CHG-01", source("topic.creation.default.cleanup.policy", "compact,delete")),
    Broken("TOP-CHG-02", topic("shop.public.orders", "retention.ms", "3600000")),
    Broken("TOP-CHG-02", source("topic.creation.default.retention.ms", "3600000")),
    Broken("TOP-INT-01", topic("connect-offsets", "cleanup.policy", "delete")),
    Broken("TOP-INT-01", source("offsets.storage.topic", "shop.transaction")),
    Broken("TOP-INT-02", topic("connect-configs", "partitions", "2")),
    Broken("TOP-TX-01", topic("shop.transaction", "partitions", "3")),
    Broken("TOP-PRT-01", topic("shop.public.orders", "partitions", "6")),
    Broken("SNK-ISO-01", sink("consumer.override.isolation.level", None)),
    Broken("SNK-ISO-01", sink("consumer.override.isolation.level", "read_uncommitted"), "confluent"),
    Broken("SNK-OFS-01", sink("consumer.override.auto.offset.reset", "latest")),
    Broken(
        "SNK-GRP-01",
        lambda p: twin(
            p,
            "sink",
            {
                "consumer.override.group.id": "connect-sink",
                "iceberg.connect.group-id": "connect-sink",
                "iceberg.control.topic": "shop.iceberg-control-2",
            },
        ),
    ),
    Broken("SNK-ERR-01", at("sink")({"errors.deadletterqueue.topic.name": None})),
    Broken("SNK-ERR-02", sink("errors.deadletterqueue.context.headers.enable", None)),
    Broken("SNK-ROW-01", sink("transforms.meta.offset.field", None)),
    Broken("SNK-ROW-01", sink("format.output.fields", None), "aiven", "at_least_once"),
    Broken("SNK-ROW-02", sink("transforms.meta.replace.null.with.default", None)),
    Broken("SNK-TMB-01", source("tombstones.on.delete", None)),
    Broken("SNK-TMB-01", source("tombstones.on.delete", "true"), "confluent"),
    Broken("SNK-DRP-01", at("source")({"transforms": "drop", "transforms.drop.type": FILTER})),
    Broken("SNK-ENV-01", at("source")({"transforms": "flat", "transforms.flat.type": UNWRAP})),
    Broken("S3C-ROT-01", sink("rotate.schedule.interval.ms", "60000"), "confluent"),
    Broken(
        "S3C-ROT-02",
        at("sink")({"rotate.schedule.interval.ms": "60000", "store.kafka.keys": "true"}),
        "confluent",
        "at_least_once",
    ),
    Broken(
        "S3C-ROT-02",
        at("sink")({"rotate.schedule.interval.ms": "60000", "enable.conditional.writes": "false"}),
        "confluent",
        "at_least_once",
    ),
    Broken("S3C-ROT-03", sink("rotate.interval.ms", None), "confluent"),
    Broken("S3C-TIM-01", sink("timestamp.extractor", None), "confluent"),
    Broken("S3C-TIM-02", sink("timezone", "Europe/Berlin"), "confluent"),
    Broken("S3C-TIM-03", sink("path.format", "'year'=YYYY/'month'=MM/'day'=dd/'hour'=hh"), "confluent"),
    Broken("S3C-SCH-01", sink("schema.compatibility", None), "confluent"),
    Broken("ICE-OFS-01", sink("iceberg.kafka.auto.offset.reset", None)),
    Broken("ICE-CTL-01", lambda p: twin(p, "sink", {})),
    Broken("ICE-CTL-02", lambda p: _control_named(p, "control-iceberg")),
    Broken("ICE-APP-01", sink("iceberg.tables.cdc-field", "_cdc.op")),
    Broken("ICE-SCH-01", sink("iceberg.tables.evolve-schema-enabled", None)),
    Broken("AIV-EOS-01", lambda p: p, "aiven"),
    Broken("AIV-MEM-01", sink("file.max.records", None), "aiven", "at_least_once"),
    Broken("AIV-TIM-01", sink("file.name.timestamp.source", None), "aiven", "at_least_once"),
    Broken("AIV-TIM-02", sink("file.name.timestamp.timezone", "Europe/Berlin"), "aiven", "at_least_once"),
    Broken("CNV-01", lambda p: changed(changed(p, "sink", without_converters("sink")), "sink", _STRINGS)),
    Broken(
        "CNV-02",
        lambda p: _both(p, {f"{side}.converter.apicurio.registry.headers.enabled": "true" for side in _SIDES}),
    ),
    Broken("CNV-03", sink("value.converter.apicurio.registry.use-id", None)),
    Broken("CNV-04", json_everywhere),
    Broken("CNV-05", sink("value.converter.latest.compatibility.strict", "false"), "confluent"),
    Broken("CNV-06", sink("value.converter.ignore.default.for.nullables", None), "confluent"),
    Broken("CNV-07", sink("key.converter.apicurio.registry.as-confluent", None)),
    Broken("KEY-01", sink("iceberg.tables.evolve-schema-enable", "true")),
    Broken("KEY-01", source("transforms.gone.type", FILTER)),
    Broken("KEY-01", sink("value.converter.apicurio.registry.autoregister", "true")),
    Broken("KEY-02", sink("flush.size", None), "confluent"),
    Broken("KEY-03", source("offset.mismatch.strategy", "trust_offst")),
    Broken("REG-01", at("registry")({"compatibility": "NONE"})),
    Broken("REG-02", at("registry")({"compatibility": "FULL"})),
    Broken("SEC-01", source("database.password", "hunter2")),
    Broken("SEC-02", sink("iceberg.catalog.uri", "jdbc:postgresql://catalog/iceberg?user=a&password=hunter2")),
    Broken("SEC-02", sink("value.converter.schema.registry.url", "http://me:hunter2@registry:8081"), "confluent"),
    Broken("SEC-03", worker("config.providers.file.param.allowed.paths", None)),
    Broken("SEC-04", sink("errors.log.include.messages", "true")),
    Broken("SEC-05", sink("iceberg.catalog.s3.endpoint", "http://s3.example.org:9000")),
    Broken("SEC-05", sink("iceberg.catalog.s3.endpoint", "http://minio:9000")),
    Broken("SEC-05", sink("iceberg.catalog.s3.endpoint", "http://s3.storage.svc:9000")),
]


def _both(whole: Pipeline, changes: dict[str, str | None] | dict[str, str]) -> Pipeline:
    for part in ("source", "sink"):
        whole = changed(whole, part, dict(changes))
    return whole


def _control_named(whole: Pipeline, name: str) -> Pipeline:
    topics = tuple(replace(one, name=name) if one.name == "shop.iceberg-control" else one for one in whole.topics)
    return changed(replace(whole, topics=topics), "sink", {"iceberg.control.topic": name})


def _rules(whole: Pipeline, profile: Profile, servers: Facts | None = None) -> set[str]:
    return {found.rule for found in check(whole, profile=profile, facts=servers).findings}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.rule)
def test_a_guard_finds_what_breaks_it_and_nothing_else_is_found(broken: Broken) -> None:
    assert _rules(broken.change(pipeline(broken.flavour)), broken.profile) == {broken.rule}


@pytest.mark.parametrize("flavour", ["iceberg", "confluent"])
@pytest.mark.parametrize("profile", PROFILES)
def test_what_the_builders_give_breaks_no_guard(flavour: str, profile: Profile) -> None:
    report = check(pipeline(flavour), profile=profile)
    assert report.findings == ()
    assert report.unanswered == ()


def test_aivens_sink_is_good_for_at_least_once_only() -> None:
    assert _rules(pipeline("aiven"), "at_least_once") == set()
    assert _rules(pipeline("aiven"), "exactly_once") == {"AIV-EOS-01"}


def test_servers_in_order_break_no_guard() -> None:
    for flavour in ("iceberg", "confluent"):
        report = check(pipeline(flavour), facts=facts())
        assert report.findings == ()
        assert report.unanswered == ()


class BrokenServer(NamedTuple):
    """Facts that break `rule` only."""

    rule: str
    change: Callable[[Facts], Facts]
    pipeline: Change = lambda whole: whole


def _database(**changes: object) -> Callable[[Facts], Facts]:
    def change(servers: Facts) -> Facts:
        assert servers.database is not None
        return replace(servers, database=replace(servers.database, **changes))  # type: ignore[arg-type]

    return change


_ALL = frozenset({"insert", "update", "delete", "truncate"})
_BOTH = frozenset({"public.orders", "cdcpipe.watermark"})


def _published(**changes: object) -> Callable[[Facts], Facts]:
    publication = replace(Publication("shop", _BOTH, _ALL), **changes)  # type: ignore[arg-type]
    return _database(publications={"shop": publication})


def _identity(table: Table) -> Callable[[Facts], Facts]:
    return _database(
        tables={"public.orders": table, "cdcpipe.watermark": Table("cdcpipe.watermark", "f", True, (), row_by_row=True)}
    )


def _slot(**changes: object) -> Callable[[Facts], Facts]:
    slot = replace(Slot("shop_source", "pgoutput", "shop", "reserved", False), **changes)  # type: ignore[arg-type]
    return _database(slots={"shop_source": slot})


def _versions(**changes: str) -> Callable[[Facts], Facts]:
    names = {"debezium": DEBEZIUM_POSTGRES, "iceberg": ICEBERG}
    return lambda servers: replace(
        servers, plugins={**servers.plugins, **{names[name]: version for name, version in changes.items()}}
    )


def _uninstalled(servers: Facts) -> Facts:
    return replace(servers, plugins={ICEBERG: "1.12.0"})


def _live_topic(name: str, **config: str) -> Callable[[Facts], Facts]:
    healthy = {
        "partitions": "3",
        "replication.factor": "3",
        "min.insync.replicas": "2",
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "retention.bytes": "-1",
    }
    changes = {key.replace("_", "."): value for key, value in config.items()}
    part = Part("topic", name, {**healthy, **changes}, Place("kafka://kafka:9092", name))
    return lambda servers: replace(servers, topics=(part,))


SERVERS = [
    BrokenServer("PG-PUB-01", _database(publications={})),
    BrokenServer("PG-PUB-02", _published(tables=frozenset({"cdcpipe.watermark"}))),
    BrokenServer("PG-PUB-03", _published(operations=_ALL - {"truncate"})),
    BrokenServer("PG-PUB-04", _published(row_filters=("public.orders",))),
    BrokenServer("PG-PUB-04", _published(column_lists=("public.orders",))),
    BrokenServer("PG-PUB-05", lambda servers: servers, source("signal.data.collection", "cdcpipe.signals")),
    BrokenServer("PG-RID-01", _identity(Table("public.orders", "d", False, (), row_by_row=True))),
    BrokenServer("PG-RID-01", _identity(Table("public.orders", "n", True, (), row_by_row=True))),
    BrokenServer("PG-RID-02", _identity(Table("public.orders", "d", True, ("note",), row_by_row=True))),
    BrokenServer("PG-SLT-01", _slot(wal_status="lost")),
    BrokenServer("PG-SLT-01", _slot(reason="idle_timeout")),
    BrokenServer("PG-SLT-02", _slot(plugin="wal2json")),
    BrokenServer("PG-SLT-02", _slot(database="other")),
    BrokenServer("PG-SLT-03", _database(standbys=1)),
    BrokenServer("PG-SET-01", _database(settings={"wal_level": "replica"})),
    BrokenServer("PG-SET-02", _database(settings={"wal_level": "logical", "idle_replication_slot_timeout": "3600"})),
    BrokenServer("PG-VER-01", _database(version=170004)),
    BrokenServer("PG-VER-01", _database(version=120022)),
    BrokenServer("DBZ-VER-01", _versions(debezium="3.6.1.Final")),
    BrokenServer("DBZ-VER-03", _identity(Table("public.orders", "f", True, ()))),
    BrokenServer("ICE-VER-01", _versions(iceberg="1.11.0")),
    BrokenServer("KFK-TXN-01", lambda servers: replace(servers, transaction_version=1)),
    BrokenServer("KFK-TXN-03", lambda servers: replace(servers, metadata_version=30)),
    BrokenServer("KFK-TXN-02", lambda servers: replace(servers, worker_version="3.9.1")),
    BrokenServer("TOP-PRT-02", _live_topic("shop.dead-letters", partitions="2")),
    BrokenServer("TOP-CTL-01", _live_topic("shop.iceberg-control", partitions="1")),
    BrokenServer("TOP-CHG-01", _live_topic("shop.public.later", cleanup_policy="compact")),
    BrokenServer("REG-02", lambda servers: replace(servers, compatibility="BACKWARD")),
    BrokenServer("CON-PLG-01", _uninstalled),
    BrokenServer("CON-VAL-01", lambda servers: replace(servers, refusals={"sink": {"topics": ("no",)}})),
]


@pytest.mark.parametrize("broken", SERVERS, ids=lambda broken: broken.rule)
def test_a_guard_that_asks_finds_what_breaks_it_and_nothing_else_is_found(broken: BrokenServer) -> None:
    whole = broken.pipeline(pipeline("iceberg"))
    assert _rules(whole, "exactly_once", broken.change(facts())) == {broken.rule}


def test_threads_of_an_old_debeziums_snapshot_are_found() -> None:
    whole = changed(pipeline("iceberg"), "source", {"snapshot.max.threads": "4"})
    assert _rules(whole, "exactly_once", facts()) == set()
    old = _versions(debezium="3.6.1.Final")(facts())
    assert _rules(whole, "exactly_once", old) == {"DBZ-VER-01", "DBZ-VER-02"}


def test_every_guard_has_a_pipeline_that_breaks_it() -> None:
    shown = {broken.rule for broken in BROKEN} | {broken.rule for broken in SERVERS} | {"DBZ-VER-02"}
    assert sorted(rule.id for rule in guards() if rule.id not in shown) == []
    assert shown <= {rule.id for rule in guards()}


@pytest.mark.parametrize("rule", guards(), ids=lambda rule: rule.id)
def test_a_guard_says_what_to_do_and_who_says_so(rule: Guard) -> None:
    assert rule.source.startswith("https://")
    assert len(rule.cure) > 10
    assert not rule.sentence.endswith(".")
    assert rule.profiles


@pytest.mark.parametrize("key", ["database.password", "iceberg.catalog.uri"])
def test_a_finding_never_shows_a_credential(key: str) -> None:
    text = "hunter2" if key == "database.password" else "jdbc:postgresql://c/i?user=a&password=hunter2"
    part = "source" if key == "database.password" else "sink"
    for found in check(changed(pipeline("iceberg"), part, {key: text})).findings:
        assert "hunter2" not in repr(found)
        assert "***" in (found.value or "")


def test_what_was_not_given_is_said_and_not_passed() -> None:
    whole = pipeline("iceberg")
    alone = Pipeline(connectors=whole.connectors)
    unanswered = {one.rule for one in check(alone).unanswered}
    assert unanswered == {"WRK-EOS-01", "WRK-PRV-01", "TOP-CTL-01", "REG-01"}
    assert check(alone).findings == ()
    assert {one.rule for one in check(Pipeline(connectors=whole.connectors[1:])).unanswered} >= {"SNK-TMB-01"}


def test_a_server_without_an_answer_is_said_and_not_passed() -> None:
    servers = Facts(answered=frozenset(), silences={"postgres": "PostgreSQL doesn't answer: refused"})
    report = check(pipeline("iceberg"), facts=servers)
    asked = {rule.id for rule in guards() if rule.needs}
    assert {one.rule for one in report.unanswered} == asked
    assert any("refused" in one.reason for one in report.unanswered)


def test_an_expression_that_only_java_reads_is_said_and_not_passed() -> None:
    whole = changed(pipeline("iceberg"), "source", {"table.include.list": r"public\.[a-z&&[^b]](?<x>"})
    report = check(whole, facts=facts())
    assert {one.rule for one in report.unanswered} >= {"PG-PUB-02", "PG-RID-01"}


def test_a_single_broker_is_not_held_to_three_replicas() -> None:
    whole = changed(pipeline("iceberg"), "shop.public.orders", {"replication.factor": "1", "min.insync.replicas": "1"})
    assert _rules(whole, "exactly_once") == {"TOP-RF-01", "TOP-ISR-01"}
    assert _rules(replace(whole, brokers=None), "exactly_once") == {"TOP-RF-01", "TOP-ISR-01"}
    assert _rules(replace(whole, brokers=1), "exactly_once") == set()


def test_an_unknown_key_is_met_with_the_nearest_one() -> None:
    whole = changed(pipeline("iceberg"), "sink", {"value.converter.apicurio.registry.autoregister": "true"})
    (found,) = check(whole).findings
    assert "did you mean `value.converter.apicurio.registry.auto-register`?" in found.message


def test_a_filter_of_tombstones_makes_any_sink_take_them() -> None:
    filtered: dict[str, str | None] = {
        "transforms": "meta,dead",
        "transforms.dead.type": FILTER,
        "transforms.dead.predicate": "dead",
        "predicates": "dead",
        "predicates.dead.type": "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone",
    }
    whole = changed(pipeline("iceberg"), "source", {"tombstones.on.delete": "true"})
    assert _rules(changed(whole, "sink", filtered), "exactly_once") == set()
    assert _rules(changed(changed(whole, "sink", filtered), "sink", {"transforms.dead.negate": "true"}), "exactly_once")
