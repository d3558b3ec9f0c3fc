"""Faults of S3, on a real S3 server behind a real toxiproxy: what a client sees, and what was done all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError
from tests.stack.small_servers import LinkedStack, started

from cdcpipe.errors import FaultError, StackError, UsageError
from cdcpipe.faults import Journal, S3Error, S3LostAnswer, S3SlowDown, S3Timeout, heal
from cdcpipe.faults.storage import StorageFault
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import S3Endpoint, Secret
from cdcpipe.stack.local.s3 import SeaweedS3
from cdcpipe.stack.local.state import claim_ports

_PARTS = ("master", "volume", "filer", "s3")


class Storage(LinkedStack):
    """An S3 server and a client's link to it."""

    def __init__(self, folder: Path) -> None:
        names = [*_PARTS, *(f"{part}-grpc" for part in _PARTS)]
        ports = self.ports = claim_ports(("api", "link", *names), {}, {})
        self.direct = S3Endpoint(f"http://127.0.0.1:{ports['s3']}", "us-east-1", "lake", "key", Secret("secret"))
        self.linked = replace(self.direct, url=f"http://127.0.0.1:{ports['link']}")
        admin = replace(self.direct, access_key_id="admin", secret_access_key=Secret("admin-secret"))
        s3 = SeaweedS3(
            folder / "s3", folder / "log", ports=[ports[name] for name in names], admin=admin, pipeline=self.direct
        )
        super().__init__(folder, "connect-s3", s3, server_port=ports["s3"], port=ports["link"], api_port=ports["api"])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    stack = Storage(tmp_path_factory.mktemp("storage"))
    with started(stack):
        yield stack


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.of_folder(tmp_path)


def _client(endpoint: S3Endpoint, *, read_timeout: float = 20) -> BaseClient:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.region,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=str(endpoint.secret_access_key),
        config=Config(
            read_timeout=read_timeout, retries={"max_attempts": 0}, s3={"addressing_style": "path"}, proxies={}
        ),
    )


@pytest.fixture
def linked(storage: Storage) -> Iterator[Any]:
    """A client that goes through the link."""
    client = _client(storage.linked)
    yield client
    client.close()


@pytest.fixture
def direct(storage: Storage) -> Iterator[Any]:
    client = _client(storage.direct)
    yield client
    client.close()


def _content(client: Any, key: str) -> bytes | None:
    try:
        with client.get_object(Bucket="lake", Key=key)["Body"] as body:
            content: bytes = body.read()
            return content
    except client.exceptions.NoSuchKey:
        return None


@contextlib.contextmanager
def _in_force(fault: StorageFault, storage: Storage, journal: Journal) -> Iterator[None]:
    """`fault` in force; until it is, somebody writes: it has taken effect when a request was hit."""
    done = threading.Event()

    def write() -> None:
        client: Any = _client(storage.linked)
        while not done.is_set():
            with contextlib.suppress(ClientError, BotoCoreError):
                client.put_object(Bucket="lake", Key="probe", Body=b"x")
        client.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with fault.applied(storage, journal):
            done.set()
            yield
    finally:
        done.set()
        writer.join()


def _gates() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [each for each in children if any(part.endswith("gate.py") for part in each.cmdline())]


@pytest.mark.parametrize(("fault", "code"), [(S3Error(), "InternalError"), (S3SlowDown(), "SlowDown")], ids=str)
def test_an_error_is_answered_and_nothing_is_done(
    storage: Storage, journal: Journal, linked: Any, direct: Any, fault: StorageFault, code: str
) -> None:
    linked.put_object(Bucket="lake", Key="before", Body=b"1")
    with _in_force(fault, storage, journal):
        with pytest.raises(ClientError) as caught:
            linked.put_object(Bucket="lake", Key=code, Body=b"2")
        assert caught.value.response["Error"]["Code"] == code
        assert _content(linked, "before") == b"1", "reading goes on"
        assert _content(direct, code) is None
    linked.put_object(Bucket="lake", Key=code, Body=b"3")
    assert _content(direct, code) == b"3"
    assert (storage.links["connect-s3"].rerouted(), _gates(), journal.open()) == (False, [], [])


def test_a_lost_answer_is_an_error_for_the_client_and_work_that_is_done(
    storage: Storage, journal: Journal, linked: Any, direct: Any
) -> None:
    with _in_force(S3LostAnswer(), storage, journal):
        with pytest.raises(BotoCoreError):
            linked.put_object(Bucket="lake", Key="lost-answer", Body=b"done")
        assert _content(direct, "lost-answer") == b"done"


