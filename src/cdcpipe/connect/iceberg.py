"""The Apache Iceberg sink, 1.12. https://iceberg.apache.org/docs/latest/kafka-connect/

Exactly-once by a control topic and by source offsets that are committed with the table. It appends only: keys
that promise upserts are ignored (apache/iceberg#17542).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from cdcpipe.connect.connector import Sink
from cdcpipe.connect.model import Item, Key, Millis, Prefixed, Text
from cdcpipe.connect.partitioning import HourOrDay, IcebergPartitioning, iceberg_spec
from cdcpipe.connect.secrets import SecretRef

__all__ = ["IcebergSink"]


class IcebergSink(Sink):
    """Writes topics into Iceberg tables of Parquet files."""

    fixed: ClassVar[Mapping[str, str]] = {"connector.class": "org.apache.iceberg.connect.IcebergSinkConnector"}

    # --- control ---
    control_topic: Annotated[str | None, Key("iceberg.control.topic")]
    """Topic of commits; one a connector, kept for ever. Iceberg's default `control-iceberg` is shared."""

    control_group_id_prefix: Annotated[str | None, Key("iceberg.control.group-id-prefix")] = None
    """Prefix of the control consumer groups. Default `cg-control-`."""

    rotate_ms: Annotated[int | None, Key("iceberg.control.commit.interval-ms"), Field(ge=1)] = 60_000
    """How often files are closed and committed. Iceberg's default: 300000."""

    commit_timeout_ms: Annotated[Millis | None, Key("iceberg.control.commit.timeout-ms")] = None
    """How long the coordinator waits for all tasks. Default 30000; then it commits what has come (partial)."""

    commit_threads: Annotated[int | None, Key("iceberg.control.commit.threads"), Field(ge=1)] = None
    """Tables committed at once. Default 2 a core."""

    control_auto_offset_reset: Annotated[
        Literal["earliest", "latest"] | None, Key("iceberg.kafka.auto.offset.reset")
    ] = "earliest"
    """Where control consumers begin without an offset. Iceberg's default latest loses files (apache/iceberg#17551)."""

    kafka: Annotated[Mapping[str, Text], Prefixed("iceberg.kafka.")] = Field(default_factory=dict)
    """Further settings of the sink's own Kafka clients, without `iceberg.kafka.`."""

    connect_group_id: Annotated[str | None, Key("iceberg.connect.group-id")] = None
    """The sink's consumer group, if it isn't `connect-<name>`: needed with `consumer.override.group.id`.
    Default `connect-<name>`."""

    # --- tables ---
    tables: Annotated[tuple[Item, ...] | None, Key("iceberg.tables", many=True)] = None
    """Tables to write to; either this or `dynamic_enabled`. Default none."""

    dynamic_enabled: Annotated[bool | None, Key("iceberg.tables.dynamic-enabled")] = None
    """Take the table's name from `route_field`. Default false."""

    route_field: Annotated[str | None, Key("iceberg.tables.route-field")] = None
    """Field that names the table, or is matched by `route-regex`. Default none."""

    auto_create_enabled: Annotated[bool | None, Key("iceberg.tables.auto-create-enabled")] = True
    """Create tables that aren't there. Iceberg's default: false."""

    evolve_schema_enabled: Annotated[bool | None, Key("iceberg.tables.evolve-schema-enabled")] = True
    """Add columns that a record has and the table has not. Iceberg's default: false, which drops the values."""

    schema_force_optional: Annotated[bool | None, Key("iceberg.tables.schema-force-optional")] = None
    """Make every column optional. Default false."""

    schema_case_insensitive: Annotated[bool | None, Key("iceberg.tables.schema-case-insensitive")] = None
    """Match columns without regard to case. Default false."""

    partition_by: Annotated[HourOrDay | str | None, IcebergPartitioning(), BeforeValidator(iceberg_spec)] = None
    """Partitions of tables that are created: hour or day by a field, in UTC, or a spec of Iceberg's as text.
    Iceberg refuses two time partitions of one field; an hour's value holds its date. Default: unpartitioned."""

    default_commit_branch: Annotated[str | None, Key("iceberg.tables.default-commit-branch")] = None
    """Branch to commit to. Default main."""

    default_id_columns: Annotated[tuple[Item, ...] | None, Key("iceberg.tables.default-id-columns", many=True)] = None
    """Identifier columns of tables that are created. Default none."""

    auto_create_properties: Annotated[Mapping[str, Text], Prefixed("iceberg.tables.auto-create-props.")] = Field(
        default_factory=dict
    )
    """Properties of tables that are created."""

    compression: Annotated[
        Literal["zstd", "snappy", "gzip", "none"] | None,
        Key(
            "iceberg.tables.write-props.write.parquet.compression-codec",
            values={"none": "uncompressed"},
        ),
    ] = None
    """Parquet codec. Iceberg's default: zstd."""

    write_properties: Annotated[Mapping[str, Text], Prefixed("iceberg.tables.write-props.")] = Field(
        default_factory=dict
    )
    """Further writer properties."""

    table_config: Annotated[Mapping[str, Text], Prefixed("iceberg.table.")] = Field(default_factory=dict)
    """Settings of single tables: `{"db.orders.route-regex": "..."}`."""

    # --- catalog and store ---
    catalog_name: Annotated[str | None, Key("iceberg.catalog")] = None
    """Name of the catalog. Default `iceberg`."""

    catalog_impl: Annotated[str | None, Key("iceberg.catalog.catalog-impl")] = None
    """Java class of the catalog, such as `org.apache.iceberg.jdbc.JdbcCatalog`. Default: what `catalog_type` says."""

    catalog_type: Annotated[
        Literal["rest", "hive", "hadoop", "glue", "nessie", "jdbc"] | None, Key("iceberg.catalog.type")
    ] = None
    """A known kind of catalog, instead of `catalog_impl`. Default hive."""

    catalog_uri: Annotated[Text | None, Key("iceberg.catalog.uri")] = None
    """Where the catalog is: a JDBC URL, a REST URL, a thrift URL. Default none."""

    catalog_jdbc_user: Annotated[Text | None, Key("iceberg.catalog.jdbc.user")] = None
    """User of a JDBC catalog. Default none."""

    catalog_jdbc_password: Annotated[SecretRef | None, Key("iceberg.catalog.jdbc.password")] = None
    """Its password. Default none."""

    catalog_jdbc_schema_version: Annotated[Literal["V0", "V1"] | None, Key("iceberg.catalog.jdbc.schema-version")] = (
        None
    )
    """Layout of a JDBC catalog. Default V0."""

    warehouse: Annotated[Text | None, Key("iceberg.catalog.warehouse")] = None
    """Root of the tables: `s3://bucket/prefix`. Default none."""

    io_impl: Annotated[str | None, Key("iceberg.catalog.io-impl")] = "org.apache.iceberg.aws.s3.S3FileIO"
    """Java class that reads and writes files."""

    region: Annotated[str | None, Key("iceberg.catalog.client.region")] = None
    """AWS region. Default: the AWS SDK's."""

    endpoint_url: Annotated[str | None, Key("iceberg.catalog.s3.endpoint")] = None
    """An S3 server other than AWS. Default: AWS itself."""

    path_style_access: Annotated[bool | None, Key("iceberg.catalog.s3.path-style-access")] = None
    """Bucket in the path, not in the host. Default false."""

    access_key_id: Annotated[SecretRef | None, Key("iceberg.catalog.s3.access-key-id")] = None
    """Key id. None with a role: the AWS default chain."""

    secret_access_key: Annotated[SecretRef | None, Key("iceberg.catalog.s3.secret-access-key")] = None
    """Secret key. Default none."""

    role_arn: Annotated[str | None, Key("iceberg.catalog.client.assume-role.arn")] = None
    """Role to assume; needs `iceberg.catalog.client.factory` to be AssumeRoleAwsClientFactory. Default none."""

    encryption: Annotated[Literal["none", "s3", "kms"] | None, Key("iceberg.catalog.s3.sse.type")] = None
    """Server-side encryption. Default none: the bucket's own."""

    encryption_key: Annotated[str | None, Key("iceberg.catalog.s3.sse.key")] = None
    """ARN of the KMS key. Default: the bucket's own."""

    catalog: Annotated[Mapping[str, Text], Prefixed("iceberg.catalog.")] = Field(default_factory=dict)
    """Further catalog properties, without `iceberg.catalog.`."""

    hadoop_conf_dir: Annotated[str | None, Key("iceberg.hadoop-conf-dir")] = None
    """Folder with Hadoop's configuration. Default none."""

    hadoop: Annotated[Mapping[str, Text], Prefixed("iceberg.hadoop.")] = Field(default_factory=dict)
    """Hadoop properties, without `iceberg.hadoop.`."""
