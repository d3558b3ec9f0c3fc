"""Ask the servers of a pipeline what its guards want to know. What gives no answer is kept with its reason.

Reads only. PostgreSQL is asked as whoever `conninfo` says, who needs no more than to connect.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from cdcpipe.connect.facts import DatabaseFacts, Facts, Publication, Slot, Table
from cdcpipe.connect.pipeline import ICEBERG, Part, Pipeline, Place
from cdcpipe.errors import CdcpipeError, ConnectError, KafkaError, PostgresError, RegistryError

__all__ = ["Servers", "gather"]

_TOPIC_KEYS = (
    "cleanup.policy",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "unclean.leader.election.enable",
)


_SETTINGS = {"wal_level", "idle_replication_slot_timeout", "synchronized_standby_slots"}


@dataclass(frozen=True, slots=True)
class Servers:
    """Where to ask; None: don't. `postgres` is a libpq connection string, `registry` a Confluent-compatible API."""

    postgres: str | None = None
    kafka: str | None = None
    connect: str | None = None
    registry: str | None = None


def gather(pipeline: Pipeline, servers: Servers, *, timeout_seconds: float = 10.0) -> Facts:
    """Ask every server of `servers`; one that gives no answer is in `silences`, none raises."""
    asking: dict[str, Callable[[str], dict[str, Any]]] = {
        "postgres": lambda conninfo: {"database": _ask_postgres(conninfo, timeout_seconds)},
        "kafka": lambda bootstrap: _ask_kafka(pipeline, bootstrap, timeout_seconds),
        "connect": lambda url: _ask_connect(pipeline, url, timeout_seconds),
        "registry": lambda url: {"compatibility": _ask_registry(url, timeout_seconds)},
    }
    values: dict[str, Any] = {}
    silences: dict[str, str] = {}
    answered: set[str] = set()
    for server in (field.name for field in fields(servers)):
        where = getattr(servers, server)
        if where is None:
            silences[server] = "was not asked"
            continue
        try:
            values |= asking[server](where)
            answered.add(server)
        except CdcpipeError as error:
            silences[server] = error.message
    return Facts(answered=frozenset(answered), silences=silences, **values)


# --- PostgreSQL ---


def _ask_postgres(conninfo: str, timeout_seconds: float) -> DatabaseFacts:
    import psycopg
    from psycopg.rows import dict_row

    try:
        with psycopg.connect(conninfo, connect_timeout=max(2, int(timeout_seconds)), autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)

            def rows(statement: str) -> list[dict[str, Any]]:
                return cursor.execute(statement.encode()).fetchall()

            settings = {
                row["name"]: row["setting"]
                for row in rows("SELECT name, setting FROM pg_settings")
                if row["name"] in _SETTINGS
            }
            slots = [row["slot"] for row in rows("SELECT to_jsonb(s) AS slot FROM pg_replication_slots s")]
            standbys = rows("SELECT count(*) AS n FROM pg_replication_slots WHERE slot_type = 'physical' AND active")
            return DatabaseFacts(
                database=connection.info.dbname,
                version=connection.info.server_version,
                settings=settings,
                publications=_publications(rows),
                slots={slot["slot_name"]: _slot(slot) for slot in slots},
                tables={row["name"]: _table(row) for row in rows(_TABLES)},
                standbys=int(standbys[0]["n"]),
            )
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL doesn't answer: {str(error).strip().splitlines()[0]}") from error


_TABLES = """
SELECT n.nspname || '.' || c.relname AS name, c.relreplident::text AS identity,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped AND a.attstorage IN ('x', 'e') ORDER BY a.attnum) AS toastable,
       -- tgtype: 1 for each row, 2 before, 4 insert
       EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7) AS row_by_row
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
ORDER BY 1
"""


def _publications(rows: Callable[[str], list[dict[str, Any]]]) -> dict[str, Publication]:
    members: dict[str, list[dict[str, Any]]] = {}
    # rowfilter and attnames are there since PostgreSQL 15; a column list is one that leaves a column out.
    for row in rows("SELECT to_jsonb(t) AS member FROM pg_publication_tables t"):
        members.setdefault(row["member"]["pubname"], []).append(row["member"])
    columns = {
        row["name"]: row["n"]
        for row in rows(
            "SELECT n.nspname || '.' || c.relname AS name, count(*) AS n FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' GROUP BY 1"
        )
    }
    found = {}
    for row in rows("SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"):
        mine = {f"{one['schemaname']}.{one['tablename']}": one for one in members.get(row["pubname"], [])}
        found[row["pubname"]] = Publication(
            name=row["pubname"],
            tables=frozenset(mine),
            operations=frozenset(op for op in ("insert", "update", "delete", "truncate") if row[f"pub{op}"]),
            row_filters=tuple(sorted(name for name, one in mine.items() if one.get("rowfilter"))),
            column_lists=tuple(
                sorted(
                    name
                    for name, one in mine.items()
                    if one.get("attnames") is not None and len(one["attnames"]) < columns.get(name, 0)
                )
            ),
        )
    return found


def _slot(row: dict[str, Any]) -> Slot:
    return Slot(
        name=row["slot_name"],
        plugin=row.get("plugin") or "",
        database=row.get("database") or "",
        wal_status=row.get("wal_status") or "",
        failover=bool(row.get("failover")),
        reason=row.get("invalidation_reason") or "",
    )


