"""What the pipeline's servers say, made into metrics: samples and monitors of `cdcpipe.verify`, PostgreSQL, Kafka,
the archive. Each class is the work of one source, and only its thread calls it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import KafkaError, PostgresError, ServiceError
from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_archive import ArchiveReader
from cdcpipe.observe.monitor_restarts import Restarts, is_refused_schema
from cdcpipe.observe.monitor_source import Partial
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.verify.progress import Sample, Watch
from cdcpipe.verify.sampling import Sampler

__all__ = ["Archive", "Kafka", "Known", "Pipeline", "Postgres"]

_CONNECTOR_STATES = ("RUNNING", "PAUSED", "STOPPED", "FAILED", "UNASSIGNED", "RESTARTING")


@dataclass(slots=True)
class Known:
    """What one source tells another. Written by one thread each, whole values only."""

    ends: Mapping[tuple[str, int], int] = field(default_factory=dict)
    begins: Mapping[tuple[str, int], int] = field(default_factory=dict)
    log_bytes: Mapping[tuple[str, int], float] | None = None

    def mean_bytes(self, topic: str) -> float | None:
        """Bytes that a record of `topic` takes in the log; None when that isn't known."""
        if self.log_bytes is None:
            return None
        size = sum(size for (name, _), size in self.log_bytes.items() if name == topic)
        count = sum(end - self.begins.get(place, 0) for place, end in self.ends.items() if place[0] == topic)
        return size / count if count > 0 else 0.0


class Growing:
    """A total that never falls, out of counts that may: a table that was dropped takes its count along."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self.total = 0

    def add(self, counts: Mapping[str, int]) -> int:
        """Take the counts of now, by name; gives the total."""
        for name, count in counts.items():
            self.total += max(0, count - self._last.get(name, 0))
            self._last[name] = count
        return self.total


class Pipeline:
    """Samples, as `cdcpipe.verify` takes them, and its monitors over them. `found` is told each anomaly.

    With `restarting`, which is told each restart, what failed is started again.
    """

    OWNS = (
        "cdcpipe_connector_state",
        "cdcpipe_task_state",
        "cdcpipe_schema_registration_refused",
        "cdcpipe_false_green",
        "cdcpipe_lag_bytes",
    )

    def __init__(
        self,
        exporter: Exporter,
        endpoints: Endpoints,
        known: Known,
        *,
        source: str,
        sink: str,
        slot: str,
        watch: Watch,
        found: Callable[[str, str], None],
        restarting: Callable[[str], None] | None = None,
    ) -> None:
        self._exporter, self._known, self._watch, self._found = exporter, known, watch, found
        self._sampler = Sampler(endpoints, source=source, sink=sink, slot=slot, timeout_seconds=4.0)
        self._connect = ConnectClient(endpoints.connect_url, timeout_seconds=4.0)
        self._connectors = (source, sink)
        self._restarts: Restarts | None = None
        if restarting is not None:
            self._restarts = Restarts(exporter, self._connect, restarting, source=source, connectors=self._connectors)

    def ask(self) -> None:
        """Take a sample, let the monitors judge it, tell what it shows."""
        sample = self._sampler.take()
        for name, sentence in self._watch.feed(sample):
            self._exporter.inc("cdcpipe_anomalies_total", anomaly=name)
            self._found(name, sentence)
        self._tell_connectors(sample.connectors)
        self._tell_lag(sample)
        self._restart(sample)
        silent = [
            who
            for who, part in (
                ("PostgreSQL", sample.slot),
                ("Connect", sample.connectors),
                ("Kafka", sample.end_offsets),
            )
            if part is None
        ]
        if silent:
            raise Partial(f"{', '.join(silent)} did not answer")

    def _restart(self, sample: Sample) -> None:
        if self._restarts is not None and sample.connectors is not None:
            self._restarts.look(sample.connectors, sample.slot, sample.at)

    def close(self) -> None:
        """Close the connections."""
        self._sampler.close()
        self._connect.close()

    def _tell_connectors(self, states: Mapping[str, str] | None) -> None:
        if states is None:
            self._exporter.forget(self.OWNS[:4])
            return
        self._exporter.set("cdcpipe_false_green", self._watch.is_false_green)
        connectors: dict[tuple[str, ...], float] = {}
        tasks: dict[tuple[str, ...], float] = {}
        failed = set()
        for name, state in states.items():
            connector, slash, task = name.rpartition("/")
            for each in {*_CONNECTOR_STATES, state}:
                if slash:
                    tasks[connector, task, each] = state == each
                else:
                    connectors[name, each] = state == each
            if state == "FAILED":
                failed.add(connector if slash else name)
        self._exporter.replace("cdcpipe_connector_state", connectors)
        self._exporter.replace("cdcpipe_task_state", tasks)
        self._exporter.replace(
            "cdcpipe_schema_registration_refused",
            {name: name in failed and self._refused(name) for name in self._connectors if name in states},
        )

    def _refused(self, connector: str) -> bool:
        try:
            return is_refused_schema(self._connect.status(connector).failure or "")
        except ServiceError:
            return False

    def _tell_lag(self, sample: Sample) -> None:
        in_bytes: dict[str, float] = {}
        if sample.wal_lsn is not None and sample.source_lsn is not None:
            in_bytes["commit_to_log"] = max(0, sample.wal_lsn - sample.source_lsn)
        if sample.group_offsets is not None and sample.end_offsets is not None:
            behind = {
                place: max(0, sample.end_offsets.get(place, offset) - offset)
                for place, offset in sample.group_offsets.items()
            }
            self._exporter.set("cdcpipe_lag_events", sum(behind.values()), hop="log_to_archive")
            means = {topic: self._known.mean_bytes(topic) for topic, _ in behind}
            if all(mean is not None for mean in means.values()):
                in_bytes["log_to_archive"] = sum(count * (means[topic] or 0) for (topic, _), count in behind.items())
        self._exporter.replace("cdcpipe_lag_bytes", in_bytes)


_SLOTS = """
SELECT slot_name, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::int8,
       active, coalesce(wal_status = 'lost', false) OR (to_jsonb(s) ->> 'invalidation_reason') IS NOT NULL
