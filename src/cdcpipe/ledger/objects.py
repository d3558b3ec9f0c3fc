"""Objects of an archive, in S3 or in a local folder: listed with size and ETag, read in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol

import boto3
import pyarrow as pa
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cdcpipe.errors import EvidenceError, StorageError
from cdcpipe.stack.endpoints import S3Endpoint

__all__ = ["Bucket", "Folder", "Listed", "Objects", "hour_of"]


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells it. `name` is its key, or its path below the folder."""

    name: str
    bytes: int
    etag: str | None


class Objects(Protocol):
    """A place with objects."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Objects whose names begin with `prefix`."""

    def open(self, name: str) -> IO[bytes] | pa.NativeFile:
        """An object to read. EvidenceError when it is gone."""


class Folder:
    """A local folder: an archive that was copied, or a test's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self, prefix: str) -> Iterator[Listed]:
        """As `Objects.list`; in the order of names, without an ETag."""
        for path in sorted(self._path.rglob("*")):
            name = path.relative_to(self._path).as_posix()
            if path.is_file() and name.startswith(prefix):
                yield Listed(name, path.stat().st_size, None)

    def open(self, name: str) -> pa.NativeFile:
        """As `Objects.open`."""
        try:
            return pa.memory_map(str(self._path / name))
        except FileNotFoundError:
            raise EvidenceError(f"object {name} is gone") from None


class Bucket:
    """A bucket. StorageError when the server refuses, EvidenceError for an object that is gone."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._endpoint = endpoint
        key, secret = endpoint.access_key_id, endpoint.secret_access_key
        path_style: Any = {"addressing_style": "path"} if endpoint.url else {}
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint.url,
            region_name=endpoint.region,
            aws_access_key_id=key,
            aws_secret_access_key=None if secret is None else str(secret),
            config=Config(s3=path_style, retries={"max_attempts": 4, "mode": "standard"}),
        )
        options: dict[str, Any] = {"region": endpoint.region}
        if endpoint.url:
            scheme, _, host = endpoint.url.partition("://")
            options |= {"endpoint_override": host, "scheme": scheme}
        if key is not None and secret is not None:
            options |= {"access_key": key, "secret_key": str(secret)}
        self._files = pafs.S3FileSystem(**options)

    def list(self, prefix: str) -> Iterator[Listed]:
        """As `Objects.list`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._endpoint.bucket, Prefix=prefix)
        try:
            for page in pages:
                for each in page.get("Contents", ()):
                    yield Listed(each["Key"], each["Size"], each["ETag"].strip('"'))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise StorageError(
                f"S3 refuses to list {self._endpoint.bucket}/{prefix}: {code}",
                hint="check the bucket's name and that the key may list it",
            ) from error
        except BotoCoreError as error:
            raise StorageError(f"can't list {self._endpoint.bucket}/{prefix}: {error}") from error

    def open(self, name: str) -> pa.NativeFile:
        """As `Objects.open`."""
        try:
            return self._files.open_input_file(f"{self._endpoint.bucket}/{name}")
        except FileNotFoundError as error:
            raise EvidenceError(f"object {name} is gone") from error
        except OSError as error:
            raise StorageError(f"S3 refuses to give {name}: {str(error)[:300]}") from error


_ICEBERG_HOUR = re.compile(r"_hour=(\d{4})-(\d\d)-(\d\d)-(\d\d)(?:/|$)")
_PARTS = {part: re.compile(rf"(?:^|/){part}=(\d+)(?:/|$)") for part in ("year", "month", "day", "hour")}


def hour_of(name: str) -> datetime | None:
    """The hour (or day) that the folders of an object name: `year=/month=/day=/hour=`, or Iceberg's `..._hour=`."""
    if found := _ICEBERG_HOUR.search(name):
        year, month, day, hour = map(int, found.groups())
        return datetime(year, month, day, hour, tzinfo=UTC)
    parts = {part: pattern.search(name) for part, pattern in _PARTS.items()}
    year_, month_, day_, hour_ = parts["year"], parts["month"], parts["day"], parts["hour"]
    if year_ is None or month_ is None or day_ is None:
        return None
    return datetime(int(year_[1]), int(month_[1]), int(day_[1]), int(hour_[1]) if hour_ else 0, tzinfo=UTC)