def _table(row: dict[str, Any]) -> Table:
    return Table(row["name"], row["identity"], row["has_key"], tuple(row["toastable"]), row["row_by_row"])


# --- Kafka ---


def _ask_kafka(pipeline: Pipeline, bootstrap: str, timeout_seconds: float) -> dict[str, Any]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

    admin = AdminClient(
        {"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": int(timeout_seconds * 1e3)}
    )
    try:
        metadata = admin.list_topics(timeout=timeout_seconds)
        names = [name for name in metadata.topics if _belongs(pipeline, name)]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        answers = admin.describe_configs(resources, request_timeout=timeout_seconds) if resources else {}
        topics = []
        for resource, future in answers.items():
            entries = future.result()
            described = metadata.topics[resource.name].partitions
            config = {key: str(entries[key].value) for key in _TOPIC_KEYS if key in entries}
            config["partitions"] = str(len(described))
            config["replication.factor"] = str(min((len(one.replicas) for one in described.values()), default=0))
            topics.append(Part("topic", resource.name, config, Place(f"kafka://{bootstrap}", resource.name)))
    except KafkaException as error:
        raise KafkaError(f"the brokers at {bootstrap} don't answer: {error.args[0].str()}") from error
    finalized: dict[str, int] = {}
    with contextlib.suppress(OSError, struct.error, ValueError):  # TLS, or an older protocol: then it is unknown
        finalized = _finalized_features(bootstrap.split(",")[0], timeout_seconds)
    return {
        "brokers": len(metadata.brokers),
        "topics": tuple(topics),
        "transaction_version": finalized.get("transaction.version"),
        "metadata_version": finalized.get("metadata.version"),
    }


def _belongs(pipeline: Pipeline, topic: str) -> bool:
    if pipeline.topic(topic) is not None:
        return True
    for part in pipeline.sources:
        if part.get("topic.prefix") and topic.startswith(f"{part.get('topic.prefix')}."):
            return True
    for part in pipeline.of_class(ICEBERG):
        if topic == part.get("iceberg.control.topic", "control-iceberg"):
            return True
    for part in pipeline.sinks:
        if topic in part.words("topics") or topic == part.get("errors.deadletterqueue.topic.name"):
            return True
    own = ("config.storage.topic", "offset.storage.topic", "status.storage.topic")
    return pipeline.worker is not None and any(topic == pipeline.worker.get(key) for key in own)


def _finalized_features(address: str, timeout_seconds: float) -> dict[str, int]:
    """Feature levels that the cluster has settled on, out of an ApiVersions v3 answer (KIP-584), in plain text."""
    host, _, port = address.rpartition(":")
    client = b"cdcpipe"
    name = bytes([len(client) + 1]) + client
    header = struct.pack(">hhih", 18, 3, 1, len(client)) + client + b"\x00"
    request = header + name + bytes([2]) + b"1" + b"\x00"
    with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_seconds) as link:
        link.sendall(struct.pack(">i", len(request)) + request)
        size = struct.unpack(">i", _exactly(link, 4))[0]
        answer = _exactly(link, size)
    return _features(answer)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = link.recv(count - len(data))
        if not chunk:
            raise OSError("the broker hung up")
        data += chunk
    return data


def _features(answer: bytes) -> dict[str, int]:
    at = [4]  # behind the correlation id

    def take(count: int) -> bytes:
        piece = answer[at[0] : at[0] + count]
        if len(piece) < count:
            raise ValueError("the answer is cut off")
        at[0] += count
        return piece

    def varint() -> int:
        value = shift = 0
        while True:
            byte = take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7

    def tags() -> Iterator[tuple[int, bytes]]:
        for _ in range(varint()):
            tag = varint()
            yield tag, take(varint())

    if struct.unpack(">h", take(2))[0] != 0:
        raise ValueError("the broker refuses ApiVersions v3")
    for _ in range(varint() - 1):
        take(6)
        list(tags())
    take(4)
    found: dict[str, int] = {}
    for tag, payload in list(tags()):
        if tag == 2:  # finalized features
            answer, at[0] = payload, 0
            for _ in range(varint() - 1):
                name = take(varint() - 1).decode()
                found[name] = struct.unpack(">h", take(2))[0]
                take(2)
                list(tags())
    return found


# --- Connect and the registry ---


def _ask_connect(pipeline: Pipeline, url: str, timeout_seconds: float) -> dict[str, Any]:
    from cdcpipe.connect.rest import ConnectClient

    with ConnectClient(url, timeout_seconds=timeout_seconds) as client:
        plugins = {plugin.java_class: plugin.version or "" for plugin in client.plugins(connectors_only=True)}
        refusals = {}
        for part in pipeline.connectors:
            if part.java_class in plugins:
                try:
                    refusals[part.name] = client.validate({**part.config, "name": part.name}).errors
                except ConnectError as error:
                    refusals[part.name] = {"": (error.message,)}
        return {"plugins": plugins, "worker_version": client.info().version, "refusals": refusals}


def _ask_registry(url: str, timeout_seconds: float) -> str:
    import httpx2

    try:
        answer = httpx2.get(f"{url.rstrip('/')}/config", timeout=timeout_seconds, trust_env=False)
        answer.raise_for_status()
        body = answer.json()
        return str(body.get("compatibilityLevel") or body["compatibility"])
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
        raise RegistryError(f"the registry at {url} doesn't say its compatibility: {type(error).__name__}") from error
