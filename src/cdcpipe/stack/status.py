"""What a running pipeline says of itself: connector states, and how far behind each hop is."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.rest import ConnectClient, ConnectorStatus
from cdcpipe.errors import KafkaError, PostgresError
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.stack.pipeline import PipelineSettings

__all__ = ["Lag", "PipelineStatus", "pipeline_status"]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind: `source_bytes` of WAL that the source hasn't confirmed, `retained_bytes` of WAL that its slot
    holds on disk, `sink_events` that the sink's group hasn't committed (offsets, so transaction markers count)."""

    source_bytes: int
    retained_bytes: int
    sink_events: int


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """Connectors and lag at one moment."""

    connectors: tuple[ConnectorStatus, ...]
    lag: Lag

    @property
    def healthy(self) -> bool:
        """Every connector and task runs. That data flows is for `cdcpipe verify` to say."""
        return bool(self.connectors) and all(connector.running for connector in self.connectors)


def pipeline_status(endpoints: Endpoints, settings: PipelineSettings) -> PipelineStatus:
    """Ask Connect, PostgreSQL and Kafka. Raises `ServiceError` of the one that doesn't answer."""
    with ConnectClient(endpoints.connect_url, timeout_seconds=10) as client:
        known = client.connectors()
        connectors = tuple(client.status(name) for name in (SOURCE, SINK) if name in known)
    source_bytes, retained = _slot_lag(endpoints, settings.slot)
    return PipelineStatus(connectors, Lag(source_bytes, retained, sink_lag(endpoints)))


def _slot_lag(endpoints: Endpoints, slot: str) -> tuple[int, int]:
    try:
        with psycopg.connect(endpoints.postgres.conninfo("witness"), autocommit=True, connect_timeout=10) as connection:
            row = connection.execute(
                "SELECT pg_current_wal_lsn() - confirmed_flush_lsn, pg_current_wal_lsn() - restart_lsn "
                "FROM pg_replication_slots WHERE slot_name = %s",
                [slot],
            ).fetchone()
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL can't be asked: {str(error).strip()}") from error
    if row is None:
        raise PostgresError(
            f"the slot `{slot}` is gone", hint="without it changes are lost; see `cdcpipe logs connect`"
        )
    return int(row[0] or 0), int(row[1] or 0)


def sink_lag(endpoints: Endpoints) -> int:
    """Offsets between what the sink's group has committed and the end of its topics. Raises `KafkaError`."""
    group = f"connect-{SINK}"
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    consumer = Consumer(
        {"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "cdcpipe-status", "log_level": 0}
    )
    try:
        futures = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        committed = futures[group].result().topic_partitions or []
        behind = 0
        for partition in committed:
            end = consumer.get_watermark_offsets(TopicPartition(partition.topic, partition.partition), timeout=10)[1]
            behind += max(0, end - max(0, partition.offset))
        return behind
    except KafkaException as error:
        raise KafkaError(f"the sink's offsets can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