FROM pg_replication_slots s WHERE NOT temporary
"""
_SERVER = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8, current_setting('max_connections')::int,
       (SELECT sum(numbackends) FROM pg_stat_database)::int
"""
_CHANGES = """
SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
WHERE schemaname = ANY (%s)
"""
_ROLES = """
SELECT rolname, extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles
WHERE rolcanlogin AND rolvaliduntil IS NOT NULL AND rolvaliduntil <> 'infinity'
"""


class Postgres:
    """Slots, WAL, connections, row changes and passwords that end, through the witness's role."""

    OWNS = (
        "cdcpipe_slot_retained_bytes",
        "cdcpipe_slot_lag_bytes",
        "cdcpipe_slot_active",
        "cdcpipe_slot_invalid",
        "cdcpipe_wal_written_bytes_total",
        "cdcpipe_postgres_connections",
        "cdcpipe_postgres_connections_limit",
        "cdcpipe_credential_expiry_timestamp_seconds",
    )

    def __init__(self, exporter: Exporter, endpoints: Endpoints) -> None:
        self._exporter, self._endpoints = exporter, endpoints
        self._connection: psycopg.Connection[Any] | None = None
        self._changes = Growing()

    def ask(self) -> None:
        """Ask once. Raises `PostgresError`."""
        try:
            if self._connection is None:
                conninfo = self._endpoints.postgres.conninfo("witness")
                self._connection = psycopg.connect(
                    conninfo, autocommit=True, connect_timeout=4, options="-c statement_timeout=5000"
                )
            run = self._connection.execute
            slots = run(_SLOTS).fetchall()
            server = run(_SERVER).fetchone()
            changes = run(_CHANGES, [list(self._endpoints.captured_schemas)]).fetchall()
            roles = run(_ROLES).fetchall()
        except psycopg.Error as error:
            self.close()
            raise PostgresError(f"PostgreSQL can't be asked: {str(error).strip().splitlines()[0]}") from error
        tell = self._exporter
        for index, name in enumerate(self.OWNS[:4], 1):
            tell.replace(name, {slot[0]: slot[index] for slot in slots})
        assert server is not None
        tell.set("cdcpipe_wal_written_bytes_total", server[0])
        tell.set("cdcpipe_postgres_connections_limit", server[1])
        tell.set("cdcpipe_postgres_connections", server[2])
        tell.set("cdcpipe_events_total", self._changes.add(dict(changes)), hop="commit")
        until = {f"postgres/{name}": at for name, at in roles if math.isfinite(at)}
        tell.replace("cdcpipe_credential_expiry_timestamp_seconds", until)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None


