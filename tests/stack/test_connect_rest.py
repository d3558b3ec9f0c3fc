"""The REST client against a real Kafka Connect: one Iceberg sink of our own is deployed, held, broken and removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from pydantic import JsonValue

from cdcpipe.chaos.operator import Operator
from cdcpipe.connect.rest import ConnectClient, SourceOffset
from cdcpipe.errors import ConnectError, ConnectUnavailable
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

NAME = "rest-test"
SINK_CLASS = "org.apache.iceberg.connect.IcebergSinkConnector"
LOGGER = "org.apache.kafka.connect.runtime.WorkerSinkTask"


@pytest.fixture(scope="module")
def connect(stack: LocalStack) -> Iterator[ConnectClient]:
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def topic(stack: LocalStack) -> Iterator[str]:
    """A topic of our own, where nothing comes."""
    admin = AdminClient({"bootstrap.servers": stack.endpoints.bootstrap_servers, "log_level": 0})
    for future in admin.create_topics([NewTopic(NAME, 1, 1)], operation_timeout=30).values():
        future.result()
    yield NAME
    for future in admin.delete_topics([NAME], operation_timeout=30).values():
        future.result()


@pytest.fixture(scope="module")
def config(connect: ConnectClient, topic: str) -> dict[str, str]:
    """The pipeline's own sink config under another name, on a topic of our own."""
    config = connect.config(SINK)
    prefix = connect.config(SOURCE)["topic.prefix"]
    changes = {
        "name": NAME,
        "topics": topic,
        "iceberg.control.topic": f"{prefix}.iceberg-control",
        "iceberg.control.group-id-prefix": "cg-rest-test-",
    }
    return {**{key: text for key, text in config.items() if key != "topics.regex"}, **changes}


@pytest.fixture
def deployed(connect: ConnectClient, config: dict[str, str]) -> Iterator[str]:
    """A connector that runs, gone again after the test."""
    connect.deploy(config)
    try:
        connect.wait_until_running(NAME, timeout_seconds=90)
        yield NAME
    finally:
        if NAME in connect.connectors():
            connect.delete(NAME)
        connect.wait_until_gone(NAME)


def test_the_worker_says_who_it_is(connect: ConnectClient, stack: LocalStack) -> None:
    info = connect.wait_until_up()
    assert info.version.startswith("4.")
    assert len(info.kafka_cluster_id) > 10


def test_plugins_and_their_keys_are_known(connect: ConnectClient) -> None:
    connectors = {plugin.java_class: plugin for plugin in connect.plugins(connectors_only=True)}
    assert connectors[SINK_CLASS].type == "sink"
    kinds = {plugin.type for plugin in connect.plugins()}
    assert {"source", "sink", "converter", "header_converter", "transformation", "predicate"} <= kinds
    keys = {key.name: key for key in connect.plugin_keys(SINK_CLASS)}
    assert keys["iceberg.control.topic"].default == "control-iceberg"
    assert keys["iceberg.control.commit.interval-ms"].type == "INT"
    with pytest.raises(ConnectError, match="Unknown plugin") as refused:
        connect.plugin_keys("org.example.Nothing")
    assert refused.value.status == 404


def test_validation_gives_errors_by_key_in_the_plugins_words(connect: ConnectClient) -> None:
    good = connect.validate(connect.config(SINK))
    assert (good.error_count, good.errors) == (0, {})
    assert "iceberg.control.topic" in good.keys
    bad = connect.validate({**connect.config(SINK), "tasks.max": "many", "topics": "both"})
    assert "tasks.max" in bad.errors
    assert any("many" in message for message in bad.errors["tasks.max"])
    assert bad.error_count >= 2


def test_a_refused_config_carries_connects_message(connect: ConnectClient, config: dict[str, str]) -> None:
    with pytest.raises(ConnectError, match="configuration is invalid") as refused:
        connect.deploy({**config, "tasks.max": "many"})
    assert refused.value.status == 400
    assert "tasks.max" in (refused.value.detail or "")
    assert NAME not in connect.connectors()


def test_a_connector_is_held_stopped_and_goes_on(connect: ConnectClient, deployed: str) -> None:
    status = connect.status(deployed)
    assert status.running
    assert status.failure is None
    assert status.type == "sink"
    connect.pause(deployed)
    assert connect.wait_until_paused(deployed).state == "PAUSED"
    connect.resume(deployed)
    connect.wait_until_running(deployed)
    connect.stop(deployed)
    assert connect.wait_until_stopped(deployed).tasks == ()
    connect.resume(deployed)
    connect.wait_until_running(deployed)
    connect.restart(deployed, only_failed=True)
    connect.restart(deployed)
    connect.wait_until_running(deployed)
    connect.restart_task(deployed, 0)
    connect.wait_until_running(deployed)


