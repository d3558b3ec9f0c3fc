"""The pipeline that every kind of stack runs: topics, worker, source and sink, made of the builders of `connect`.

A record of table `schema.table` lies in topic `<prefix>.<schema>.<table>`; the sink archives topic by topic into
Iceberg tables of the same name, each row with the topic, partition, offset and timestamp of its record, which
makes a row traceable and a repetition visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cdcpipe.connect import (
    AvroConverter,
    ConfigProvider,
    Converter,
    DeadLetterQueue,
    Hourly,
    IcebergSink,
    InsertField,
    OtherTransform,
    PostgresSource,
    SecretRef,
    TopicConfig,
    WorkerConfig,
)
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_SCHEMA, WATERMARK_TABLE, Endpoints

__all__ = [
    "PLUGINS",
    "AvroConverterName",
    "PipelineSettings",
    "SecretPlaces",
    "control_topic",
    "secret_values",
    "sink",
    "source",
    "static_topics",
    "topic_for_changes",
    "worker",
]

PLUGINS = ("debezium", "iceberg", "avro-converter", "confluent-converter")
"""The artefact bundles that a worker's plugin path holds. Both Avro converters are there: see `AvroConverterName`."""

# How long a group waits for a member that was killed.
_SESSION_MS = 6_000
AvroConverterName = Literal["confluent", "apicurio"]
"""Whose Avro converter the connectors use. Both write the same bytes.

Confluent's costs a third less. Apicurio's also takes what Apicurio Registry 3.3.3 refuses to register through its
Confluent API (error 42201): a default of `{}` of a text or json column, which it mistakes for a map's.
"""

_DAY_MS = 24 * 60 * 60 * 1000
_CHANGES_DAYS = 7


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What differs between stacks. `brokers` decides replicas: 3 and min ISR 2 from three brokers on."""

    brokers: int = 1
    partitions: int = 3
    captured_schemas: tuple[str, ...] = ("public",)
    slot: str = "cdcpipe_source"
    commit_seconds: float = 5.0
    registry_root: str = ""
    converter: AvroConverterName = "confluent"

    @property
    def replicas(self) -> int:
        """Replicas of every topic."""
        return min(3, self.brokers)

    @property
    def in_sync(self) -> int:
        """`min.insync.replicas` of every topic."""
        return 2 if self.brokers >= 3 else 1

    @property
    def schemas(self) -> tuple[str, ...]:
        """The captured schemas and the watermark's."""
        return (*self.captured_schemas, WATERMARK_SCHEMA)


@dataclass(frozen=True, slots=True)
class SecretPlaces:
    """Where the worker finds each credential."""

    replication_password: SecretRef
    catalog_password: SecretRef
    s3_access_key_id: SecretRef
    s3_secret_access_key: SecretRef

    @classmethod
    def in_file(cls, path: str) -> SecretPlaces:
        """All in one properties file, under the names of this class's fields."""
        return cls(**{name: SecretRef.file(path, name) for name in cls.__slots__})


def control_topic(prefix: str) -> str:
    """The Iceberg sink's control topic."""
    return f"{prefix}.iceberg-control"


def _source_offsets(prefix: str) -> str:
    return f"{prefix}.source-offsets"


def _topic(
    name: str, settings: PipelineSettings, *, partitions: int = 1, keep_days: int | None = None, compacted: bool = False
) -> TopicConfig:
    return TopicConfig(
        name=name,
        partitions=partitions,
        replication_factor=settings.replicas,
        min_insync_replicas=settings.in_sync,
        cleanup_policy="compact" if compacted else "delete",
        retention_ms=None if keep_days is None else keep_days * _DAY_MS,
    )


def topic_for_changes(name: str, settings: PipelineSettings) -> TopicConfig:
    """A topic of change events: kept for a week, which is how long a repair may take."""
    return _topic(name, settings, partitions=settings.partitions, keep_days=_CHANGES_DAYS)


