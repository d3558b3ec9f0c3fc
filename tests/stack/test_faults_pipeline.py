"""Faults on the real pipeline: while one is in force the probe is held where it should be, behind it it flows."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError, ConnectUnavailable, StackError, UsageError
from cdcpipe.faults import (
    Cut,
    DiskFull,
    Failover,
    Fault,
    ForeignMember,
    HalfOpen,
    Journal,
    Kill,
    MemorySqueeze,
    OpenTransaction,
    Pause,
    PostgresCrash,
    PublicationAltered,
    Rebalance,
    Refuse,
    S3LostAnswer,
    S3SlowDown,
    SlotAdvanced,
    SlotDropped,
    WalsenderTerminated,
    heal,
    machine,
    run_fault,
)
from cdcpipe.faults.targets import controller_id, leader_id, resolve_target
from cdcpipe.settings import load_settings
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow, probe
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_TABLE
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.stack import LocalStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def proxied() -> Iterator[LocalStack]:
    """The pipeline with a proxy in every link, one broker."""
    settings = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-faults-", dir="/var/tmp"))
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror)
    try:
        stack.up(proxied=True, await_archive=True)
        yield stack
    finally:
        stack.down()
        heal(stack, Journal.of_folder(folder))
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def journal(proxied: LocalStack) -> Iterator[Journal]:
    journal = Journal.of_folder(proxied.folder)
    yield journal
    assert journal.open() == [], "every fault was healed"
    assert [toxic for link in proxied.links.values() for toxic in link.toxics()] == []
    assert not any(link.is_cut() or link.rerouted() for link in proxied.links.values())


def _flows(stack: LocalStack, *, archive: bool = False, seconds: float = 120) -> bool:
    """Whether a probe row comes out of Kafka, or out of the archive, in time."""
    try:
        await_flow(stack.endpoints, archive=archive, timeout_seconds=seconds)
    except ConnectUnavailable:
        return False
    return True


def _direct(stack: LocalStack, client: str, servers: set[str]) -> set[str]:
    """The servers that `client` has connections to past every proxy, `name:port`."""
    ports = {port: name for name, port in stack.plan.ports.items() if name in servers}
    found = set()
    for pid in stack.components[client].pids():
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port in ports:
                found.add(ports[connection.raddr.port])
    return found


def test_every_connection_of_the_pipeline_goes_through_a_proxy(proxied: LocalStack) -> None:
    assert _flows(proxied, archive=True)
    servers = {"postgres", "kafka-1", "kafka-1-linked", "registry", "s3"}
    assert _direct(proxied, "connect", servers) == set()
    assert _direct(proxied, "registry", servers) == set()
    assert {"postgres", "kafka-1-linked"} <= _direct(proxied, "toxiproxy", servers)
    assert all(link.passes() for link in proxied.links.values())
    with ConnectClient(proxied.endpoints.connect_url) as client:  # what is connected to now and then only
        configured = " ".join(value for name in (SOURCE, SINK) for value in client.config(name).values())
    for server in servers | {"connect"}:
        assert str(proxied.plan.ports[server]) not in configured, server


def test_a_stopped_stack_is_proxied_again_when_it_comes_up(proxied: LocalStack) -> None:
    again = LocalStack(proxied.folder, cache=load_settings().cache)
    assert again.plan.proxied
    assert again.links.keys() == proxied.links.keys()
    assert {"connect-kafka", "connect-postgres", "connect-catalog", "connect-registry", "connect-s3"} <= set(
        again.links
    )


@pytest.mark.parametrize("fault", [Cut("connect-kafka"), Refuse("connect-postgres")], ids=str)
def test_while_a_link_is_broken_no_probe_flows_and_then_it_does(
    proxied: LocalStack, journal: Journal, fault: Fault
) -> None:
    with fault.applied(proxied, journal):
        assert not _flows(proxied, seconds=6)
    assert _flows(proxied)


@pytest.mark.slow
def test_while_s3_says_slow_down_nothing_is_archived_and_then_all_is(proxied: LocalStack, journal: Journal) -> None:
    done = threading.Event()
    writer = threading.Thread(target=_keep_writing, args=(proxied, done))
    writer.start()  # the sink writes to S3 only when there is something
    try:
        with S3SlowDown().applied(proxied, journal):
            assert not _flows(proxied, archive=True, seconds=12)
    finally:
        done.set()
        writer.join()
    assert _flows(proxied, archive=True)


def _keep_writing(stack: LocalStack, done: threading.Event) -> None:
    while not done.wait(0.5):
        probe(stack.endpoints, "writer")


def test_a_walsender_that_was_ended_comes_back(proxied: LocalStack, journal: Journal) -> None:
    record = run_fault(WalsenderTerminated(), proxied, journal)
    assert record.error is None
    assert record.recovered is not None
    assert _flows(proxied)


def test_the_sink_outlives_connections_to_its_catalog_that_were_ended(proxied: LocalStack) -> None:
    server, catalog = proxied.components["postgres"], proxied.endpoints.catalog
    assert isinstance(server, Postgres)
    assert catalog is not None
    for _ in range(2):
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND usename = %s",
                [catalog.postgres.database, catalog.postgres.roles[catalog.role].name],
            ).fetchall()
        assert len(ended) > 0
        assert _flows(proxied, archive=True)
    with ConnectClient(proxied.endpoints.connect_url) as client:
        assert client.status(SINK).running


def test_an_open_transaction_is_committed_at_the_end_and_all_else_flows_meanwhile(
    proxied: LocalStack, journal: Journal
) -> None:
    def rows() -> int:
        with psycopg.connect(proxied.endpoints.postgres.conninfo("owner")) as connection:
            found = connection.execute(f"SELECT count(*) FROM {WATERMARK_TABLE} WHERE name = 'open-transaction'")
            return int((found.fetchone() or (0,))[0])

    with OpenTransaction().applied(proxied, journal):
        assert rows() == 0
        assert _flows(proxied)
    assert rows() == 1


def test_a_publication_altered_in_an_open_transaction_is_as_it_was_and_nothing_is_stuck(
    proxied: LocalStack, journal: Journal
) -> None:
    fault = PublicationAltered()
    with fault.applied(proxied, journal):
        assert fault._altered(proxied)
        assert _flows(proxied)
    assert not fault._altered(proxied)
    assert _flows(proxied)


def test_roles_are_resolved_by_the_brokers_themselves(proxied: LocalStack) -> None:
    topic = f"{proxied.endpoints.topic_prefix}.{WATERMARK_TABLE}"
    assert (controller_id(proxied.endpoints), leader_id(proxied.endpoints, topic, 0)) == (1, 1)
    for role in ("controller", "every broker", f"leader of {topic} 1"):
        assert resolve_target(proxied, role) == ["kafka-1"]
    with pytest.raises(UsageError, match="no partition 99"):
        resolve_target(proxied, f"leader of {topic} 99")


def test_a_stranger_joins_the_coordinators_group_and_is_gone_again(proxied: LocalStack, journal: Journal) -> None:
    fault = ForeignMember(times=2, stay_seconds=1, pause_seconds=1)
    record = run_fault(fault, proxied, journal)
    assert record.error is None, record
    # It comes last, so the only partition of the control topic stays where it is; both times it was told so.
    assert record.trace == {"partitions_1": 0, "partitions_2": 0}
    admin = AdminClient({"bootstrap.servers": proxied.endpoints.bootstrap_servers, "log_level": 0})

    def members() -> list[str]:
        found = admin.describe_consumer_groups([fault.group], request_timeout=10)[fault.group].result().members
        return [member.client_id for member in found]

    wait_until(lambda: len(members()) == 1, what="the coordinator alone", timeout_seconds=30, error=StackError)
    assert "fault" not in members()[0]
    assert _flows(proxied, archive=True)


def test_a_killed_worker_is_back_and_the_record_says_when(proxied: LocalStack, journal: Journal) -> None:
    record = run_fault(Kill("connect", seconds=1), proxied, journal)
    assert record.error is None
    assert record.effective is not None
    assert record.recovering is not None
    assert record.recovering - record.effective >= 1
    assert _flows(proxied)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        PostgresCrash(),
        PostgresCrash(how="postmaster"),
        Failover(seconds=5),
        HalfOpen("connect-registry"),
        HalfOpen("connect-postgres"),
        Pause("connect", seconds=15),
        Rebalance(times=2),
        Rebalance(hard=True),
        Kill("registry", seconds=5),
        Kill("s3", seconds=5),
        Kill("every broker", seconds=2),
    ],
    ids=str,
)
def test_the_pipeline_flows_again_after(proxied: LocalStack, journal: Journal, fault: Fault) -> None:
    record = run_fault(fault, proxied, journal)
    assert record.error is None, record
    assert None not in (record.effective, record.recovered, record.cleaned)
    assert any(_restarted_flows(proxied) for _ in range(4))


def _restarted_flows(stack: LocalStack) -> bool:
    """Do what an operator does and Connect doesn't, restart a task that failed; then ask whether the probe flows.

    A sink task fails for good when its catalog goes away ("Failed to get table ... from catalog").
    """
    with contextlib.suppress(ConnectError), ConnectClient(stack.endpoints.connect_url) as client:
        for name in (SOURCE, SINK):
            if client.status(name).failure:
                client.restart(name, only_failed=True)
    return _flows(stack, archive=True, seconds=45)


@pytest.mark.slow
def test_an_answer_of_s3_that_is_lost_leaves_the_archive_going(proxied: LocalStack, journal: Journal) -> None:
    done = threading.Event()
    writer = threading.Thread(target=_keep_writing, args=(proxied, done))
    writer.start()
    try:
        record = run_fault(S3LostAnswer(times=2, seconds=5), proxied, journal)
    finally:
        done.set()
        writer.join()
    assert record.error is None
    assert _flows(proxied, archive=True)


needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount and to make control groups"
)


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("component", ["postgres", "kafka-1", "connect"])
def test_a_full_disk_is_healed_with_its_data(proxied: LocalStack, journal: Journal, component: str) -> None:
    tokens = probe(proxied.endpoints, "before")
    record = run_fault(DiskFull(component, seconds=3), proxied, journal)
    assert record.error is None, record
    assert probe(proxied.endpoints, "before") == tokens + 1, "what was committed before is there"
    assert _flows(proxied)


@pytest.mark.slow
@needs_root
@pytest.mark.skipif(machine._groups() is None, reason="needs control groups for memory that root may make")
def test_a_squeezed_worker_comes_back(proxied: LocalStack, journal: Journal) -> None:
    done = threading.Event()
    writer = threading.Thread(target=_keep_writing, args=(proxied, done))
    writer.start()
    try:
        record = run_fault(MemorySqueeze("connect", seconds=5), proxied, journal)
    finally:
        done.set()
        writer.join()
    assert record.error is None, record
    assert _flows(proxied)


@pytest.mark.slow
def test_a_slot_that_was_dropped_or_moved_stops_the_source_and_is_not_passed_over(
    proxied: LocalStack, journal: Journal
) -> None:
    """The last one: what it does to the pipeline can't be healed but by a new snapshot."""
    with Pause("connect").applied(proxied, journal):
        probe(proxied.endpoints, "lost")
        record = run_fault(SlotAdvanced(), proxied, journal)
        assert record.error is None
    record = run_fault(SlotDropped(seconds=1), proxied, journal)
    assert record.error is None

    def failure() -> str | None:
        with ConnectClient(proxied.endpoints.connect_url) as client:
            return client.status(SOURCE).failure

    said = wait_until(failure, what="the source says so", timeout_seconds=120, error=StackError)
    assert said is not None
    assert "no longer available" in said
