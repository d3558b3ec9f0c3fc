"""The builders: documented, typed, without literals for secrets, and helpful about what they don't know."""

from __future__ import annotations

import pkgutil
import re

import pytest
from tests.property.connect_models import MODELS

import cdcpipe.connect as connect
from cdcpipe.connect import (
    ApicurioAvroConverter,
    AvroConverter,
    ConfluentS3Sink,
    Daily,
    DeadLetterQueue,
    Hourly,
    IcebergSink,
    InsertField,
    JsonConverter,
    OtherConverter,
    OtherTransform,
    PostgresSource,
    SecretRef,
    TopicConfig,
    WorkerConfig,
)
from cdcpipe.connect.docs import field_docs, link
from cdcpipe.connect.model import Config, Key, codecs
from cdcpipe.connect.plugins import plugin
from cdcpipe.connect.secrets import is_reference
from cdcpipe.errors import ConfigError

PASSWORD = SecretRef.file("/etc/connect/pg.properties", "password")


def postgres(**more: object) -> PostgresSource:
    given: dict[str, object] = {
        "name": "orders-source",
        "database_hostname": "db",
        "database_user": "replication",
        "database_password": PASSWORD,
        "database_dbname": "shop",
        "topic_prefix": "shop",
        "slot_name": "orders",
        "publication_name": "orders",
    }
    return PostgresSource(**{**given, **more})  # type: ignore[arg-type]


def _every_config() -> list[type[Config]]:
    for module in pkgutil.iter_modules(connect.__path__):
        if not module.ispkg:
            __import__(f"cdcpipe.connect.{module.name}")
    found: list[type[Config]] = []
    todo: list[type[Config]] = [Config]
    while todo:
        model = todo.pop()
        todo.extend(model.__subclasses__())
        if model.__module__.startswith("cdcpipe."):
            found.append(model)
    return sorted(found, key=lambda model: model.__name__)


@pytest.mark.parametrize("model", _every_config(), ids=lambda model: model.__name__)
def test_every_field_says_what_it_is_and_what_it_is_without_a_value(model: type[Config]) -> None:
    docs = field_docs(model)
    for name, info in model.model_fields.items():
        assert docs.get(name), f"{name} has no docstring"
        if info.default is None and not info.is_required():
            assert "default" in docs[name].lower(), f"{name} doesn't say what None stands for"


@pytest.mark.parametrize("model", _every_config(), ids=lambda model: model.__name__)
def test_every_time_says_its_unit(model: type[Config]) -> None:
    for name in model.model_fields:
        key = name.lower()
        if any(word in key for word in ("interval", "timeout", "delay", "backoff")) and "mode" not in key:
            exempt = key in {"transaction_boundary", "snapshot_lock_timeout_action", "lsn_flush_timeout_action"}
            assert exempt or key.endswith(("_ms", "_bytes")) or key in {"interval_handling_mode"}, name


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_links_to_its_documentation(model: type[Config]) -> None:
    assert link(model).startswith("https://")


def test_every_public_name_can_be_had() -> None:
    assert [name for name in connect.__all__ if getattr(connect, name, None) is None] == []
    assert sorted(connect._MODULES) == sorted(connect.__all__) == dir(connect)


def test_a_secret_is_a_reference_and_never_shown() -> None:
    source = postgres()
    assert source.to_config()["database.password"] == "${file:/etc/connect/pg.properties:password}"
    for text in (repr(source), str(source), repr(PASSWORD), f"{PASSWORD}"):
        assert "pg.properties" not in text
    assert source.to_config()["database.user"] == "replication"


@pytest.mark.parametrize(
    ("model", "field", "key"),
    [
        (model, name, name)
        for model in MODELS
        for name, info in model.model_fields.items()
        if "SecretRef" in str(info.annotation) and "str" not in str(info.annotation).replace("builtins", "")
    ],
    ids=str,
)
def test_a_literal_secret_is_refused_without_showing_it(model: type[Config], field: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        model(**{field: "hunter2-in-clear"})  # type: ignore[arg-type]
    assert "must be a SecretRef" in (refused.value.detail or "")
    everything = f"{refused.value} {refused.value.detail} {refused.value.hint} {refused.value.__cause__}"
    assert "hunter2" not in everything


def test_fields_that_are_credentials_by_their_name_take_only_references() -> None:
    loose = []
    for model in MODELS:
        for name, info in model.model_fields.items():
            secret = any(word in name for word in ("password", "secret", "user_info", "access_key_id"))
            if secret and "str" in str(info.annotation):
                loose.append(f"{model.__name__}.{name}")
    assert loose == []


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (SecretRef.file("/a/b.properties", "k"), "${file:/a/b.properties:k}"),
        (SecretRef.directory("/secrets", "k"), "${directory:/secrets:k}"),
        (SecretRef.env("PG_PASSWORD"), "${env:PG_PASSWORD}"),
        (SecretRef.kubernetes("ns", "pg", "password"), "${secrets:ns/pg:password}"),
        (SecretRef.file("C:/a.properties", "k"), "${file:C:/a.properties:k}"),
    ],
)
def test_a_reference_is_read_back(reference: SecretRef, text: str) -> None:
    assert reference.to_config() == text
    assert is_reference(text)
    assert SecretRef.parse(text) == reference
    assert hash(SecretRef.parse(text)) == hash(reference)