def static_topics(endpoints: Endpoints, settings: PipelineSettings) -> tuple[TopicConfig, ...]:
    """Every topic that isn't a table's: Connect's own, transactions, heartbeat, control, dead letters, watermark."""
    prefix = endpoints.topic_prefix
    return (
        _topic(endpoints.connect_config_topic, settings, compacted=True),
        _topic(f"{prefix}.connect-offsets", settings, partitions=5, compacted=True),
        _topic(f"{prefix}.connect-status", settings, partitions=3, compacted=True),
        _topic(_source_offsets(prefix), settings, compacted=True),
        # One partition each: transactions have an order, and heartbeats are few.
        _topic(endpoints.transaction_topic, settings, keep_days=_CHANGES_DAYS),
        _topic(f"__debezium-heartbeat.{prefix}", settings, keep_days=1),
        TopicConfig.for_iceberg_control(
            control_topic(prefix), replication_factor=settings.replicas, min_insync_replicas=settings.in_sync
        ),
        # Kept longer than the changes themselves: somebody has to look at them.
        _topic(endpoints.dead_letter_topic, settings, keep_days=30),
        topic_for_changes(f"{prefix}.{WATERMARK_TABLE}", settings),
    )


def worker(
    endpoints: Endpoints,
    settings: PipelineSettings,
    *,
    port: int,
    plugin_path: str,
    secrets_folder: str,
) -> WorkerConfig:
    """A worker that can run exactly-once sources, listening on loopback only."""
    prefix = endpoints.topic_prefix
    return WorkerConfig(
        bootstrap_servers=endpoints.bootstrap_servers,
        group_id=f"{prefix}-connect",
        config_storage_topic=endpoints.connect_config_topic,
        config_storage_replication_factor=settings.replicas,
        offset_storage_topic=f"{prefix}.connect-offsets",
        offset_storage_replication_factor=settings.replicas,
        status_storage_topic=f"{prefix}.connect-status",
        status_storage_replication_factor=settings.replicas,
        plugin_path=(plugin_path,),
        plugin_discovery="service_load",
        listeners=(f"http://127.0.0.1:{port}",),
        rest_advertised_host_name="127.0.0.1",
        rest_advertised_port=port,
        # A killed worker that comes back gets its tasks again after its old self has timed out, not 5 minutes later.
        # 6 s is the least that a broker allows; a delay beyond that would only wait for a worker that is back already.
        session_timeout_ms=_SESSION_MS,
        heartbeat_interval_ms=_SESSION_MS // 3,
        scheduled_rebalance_max_delay_ms=0,
        offset_flush_interval_ms=5_000,
        task_shutdown_graceful_timeout_ms=20_000,
        config_providers=(ConfigProvider.file(allowed_paths=(secrets_folder,)),),
    )


def _converter(settings: PipelineSettings) -> Converter:
    if settings.converter == "apicurio":
        return AvroConverter.apicurio(settings.registry_root)
    return AvroConverter.confluent(f"{settings.registry_root}/apis/ccompat/v7")


def source(endpoints: Endpoints, settings: PipelineSettings, secrets: SecretPlaces) -> PostgresSource:
    """Debezium, exactly-once, of every table in the captured schemas, now and later."""
    postgres = endpoints.postgres
    return PostgresSource(
        name=SOURCE,
        database_hostname=postgres.host,
        database_port=postgres.port,
        database_user=postgres.roles["replication"].name,
        database_password=secrets.replication_password,
        database_dbname=postgres.database,
        topic_prefix=endpoints.topic_prefix,
        slot_name=settings.slot,
        publication_name=endpoints.publication,
        table_include_list=tuple(f"{schema}\\..*" for schema in settings.schemas),
        # Of its own: a worker reads its offsets topic to the end before it takes any task, so a killed task's open
        # transaction in it would hold the worker up until that times out. Here the next task aborts it at once.
        offsets_storage_topic=_source_offsets(endpoints.topic_prefix),
        heartbeat_interval_ms=5_000,
        heartbeat_action_query=(
            f"INSERT INTO {WATERMARK_TABLE} (name, token, at) VALUES ('heartbeat', 1, clock_timestamp()) "
            "ON CONFLICT (name) DO UPDATE SET token = watermark.token + 1, at = EXCLUDED.at"
        ),
        key_converter=_converter(settings),
        value_converter=_converter(settings),
        # What waits in the queue is copied by each collection of the young generation: 32768 paused it for 0.4 s.
        max_batch_size=4096,
        max_queue_size=8192,
        poll_interval_ms=50,
        # Four headers a record that say the same each time: a tenth of the source's work.
        extended_headers_enabled=False,
        retriable_restart_connector_wait_ms=2_000,
        topic_creation_partitions=settings.partitions,
        topic_creation_replication_factor=settings.replicas,
        topic_creation_config={
            "min.insync.replicas": str(settings.in_sync),
            "retention.ms": str(_CHANGES_DAYS * _DAY_MS),
            "cleanup.policy": "delete",
        },
        producer_overrides={
            "compression.type": "lz4",
            "linger.ms": "5",
            "batch.size": "262144",
            "buffer.memory": "67108864",
            # A transaction that outlasts this fails the task for good, while a killed task's is aborted by its
            # successor at once: a bound for the worst case, not for recovery.
            "transaction.timeout.ms": "60000",
            "max.request.size": "16777216",
        },
    )


