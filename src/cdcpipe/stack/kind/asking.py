"""Whether each server can serve, asked over its own protocol from outside of the cluster."""

from __future__ import annotations

import httpx2
import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.endpoints import Endpoints, S3Endpoint
from cdcpipe.stack.local.s3 import s3_client

__all__ = ["ask_broker", "ask_connect", "ask_postgres", "ask_registry", "ask_s3", "make_bucket"]


def ask_postgres(conninfo: str) -> Readiness:
    """`SELECT 1`."""
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        return Readiness(False, str(error).strip().splitlines()[-1])
    return Readiness(True)


def ask_broker(address: str, node: int) -> Readiness:
    """Whether broker `node` answers at `address` and is in the cluster's metadata."""
    client = AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 3000})
    try:
        metadata = client.list_topics(timeout=3)
    except KafkaException as error:
        return Readiness(False, str(error.args[0].str()))
    if node not in metadata.brokers:
        return Readiness(False, f"node {node} is not yet in the cluster's metadata")
    return Readiness(True)


def ask_connect(url: str) -> Readiness:
    """Whether the worker is a member that can list connectors."""
    try:
        with ConnectClient(url, timeout_seconds=3) as client:
            client.connectors()
    except ConnectError as error:
        return Readiness(False, error.message)
    return Readiness(True)


def ask_registry(url: str) -> Readiness:
    """Whether it can list subjects, which needs its database."""
    try:
        answer = httpx2.get(f"{url}/subjects", timeout=3, trust_env=False)
    except httpx2.HTTPError as error:
        return Readiness(False, f"{url} doesn't answer: {type(error).__name__}")
    return Readiness(answer.status_code == 200, f"{url} answers {answer.status_code}")


def ask_s3(endpoint: S3Endpoint) -> Readiness:
    """Whether the pipeline's identity may list its bucket."""
    client = s3_client(endpoint, timeout_seconds=3)
    try:
        client.list_objects_v2(Bucket=endpoint.bucket, MaxKeys=1)  # type: ignore[attr-defined]
    except (BotoCoreError, ClientError) as error:
        return Readiness(False, str(error).splitlines()[0])
    finally:
        client.close()
    return Readiness(True)


def make_bucket(admin: S3Endpoint, endpoints: Endpoints) -> Readiness:
    """Make the pipeline's bucket if it isn't there: whether it is there now."""
    client = s3_client(admin, timeout_seconds=3)
    try:
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]  # type: ignore[attr-defined]
        if endpoints.s3.bucket not in names:
            client.create_bucket(Bucket=endpoints.s3.bucket)  # type: ignore[attr-defined]
    except (BotoCoreError, ClientError) as error:
        return Readiness(False, f"the bucket `{endpoints.s3.bucket}` can't be made: {str(error).splitlines()[0]}")
    finally:
        client.close()
    return Readiness(True)