@pytest.mark.parametrize("text", ["hunter2", "", "${file}", "x${env:A}", "${env:A}x", "${env:A}${env:B}", "${:k}"])
def test_what_is_no_reference_is_refused_without_showing_it(text: str) -> None:
    assert not is_reference(text)
    with pytest.raises(ConfigError) as refused:
        SecretRef.parse(text)
    assert not text or text not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize("parts", [("file", "/a}", "k"), ("file", "/a", ""), ("", "", "k"), ("a:b", "", "k")])
def test_a_reference_that_connect_would_misread_is_refused(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ConfigError):
        SecretRef(*parts)


def test_models_and_secrets_are_frozen() -> None:
    with pytest.raises(AttributeError):
        PASSWORD.key = "other"
    with pytest.raises(Exception, match="frozen"):
        postgres().slot_name = "other"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("slot.naem", "slot.name"),
        ("table.whitelist", None),
        ("heartbeat.interval", "heartbeat.interval.ms"),
        ("publication.autocreate.mod", "publication.autocreate.mode"),
    ],
)
def test_an_unknown_key_is_met_with_the_nearest_one(key: str, suggestion: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        PostgresSource.from_config({**postgres().to_config(), key: "x"})
    expected = f'$["{key}"]: unknown key' + (f"; did you mean `{suggestion}`?" if suggestion else "")
    assert refused.value.detail == expected
    assert refused.value.hint


def test_an_unknown_key_of_a_transform_is_named_whole() -> None:
    config = postgres(transforms=(InsertField(name="meta", topic_field="t"),)).to_config()
    with pytest.raises(ConfigError) as refused:
        PostgresSource.from_config({**config, "transforms.meta.offst.field": "o"})
    assert refused.value.detail == ('$["transforms.meta.offst.field"]: unknown key; did you mean `offset.field`?')


def test_an_unknown_field_is_met_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="1 finding") as refused:
        postgres(slot_naem="x")
    assert "slot_naem: no such field; did you mean `slot_name`?" in (refused.value.detail or "")


def test_all_findings_come_at_once() -> None:
    with pytest.raises(ConfigError, match="4 findings") as refused:
        PostgresSource.from_config(
            {
                **postgres().to_config(),
                "snapshot.mode": "sometimes",
                "database.port": "many",
                "slot.name": "Not-A-Slot",
                "unheard.of": "x",
            }
        )
    detail = refused.value.detail or ""
    for key in ("snapshot.mode", "database.port", "slot.name", "unheard.of"):
        assert f'$["{key}"]' in detail


def test_another_connectors_config_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        IcebergSink.from_config(postgres().to_config())
    assert "IcebergSink stands for" in (refused.value.detail or "")


def test_a_default_that_matters_is_written_out() -> None:
    config = postgres().to_config()
    assert config["exactly.once.support"] == "required"
    assert config["offset.mismatch.strategy"] == "trust_offset"
    assert config["heartbeat.interval.ms"] == "5000"
    assert config["provide.transaction.metadata"] == "true"


def test_an_absent_key_is_the_connectors_default_and_not_ours() -> None:
    config = postgres().to_config()
    del config["exactly.once.support"]
    assert PostgresSource.from_config(config).exactly_once_support is None


def test_a_comma_in_a_regular_expression_survives() -> None:
    source = postgres(table_include_list=("public.a{1,2}", "public.b"))
    assert source.to_config()["table.include.list"] == r"public.a{1\,2},public.b"
    assert PostgresSource.from_config(source.to_config()) == source


def confluent(**more: object) -> ConfluentS3Sink:
    return ConfluentS3Sink(**{"name": "archive", "bucket": "b", "flush_records": 1000, **more})  # type: ignore[arg-type]


def test_hourly_folders_are_what_the_confluent_sink_was_proven_with() -> None:
    config = confluent(partition_by=Hourly()).to_config()
    # /work/shared/stack.md, "The Confluent flavour": the settings of a run that wrote the samples.
    assert config["partitioner.class"] == "io.confluent.connect.storage.partitioner.TimeBasedPartitioner"
    assert config["path.format"] == "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH"
    assert config["partition.duration.ms"] == "3600000"
    assert (config["timestamp.extractor"], config["timezone"], config["locale"]) == ("Record", "UTC", "en-US")


def test_one_thing_is_said_with_one_word() -> None:
    raw = {
        "partitioner_class": "io.confluent.connect.storage.partitioner.TimeBasedPartitioner",
        "path_format": "'year'=YYYY/'month'=MM/'day'=dd",
        "partition_duration_ms": 86_400_000,
        "partition_timezone": "UTC",
        "partition_locale": "en-US",
        "timestamp_extractor": "Record",
    }
    with pytest.raises(ConfigError, match="finding") as refused:
        confluent(**raw)
    assert "partition_by=Daily" in (refused.value.detail or "")
    with pytest.raises(ConfigError):
        confluent(partition_by=Daily(), partition_timezone="UTC")


