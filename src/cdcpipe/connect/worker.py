"""The distributed Connect worker. https://kafka.apache.org/documentation/#connectconfigs"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from cdcpipe.connect.converters import Converter, ConverterAt, JsonConverter
from cdcpipe.connect.model import Config, Item, Key, Millis, Prefixed, Text, read_under, take_prefix
from cdcpipe.connect.properties import write_properties
from cdcpipe.connect.transforms import Alias, unique_names
from cdcpipe.errors import ConfigError

__all__ = ["ConfigProvider", "WorkerConfig"]

_KAFKA_PROVIDERS = "org.apache.kafka.common.config.provider"


class ConfigProvider(Config):
    """A provider that resolves `${name:path:key}` on the worker (KIP-297); `extra` isn't used."""

    name: Annotated[Alias, Field(exclude=True)]
    """The name in references."""

    java_class: Annotated[str, Key("class")]
    """The Java class."""

    params: Annotated[Mapping[str, Text], Prefixed("param.")] = Field(default_factory=dict)
    """Its settings."""

    @classmethod
    def file(cls, *, allowed_paths: tuple[str, ...] = (), name: str = "file") -> Self:
        """Properties files; with `allowed_paths`, only below those (KIP-993)."""
        return cls(name=name, java_class=f"{_KAFKA_PROVIDERS}.FileConfigProvider", params=_paths(allowed_paths))

    @classmethod
    def directory(cls, *, allowed_paths: tuple[str, ...] = (), name: str = "directory") -> Self:
        """A folder with a file a secret; with `allowed_paths`, only below those."""
        return cls(name=name, java_class=f"{_KAFKA_PROVIDERS}.DirectoryConfigProvider", params=_paths(allowed_paths))

    @classmethod
    def env(cls, *, allowlist_pattern: str | None = None, name: str = "env") -> Self:
        """Environment variables whose names match the pattern."""
        params = {} if allowlist_pattern is None else {"allowlist.pattern": allowlist_pattern}
        return cls(name=name, java_class=f"{_KAFKA_PROVIDERS}.EnvVarConfigProvider", params=params)

    @classmethod
    def kubernetes(cls, *, name: str = "secrets") -> Self:
        """Kubernetes Secrets; ships with Strimzi's images."""
        return cls(name=name, java_class="io.strimzi.kafka.KubernetesSecretConfigProvider")


def _paths(allowed: tuple[str, ...]) -> dict[str, str]:
    return {"allowed.paths": ",".join(allowed)} if allowed else {}


class ProvidersAt:
    """The codec of a worker's config providers: names at `config.providers`, each one's settings below it."""

    __slots__ = ()
    group = "config.providers"

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, tuple)
        if not value:
            return {}
        config = {self.group: ",".join(provider.name for provider in value)}
        for provider in value:
            settings = provider.to_config()
            config.update({f"{self.group}.{provider.name}.{key}": text for key, text in settings.items()})
        return config

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        names = [name.strip() for name in remaining.pop(self.group, "").split(",") if name.strip()]
        providers = []
        for name in names:
            settings = take_prefix(remaining, f"{self.group}.{name}.")
            if "class" not in settings:
                raise ConfigError(f'$["{self.group}"]: `{name}` has no `{self.group}.{name}.class`')
            prefix = f"{self.group}.{name}."
            providers.append(read_under(prefix, ConfigProvider, settings, keep_unknown, {"name": name}))
        return tuple(providers)

    def keys(self) -> Iterator[str]:
        yield self.group