class Kafka:
    """Ends of the change topics and of the dead-letter topic, by a consumer that reads nothing.

    Not by the admin client, which ends the process when a broker goes away (see `cdcpipe.verify.sampling.Sampler`).
    """

    OWNS = ("cdcpipe_dead_letters_total", "cdcpipe_dead_letters_kept")

    def __init__(self, exporter: Exporter, endpoints: Endpoints, known: Known) -> None:
        self._exporter, self._endpoints, self._known = exporter, endpoints, known
        self._consumer = Consumer(
            {
                "bootstrap.servers": endpoints.bootstrap_servers,
                "group.id": "cdcpipe-monitor",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self._prefixes = endpoints.change_topic_prefixes
        self._topics: tuple[float, dict[str, list[int]]] = (-math.inf, {})

    @property
    def change_topics(self) -> tuple[str, ...]:
        """The topics of captured tables, as of the last look."""
        return tuple(name for name in self._topics[1] if name.startswith(self._prefixes))

    def ask(self) -> None:
        """Ask once. Raises `KafkaError`."""
        try:
            self._list_topics()
            begins, ends = self._offsets()
        except KafkaException as error:
            raise KafkaError(f"Kafka can't be asked: {error.args[0].str()}") from error
        self._known.ends, self._known.begins = ends, begins
        dead = self._endpoints.dead_letter_topic
        changes = sum(end for (topic, _), end in ends.items() if topic != dead)
        self._exporter.set("cdcpipe_events_total", changes, hop="log")
        if dead in self._topics[1]:
            letters = sum(end for (topic, _), end in ends.items() if topic == dead)
            gone = sum(begin for (topic, _), begin in begins.items() if topic == dead)
            self._exporter.replace("cdcpipe_dead_letters_total", {dead: letters})
            self._exporter.replace("cdcpipe_dead_letters_kept", {dead: letters - gone})

    def _list_topics(self) -> None:
        if time.monotonic() - self._topics[0] < 30:  # a new table's topic may wait that long
            return
        found = self._consumer.list_topics(timeout=5).topics
        wanted = (*self._prefixes, self._endpoints.dead_letter_topic)
        self._topics = (
            time.monotonic(),
            {name: list(topic.partitions) for name, topic in found.items() if name.startswith(wanted)},
        )

    def _offsets(self) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
        begins, ends = {}, {}
        for topic, numbers in self._topics[1].items():
            for number in numbers:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5)
                begins[topic, number], ends[topic, number] = int(low), int(high)
        return begins, ends

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


class Archive:
    """The tables of the change topics."""

    OWNS = (
        "cdcpipe_archive_rows",
        "cdcpipe_archive_bytes",
        "cdcpipe_archive_files",
        "cdcpipe_archive_last_commit_timestamp_seconds",
    )

    def __init__(self, exporter: Exporter, reader: ArchiveReader, topics: Callable[[], Iterable[str]]) -> None:
        self._exporter, self._reader, self._topics = exporter, reader, topics
        self._rows = Growing()

    def ask(self) -> None:
        """Ask once. Raises `StorageError`."""
        facts = {topic: found for topic in self._topics() if (found := self._reader.facts(topic)) is not None}
        for name, attribute in zip(self.OWNS, ("rows", "bytes", "files", "committed_at"), strict=True):
            self._exporter.replace(name, {topic: getattr(found, attribute) for topic, found in facts.items()})
        total = self._rows.add({topic: found.rows for topic, found in facts.items()})
        self._exporter.set("cdcpipe_events_total", total, hop="archive")