def test_iceberg_partitions_by_a_field_only() -> None:
    with pytest.raises(ConfigError, match="finding"):
        IcebergSink(name="s", control_topic="c", partition_by=Hourly())
    sink = IcebergSink(name="s", control_topic="c", partition_by="hour(event_time)")
    assert sink.partition_by == Hourly("event_time")
    two = IcebergSink(name="s", control_topic="c", partition_by="hour(a),day(b)")
    assert two.partition_by == "hour(a),day(b)"


def test_a_converter_is_known_by_its_class() -> None:
    source = postgres(
        key_converter=AvroConverter.confluent("http://registry:8081"),
        value_converter=AvroConverter.apicurio("http://registry:8080/"),
        header_converter=OtherConverter(java_class="org.example.Converter", options={"a": "b"}),
    )
    read = PostgresSource.from_config(source.to_config())
    assert isinstance(read.key_converter, AvroConverter)
    assert isinstance(read.value_converter, ApicurioAvroConverter)
    assert read.value_converter.registry_url == "http://registry:8080/apis/registry/v2"
    assert read == source


def test_a_class_that_has_a_model_is_not_taken_for_another() -> None:
    with pytest.raises(ConfigError, match="finding"):
        OtherConverter(java_class="org.apache.kafka.connect.json.JsonConverter")
    with pytest.raises(ConfigError, match="finding"):
        OtherTransform(name="m", java_class="org.apache.kafka.connect.transforms.InsertField$Value")


def test_two_transforms_of_one_name_are_refused() -> None:
    twice = (InsertField(name="meta"), InsertField(name="meta", target="key"))
    with pytest.raises(ConfigError) as refused:
        postgres(transforms=twice)
    assert "meta is given twice" in (refused.value.detail or "")


def test_a_dead_letter_queue_stands_in_its_sink() -> None:
    sink = confluent(dead_letter_queue=DeadLetterQueue(topic="dlq"))
    assert sink.to_config()["errors.deadletterqueue.topic.name"] == "dlq"
    assert sink.to_config()["errors.tolerance"] == "all"
    assert ConfluentS3Sink.from_config(sink.to_config()) == sink
    with pytest.raises(ConfigError):
        DeadLetterQueue(topic=None, context_headers=None, tolerance=None, log_enable=None, log_include_messages=None)


def test_a_worker_writes_its_properties_file() -> None:
    worker = WorkerConfig(
        bootstrap_servers="kafka:9092",
        group_id="connect",
        config_storage_topic="c",
        offset_storage_topic="o",
        status_storage_topic="s",
        value_converter=JsonConverter(schemas_enable=True),
    )
    lines = worker.to_properties().splitlines()
    assert "exactly.once.source.support=enabled" in lines
    assert "value.converter.schemas.enable=true" in lines


def test_a_topic_keeps_its_name_and_size_apart_from_its_settings() -> None:
    topic = TopicConfig.for_iceberg_control("control", replication_factor=3, min_insync_replicas=2)
    assert topic.to_config() == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "min.insync.replicas": "2",
        "unclean.leader.election.enable": "false",
    }


def _plugin_class(model: type[Config]) -> str:
    return getattr(model, "class_name", "") or model.fixed.get("connector.class", "")


def _words() -> list[tuple[type[Config], str, str, str]]:
    """(model, key, class that is asked, word) for each word of a closed set."""
    found = []
    for model in MODELS:
        java_class = _plugin_class(model)
        keys = plugin(java_class)
        for name, codec in codecs(model).items():
            info = keys.keys.get(codec.name) if keys and isinstance(codec, Key) else None
            if keys is None or info is None or not info.values or not isinstance(codec, Key):
                continue
            for word in re.findall(r"'([^']*)'", str(model.model_fields[name].annotation)):
                found.append((model, codec.name, java_class, codec.values.get(word, word)))
    return found


@pytest.mark.parametrize(("model", "key", "java_class", "word"), _words(), ids=str)
def test_every_word_of_a_builder_is_one_that_the_plugin_takes(
    model: type[Config], key: str, java_class: str, word: str
) -> None:
    keys = plugin(java_class)
    assert keys is not None
    assert word in keys.keys[key].values


def test_enough_words_are_compared() -> None:
    assert len(_words()) > 80


@pytest.mark.parametrize("model", [one for one in MODELS if plugin(_plugin_class(one))], ids=lambda one: one.__name__)
def test_every_key_of_a_builder_is_known_to_its_plugin(model: type[Config]) -> None:
    keys = plugin(_plugin_class(model))
    assert keys is not None
    of_connect = ("consumer.override.", "topic.creation.default.")  # Kafka Connect's own, whatever the plugin
    of_steps = {"predicate", "negate"}
    unknown = [key for key in model.known_keys() if not keys.knows(key)]
    assert [key for key in unknown if not key.startswith(of_connect) and key not in of_steps] == []
