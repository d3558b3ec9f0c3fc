"""What the servers of a pipeline say: what guards with `needs` look at. `cdcpipe.connect.asking` asks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cdcpipe.connect.pipeline import Part, Pipeline, Place

__all__ = ["DatabaseFacts", "Facts", "Publication", "Slot", "Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `identity` is pg_class.relreplident (d, n, f, i); `toastable` are columns that may be stored apart.

    `row_by_row`: a BEFORE ROW trigger lets COPY write a WAL record for each row, see `cdcpipe.stack.rowwise`.
    """

    name: str
    identity: str
    has_key: bool
    toastable: tuple[str, ...]
    row_by_row: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication: tables (`schema.table`), operations (insert, update, delete, truncate), and what it filters."""

    name: str
    tables: frozenset[str]
    operations: frozenset[str]
    row_filters: tuple[str, ...] = ()
    column_lists: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot. `wal_status` is reserved, extended, unreserved or lost; `reason` why it was invalidated."""

    name: str
    plugin: str
    database: str
    wal_status: str
    failover: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The source database. `version` is server_version_num, such as 180006; `standbys` counts physical replicas."""

    database: str
    version: int
    settings: Mapping[str, str]
    publications: Mapping[str, Publication]
    slots: Mapping[str, Slot]
    tables: Mapping[str, Table]
    standbys: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Answers by server (`postgres`, `kafka`, `connect`, `registry`); `silences` says why one gave none."""

    answered: frozenset[str]
    silences: Mapping[str, str] = field(default_factory=dict)
    database: DatabaseFacts | None = None
    brokers: int | None = None
    transaction_version: int | None = None
    metadata_version: int | None = None
    topics: tuple[Part, ...] = ()
    plugins: Mapping[str, str] = field(default_factory=dict)
    worker_version: str = ""
    refusals: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    compatibility: str | None = None

    def silence(self, server: str) -> str:
        """Why `server` gave no answer."""
        return self.silences.get(server, "was not asked")

    def merged(self, pipeline: Pipeline) -> Pipeline:
        """`pipeline` with topics, brokers and registry as they are on the servers, at the places of the files."""
        declared = {topic.name: topic for topic in pipeline.topics}
        topics = dict(declared)
        for live in self.topics:
            told = declared.get(live.name)
            topics[live.name] = live if told is None else replace(live, place=told.place, places=told.places)
        registry = pipeline.registry
        if self.compatibility is not None:
            place = Place("registry") if registry is None else registry.place
            registry = Part("registry", "registry", {"compatibility": self.compatibility}, place)
        return replace(
            pipeline,
            topics=tuple(topics.values()),
            registry=registry,
            brokers=pipeline.brokers if self.brokers is None else self.brokers,
            declared_partitions={
                name: topic.number("partitions", 0) for name, topic in declared.items() if "partitions" in topic.config
            },
        )
