"""Whole pipelines out of the builders that no guard has anything to say about, and a way to break one key of them."""

from __future__ import annotations

from dataclasses import replace

from cdcpipe.connect import (
    AivenS3Sink,
    AvroConverter,
    ConfigProvider,
    ConfluentS3Sink,
    Converter,
    DeadLetterQueue,
    Hourly,
    IcebergSink,
    InsertField,
    PostgresSource,
    SecretRef,
    TopicConfig,
    WorkerConfig,
)
from cdcpipe.connect.facts import DatabaseFacts, Facts, Publication, Slot, Table
from cdcpipe.connect.pipeline import (
    CONFLUENT_S3,
    DEBEZIUM_POSTGRES,
    ICEBERG,
    Part,
    Pipeline,
    Place,
    connector_part,
    topic_part,
)

META = InsertField(
    name="meta",
    topic_field="kafka_topic",
    partition_field="kafka_partition",
    offset_field="kafka_offset",
    timestamp_field="event_time",
    replace_null_with_default=False,
)
_AVRO = AvroConverter.apicurio("http://registry:8080")
_WEEK = str(7 * 86_400_000)


def _secret(key: str) -> SecretRef:
    return SecretRef.file("/etc/connect/pipeline.properties", key)


def source(converter: Converter = _AVRO) -> PostgresSource:
    """The exactly-once source."""
    return PostgresSource(
        name="source",
        database_hostname="db",
        database_user="replication",
        database_password=_secret("password"),
        database_dbname="shop",
        topic_prefix="shop",
        slot_name="shop_source",
        publication_name="shop",
        table_include_list=("public\\..*", "cdcpipe\\..*"),
        heartbeat_action_query="UPDATE cdcpipe.watermark SET token = token + 1 WHERE name = 'heartbeat'",
        key_converter=converter,
        value_converter=converter,
        topic_creation_partitions=3,
        topic_creation_replication_factor=3,
        topic_creation_config={"min.insync.replicas": "2", "cleanup.policy": "delete", "retention.ms": _WEEK},
    )


def iceberg() -> IcebergSink:
    """The exactly-once sink of the open flavour."""
    return IcebergSink(
        name="sink",
        topics_regex=r"shop\.(public|cdcpipe)\..*",
        key_converter=_AVRO,
        value_converter=_AVRO,
        dead_letter_queue=DeadLetterQueue(topic="shop.dead-letters", replication_factor=3),
        transforms=(META,),
        control_topic="shop.iceberg-control",
        dynamic_enabled=True,
        route_field="kafka_topic",
        partition_by=Hourly("event_time"),
        catalog_impl="org.apache.iceberg.jdbc.JdbcCatalog",
        catalog_uri="jdbc:postgresql://catalog/iceberg",
        catalog_jdbc_user="catalog",
        catalog_jdbc_password=_secret("catalog"),
        warehouse="s3://lake/warehouse",
        access_key_id=_secret("key_id"),
        secret_access_key=_secret("secret_key"),
    )


_CONFLUENT_AVRO = AvroConverter.confluent("http://registry:8081")


def confluent() -> ConfluentS3Sink:
    """The exactly-once sink of the Confluent flavour."""
    return ConfluentS3Sink(
        name="sink",
        topics_regex=r"shop\.(public|cdcpipe)\..*",
        key_converter=_CONFLUENT_AVRO,
        value_converter=_CONFLUENT_AVRO,
        dead_letter_queue=DeadLetterQueue(topic="shop.dead-letters", replication_factor=3),
        transforms=(META,),
        bucket="lake",
        partition_by=Hourly(),
        flush_records=10_000,
        rotate_ms=60_000,
        schema_compatibility="FULL",
        compression="snappy",
    )


def aiven() -> AivenS3Sink:
    """The at-least-once sink."""
    return AivenS3Sink(
        name="sink",
        topics=("shop.public.orders",),
        key_converter=_AVRO,
        value_converter=_AVRO,
        dead_letter_queue=DeadLetterQueue(topic="shop.dead-letters", replication_factor=3),
        bucket="lake",
        partition_by=Hourly(),
        flush_records=10_000,
    )