def sink(endpoints: Endpoints, settings: PipelineSettings, secrets: SecretPlaces) -> IcebergSink:
    """The Iceberg sink of all change topics: Parquet by hour, dead letters to their topic."""
    catalog = endpoints.catalog
    assert catalog is not None
    prefix = endpoints.topic_prefix.replace(".", "\\.")
    return IcebergSink(
        name=SINK,
        topics_regex=f"{prefix}\\.({'|'.join(settings.schemas)})\\..*",
        key_converter=_converter(settings),
        value_converter=_converter(settings),
        dead_letter_queue=DeadLetterQueue(
            topic=endpoints.dead_letter_topic, replication_factor=settings.replicas, retry_timeout_ms=60_000
        ),
        transforms=(
            # Fails on a valid record that is no change event, which then is a dead letter. Without it such a record
            # reaches the sink's writer, where a missing required column is a NullPointerException that stops the task.
            OtherTransform(
                name="envelope",
                java_class="org.apache.kafka.connect.transforms.ValueToKey",
                options={"fields": "op,source"},
            ),
            InsertField(
                name="meta",
                topic_field="kafka_topic",
                partition_field="kafka_partition",
                offset_field="kafka_offset",
                timestamp_field="event_time",
                # Without this a NULL in a column with a default would be archived as the default.
                replace_null_with_default=False,
            ),
        ),
        consumer_overrides={
            "metadata.max.age.ms": "5000",  # how soon the topic of a new table is seen
            "session.timeout.ms": str(_SESSION_MS),
            "heartbeat.interval.ms": str(_SESSION_MS // 3),
            "max.poll.records": "1000",
            "fetch.min.bytes": "65536",
            "fetch.max.wait.ms": "200",
        },
        control_topic=control_topic(endpoints.topic_prefix),
        rotate_ms=int(settings.commit_seconds * 1000),
        commit_timeout_ms=30_000,
        # The coordinator's group: the next one waits until the dead one's session is over, 45 s by default.
        kafka={"session.timeout.ms": str(_SESSION_MS), "heartbeat.interval.ms": str(_SESSION_MS // 3)},
        dynamic_enabled=True,
        route_field="kafka_topic",
        partition_by=Hourly("event_time"),
        catalog_name=catalog.name,
        catalog_impl="org.apache.iceberg.jdbc.JdbcCatalog",
        catalog_uri=f"jdbc:postgresql://{catalog.postgres.host}:{catalog.postgres.port}/{catalog.postgres.database}",
        catalog_jdbc_user=catalog.postgres.roles[catalog.role].name,
        catalog_jdbc_password=secrets.catalog_password,
        catalog_jdbc_schema_version="V1",
        warehouse=catalog.warehouse,
        region=endpoints.s3.region,
        endpoint_url=endpoints.s3.url,
        path_style_access=endpoints.s3.url is not None,
        # With the default of 5 the sink's task fails for good when S3 is away for some seconds: it is asked again after
        # 0.1 s, and up to 20 s later each time. 16 outlast a minute; a poll may take five.
        # And a connection to the catalog that its server ended (57P01, 57P02) is opened again: Iceberg's own list has
        # only those that break (08000 to 08007).
        catalog={"s3.retry.num-retries": "16", "retryable_status_codes": "57P01,57P02"},
        # Without keys the worker's own identity is used: on AWS a role, by its pod's token.
        access_key_id=None if endpoints.s3.access_key_id is None else secrets.s3_access_key_id,
        secret_access_key=None if endpoints.s3.access_key_id is None else secrets.s3_secret_access_key,
        # The bucket of deploy/aws refuses what doesn't ask for it.
        encryption="s3" if endpoints.s3.url is None else None,
    )


def secret_values(endpoints: Endpoints) -> Mapping[str, str]:
    """Name -> value of what `SecretPlaces.in_file` refers to: the content of that file."""
    catalog, s3 = endpoints.catalog, endpoints.s3
    assert catalog is not None
    return {
        "replication_password": str(endpoints.postgres.roles["replication"].password),
        "catalog_password": str(catalog.postgres.roles[catalog.role].password),
        "s3_access_key_id": s3.access_key_id or "",
        "s3_secret_access_key": str(s3.secret_access_key or ""),
    }
