"""How far the run is: what triggers are keyed on, asked of the servers themselves and not through a proxy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from cdcpipe.errors import CdcpipeError
from cdcpipe.ledger.objects import Bucket
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["ArchiveWatch", "LogEnds", "Moments", "archived_rows"]

_MOMENT_SECONDS_MAX: Final = 20.0


class LogEnds:
    """How many records lie in `topics`, by a consumer: the admin client may end our process (see `watching`)."""

    def __init__(self, endpoints: Endpoints, topics: Sequence[str]) -> None:
        self._topics = tuple(topics)
        self._places: list[TopicPartition] = []
        self._consumer = Consumer(
            {
                "bootstrap.servers": endpoints.bootstrap_servers,
                "group.id": "cdcpipe-chaos-ends",
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def total(self) -> int | None:
        """Records, transaction markers included; None when the brokers don't say within 2 s."""
        deadline = time.monotonic() + 2
        try:
            if {place.topic for place in self._places} != set(self._topics):
                known = self._consumer.list_topics(timeout=2).topics
                found = [name for name in self._topics if name in known]
                self._places = [TopicPartition(name, part) for name in found for part in known[name].partitions]
            total = 0
            for place in self._places:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                total += int(self._consumer.get_watermark_offsets(place, timeout=left)[1])
            return total
        except KafkaException:
            return None

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def archived_rows(endpoints: Endpoints, topics: Sequence[str]) -> int | None:
    """Rows in the archive's tables of `topics`, by their newest snapshots' own count; None when nobody says."""
    try:
        catalog, total = open_catalog(endpoints), 0
        for topic in topics:
            with contextlib.suppress(NoSuchTableError, NoSuchNamespaceError):
                snapshot = catalog.load_table(topic).current_snapshot()
                if snapshot is not None and snapshot.summary is not None:
                    total += int(snapshot.summary["total-records"] or 0)
        return total
    except Exception:  # noqa: BLE001 - a figure of a chart, no evidence; SQL, S3 and file formats all fail in their own way
        return None


class ArchiveWatch:
    """Notes when the archive's tables are committed to, by the catalog's pointers: no file is read."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._catalog = endpoints.catalog
        self._connection: psycopg.Connection[Any] | None = None
        self._seen: dict[str, str] = {}
        self.commits: list[float] = []

    def look(self) -> bool:
        """Ask once; True when a commit was noted."""
        if self._catalog is None:
            return False
        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._catalog.postgres.conninfo(self._catalog.role), autocommit=True, connect_timeout=2
                )
            rows = self._connection.execute(
                "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables"
            ).fetchall()
        except psycopg.Error:
            self.close()
            return False
        now = {name: place for name, place in rows if place is not None}
        moved = any(self._seen.get(name) != place for name, place in now.items())
        first = not self._seen
        self._seen = now
        if moved and not first:
            self.commits.append(time.time())
        return moved and not first

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None


class Moments:
    """Waits for a moment that lasts milliseconds."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def wait(self, moment: str, stop: threading.Event) -> str | None:
        """Return at the next such moment: None, or a sentence when it did not come in time."""
        waits: dict[str, Callable[[threading.Event, float], bool]] = {
            "upload": self._upload,
            "open_transaction": self._open_transaction,
        }
        with contextlib.suppress(CdcpipeError, psycopg.Error):
            if waits[moment](stop, time.monotonic() + _MOMENT_SECONDS_MAX):
                return None
        return f"the moment `{moment}` did not come within {_MOMENT_SECONDS_MAX:g} s; it began without"

    def _upload(self, stop: threading.Event, deadline: float) -> bool:
        """A data file appears: the sink has closed it, and its coordinator hasn't committed it."""
        catalog = self._endpoints.catalog
        if catalog is None:
            return False
        bucket, prefix = Bucket(self._endpoints.s3), catalog.warehouse.partition("://")[2].partition("/")[2]

        def data_files() -> set[str]:
            return {each.name for each in bucket.list(prefix) if "/data/" in each.name}

        known = data_files()
        while not stop.is_set() and time.monotonic() < deadline:
            now = data_files()
            if now - known:
                return True
            stop.wait(0.03)
        return False

    def _open_transaction(self, stop: threading.Event, deadline: float) -> bool:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        with psycopg.connect(self._endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            while not stop.is_set() and time.monotonic() < deadline:
                row = connection.execute(query).fetchone()
                if row is not None and row[0]:
                    return True
                stop.wait(0.005)
        return False
