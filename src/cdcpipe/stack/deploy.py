"""Bring a pipeline into motion on servers that run, wherever they run: topics, compatibility, connectors, probe."""

from __future__ import annotations

import time

import httpx2
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectUnavailable, KafkaError, PostgresError, RegistryError, ServiceError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_TABLE, Endpoints
from cdcpipe.stack.pipeline import (
    PipelineSettings,
    SecretPlaces,
    sink,
    source,
    static_topics,
    topic_for_changes,
)

__all__ = ["await_flow", "deploy_connectors", "ensure_topics", "forget_offsets", "probe", "set_compatibility"]


def ensure_topics(endpoints: Endpoints, settings: PipelineSettings, tables: tuple[str, ...] = ()) -> None:
    """Make the pipeline's topics that aren't there, and those of `tables` (`schema.table`). Raises `KafkaError`."""
    wanted = [
        *static_topics(endpoints, settings),
        *(topic_for_changes(endpoints.topic_of(table), settings) for table in tables),
    ]
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    try:
        known = admin.list_topics(timeout=20).topics
        missing = [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, config=topic.to_config())
            for topic in wanted
            if topic.name not in known
        ]
        for name, future in (admin.create_topics(missing, operation_timeout=30) if missing else {}).items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise KafkaError(f"topic `{name}` can't be made: {error.args[0].str()}") from error
    except KafkaException as error:
        raise KafkaError(f"the brokers at {endpoints.bootstrap_servers} don't answer: {error.args[0].str()}") from error


def set_compatibility(endpoints: Endpoints, mode: str) -> None:
    """Set the registry's global compatibility mode. Raises `RegistryError`."""
    try:
        answer = httpx2.put(
            f"{endpoints.registry_url}/config", json={"compatibility": mode}, timeout=20, trust_env=False
        )
    except httpx2.HTTPError as error:
        raise RegistryError(f"the registry at {endpoints.registry_url} doesn't answer: {error}") from error
    if not answer.is_success:
        raise RegistryError(f"the registry refuses compatibility {mode}", status=answer.status_code, detail=answer.text)


def deploy_connectors(
    endpoints: Endpoints, settings: PipelineSettings, secrets: SecretPlaces, *, timeout_seconds: float = 90
) -> None:
    """Give Connect both connectors and wait until all their tasks run. Raises `ConnectError` with what failed.

    A task that failed earlier, say while the registry was down, is restarted: Connect itself never does that.
    """
    with ConnectClient(endpoints.connect_url, timeout_seconds=60) as client:
        deployed = client.connectors()
        for config in (
            source(endpoints, settings, secrets).to_config(),
            sink(endpoints, settings, secrets).to_config(),
        ):
            name = config["name"]
            if name not in deployed or client.config(name) != config:  # the same config would restart its tasks
                client.deploy(config)
            elif client.status(name).failure:
                client.restart(name, only_failed=True)
        for name in (SOURCE, SINK):
            client.wait_until_running(name, timeout_seconds=timeout_seconds)


def forget_offsets(endpoints: Endpoints, settings: PipelineSettings) -> None:
    """Stop the source and take its offsets away: what is deployed next begins anew. The connector is gone after it.

    Connect 4.3 can't reset the offsets of an exactly-once source that has a topic of its own for them: it writes the
    worker's topic first, and then to its own in a transaction that it has ended by then (IllegalStateException, 500).
    So the connector loses its topic first, and the topic is made anew. Raises `ConnectError`, `KafkaError`.
    """
    with ConnectClient(endpoints.connect_url, timeout_seconds=60) as client:
        client.stop(SOURCE)
        client.wait_until_stopped(SOURCE)
        config = client.config(SOURCE)
        own = config.pop("offsets.storage.topic", None)
        if own is not None:
            client.deploy(config)
        client.reset_offsets(SOURCE)
        client.delete(SOURCE)
        client.wait_until_gone(SOURCE)
    if own is None:
        return
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    try:
        admin.delete_topics([own], operation_timeout=30)[own].result()
    except KafkaException as error:
        raise KafkaError(f"topic `{own}` can't be removed: {error.args[0].str()}") from error
    ensure_topics(endpoints, settings)


def probe(endpoints: Endpoints, name: str = "probe") -> int:
    """Commit a watermark row called `name` and give its new token. Raises `PostgresError`."""
    try:
        with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            row = connection.execute(
                f"INSERT INTO {WATERMARK_TABLE} (name, token) VALUES (%s, 1) ON CONFLICT (name) "
                "DO UPDATE SET token = watermark.token + 1, at = clock_timestamp() RETURNING token",
                [name],
            ).fetchone()
    except psycopg.Error as error:
        raise PostgresError(f"the probe row can't be written: {str(error).strip()}") from error
    assert row is not None
    return int(row[0])


def await_flow(endpoints: Endpoints, *, archive: bool, timeout_seconds: float = 90) -> None:
    """Commit a probe row and wait until it comes out of Kafka, read_committed, and with `archive` out of S3.

    A task that says RUNNING may still not read; a row that came through is proof.
    """
    topic = endpoints.topic_of(WATERMARK_TABLE)
    consumer = Consumer(
        {
            "bootstrap.servers": endpoints.bootstrap_servers,
            "group.id": "cdcpipe-probe",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    try:
        ends = []
        for partition in consumer.list_topics(topic, timeout=20).topics[topic].partitions:
            high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)[1]
            ends.append(TopicPartition(topic, partition, high))
        consumer.assign(ends)
        probe(endpoints)
        place = _await_record(consumer, endpoints, timeout_seconds)
    except KafkaException as error:
        raise KafkaError(f"the probe topic `{topic}` can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
    if archive:
        _await_archived(endpoints, topic, place, timeout_seconds)


def _await_record(consumer: Consumer, endpoints: Endpoints, timeout_seconds: float) -> tuple[int, int]:
    """Partition and offset of the next record whose key is the probe's."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error() and b"probe" in (message.key() or b""):
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            return partition, offset
    raise ConnectUnavailable(
        f"a probe row did not come out of Kafka within {timeout_seconds:g} s; {_states(endpoints)}",
        hint="`cdcpipe logs connect` shows what the source does",
    )


def _states(endpoints: Endpoints) -> str:
    """What Connect says of each connector and task, in one sentence."""
    try:
        with ConnectClient(endpoints.connect_url, timeout_seconds=10) as client:
            found = [client.status(name) for name in client.connectors()]
    except ServiceError as error:
        return f"Connect can't be asked: {error.message}"
    tasks = {each.name: [f"task {task.id} {task.state}" for task in each.tasks] for each in found}
    said = [", ".join([f"{each.name} {each.state}", *(tasks[each.name] or ["no task"])]) for each in found]
    why = [f"; {each.name} failed: {each.cause}" for each in found if each.cause is not None]
    return f"Connect says: {'; '.join(said) or 'no connector'}{''.join(why)}"


def _await_archived(endpoints: Endpoints, topic: str, place: tuple[int, int], timeout_seconds: float) -> None:
    from cdcpipe.stack.catalog import archived_offsets

    def archived() -> bool:
        return archived_offsets(endpoints, topic).get(place[0], -1) >= place[1]

    wait_until(
        archived,
        what=f"the probe row (partition {place[0]}, offset {place[1]} of `{topic}`) in the archive",
        timeout_seconds=timeout_seconds,
        interval_seconds=0.5,
        error=lambda text: ConnectUnavailable(text, hint="`cdcpipe logs connect` shows what the sink does"),
    )