def test_a_request_that_times_out_is_never_answered_and_not_done(
    storage: Storage, journal: Journal, direct: Any
) -> None:
    impatient: Any = _client(storage.linked, read_timeout=1)
    with _in_force(S3Timeout(), storage, journal):
        with pytest.raises(ReadTimeoutError):
            impatient.put_object(Bucket="lake", Key="timed-out", Body=b"never")
        assert _content(direct, "timed-out") is None
    impatient.close()


def test_only_what_is_aimed_at_is_hit_and_as_often_as_it_says(storage: Storage, linked: Any) -> None:
    fault = S3Error(path="/aimed-", every=2, times=2)
    trace = fault.resolve(storage)
    fault.set_up(storage, trace)
    try:
        fault.inject(storage, trace)
        linked.put_object(Bucket="lake", Key="other", Body=b"1")
        assert fault.effect(storage, trace) == "no request has come that it could hit"
        hit = []
        for number in range(8):
            try:
                linked.put_object(Bucket="lake", Key=f"aimed-{number}", Body=b"1")
            except ClientError:
                hit.append(number)
        assert hit == [1, 3]
        assert fault.effect(storage, trace) is None
    finally:
        fault.clean_up(storage, trace)


def test_a_large_upload_in_parts_passes_the_gate_whole(storage: Storage, journal: Journal, linked: Any) -> None:
    content = os.urandom(12 * 1024 * 1024)
    with _in_force(S3Error(path="/probe"), storage, journal):
        upload = linked.create_multipart_upload(Bucket="lake", Key="large")["UploadId"]
        parts = []
        for number, begin in enumerate(range(0, len(content), 6 * 1024 * 1024), start=1):
            part = content[begin : begin + 6 * 1024 * 1024]
            answer = linked.upload_part(Bucket="lake", Key="large", UploadId=upload, PartNumber=number, Body=part)
            parts.append({"ETag": answer["ETag"], "PartNumber": number})
        linked.complete_multipart_upload(Bucket="lake", Key="large", UploadId=upload, MultipartUpload={"Parts": parts})
        assert linked.head_object(Bucket="lake", Key="large")["ContentLength"] == len(content)
        assert _content(linked, "large") == content


def test_two_of_them_on_one_link_are_refused_by_name(storage: Storage, journal: Journal) -> None:
    with _in_force(S3SlowDown(), storage, journal):
        with pytest.raises(FaultError, match="led through the gate of another fault already"):
            with S3Error().applied(storage, journal):
                pass
    assert journal.open() == []


def test_a_path_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`s3-error`: path `\(` is no regular expression"):
        S3Error(path="(")


_RUNNER = """
import sys
from pathlib import Path
from cdcpipe.faults import Journal, S3Error
from tests.stack.test_faults_storage import Storage
import tests.stack.test_faults_storage as module
module.claim_ports = lambda names, *_: dict(zip(names, map(int, sys.argv[2:])))
storage = Storage(Path(sys.argv[1]))
fault = S3Error()
trace = fault.resolve(storage)
number = Journal.of_folder(storage.folder).opened(fault, trace)
fault.set_up(storage, trace)
fault.inject(storage, trace)
print(trace["pid"], flush=True)
sys.stdin.read()
"""


def test_a_gate_ends_with_its_runner_and_the_next_start_leads_the_link_past_it(storage: Storage, linked: Any) -> None:
    journal = Journal.of_folder(storage.folder)
    ports = [str(port) for port in storage.ports.values()]
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(storage.folder), *ports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with runner:
        assert runner.stdout is not None
        gate = int(runner.stdout.readline())
        assert psutil.pid_exists(gate)
        runner.send_signal(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(gate), what="the gate has ended", timeout_seconds=10, error=StackError)
    assert storage.links["connect-s3"].rerouted()
    with pytest.raises(BotoCoreError):
        linked.put_object(Bucket="lake", Key="after", Body=b"1")
    assert [(record.kind, record.error) for record in heal(storage, journal)] == [("s3-error", None)]
    linked.put_object(Bucket="lake", Key="after", Body=b"1")
    assert (storage.links["connect-s3"].rerouted(), journal.open()) == (False, [])