class WorkerConfig(Config):
    """A worker of a distributed Connect cluster, able to run exactly-once sources."""

    bootstrap_servers: Annotated[Text, Key("bootstrap.servers")]
    """Brokers."""

    group_id: Annotated[Item, Key("group.id")]
    """The Connect cluster; unique among all consumer groups of the Kafka cluster."""

    key_converter: Annotated[Converter | None, ConverterAt("key.converter")] = JsonConverter()
    """Default converter of keys."""

    value_converter: Annotated[Converter | None, ConverterAt("value.converter")] = JsonConverter()
    """Default converter of values."""

    header_converter: Annotated[Converter | None, ConverterAt("header.converter")] = None
    """Default converter of headers. Kafka's default: SimpleHeaderConverter."""

    config_storage_topic: Annotated[Item, Key("config.storage.topic")]
    """Topic of connector configs: one partition, compacted."""

    config_storage_replication_factor: Annotated[int | None, Key("config.storage.replication.factor")] = 3
    """Its replicas. Default 3."""

    offset_storage_topic: Annotated[Item, Key("offset.storage.topic")]
    """Topic of source offsets: compacted. Losing it loses the place in the WAL."""

    offset_storage_replication_factor: Annotated[int | None, Key("offset.storage.replication.factor")] = 3
    """Its replicas. Default 3."""

    offset_storage_partitions: Annotated[int | None, Key("offset.storage.partitions"), Field(ge=1)] = None
    """Its partitions. Default 25."""

    status_storage_topic: Annotated[Item, Key("status.storage.topic")]
    """Topic of connector states: compacted."""

    status_storage_replication_factor: Annotated[int | None, Key("status.storage.replication.factor")] = 3
    """Its replicas. Default 3."""

    status_storage_partitions: Annotated[int | None, Key("status.storage.partitions"), Field(ge=1)] = None
    """Its partitions. Default 5."""

    exactly_once_source_support: Annotated[
        Literal["disabled", "preparing", "enabled"] | None, Key("exactly.once.source.support")
    ] = "enabled"
    """Exactly-once sources (KIP-618). A live cluster goes through `preparing` first. Default disabled."""

    plugin_path: Annotated[tuple[Item, ...] | None, Key("plugin.path", many=True)] = None
    """Folders of plugins. Default: the class path only."""

    plugin_discovery: Annotated[
        Literal["only_scan", "hybrid_warn", "hybrid_fail", "service_load"] | None, Key("plugin.discovery")
    ] = None
    """How plugins are found (KIP-898). `service_load` is fast, and needs manifests. Default hybrid_warn."""

    listeners: Annotated[tuple[Item, ...] | None, Key("listeners", many=True)] = None
    """REST listeners, such as `("http://127.0.0.1:8083",)`. Default `http://:8083`: every interface."""

    rest_advertised_host_name: Annotated[str | None, Key("rest.advertised.host.name")] = None
    """Host that other workers reach this one at. Default: the listener's."""

    rest_advertised_port: Annotated[int | None, Key("rest.advertised.port"), Field(ge=1, le=65535)] = None
    """Port that other workers reach this one at. Default: the listener's."""

    connector_client_config_override_policy: Annotated[
        Literal["All", "None", "Principal", "Allowlist"] | str | None, Key("connector.client.config.override.policy")
    ] = "All"
    """Whether connectors may override client settings. Default All."""

    connect_protocol: Annotated[Literal["eager", "compatible", "sessioned"] | None, Key("connect.protocol")] = None
    """Rebalance protocol; exactly-once needs `sessioned`. Default sessioned."""

    session_timeout_ms: Annotated[Millis | None, Key("session.timeout.ms")] = None
    """How long a silent worker stays a member. A killed one's tasks wait this long. Default 10000."""

    heartbeat_interval_ms: Annotated[Millis | None, Key("heartbeat.interval.ms")] = None
    """How often a worker reports; at most a third of the session timeout. Default 3000."""

    rebalance_timeout_ms: Annotated[Millis | None, Key("rebalance.timeout.ms")] = None
    """How long tasks may take to stop. Default 60000."""

    scheduled_rebalance_max_delay_ms: Annotated[Millis | None, Key("scheduled.rebalance.max.delay.ms")] = None
    """How long tasks of a lost worker wait for its return. Default 300000."""

    offset_flush_interval_ms: Annotated[Millis | None, Key("offset.flush.interval.ms")] = None
    """How often offsets are committed. Default 60000."""

    offset_flush_timeout_ms: Annotated[Millis | None, Key("offset.flush.timeout.ms")] = None
    """How long that may take. Default 5000."""

    task_shutdown_graceful_timeout_ms: Annotated[Millis | None, Key("task.shutdown.graceful.timeout.ms")] = None
    """How long all tasks together may take to stop. Default 5000."""

    topic_creation_enable: Annotated[bool | None, Key("topic.creation.enable")] = None
    """Let sources create topics by their own rules. Default true."""

    config_providers: Annotated[tuple[ConfigProvider, ...], ProvidersAt(), AfterValidator(unique_names)] = ()
    """Where secrets come from."""

    producer: Annotated[Mapping[str, Text], Prefixed("producer.")] = Field(default_factory=dict)
    """Defaults of source producers, without `producer.`; `transaction.timeout.ms` bounds how long a dead task's
    transaction holds read_committed readers."""

    consumer: Annotated[Mapping[str, Text], Prefixed("consumer.")] = Field(default_factory=dict)
    """Defaults of sink consumers, without `consumer.`."""

    admin: Annotated[Mapping[str, Text], Prefixed("admin.")] = Field(default_factory=dict)
    """Defaults of admin clients, without `admin.`."""

    def to_properties(self) -> str:
        """The worker's properties file."""
        return write_properties(self.to_config())
