"""Debezium's PostgreSQL source, 3.7. https://debezium.io/documentation/reference/stable/connectors/postgresql.html

Defaults are those of an exactly-once pipeline where they differ from Debezium's; each docstring says so. Times
are in milliseconds, sizes in bytes where a name ends in `_bytes`, else in records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from cdcpipe.connect.connector import Source
from cdcpipe.connect.model import Item, Key, Millis, Prefixed, Text
from cdcpipe.connect.secrets import SecretRef

__all__ = ["PostgresSource"]

SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")]
Items = tuple[Item, ...]


class PostgresSource(Source):
    """A Debezium PostgreSQL connector. `heartbeat_action_query` should write the watermark table."""

    fixed: ClassVar[Mapping[str, str]] = {"connector.class": "io.debezium.connector.postgresql.PostgresConnector"}

    # --- connection ---
    database_hostname: Annotated[Text, Key("database.hostname")]
    """Host of the primary, or of a standby that holds the slot."""

    database_port: Annotated[int | None, Key("database.port"), Field(ge=1, le=65535)] = 5432
    """Port. Default 5432."""

    database_user: Annotated[Text, Key("database.user")]
    """A role with REPLICATION and SELECT on the captured tables, nothing more."""

    database_password: Annotated[SecretRef | None, Key("database.password")] = None
    """Its password. Default none."""

    database_dbname: Annotated[Text, Key("database.dbname")]
    """The database."""

    database_sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None, Key("database.sslmode")
    ] = None
    """TLS. Only `verify-ca` and `verify-full` know whom they talk to. Default prefer."""

    database_sslrootcert: Annotated[str | None, Key("database.sslrootcert")] = None
    """File with the authority's certificates. Default `~/.postgresql/root.crt`."""

    database_sslcert: Annotated[str | None, Key("database.sslcert")] = None
    """File with the client's certificate. Default `~/.postgresql/postgresql.crt`."""

    database_sslkey: Annotated[str | None, Key("database.sslkey")] = None
    """File with the client's key. Default `~/.postgresql/postgresql.pk8`."""

    database_sslpassword: Annotated[SecretRef | None, Key("database.sslpassword")] = None
    """Password of the client's key. Default none."""

    database_sslfactory: Annotated[str | None, Key("database.sslfactory")] = None
    """Java class that makes TLS sockets. Default: the driver's."""

    database_tcp_keep_alive: Annotated[bool | None, Key("database.tcpKeepAlive")] = None
    """Send TCP keep-alive probes, which find a half-open connection. Default true."""

    database_initial_statements: Annotated[str | None, Key("database.initial.statements")] = None
    """SQL run on each new connection, `;` between statements. Default none."""

    database_query_timeout_ms: Annotated[Millis | None, Key("database.query.timeout.ms")] = None
    """Longest time of a query. Default 600000."""

    # --- slot and publication ---
    topic_prefix: Annotated[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")], Key("topic.prefix")]
    """First part of every topic's name, and the key of the stored offsets: never change it on a live pipeline."""

    plugin_name: Annotated[Literal["pgoutput", "decoderbufs"] | None, Key("plugin.name")] = "pgoutput"
    """Logical decoding plugin. Debezium's default: decoderbufs, which a stock PostgreSQL doesn't have."""

    slot_name: Annotated[SlotName, Key("slot.name")]
    """Replication slot; one a connector. Debezium's default `debezium` is what two connectors come to share."""

    slot_drop_on_stop: Annotated[bool | None, Key("slot.drop.on.stop")] = False
    """True drops the slot on an orderly stop, and with it every change until the next start. Default false."""

    slot_failover: Annotated[bool | None, Key("slot.failover")] = None
    """Create the slot so that it follows to a promoted standby (PostgreSQL 17+). Default false."""

    slot_max_retries: Annotated[int | None, Key("slot.max.retries"), Field(ge=0)] = None
    """How often to try to open the slot. Default 6."""

    slot_retry_delay_ms: Annotated[Millis | None, Key("slot.retry.delay.ms")] = None
    """Wait between those tries. Default 10000."""

    slot_stream_params: Annotated[str | None, Key("slot.stream.params")] = None
    """Parameters for the decoding plugin, `name=value;...`. Default none."""

    publication_name: Annotated[str, Key("publication.name")]
    """Publication. Debezium's default `dbz_publication` is what two connectors come to share."""

    publication_autocreate_mode: Annotated[
        Literal["disabled", "all_tables", "filtered", "no_tables"] | None, Key("publication.autocreate.mode")
    ] = "disabled"
    """Whether the connector makes the publication. Debezium's default all_tables needs a superuser."""

    publish_via_partition_root: Annotated[bool | None, Key("publish.via.partition.root")] = None
    """Publish partitions as their root table. Default false."""

    replica_identity_autoset_values: Annotated[Items | None, Key("replica.identity.autoset.values", many=True)] = None
    """`schema.table:FULL` and the like: set on start. Needs ownership of the table. Default none."""

    status_update_interval_ms: Annotated[Millis | None, Key("status.update.interval.ms")] = None
    """How often the position is sent to PostgreSQL. Default 10000."""

    xmin_fetch_interval_ms: Annotated[Millis | None, Key("xmin.fetch.interval.ms")] = None
    """How often the slot's xmin is read. Default 0: never."""

    lsn_flush_mode: Annotated[Literal["manual", "connector", "connector_and_driver"] | None, Key("lsn.flush.mode")] = (
        "connector"
    )
    """Who confirms WAL to PostgreSQL. `connector`: what is stored as an offset. With `connector_and_driver` the
    driver confirms unpublished WAL too, ahead of any offset (docs, "lsn.flush.mode"). Default connector."""

    lsn_flush_timeout_ms: Annotated[Millis | None, Key("lsn.flush.timeout.ms")] = None
    """Longest wait for a confirmation. Default 30000."""

    lsn_flush_timeout_action: Annotated[Literal["fail", "warn", "ignore"] | None, Key("lsn.flush.timeout.action")] = (
        None
    )
    """What to do after it. Default fail."""

    offset_mismatch_strategy: Annotated[
        Literal["no_validation", "trust_offset", "trust_slot", "trust_greater_lsn"] | None,
        Key("offset.mismatch.strategy"),
    ] = "trust_offset"
    """When stored offset and slot differ. `trust_offset` refuses a slot that was made anew; Debezium's default
    no_validation starts at the slot's position, and what lies between is lost without a word."""

    # --- what is captured ---
    schema_include_list: Annotated[Items | None, Key("schema.include.list", many=True)] = None
    """Regular expressions of schemas. Default: all."""

    schema_exclude_list: Annotated[Items | None, Key("schema.exclude.list", many=True)] = None
    """Regular expressions of schemas to leave out. Default none."""

    table_include_list: Annotated[Items | None, Key("table.include.list", many=True)] = None
    """Regular expressions of `schema.table`. The publication must cover them. Default: all."""

    table_exclude_list: Annotated[Items | None, Key("table.exclude.list", many=True)] = None
    """Regular expressions of `schema.table` to leave out. Default none."""

    column_include_list: Annotated[Items | None, Key("column.include.list", many=True)] = None
    """Regular expressions of `schema.table.column`. Default: all."""

    column_exclude_list: Annotated[Items | None, Key("column.exclude.list", many=True)] = None
    """Regular expressions of `schema.table.column` to leave out. Default none."""

    column_mask: Annotated[Mapping[str, Text], Prefixed("column.mask.")] = Field(default_factory=dict)
    """Columns to mask, by rule: `{"with.12.chars": "public.person.ssn"}`. A hash's salt is part of a rule's name."""

    column_truncate: Annotated[Mapping[str, Text], Prefixed("column.truncate.")] = Field(default_factory=dict)
    """Columns to cut, by rule: `{"to.100.chars": "public.note.body"}`."""

    column_propagate_source_type: Annotated[Items | None, Key("column.propagate.source.type", many=True)] = None
    """Columns whose PostgreSQL type is written into the schema. Default none."""

    datatype_propagate_source_type: Annotated[Items | None, Key("datatype.propagate.source.type", many=True)] = None
    """Types whose name is written into the schema. Default none."""

    message_key_columns: Annotated[str | None, Key("message.key.columns")] = None
    """`schema.table:col1,col2;...`: a message key other than the primary key. Default: the primary key."""

    message_prefix_include_list: Annotated[Items | None, Key("message.prefix.include.list", many=True)] = None
    """Prefixes of logical decoding messages to capture. Default: all."""

    message_prefix_exclude_list: Annotated[Items | None, Key("message.prefix.exclude.list", many=True)] = None
    """Prefixes of logical decoding messages to leave out. Default none."""

    skipped_operations: Annotated[Items | None, Key("skipped.operations", many=True)] = ("none",)
    """Operations that are not published: c, u, d, t, or none. Debezium's default: t, so a TRUNCATE leaves no trace."""

    tombstones_on_delete: Annotated[bool | None, Key("tombstones.on.delete")] = False
    """Follow a delete by a record without value, which compaction needs and few sinks take. Default true."""

    # --- snapshots and signals ---
    snapshot_mode: Annotated[
        Literal["always", "initial", "no_data", "initial_only", "when_needed", "configuration_based", "custom"] | None,
        Key("snapshot.mode"),
    ] = "initial"
    """When a snapshot is taken. `when_needed` hides a lost slot behind a silent re-snapshot. Default initial."""

    snapshot_locking_mode: Annotated[Literal["shared", "none", "custom"] | None, Key("snapshot.locking.mode")] = None
    """Locks during the schema phase. Default none."""

    snapshot_isolation_mode: Annotated[
        Literal["serializable", "repeatable_read", "read_committed", "read_uncommitted"] | None,
        Key("snapshot.isolation.mode"),
    ] = None
    """Isolation of the snapshot. Default serializable."""

    snapshot_query_mode: Annotated[Literal["select_all", "custom"] | None, Key("snapshot.query.mode")] = None
    """How tables are read. Default select_all."""

    snapshot_include_collection_list: Annotated[Items | None, Key("snapshot.include.collection.list", many=True)] = None
    """Tables of the snapshot, when not all. Default: all captured tables."""

    snapshot_select_statement_overrides: Annotated[
        Items | None, Key("snapshot.select.statement.overrides", many=True)
    ] = None
    """Tables whose SELECT is given in `snapshot_select_statements`. Default none."""

    snapshot_select_statements: Annotated[Mapping[str, Text], Prefixed("snapshot.select.statement.overrides.")] = Field(
        default_factory=dict
    )
    """`schema.table` -> SELECT."""

    snapshot_fetch_size: Annotated[int | None, Key("snapshot.fetch.size"), Field(ge=1)] = None
    """Rows a round trip. Default 10240."""

    snapshot_max_threads: Annotated[int | None, Key("snapshot.max.threads"), Field(ge=1)] = None
    """Tables read at once. More than 1 lost the common snapshot before 3.7 (dbz#2330). Default 1."""

    snapshot_delay_ms: Annotated[Millis | None, Key("snapshot.delay.ms")] = None
    """Wait before the snapshot. Default 0."""

    snapshot_lock_timeout_ms: Annotated[Millis | None, Key("snapshot.lock.timeout.ms")] = None
    """Longest wait for a table lock. Default 10000."""

    snapshot_mode_configuration: Annotated[Mapping[str, Text], Prefixed("snapshot.mode.configuration.based.")] = Field(
        default_factory=dict
    )
    """With `configuration_based`: `snapshot.data`, `start.stream` and so on."""

    streaming_delay_ms: Annotated[Millis | None, Key("streaming.delay.ms")] = None
    """Wait between snapshot and streaming. Default 0."""

    signal_enabled_channels: Annotated[Items | None, Key("signal.enabled.channels", many=True)] = None
    """Where signals come from: source, kafka, jmx, file, in-process. Default source."""

    signal_data_collection: Annotated[str | None, Key("signal.data.collection")] = None
    """The signal table, `schema.table`. Must be in the publication. Default none."""

    signal_kafka_topic: Annotated[str | None, Key("signal.kafka.topic")] = None
    """Topic of signals. Default `<topic.prefix>-signal`."""

    signal_kafka_bootstrap_servers: Annotated[str | None, Key("signal.kafka.bootstrap.servers")] = None
    """Brokers of the signal topic. Default none, but needed for the channel kafka."""

    signal_poll_interval_ms: Annotated[Millis | None, Key("signal.poll.interval.ms")] = None
    """How often signals are looked for. Default 5000."""

    incremental_snapshot_chunk_size: Annotated[int | None, Key("incremental.snapshot.chunk.size"), Field(ge=1)] = None
    """Rows a chunk. Default 1024."""

    incremental_snapshot_watermarking_strategy: Annotated[
        Literal["insert_insert", "insert_delete"] | None, Key("incremental.snapshot.watermarking.strategy")
    ] = None
    """How a chunk's window is marked in the signal table. Default insert_insert, which leaves rows behind."""

    read_only: Annotated[bool | None, Key("read.only")] = None
    """Incremental snapshots without writing to the database (PostgreSQL 13+). Default false."""

    notification_enabled_channels: Annotated[Items | None, Key("notification.enabled.channels", many=True)] = None
    """Where notifications go: sink, log, jmx. Default none."""

    notification_sink_topic_name: Annotated[str | None, Key("notification.sink.topic.name")] = None
    """Topic of notifications. Default none, but needed for the channel sink."""

    # --- heartbeats, transactions, topics ---
    heartbeat_interval_ms: Annotated[Millis | None, Key("heartbeat.interval.ms")] = 5000
    """How often a heartbeat is sent, so that the slot moves while captured tables rest. Debezium's default 0: never."""

    heartbeat_action_query: Annotated[str | None, Key("heartbeat.action.query")] = None
    """SQL run with each heartbeat: write the watermark table, which must be in the publication. Default none."""

    topic_heartbeat_prefix: Annotated[str | None, Key("topic.heartbeat.prefix")] = None
    """First part of the heartbeat topic. Default `__debezium-heartbeat`."""

    provide_transaction_metadata: Annotated[bool | None, Key("provide.transaction.metadata")] = True
    """Give each change its transaction and place in it, and write BEGIN and END records. Debezium's default: false."""

    extended_headers_enabled: Annotated[bool | None, Key("extended.headers.enabled")] = None
    """Write connector, task and run into headers of each record. Default true."""

    topic_transaction: Annotated[str | None, Key("topic.transaction")] = None
    """Last part of the transaction topic. Default transaction."""

    topic_delimiter: Annotated[str | None, Key("topic.delimiter")] = None
    """Between the parts of a topic's name. Default a dot."""

    topic_naming_strategy: Annotated[str | None, Key("topic.naming.strategy")] = None
    """Java class that names topics. Default SchemaTopicNamingStrategy."""

    # --- values ---
    unavailable_value_placeholder: Annotated[str | None, Key("unavailable.value.placeholder")] = (
        "__debezium_unavailable_value"
    )
    """TOAST policy: what stands for a large value that an UPDATE left alone. Readers must take it as unknown."""

    post_processors: Annotated[Items | None, Key("post.processors", many=True)] = None
    """Names of post processors; their settings go to `extra`. One that reads columns again gives the value of now,
    not of the change. Default none."""

    decimal_handling_mode: Annotated[Literal["precise", "double", "string"] | None, Key("decimal.handling.mode")] = (
        "precise"
    )
    """numeric as exact bytes, as double (rounds), or as text. Default precise."""

    time_precision_mode: Annotated[
        Literal[
            "adaptive",
            "adaptive_time_microseconds",
            "connect",
            "isostring",
            "microseconds",
            "nanoseconds",
            "structured",
        ]
        | None,
        Key("time.precision.mode"),
    ] = None
    """Unit of times. `connect` cuts to milliseconds. Default adaptive."""

    interval_handling_mode: Annotated[Literal["numeric", "string"] | None, Key("interval.handling.mode")] = "string"
    """interval as ISO 8601 text, or as microseconds of a 30.4-day month. Debezium's default: numeric (inexact)."""

    hstore_handling_mode: Annotated[Literal["json", "map"] | None, Key("hstore.handling.mode")] = None
    """hstore as JSON text or as a map. Default json."""

    binary_handling_mode: Annotated[
        Literal["bytes", "base64", "base64-url-safe", "hex"] | None, Key("binary.handling.mode")
    ] = None
    """bytea as bytes or as text. Default bytes."""

    money_fraction_digits: Annotated[int | None, Key("money.fraction.digits"), Field(ge=0)] = None
    """Digits of money. Default 2."""

    include_unknown_datatypes: Annotated[bool | None, Key("include.unknown.datatypes")] = None
    """Write types without a mapping as bytes instead of leaving the column out. Default false."""

    include_schema_comments: Annotated[bool | None, Key("include.schema.comments")] = None
    """Write column comments into the schema, so that COMMENT ON makes a new version. Default false."""

    converters: Annotated[Items | None, Key("converters", many=True)] = None
    """Names of custom converters; their settings go to `extra`. Default none."""

    schema_refresh_mode: Annotated[
        Literal["columns_diff", "columns_diff_exclude_unchanged_toast"] | None, Key("schema.refresh.mode")
    ] = "columns_diff"
    """When the cached table schema is read anew. The other mode may keep a dropped TOAST column."""

    schema_name_adjustment_mode: Annotated[
        Literal["none", "avro", "avro_unicode"] | None, Key("schema.name.adjustment.mode")
    ] = "avro"
    """Make schema names legal in Avro. Debezium's default: none."""

    field_name_adjustment_mode: Annotated[
        Literal["none", "avro", "avro_unicode"] | None, Key("field.name.adjustment.mode")
    ] = "avro"
    """Make field names legal in Avro. Debezium's default: none."""

    # --- pace and failures ---
    max_batch_size: Annotated[int | None, Key("max.batch.size"), Field(ge=1)] = None
    """Records a batch, so a producer transaction with `transaction_boundary="poll"`. Default 2048."""

    max_queue_size: Annotated[int | None, Key("max.queue.size"), Field(ge=1)] = None
    """Records between reader and writer; more than `max_batch_size`. Default 8192."""

    max_queue_size_bytes: Annotated[int | None, Key("max.queue.size.in.bytes"), Field(ge=0)] = None
    """The same bound in bytes; 0 for none. Default 0."""

    poll_interval_ms: Annotated[Millis | None, Key("poll.interval.ms")] = None
    """Wait for new changes. Default 500."""

    errors_max_retries: Annotated[int | None, Key("errors.max.retries"), Field(ge=-1)] = -1
    """How often a failed connection is tried again; -1 for ever. Default -1."""

    retriable_restart_connector_wait_ms: Annotated[Millis | None, Key("retriable.restart.connector.wait.ms")] = None
    """Wait between those tries. Default 10000."""

    event_processing_failure_handling_mode: Annotated[
        Literal["fail", "warn", "skip", "ignore"] | None, Key("event.processing.failure.handling.mode")
    ] = "fail"
    """What to do with a change that can't be read. All but `fail` lose it. Default fail."""

    event_converting_failure_handling_mode: Annotated[
        Literal["fail", "warn", "skip"] | None, Key("event.converting.failure.handling.mode")
    ] = "fail"
    """What to do with a column that can't be converted. Debezium's default warn writes null instead of the value."""

    guardrail_collections_max: Annotated[int | None, Key("guardrail.collections.max"), Field(ge=0)] = None
    """Most tables that may be captured. Default 0: no bound."""

    guardrail_collections_limit_action: Annotated[
        Literal["warn", "fail"] | None, Key("guardrail.collections.limit.action")
    ] = None
    """What to do beyond it. Default warn."""
