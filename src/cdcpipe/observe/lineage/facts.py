"""What OpenLineage events are made of: data sets with their columns, states of the connectors, snapshots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
import psycopg

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import PostgresError, RegistryError
from cdcpipe.observe.trace.archive import Archive
from cdcpipe.observe.trace.find import change_topics
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints

__all__ = ["Connector", "Dataset", "PipelineFacts", "Snapshot", "read_facts"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set by OpenLineage's naming. `columns` are names and types, in order; empty when they aren't known.

    https://github.com/OpenLineage/OpenLineage/blob/main/spec/Naming.md
    """

    namespace: str
    name: str
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of an Iceberg table."""

    number: int
    at: datetime
    rows_added: int
    bytes_added: int
    files_added: int


@dataclass(frozen=True, slots=True)
class Connector:
    """A connector's state: `RUNNING`, `PAUSED`, `FAILED`, ... the worst of it and its tasks, and why."""

    name: str
    state: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """The pipeline at one moment. Lists of `tables`, `topics` and `archives` match, table by table."""

    tables: tuple[Dataset, ...]
    topics: tuple[Dataset, ...]
    archives: tuple[Dataset | None, ...]
    snapshots: Mapping[str, tuple[Snapshot, ...]]
    """Archive's name -> snapshots, oldest first."""
    source: Connector | None
    sink: Connector | None
    namespace: str
    """Of the jobs."""


def read_facts(endpoints: Endpoints, *, source: str = SOURCE, sink: str = SINK) -> PipelineFacts:
    """Ask Connect, PostgreSQL, the registry and the catalog. `source` and `sink` are names of connectors.

    Raises the `ServiceError` of the server that fails.
    """
    topics = change_topics(endpoints)
    names = [endpoints.table_of(topic) for topic in topics]
    columns = _columns(endpoints, names)
    postgres = endpoints.postgres
    tables = tuple(
        Dataset(f"postgres://{postgres.host}:{postgres.port}", f"{postgres.database}.{name}", columns.get(name, ()))
        for name in names
    )
    kafka = f"kafka://{endpoints.bootstrap_servers.split(',')[0]}"
    with httpx2.Client(timeout=20, trust_env=False) as client:
        logs = tuple(Dataset(kafka, topic, _record_fields(client, endpoints, topic)) for topic in topics)
    archives, snapshots = _archives(endpoints, topics)
    with ConnectClient(endpoints.connect_url, timeout_seconds=20) as connect:
        deployed = connect.connectors()
        told = {name: _connector(connect, name) for name in (source, sink) if name in deployed}
    place = endpoints.connect_url.partition("://")[2]
    jobs = f"kafka-connect://{place}"
    return PipelineFacts(tables, logs, archives, snapshots, told.get(source), told.get(sink), jobs)


def _columns(endpoints: Endpoints, names: Sequence[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    try:
        conninfo = f"{endpoints.postgres.conninfo('witness')} application_name=cdcpipe-lineage connect_timeout=10"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, a.atttypmod) "
                "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n "
                "ON n.oid = c.relnamespace WHERE n.nspname || '.' || c.relname = ANY(%s) AND a.attnum > 0 "
                "AND NOT a.attisdropped ORDER BY 1, a.attnum",
                [list(names)],
            ).fetchall()
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL can't be asked: {str(error).strip()}") from error
    for table, column, type_ in rows:
        found.setdefault(table, []).append((column, type_))
    return {table: tuple(columns) for table, columns in found.items()}


def _record_fields(client: httpx2.Client, endpoints: Endpoints, topic: str) -> tuple[tuple[str, str], ...]:
    try:
        answer = client.get(f"{endpoints.registry_url}/subjects/{topic}-value/versions/latest")
    except httpx2.HTTPError as error:
        raise RegistryError(f"the registry at {endpoints.registry_url} doesn't answer: {error}") from error
    if answer.status_code != 200:
        return ()
    try:
        fields = json.loads(answer.json()["schema"])["fields"]
        return tuple((str(field["name"]), _avro_type(field["type"])) for field in fields)
    except (ValueError, KeyError, TypeError):
        return ()


def _avro_type(type_: Any) -> str:
    if isinstance(type_, list):
        return next((_avro_type(each) for each in type_ if each != "null"), "null")
    return str(type_.get("type", "record")) if isinstance(type_, dict) else str(type_)


def _archives(
    endpoints: Endpoints, topics: Sequence[str]
) -> tuple[tuple[Dataset | None, ...], dict[str, tuple[Snapshot, ...]]]:
    found: list[Dataset | None] = []
    snapshots: dict[str, tuple[Snapshot, ...]] = {}
    with closing(Archive(endpoints)) as archive:
        for topic in topics:
            table = archive.table(topic)
            if table is None:
                found.append(None)
                continue
            path = archive.key_of(table.location())
            columns = tuple((field.name, str(field.field_type).partition("<")[0]) for field in table.schema().fields)
            found.append(Dataset(f"s3://{endpoints.s3.bucket}", path, columns))
            snapshots[path] = tuple(_snapshot(each) for each in table.snapshots())
    return tuple(found), snapshots


def _snapshot(raw: Any) -> Snapshot:
    facts = {} if raw.summary is None else raw.summary.additional_properties

    def number(name: str) -> int:
        return int(facts.get(name) or 0)

    at = datetime.fromtimestamp(raw.timestamp_ms / 1000, UTC)
    return Snapshot(
        raw.snapshot_id, at, number("added-records"), number("added-files-size"), number("added-data-files")
    )


def _connector(connect: ConnectClient, name: str) -> Connector:
    status = connect.status(name)
    failure = status.failure
    states = [status.state, *(task.state for task in status.tasks)]
    worst = next((each for each in ("FAILED", "STOPPED", "PAUSED", "UNASSIGNED") if each in states), status.state)
    return Connector(name, str(worst), None if failure is None else str(failure)[:2000])