def worker() -> WorkerConfig:
    """A worker that can run exactly-once sources."""
    return WorkerConfig(
        bootstrap_servers="kafka:9092",
        group_id="connect",
        config_storage_topic="connect-configs",
        offset_storage_topic="connect-offsets",
        status_storage_topic="connect-status",
        config_providers=(ConfigProvider.file(allowed_paths=("/etc/connect",)),),
    )


def _topic(name: str, *, partitions: int = 1, compacted: bool = False, forever: bool = False) -> Part:
    made = (
        TopicConfig.for_iceberg_control(name, replication_factor=3, min_insync_replicas=2)
        if forever
        else TopicConfig(
            name=name,
            partitions=partitions,
            replication_factor=3,
            min_insync_replicas=2,
            cleanup_policy="compact" if compacted else "delete",
        )
    )
    return topic_part(name, made.to_config(), partitions=partitions, replication_factor=3, file="topics.yaml")


def pipeline(flavour: str) -> Pipeline:
    """A whole pipeline: `iceberg`, `confluent` or `aiven`."""
    sink = {"iceberg": iceberg, "confluent": confluent, "aiven": aiven}[flavour]()
    from_registry = _CONFLUENT_AVRO if flavour == "confluent" else _AVRO
    control = (_topic("shop.iceberg-control", forever=True),) if flavour == "iceberg" else ()
    return Pipeline(
        connectors=(
            connector_part(source(from_registry).to_config(), file="source.json"),
            connector_part(sink.to_config(), file="sink.json"),
        ),
        worker=Part("worker", "connect", worker().to_config(), Place("worker.properties")),
        topics=(
            _topic("connect-configs", compacted=True),
            _topic("connect-offsets", partitions=5, compacted=True),
            _topic("connect-status", partitions=3, compacted=True),
            _topic("shop.transaction"),
            _topic("shop.public.orders", partitions=3),
            _topic("shop.dead-letters"),
            *control,
        ),
        registry=Part("registry", "registry", {"compatibility": "FULL_TRANSITIVE"}, Place("registry.json")),
        brokers=3,
    )


def facts() -> Facts:
    """Servers that no guard has anything to say about."""
    tables = ("public.orders", "cdcpipe.watermark")
    return Facts(
        answered=frozenset({"postgres", "kafka", "connect", "registry"}),
        database=DatabaseFacts(
            database="shop",
            version=180006,
            settings={"wal_level": "logical", "idle_replication_slot_timeout": "0", "synchronized_standby_slots": ""},
            publications={
                "shop": Publication("shop", frozenset(tables), frozenset({"insert", "update", "delete", "truncate"}))
            },
            slots={"shop_source": Slot("shop_source", "pgoutput", "shop", "reserved", False)},
            tables={name: Table(name, "f", True, ("note",), row_by_row=True) for name in tables},
        ),
        brokers=3,
        transaction_version=2,
        metadata_version=29,
        plugins={DEBEZIUM_POSTGRES: "3.7.0.Final", ICEBERG: "1.12.0", CONFLUENT_S3: "12.2.0"},
        worker_version="4.2.2",
        refusals={"source": {}, "sink": {}},
        compatibility="FULL_TRANSITIVE",
    )


def changed(whole: Pipeline, part: str, changes: dict[str, str | None]) -> Pipeline:
    """`whole` with keys of one part set, or removed (None). A part is `source`, `sink`, `worker`, or a topic's name."""

    def change(one: Part) -> Part:
        kept = {key: text for key, text in one.config.items() if key not in changes}
        return replace(one, config={**kept, **{key: text for key, text in changes.items() if text is not None}})

    if part == "worker":
        assert whole.worker is not None
        return replace(whole, worker=change(whole.worker))
    if part == "registry":
        assert whole.registry is not None
        return replace(whole, registry=change(whole.registry))
    names = {one.name for one in (*whole.connectors, *whole.topics)}
    assert part in names
    return replace(
        whole,
        connectors=tuple(change(one) if one.name == part else one for one in whole.connectors),
        topics=tuple(change(one) if one.name == part else one for one in whole.topics),
    )


def twin(whole: Pipeline, part: str, changes: dict[str, str | None]) -> Pipeline:
    """`whole` with a second connector like `part`, apart from its name and `changes`."""
    first = next(one for one in whole.connectors if one.name == part)
    second = replace(first, name=f"{part}-2", config={**first.config, "name": f"{part}-2"})
    return changed(replace(whole, connectors=(*whole.connectors, second)), f"{part}-2", changes)
