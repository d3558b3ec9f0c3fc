"""What an Iceberg table says of itself, read lightly: the catalog's pointer, the metadata file, new manifests.

pyiceberg would read the same, in three times the memory and with every snapshot parsed at each look; a monitor looks
every second. The format: https://iceberg.apache.org/spec/#table-metadata, /#manifest-lists, /#manifests.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import fastavro
import httpx2
import psycopg
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cdcpipe.errors import StorageError
from cdcpipe.observe.trust import authorities
from cdcpipe.stack.endpoints import CatalogEndpoint, Endpoints, S3Endpoint

__all__ = ["ArchiveReader", "ObjectReader", "TableFacts"]

_LOCATION = """
SELECT metadata_location FROM iceberg_tables WHERE catalog_name = %s AND table_namespace = %s AND table_name = %s
"""

_DELETED = 2  # status of a manifest entry


@dataclass(frozen=True, slots=True)
class TableFacts:
    """The newest snapshot of a table: rows, data files and their bytes, when it was committed (Unix time)."""

    rows: int
    files: int
    bytes: int
    committed_at: float


class ObjectReader:
    """Whole objects of a bucket, by `s3://` address. Raises `StorageError`.

    Without keys in the endpoint, those of the machine are used, as boto3 would find them.
    """

    def __init__(self, endpoint: S3Endpoint, *, timeout_seconds: float = 5.0) -> None:
        self._endpoint = endpoint
        self._http = httpx2.Client(timeout=timeout_seconds, trust_env=endpoint.url is None, verify=authorities())

    def read(self, address: str) -> bytes:
        """The object at `s3://bucket/key` (or `s3a://`)."""
        parts = urlsplit(address)
        key = quote(parts.path.lstrip("/"), safe="/-_.~")
        base = self._endpoint.url or f"https://s3.{self._endpoint.region}.amazonaws.com"
        request = AWSRequest("GET", f"{base.rstrip('/')}/{parts.netloc}/{key}")
        S3SigV4Auth(self._credentials(), "s3", self._endpoint.region).add_auth(request)
        try:
            answer = self._http.get(str(request.url), headers=dict(request.headers.items()))
        except httpx2.HTTPError as error:
            raise StorageError(f"S3 doesn't answer: {type(error).__name__}") from error
        if answer.status_code != 200:
            raise StorageError(f"S3 refuses `{address}`: {answer.status_code}")
        return bytes(answer.content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _credentials(self) -> Any:
        key, secret = self._endpoint.access_key_id, self._endpoint.secret_access_key
        if key is not None and secret is not None:
            return Credentials(key, str(secret))
        import botocore.session

        found = botocore.session.get_session().get_credentials()
        if found is None:
            raise StorageError("no credentials for S3", hint="set them in the endpoint or in the environment")
        return found


class ArchiveReader:
    """Looks at the tables of a pipeline's catalog, for one thread at a time. Raises `StorageError`."""

    def __init__(self, endpoints: Endpoints, catalog: CatalogEndpoint) -> None:
        self._catalog = catalog
        self._objects = ObjectReader(endpoints.s3)
        self._connection: psycopg.Connection[Any] | None = None
        self._metadata: dict[str, tuple[str, dict[str, Any]]] = {}  # topic -> its location, and what lies there
        self._manifests: dict[str, tuple[str, set[str]]] = {}  # topic -> location, and the manifests that were read
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Close the connections. Who asks after that is refused: one that is opened again would stay open."""
        with self._lock:
            self._closed = True
            self._objects.close()
            self._drop()

    def facts(self, topic: str) -> TableFacts | None:
        """The newest snapshot of the topic's table; None when there is no table, or nothing in it."""
        with self._lock:
            _, metadata = self._current(topic)
        snapshot = None if metadata is None else _newest(metadata)
        if snapshot is None:
            return None
        summary = snapshot.get("summary", {})
        return TableFacts(
            rows=int(summary.get("total-records", 0)),
            files=int(summary.get("total-data-files", 0)),
            bytes=int(summary.get("total-files-size", 0)),
            committed_at=snapshot["timestamp-ms"] / 1000,
        )

    def highest(self, topic: str, column: tuple[str, ...]) -> int | None:
        """The highest value of a long column in the files that came since the last call; None when none came.

        It is the files' own statistics that are read, not the files. The first call looks at what the newest
        snapshot added.
        """
        with self._lock:
            return self._highest(topic, column)

    def _highest(self, topic: str, column: tuple[str, ...]) -> int | None:
        location, metadata = self._current(topic)
        before, seen = self._manifests.get(topic, ("", None))
        snapshot = None if metadata is None else _newest(metadata)
        if metadata is None or snapshot is None or location == before:
            return None
        field = _field_id(metadata, column)
        entries = self._avro(snapshot["manifest-list"])
        fresh = [
            each["manifest_path"]
            for each in entries
            if (each["manifest_path"] not in seen if seen is not None else _added(each, snapshot))
        ]
        bounds = [bound for path in fresh for bound in self._upper_bounds(path, field)]
        self._manifests[topic] = (location, {each["manifest_path"] for each in entries})
        return max(bounds, default=None)

    def _current(self, topic: str) -> tuple[str, dict[str, Any] | None]:
        """Where the metadata of the topic's table lies, and the metadata; None when there is no table."""
        location = self._location(topic)
        if location is None:
            self._metadata.pop(topic, None)
            return "", None
        known = self._metadata.get(topic)
        if known is not None and known[0] == location:
            return known
        content = self._objects.read(location)
        if location.endswith(".gz.metadata.json"):
            content = gzip.decompress(content)
        metadata: dict[str, Any] = json.loads(content)
        # What is older than the newest snapshot is most of the file, and of no use here.
        metadata["snapshots"] = [each for each in (_newest(metadata),) if each is not None]
        for name in ("snapshot-log", "metadata-log"):
            metadata.pop(name, None)
        self._metadata[topic] = (location, metadata)
        return location, metadata

    def _location(self, topic: str) -> str | None:
        if self._closed:
            raise StorageError("the archive's reader was closed")
        namespace, _, table = topic.rpartition(".")
        try:
            if self._connection is None:
                where = self._catalog.postgres
                self._connection = psycopg.connect(
                    where.conninfo(self._catalog.role), autocommit=True, connect_timeout=3
                )
            row = self._connection.execute(_LOCATION, [self._catalog.name, namespace, table]).fetchone()
        except psycopg.errors.UndefinedTable:
            return None  # the sink makes the catalog's tables when it starts for the first time
        except psycopg.Error as error:
            self._drop()
            raise StorageError(f"the catalog doesn't answer: {str(error).strip().splitlines()[0]}") from error
        return None if row is None else row[0]

    def _upper_bounds(self, path: str, field: int) -> Iterator[int]:
        for entry in self._avro(path):
            if entry["status"] == _DELETED:
                continue
            # A map with int keys: Avro has none, so Iceberg writes it as an array of pairs.
            for pair in entry["data_file"].get("upper_bounds") or ():
                if pair["key"] == field and len(pair["value"]) == 8:
                    yield struct.unpack("<q", pair["value"])[0]

    def _avro(self, address: str) -> list[dict[str, Any]]:
        try:
            return [dict(record) for record in fastavro.reader(io.BytesIO(self._objects.read(address)))]  # type: ignore[arg-type]
        except (ValueError, EOFError, TypeError) as error:
            raise StorageError(f"`{address}` is no Avro file: {error}") from error

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
        self._connection = None


def _newest(metadata: dict[str, Any]) -> dict[str, Any] | None:
    current = metadata.get("current-snapshot-id")
    return next((each for each in metadata.get("snapshots", ()) if each["snapshot-id"] == current), None)


def _added(manifest: dict[str, Any], snapshot: dict[str, Any]) -> bool:
    return bool(manifest.get("added_snapshot_id") == snapshot["snapshot-id"])


def _field_id(metadata: dict[str, Any], column: tuple[str, ...]) -> int:
    """The id of a column, by its path through structs, in the current schema."""
    current = metadata["current-schema-id"]
    node: dict[str, Any] = next(each for each in metadata["schemas"] if each["schema-id"] == current)
    found = -1
    for name in column:
        field = next((each for each in node.get("fields", ()) if each["name"] == name), None)
        if field is None:
            raise StorageError(f"the table has no column `{'.'.join(column)}`")
        found, node = field["id"], field["type"] if isinstance(field["type"], dict) else {}
    return found