def test_the_deployed_config_holds_references_and_no_secret(connect: ConnectClient) -> None:
    config = connect.config(SOURCE)
    assert config["database.password"].startswith("${file:")


def test_offsets_of_a_running_connector_are_left_alone(connect: ConnectClient, deployed: str) -> None:
    offset = SourceOffset({"kafka_topic": "t", "kafka_partition": 0}, {"kafka_offset": 1})
    with pytest.raises(ConnectError, match="won't alter the offsets of `rest-test`: it is RUNNING") as refused:
        connect.alter_offsets(deployed, [offset])
    assert "wait_until_stopped" in (refused.value.hint or "")
    with pytest.raises(ConnectError, match="won't reset"):
        connect.reset_offsets(deployed)
    connect.pause(deployed)
    connect.wait_until_paused(deployed)
    with pytest.raises(ConnectError, match="it is PAUSED with 1 tasks"):
        connect.reset_offsets(deployed)


def test_offsets_of_a_stopped_connector_are_set_read_and_forgotten(
    connect: ConnectClient, deployed: str, config: dict[str, str]
) -> None:
    connect.stop(deployed)
    connect.wait_until_stopped(deployed)
    partition: dict[str, JsonValue] = {"kafka_topic": config["topics"], "kafka_partition": 0}
    said = connect.alter_offsets(deployed, [SourceOffset(partition, {"kafka_offset": 7})])
    assert "offsets" in said
    assert SourceOffset(partition, {"kafka_offset": 7}) in connect.offsets(deployed)
    connect.reset_offsets(deployed)
    assert connect.offsets(deployed) == ()


def test_a_sources_offset_is_its_place_in_the_wal(connect: ConnectClient) -> None:
    (offset,) = connect.offsets(SOURCE)
    assert offset.partition["server"] == connect.config(SOURCE)["topic.prefix"]
    assert offset.offset is not None
    assert isinstance(offset.offset["lsn"], int)


def test_topics_that_a_connector_used_are_known(connect: ConnectClient) -> None:
    assert any(topic.endswith(".cdcpipe.watermark") for topic in connect.topics(SOURCE))


def _failed(connect: ConnectClient) -> bool:
    try:
        return connect.status(NAME).failure is not None
    except ConnectError as error:
        if error.status == 404:  # its first status is on the way
            return False
        raise


def test_a_connector_that_fails_says_why_and_is_restarted(connect: ConnectClient, config: dict[str, str]) -> None:
    broken = {**config, "iceberg.catalog.catalog-impl": "org.example.NoCatalog"}
    connect.deploy(broken)
    try:
        # A catalogue is made when the task opens its partitions, which may be just after RUNNING.
        wait_until(lambda: _failed(connect), what="the task failed", timeout_seconds=60, error=ConnectUnavailable)
        with pytest.raises(ConnectError, match="connector `rest-test` failed") as failed:
            connect.wait_until_running(NAME)
        assert "NoCatalog" in (failed.value.detail or "")
        assert connect.status(NAME).failure is not None
        connect.deploy(config)
        connect.restart(NAME, only_failed=True)
        connect.wait_until_running(NAME, grace_seconds=30)
    finally:
        connect.delete(NAME)
        connect.wait_until_gone(NAME)


def test_the_operator_of_a_chaos_run_restarts_what_failed_and_tells_why(
    connect: ConnectClient, config: dict[str, str], stack: LocalStack
) -> None:
    connect.deploy({**config, "iceberg.catalog.catalog-impl": "org.example.NoCatalog"})
    try:
        wait_until(lambda: _failed(connect), what="the task failed", timeout_seconds=60, error=ConnectUnavailable)
        with Operator(stack.endpoints.connect_url, (NAME, "nobody")) as operator:
            wait_until(
                lambda: bool(operator.interventions), what="it acted", timeout_seconds=60, error=ConnectUnavailable
            )
            # As broken as before: the second time it is given longer.
            wait_until(lambda: _failed(connect), what="it failed again", timeout_seconds=60, error=ConnectUnavailable)
        (told,) = operator.interventions
        assert NAME in told
        assert "Cannot find constructor for interface org.apache.iceberg.catalog.Catalog" in told
    finally:
        connect.delete(NAME)
        connect.wait_until_gone(NAME)


def test_what_is_not_there_is_a_404(connect: ConnectClient) -> None:
    for ask in (connect.status, connect.config, connect.delete, connect.offsets, connect.restart):
        with pytest.raises(ConnectError) as refused:
            ask("nobody")
        assert refused.value.status == 404


def test_loggers_are_read_and_set(connect: ConnectClient) -> None:
    before = connect.loggers().get(LOGGER, connect.loggers()["root"])
    try:
        for cluster in (False, True):
            connect.set_logger(LOGGER, "DEBUG", cluster=cluster)
            assert connect.loggers()[LOGGER] == "DEBUG"
    finally:
        connect.set_logger(LOGGER, before)
