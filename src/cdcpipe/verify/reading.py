"""A running pipeline's log and archive, read into ledgers: what is captured, where it lies, how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg

from cdcpipe.errors import PostgresError
from cdcpipe.ledger.archive import read_folders, read_iceberg
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue
from cdcpipe.ledger.log import read_log
from cdcpipe.ledger.objects import Bucket
from cdcpipe.ledger.room import ROOMY, Room
from cdcpipe.ledger.store import Ledger
from cdcpipe.stack.endpoints import WATERMARK_TABLE, Endpoints
from cdcpipe.verify.settle import captured_topics

__all__ = ["Captured"]


@dataclass(frozen=True, slots=True)
class Captured:
    """The captured `tables` as they are now. A table without a change has no topic yet: `topics` leaves it out."""

    endpoints: Endpoints
    catalogue: Catalogue
    tables: tuple[str, ...]
    topics: Mapping[str, str]
    modes: Modes | None = None

    @classmethod
    def of(cls, endpoints: Endpoints, modes: Modes | None = None, *, tables: Iterable[str] | None = None) -> Captured:
        """Ask PostgreSQL and Kafka. `tables` default to all that are captured, whoever writes to them.

        Ask late: tables that were made meanwhile are then there too, and every transaction id is below the next one.
        Raises `PostgresError`, `KafkaError`.
        """
        try:
            with psycopg.connect(endpoints.postgres.conninfo("witness"), autocommit=True) as connection:
                catalogue = Catalogue.read(connection, publication=endpoints.publication)
        except psycopg.Error as error:
            raise PostgresError(f"the captured tables can't be listed: {str(error).strip()}") from error
        if tables is None:
            captured = (name for name in catalogue.tables if name.partition(".")[0] in endpoints.captured_schemas)
            tables = sorted({*captured, WATERMARK_TABLE})
        tables, known = tuple(tables), set(captured_topics(endpoints))
        topics = {table: endpoints.topic_of(table) for table in tables}
        topics = {table: topic for table, topic in topics.items() if topic in known}
        return cls(endpoints, catalogue, tables, topics, modes)

    def log(self, folder: Path, *, begin: Mapping[tuple[str, int], int] | None = None, images: bool = False) -> Ledger:
        """The log ledger in `folder`, from the offsets of `begin` (default: all) to the ends of now."""
        return read_log(
            self.endpoints.bootstrap_servers,
            folder,
            topics=dict(self.topics),
            catalogue=self.catalogue,
            registry_url=self.endpoints.registry_url,
            modes=self.modes,
            begin=None if begin is None else dict(begin),
            transaction_topic=self.endpoints.transaction_topic,
            dead_letter_topic=self.endpoints.dead_letter_topic,
            images=images,
        )

    def archive(
        self, folder: Path, *, since: datetime | None = None, images: bool = False, room: Room = ROOMY
    ) -> Ledger:
        """The archive ledger in `folder`: of an Iceberg catalog's tables, or of folders where there is no catalog.

        With `since`, without the hours that were over an hour before.
        """
        begin = None if since is None else (since - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
        topics = dict(self.topics)
        if self.endpoints.catalog is not None:
            return read_iceberg(
                self.endpoints,
                folder,
                topics=topics,
                catalogue=self.catalogue,
                modes=self.modes,
                begin=begin,
                images=images,
                room=room,
            )
        return read_folders(
            Bucket(self.endpoints.s3),
            folder,
            topics=topics,
            catalogue=self.catalogue,
            prefix=self.endpoints.archive_prefix,
            modes=self.modes,
            begin=begin,
            images=images,
            room=room,
        )
