"""Typed configs for Debezium, S3 sinks, converters, the worker and its topics, and rules that keep data safe.

    from cdcpipe.connect import AvroConverter, Hourly, IcebergSink, PostgresSource, SecretRef

A builder is a frozen model; `to_config()` gives the flat `dict[str, str]` that Kafka Connect takes, `from_config`
reads one back. Names are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdcpipe.connect.aiven_s3 import AivenS3Sink
    from cdcpipe.connect.confluent_s3 import ConfluentS3Sink
    from cdcpipe.connect.converters import (
        ApicurioAvroConverter,
        AvroConverter,
        ByteArrayConverter,
        Converter,
        JsonConverter,
        OtherConverter,
        StringConverter,
    )
    from cdcpipe.connect.deadletter import DeadLetterQueue
    from cdcpipe.connect.iceberg import IcebergSink
    from cdcpipe.connect.partitioning import Daily, Hourly
    from cdcpipe.connect.postgres import PostgresSource
    from cdcpipe.connect.rest import ConnectClient
    from cdcpipe.connect.secrets import SecretRef
    from cdcpipe.connect.topics import TopicConfig
    from cdcpipe.connect.transforms import (
        DebeziumTransform,
        ExtractNewRecordState,
        Filter,
        HasHeaderKey,
        InsertField,
        OtherPredicate,
        OtherTransform,
        RecordIsTombstone,
        RegexRouter,
        ReplaceField,
        TopicNameMatches,
    )
    from cdcpipe.connect.worker import ConfigProvider, WorkerConfig

_EXPORTS: dict[str, tuple[str, ...]] = {
    "aiven_s3": ("AivenS3Sink",),
    "confluent_s3": ("ConfluentS3Sink",),
    "converters": (
        "ApicurioAvroConverter",
        "AvroConverter",
        "ByteArrayConverter",
        "Converter",
        "JsonConverter",
        "OtherConverter",
        "StringConverter",
    ),
    "deadletter": ("DeadLetterQueue",),
    "iceberg": ("IcebergSink",),
    "partitioning": ("Daily", "Hourly"),
    "postgres": ("PostgresSource",),
    "rest": ("ConnectClient",),
    "secrets": ("SecretRef",),
    "topics": ("TopicConfig",),
    "transforms": (
        "DebeziumTransform",
        "ExtractNewRecordState",
        "Filter",
        "HasHeaderKey",
        "InsertField",
        "OtherPredicate",
        "OtherTransform",
        "RecordIsTombstone",
        "RegexRouter",
        "ReplaceField",
        "TopicNameMatches",
    ),
    "worker": ("ConfigProvider", "WorkerConfig"),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "AivenS3Sink",
    "ApicurioAvroConverter",
    "AvroConverter",
    "ByteArrayConverter",
    "ConfigProvider",
    "ConfluentS3Sink",
    "ConnectClient",
    "Converter",
    "Daily",
    "DeadLetterQueue",
    "DebeziumTransform",
    "ExtractNewRecordState",
    "Filter",
    "HasHeaderKey",
    "Hourly",
    "IcebergSink",
    "InsertField",
    "JsonConverter",
    "OtherConverter",
    "OtherPredicate",
    "OtherTransform",
    "PostgresSource",
    "RecordIsTombstone",
    "RegexRouter",
    "ReplaceField",
    "SecretRef",
    "StringConverter",
    "TopicConfig",
    "TopicNameMatches",
    "WorkerConfig",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'cdcpipe.connect' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cdcpipe.connect.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
