"""Aiven's S3 sink, 3.x. https://github.com/Aiven-Open/cloud-storage-connectors-for-apache-kafka

At least once: a file is written with each offset flush of the worker, so after a crash files can overlap. The
reader must drop repeats by topic, partition and offset, which `output_fields` therefore includes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cdcpipe.connect.connector import Sink
from cdcpipe.connect.model import Item, Key, Millis
from cdcpipe.connect.partitioning import AivenPartitioning, HourOrDay, record_time_only
from cdcpipe.connect.secrets import SecretRef

__all__ = ["AivenS3Sink"]


class AivenS3Sink(Sink):
    """Writes topics as files, one a partition for each offset flush of the worker."""

    fixed: ClassVar[Mapping[str, str]] = {
        "connector.class": "io.aiven.kafka.connect.s3.AivenKafkaConnectS3SinkConnector"
    }

    bucket: Annotated[str, Key("aws.s3.bucket.name")]
    """The bucket."""

    format: Annotated[Literal["parquet", "json", "jsonl", "csv"] | None, Key("format.output.type")] = "parquet"
    """File format. Aiven's default: csv."""

    compression: Annotated[Literal["zstd", "snappy", "gzip", "none"] | None, Key("file.compression.type")] = None
    """Codec. Default gzip."""

    output_fields: Annotated[tuple[Item, ...] | None, Key("format.output.fields", many=True)] = (
        "key",
        "offset",
        "timestamp",
        "value",
    )
    """Columns: key, offset, timestamp, headers, value. Aiven's default: value."""

    value_encoding: Annotated[Literal["none", "base64"] | None, Key("format.output.fields.value.encoding")] = None
    """Encoding of the value in CSV. Default base64."""

    envelope: Annotated[bool | None, Key("format.output.envelope")] = None
    """Wrap a single output field. Default true."""

    partition_by: Annotated[HourOrDay | None, AivenPartitioning(), AfterValidator(record_time_only)] = None
    """Folders by hour or day of the record's timestamp, in UTC. Default: no folders."""

    name_template: Annotated[str | None, Key("file.name.template")] = None
    """Another template of object names; not with `partition_by`.
    Default `{{topic}}-{{partition}}-{{start_offset}}`."""

    name_timestamp_source: Annotated[Literal["WALLCLOCK", "EVENT"] | None, Key("file.name.timestamp.source")] = None
    """Which time a template's `timestamp` is. Default WALLCLOCK."""

    name_timestamp_timezone: Annotated[str | None, Key("file.name.timestamp.timezone")] = None
    """Its time zone. Default UTC."""

    flush_records: Annotated[int | None, Key("file.max.records"), Field(ge=0)] = None
    """Records a file at most; 0 for no bound, which buffers a whole flush interval in memory. Default 0."""

    region: Annotated[str | None, Key("aws.s3.region")] = None
    """AWS region. Default us-east-1."""

    endpoint_url: Annotated[str | None, Key("aws.s3.endpoint")] = None
    """An S3 server other than AWS. Default: AWS itself."""

    access_key_id: Annotated[SecretRef | None, Key("aws.access.key.id")] = None
    """Key id. None with a role: the AWS default chain."""

    secret_access_key: Annotated[SecretRef | None, Key("aws.secret.access.key")] = None
    """Secret key. Default none."""

    role_arn: Annotated[str | None, Key("aws.sts.role.arn")] = None
    """Role to assume. Default none."""

    role_external_id: Annotated[str | None, Key("aws.sts.role.external.id")] = None
    """External id of the role. Default none."""

    role_session_name: Annotated[str | None, Key("aws.sts.role.session.name")] = None
    """Session name of the role. Default none, but needed with `role_arn`."""

    encryption: Annotated[
        Literal["s3", "kms"] | None, Key("aws.s3.sse.algorithm", values={"s3": "AES256", "kms": "aws:kms"})
    ] = None
    """Server-side encryption. Default: the bucket's own."""

    part_size_bytes: Annotated[int | None, Key("aws.s3.part.size.bytes"), Field(ge=1)] = None
    """Size of an upload's parts. Default 5242880."""

    retries: Annotated[int | None, Key("aws.s3.backoff.max.retries"), Field(ge=0, le=30)] = None
    """Tries of a failed request. Default 3."""

    retry_backoff_ms: Annotated[Millis | None, Key("aws.s3.backoff.delay.ms")] = None
    """First wait between tries. Default 100."""

    retry_backoff_max_ms: Annotated[Millis | None, Key("aws.s3.backoff.max.delay.ms")] = None
    """Longest wait between tries. Default 20000."""

    task_retry_backoff_ms: Annotated[Millis | None, Key("kafka.retry.backoff.ms")] = None
    """Wait before Connect hands a failed batch over again. Default: Connect's own, 60000 at most."""

    @model_validator(mode="after")
    def _one_template(self) -> Self:
        raw = (self.name_template, self.name_timestamp_source, self.name_timestamp_timezone)
        if self.partition_by is not None and any(value is not None for value in raw):
            raise ValueError("give `partition_by`, or `name_template` and its time, not both")
        if self.partition_by is None and (said := AivenPartitioning().take(self.to_config(), True)):
            raise ValueError(f"these settings are `partition_by={said}`: say so")
        return self
