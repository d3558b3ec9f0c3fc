"""A pipeline as it is written down: connectors, worker, topics and registry, each with the place of every key.

This is what guards look at. It holds the flat configs as they are, not our builders: what is to be judged is
what would be deployed, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cdcpipe.errors import ConfigError

__all__ = [
    "AIVEN_S3",
    "CONFLUENT_S3",
    "DEBEZIUM_POSTGRES",
    "ICEBERG",
    "Part",
    "Pipeline",
    "Place",
    "connector_part",
    "topic_part",
]

DEBEZIUM_POSTGRES = "io.debezium.connector.postgresql.PostgresConnector"
ICEBERG = "org.apache.iceberg.connect.IcebergSinkConnector"
CONFLUENT_S3 = "io.confluent.connect.s3.S3SinkConnector"
AIVEN_S3 = "io.aiven.kafka.connect.s3.AivenKafkaConnectS3SinkConnector"

Kind = Literal["connector", "worker", "topic", "registry"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: file, JSON path or key, line and column counted from 1 (0 when unknown)."""

    file: str = ""
    path: str = "$"
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One connector, worker, topic or registry. A topic's `partitions` and `replication.factor` are keys, too."""

    kind: Kind
    name: str
    config: Mapping[str, str]
    place: Place = Place()
    places: Mapping[str, Place] = field(default_factory=dict)

    def get(self, key: str, default: str = "") -> str:
        """The value of `key`, or the default that the plugin documents; surrounding blanks are dropped."""
        return self.config.get(key, default).strip()

    def word(self, key: str, default: str = "") -> str:
        """`get` in lower case, as Kafka Connect and Debezium compare closed sets."""
        return self.get(key, default).lower()

    def number(self, key: str, default: int) -> int:
        """`get` as a number; what isn't one is another rule's finding, here the default."""
        try:
            return int(self.get(key, str(default)))
        except ValueError:
            return default

    def words(self, key: str, default: str = "") -> tuple[str, ...]:
        """The elements of a comma-separated value."""
        return tuple(word.strip() for word in self.get(key, default).split(",") if word.strip())

    def where(self, key: str) -> Place:
        """The place of `key`; of the whole part when the key isn't there."""
        if key in self.places:
            return self.places[key]
        path = f'{self.place.path}["{key}"]' if key in self.config else self.place.path
        return Place(self.place.file, path, self.place.line, self.place.column)

    @property
    def java_class(self) -> str:
        """The connector's class, or empty."""
        return self.get("connector.class")

    def transforms(self) -> Iterator[tuple[str, str]]:
        """Name and class of each transform, in order, without `$Key` and `$Value`."""
        for name in self.words("transforms"):
            yield name, self.get(f"transforms.{name}.type").partition("$")[0]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What belongs together. `brokers` is how many the Kafka cluster has, None when it isn't said.

    `declared_partitions` is what the files say of topics that are judged as they are on the brokers.
    """

    connectors: tuple[Part, ...] = ()
    worker: Part | None = None
    topics: tuple[Part, ...] = ()
    registry: Part | None = None
    brokers: int | None = None
    declared_partitions: Mapping[str, int] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Part, ...]:
        """The Debezium PostgreSQL connectors."""
        return tuple(part for part in self.connectors if part.java_class == DEBEZIUM_POSTGRES)

    @property
    def sinks(self) -> tuple[Part, ...]:
        """The connectors that read topics."""
        return tuple(part for part in self.connectors if "topics" in part.config or "topics.regex" in part.config)

    @property
    def replicated(self) -> bool:
        """The cluster can hold 3 replicas, as far as is known: guards of replicas are about such clusters."""
        return self.brokers is None or self.brokers >= 3

    def of_class(self, java_class: str) -> tuple[Part, ...]:
        """The connectors of one class."""
        return tuple(part for part in self.connectors if part.java_class == java_class)

    def topic(self, name: str) -> Part | None:
        """A declared or asked topic, or None."""
        return next((part for part in self.topics if part.name == name), None)

    def effective(self, connector: Part, key: str) -> str:
        """A value that a connector inherits from the worker, such as `value.converter`; empty when neither says."""
        if key in connector.config or self.worker is None:
            return connector.get(key)
        return self.worker.get(key)

    def parts(self) -> Iterator[Part]:
        """All parts."""
        yield from self.connectors
        yield from self.topics
        yield from (part for part in (self.worker, self.registry) if part is not None)


def connector_part(config: Mapping[str, str], *, file: str = "") -> Part:
    """A connector out of a builder's `to_config()`. Raises `ConfigError` without `connector.class`."""
    if "connector.class" not in config:
        raise ConfigError("the config has no `connector.class`")
    return Part("connector", config.get("name", ""), dict(config), Place(file))


def topic_part(
    name: str, config: Mapping[str, str], *, partitions: int, replication_factor: int, file: str = ""
) -> Part:
    """A topic out of a builder's parts."""
    numbers = {"partitions": str(partitions), "replication.factor": str(replication_factor)}
    return Part("topic", name, {**numbers, **config}, Place(file))
