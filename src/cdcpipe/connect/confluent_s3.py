"""Confluent's S3 sink, 12.x. https://docs.confluent.io/kafka-connectors/s3-sink/current/configuration_options.html

Exactly-once only if where a file ends follows from its records alone: record or field time, `rotate_ms`,
`flush_records`, never the clock (`rotate_schedule_ms`, extractor Wallclock).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cdcpipe.connect.connector import Sink
from cdcpipe.connect.model import Item, Key, Millis, Prefixed, Text
from cdcpipe.connect.partitioning import ConfluentPartitioning, HourOrDay
from cdcpipe.connect.secrets import SecretRef

__all__ = ["ConfluentS3Sink"]

_FORMATS = {
    name: f"io.confluent.connect.s3.format.{name.lower()}.{java}Format"
    for name, java in {"parquet": "Parquet", "avro": "Avro", "json": "Json", "bytearray": "ByteArray"}.items()
}


class ConfluentS3Sink(Sink):
    """Writes topics as files into folders `topic/year=/month=/day=/hour=`."""

    fixed: ClassVar[Mapping[str, str]] = {"connector.class": "io.confluent.connect.s3.S3SinkConnector"}

    bucket: Annotated[str, Key("s3.bucket.name")]
    """The bucket."""

    topics_dir: Annotated[str | None, Key("topics.dir")] = None
    """First folder of every object. Default topics."""

    storage_class: Annotated[str | None, Key("storage.class")] = "io.confluent.connect.s3.storage.S3Storage"
    """Java class of the storage; required."""

    format: Annotated[Literal["parquet", "avro", "json", "bytearray"], Key("format.class", values=_FORMATS)] = "parquet"
    """File format."""

    compression: Annotated[Literal["zstd", "snappy", "gzip", "none"] | None, Key("parquet.codec")] = None
    """Parquet codec. Default snappy."""

    # --- folders and files ---
    partition_by: Annotated[HourOrDay | None, ConfluentPartitioning()] = None
    """Folders by hour or day, in UTC, by record or field time.
    Default: Confluent's DefaultPartitioner, `partition=<n>`."""

    partitioner_class: Annotated[str | None, Key("partitioner.class")] = None
    """Another partitioner; not with `partition_by`, as are the six that follow. Default DefaultPartitioner."""

    path_format: Annotated[str | None, Key("path.format")] = None
    """Joda format of the folders. Default none."""

    partition_duration_ms: Annotated[int | None, Key("partition.duration.ms"), Field(ge=-1)] = None
    """Length of a folder's time. In ms. Default -1: none."""

    partition_timezone: Annotated[str | None, Key("timezone")] = None
    """Time zone of the folders. Default none."""

    partition_locale: Annotated[str | None, Key("locale")] = None
    """Locale of the folders. Default none."""

    timestamp_extractor: Annotated[str | None, Key("timestamp.extractor")] = None
    """Record, RecordField, Wallclock or a class. Default Wallclock."""

    timestamp_field: Annotated[str | None, Key("timestamp.field")] = None
    """Field with the time, for RecordField. Default timestamp."""

    partition_fields: Annotated[tuple[Item, ...] | None, Key("partition.field.name", many=True)] = None
    """Fields of FieldPartitioner. Default none."""

    flush_records: Annotated[int, Key("flush.size"), Field(ge=1)]
    """Records a file at most."""

    rotate_ms: Annotated[int | None, Key("rotate.interval.ms"), Field(ge=-1)] = None
    """Time span of a file's records, by their own time. An idle partition's file stays open. Default -1: none."""

    rotate_schedule_ms: Annotated[int | None, Key("rotate.schedule.interval.ms"), Field(ge=-1)] = -1
    """Closes files by the clock: repeats or loses rows after a crash. Default -1: never."""

    schema_compatibility: Annotated[
        Literal["NONE", "BACKWARD", "FORWARD", "FULL"] | None, Key("schema.compatibility")
    ] = None
    """Project records onto one schema a file. With NONE each change of schema closes the file. Default NONE."""

    offset_pad_width: Annotated[int | None, Key("filename.offset.zero.pad.width"), Field(ge=0)] = None
    """Digits of the offset in a file's name. Default 10."""

    behavior_on_null_values: Annotated[Literal["fail", "ignore", "write"] | None, Key("behavior.on.null.values")] = None
    """Tombstones: fail, drop or write. Default fail."""

    store_keys: Annotated[bool | None, Key("store.kafka.keys")] = None
    """Write keys into files of their own; turns conditional writes off. Default false."""

    store_headers: Annotated[bool | None, Key("store.kafka.headers")] = None
    """Write headers into files of their own; turns conditional writes off. Default false."""

    enable_conditional_writes: Annotated[bool | None, Key("enable.conditional.writes")] = None
    """Refuse to overwrite an object; on conflict rows are repeated. Acts with scheduled rotation only. Default true."""

    # --- store ---
    region: Annotated[str | None, Key("s3.region")] = None
    """AWS region. Default us-west-2."""

    endpoint_url: Annotated[str | None, Key("store.url")] = None
    """An S3 server other than AWS. Default: AWS itself."""

    path_style_access: Annotated[bool | None, Key("s3.path.style.access.enabled")] = None
    """Bucket in the path, not in the host. Default true."""

    access_key_id: Annotated[SecretRef | None, Key("aws.access.key.id")] = None
    """Key id. None with a role: the AWS default chain."""

    secret_access_key: Annotated[SecretRef | None, Key("aws.secret.access.key")] = None
    """Secret key. Default none."""

    credentials_provider_class: Annotated[str | None, Key("s3.credentials.provider.class")] = None
    """Java class that gives credentials. Default: the AWS default chain."""

    credentials_provider: Annotated[Mapping[str, Text], Prefixed("s3.credentials.provider.")] = Field(
        default_factory=dict
    )
    """Its settings, such as `sts.role.arn`."""

    encryption: Annotated[
        Literal["none", "s3", "kms"] | None,
        Key("s3.ssea.name", values={"none": "", "s3": "AES256", "kms": "aws:kms"}),
    ] = None
    """Server-side encryption. Default: the bucket's own."""

    encryption_key: Annotated[str | None, Key("s3.sse.kms.key.id")] = None
    """ARN of the KMS key. Default: the bucket's own."""

    part_size_bytes: Annotated[int | None, Key("s3.part.size"), Field(ge=5_242_880)] = None
    """Size of an upload's parts, held in memory for each open file. Default 26214400."""

    retries: Annotated[int | None, Key("s3.part.retries"), Field(ge=0)] = None
    """Tries of a failed request. Default 3."""

    retry_backoff_ms: Annotated[Millis | None, Key("s3.retry.backoff.ms")] = None
    """First wait between tries. Default 200."""

    task_retry_backoff_ms: Annotated[Millis | None, Key("retry.backoff.ms")] = None
    """Wait before Connect hands a failed batch over again. Default 5000."""

    @model_validator(mode="after")
    def _one_partitioning(self) -> ConfluentS3Sink:
        raw = (
            *(self.partitioner_class, self.path_format, self.partition_duration_ms, self.partition_timezone),
            *(self.partition_locale, self.timestamp_extractor, self.timestamp_field),
        )
        if self.partition_by is not None and any(value is not None for value in raw):
            raise ValueError("give `partition_by`, or the partitioner's own settings, not both")
        if self.partition_by is None and (said := ConfluentPartitioning().take(self.to_config(), True)):
            raise ValueError(f"these settings are `partition_by={said}`: say so")
        return self
