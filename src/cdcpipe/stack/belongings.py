"""Remove what a test made in a pipeline that isn't ours: table, topic, subjects, archive table and its objects."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx2
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

from cdcpipe.errors import CdcpipeError, KafkaError, PostgresError, RegistryError, StorageError
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["remove_tables", "traces"]


def remove_tables(endpoints: Endpoints, tables: Iterable[str]) -> None:
    """Remove `tables` (`schema.table`) from the database, the log, the registry and the archive.

    Call it when all their changes have settled: a record that comes later would make an archive table anew. Raises the
    error of the first server that refuses, after all were asked.
    """
    names = list(tables)
    topics = [endpoints.topic_of(name) for name in names]
    errors: list[CdcpipeError] = []
    steps: tuple[tuple[Callable[[Endpoints, list[str]], None], list[str]], ...] = (
        (_drop, names),
        (_delete_topics, topics),
        (_delete_subjects, topics),
        (_purge, topics),
    )
    for step, what in steps:
        try:
            step(endpoints, what)
        except CdcpipeError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def traces(endpoints: Endpoints, token: str) -> dict[str, list[str]]:
    """What is there whose name holds `token`: tables, types, slots, topics, subjects, archive tables, objects."""
    with psycopg.connect(endpoints.postgres.conninfo("witness"), autocommit=True) as connection:

        def names(question: str) -> list[str]:
            return sorted(row[0] for row in connection.execute(question, [f"%{token}%"]).fetchall())

        found = {
            "tables": names("SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND relname LIKE %s"),
            "types": names("SELECT typname::text FROM pg_type WHERE typname LIKE %s AND typtype = 'e'"),
            "slots": names("SELECT slot_name::text FROM pg_replication_slots WHERE slot_name LIKE %s"),
        }
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    found["topics"] = sorted(name for name in admin.list_topics(timeout=20).topics if token in name)
    found["subjects"] = [name for name in _subjects(endpoints, deleted=True) if token in name]
    found["archive tables"] = [name for name in _archive_tables(endpoints) if token in name]
    found["objects"] = [key for key in _keys(endpoints) if token in key]
    return {what: there for what, there in found.items() if there}


def _drop(endpoints: Endpoints, names: list[str]) -> None:
    try:
        with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            for name in names:
                schema, _, table = name.partition(".")
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table)))
    except psycopg.Error as error:
        raise PostgresError(f"the tests' tables can't be dropped: {str(error).strip()}") from error


def _delete_topics(endpoints: Endpoints, topics: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    try:
        known = admin.list_topics(timeout=20).topics
        present = [topic for topic in topics if topic in known]
        for future in admin.delete_topics(present, operation_timeout=30).values() if present else ():
            future.result()
        deadline = time.monotonic() + 30
        while set(present) & set(admin.list_topics(timeout=20).topics) and time.monotonic() < deadline:
            time.sleep(0.2)  # brokers learn of it one by one
    except KafkaException as error:
        raise KafkaError(f"the tests' topics can't be deleted: {error.args[0].str()}") from error


def _subjects(endpoints: Endpoints, *, deleted: bool = False) -> list[str]:
    query = {"deleted": "true"} if deleted else {}
    try:
        answer = httpx2.get(f"{endpoints.registry_url}/subjects", params=query, timeout=20, trust_env=False)
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        raise RegistryError(f"the subjects can't be listed: {error}") from error
    return sorted(str(name) for name in answer.json())


def _delete_subjects(endpoints: Endpoints, topics: list[str]) -> None:
    for topic in topics:
        for part in ("key", "value"):
            # First softly, then for good: the order that Confluent's API demands. What isn't there is well.
            for query in ({}, {"permanent": "true"}):
                address = f"{endpoints.registry_url}/subjects/{topic}-{part}"
                try:
                    answer = httpx2.delete(address, params=query, timeout=20, trust_env=False)
                except httpx2.HTTPError as error:
                    raise RegistryError(f"the subject {topic}-{part} can't be deleted: {error}") from error
                if not answer.is_success and answer.status_code != 404:
                    raise RegistryError(
                        f"the subject {topic}-{part} can't be deleted", status=answer.status_code, detail=answer.text
                    )


def _archive_tables(endpoints: Endpoints) -> list[str]:
    if endpoints.catalog is None:
        return []
    from cdcpipe.stack.catalog import open_catalog

    catalog = open_catalog(endpoints)
    return sorted(".".join(name) for space in catalog.list_namespaces() for name in catalog.list_tables(space))


def _purge(endpoints: Endpoints, topics: list[str]) -> None:
    if endpoints.catalog is None:
        return
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    from cdcpipe.stack.catalog import open_catalog

    catalog, client = open_catalog(endpoints), _client(endpoints)
    try:
        for topic in topics:
            try:
                location = catalog.load_table(topic).location()
            except (NoSuchTableError, NoSuchNamespaceError):
                continue
            catalog.drop_table(topic)
            _delete_below(client, location)
    finally:
        client.close()


def _client(endpoints: Endpoints) -> Any:
    import boto3
    from botocore.config import Config

    s3 = endpoints.s3
    style: Any = {"addressing_style": "path"} if s3.url else {}
    return boto3.client(
        "s3",
        endpoint_url=s3.url,
        region_name=s3.region,
        aws_access_key_id=s3.access_key_id,
        aws_secret_access_key=None if s3.secret_access_key is None else str(s3.secret_access_key),
        config=Config(s3=style),
    )


def _delete_below(client: Any, location: str) -> None:
    """Every object of one table. Its folder ends with the table's own name, so nothing else can lie below it."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix.rstrip('/')}/")
        for page in pages:
            keys = [{"Key": each["Key"]} for each in page.get("Contents", ())]
            if keys:
                client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"the objects below {location} can't be deleted: {error}") from error


def _keys(endpoints: Endpoints) -> list[str]:
    client = _client(endpoints)
    with contextlib.closing(client):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=endpoints.s3.bucket)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]
