"""Faults of a cluster of three brokers with a proxy in every link, between brokers too."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from cdcpipe.errors import StackError
from cdcpipe.faults import Cut, Journal, Kill, RollingRestart, heal, run_fault
from cdcpipe.faults.targets import controller_id, leader_id, resolve_target
from cdcpipe.settings import load_settings
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import WATERMARK_TABLE
from cdcpipe.stack.local.stack import LocalStack

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900)]

_NODES = (1, 2, 3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalStack]:
    """The pipeline with three brokers and a proxy in every link."""
    settings = load_settings()
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-faults-", dir="/var/tmp"))
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror)
    try:
        stack.up(brokers=3, proxied=True)
        yield stack
    finally:
        stack.down()
        heal(stack, Journal.of_folder(folder))
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def journal(cluster: LocalStack) -> Journal:
    return Journal.of_folder(cluster.folder)


def _topic(stack: LocalStack) -> str:
    return f"{stack.endpoints.topic_prefix}.{WATERMARK_TABLE}"


def _in_sync(stack: LocalStack, leader: int) -> list[set[int]]:
    """The in-sync replicas of each partition that `leader` leads."""
    admin = AdminClient({"bootstrap.servers": stack.endpoints.bootstrap_servers, "log_level": 0})
    topics = admin.list_topics(timeout=20).topics.values()
    return [set(p.isrs) for topic in topics for p in topic.partitions.values() if p.leader == leader]


def test_brokers_reach_each_other_through_proxies_only(cluster: LocalStack) -> None:
    names = {f"kafka-{n}{kind}" for n in _NODES for kind in ("", "-inter", "-controller", "-linked")}
    ports = {port: name for name, port in cluster.plan.ports.items() if name in names}
    for node in _NODES:
        others = {port for port, name in ports.items() if not name.startswith(f"kafka-{node}")}
        for pid in cluster.components[f"kafka-{node}"].pids():
            connections = psutil.Process(pid).net_connections("tcp")
            reached = {c.raddr.port for c in connections if c.status == psutil.CONN_ESTABLISHED} & others
            assert reached == set(), [ports[port] for port in reached]


def test_the_controller_is_the_one_that_the_brokers_have_on_disk(cluster: LocalStack) -> None:
    written = {
        json.loads(path.read_text(encoding="utf-8"))["leaderId"]
        for path in cluster.folder.glob("kafka-*/data/__cluster_metadata-0/quorum-state")
    }
    assert written == {controller_id(cluster.endpoints)}


def test_a_killed_controller_is_followed_by_another(cluster: LocalStack, journal: Journal) -> None:
    before = controller_id(cluster.endpoints)
    with Kill("controller").applied(cluster, journal) as running:
        assert running.trace["components"] == [f"kafka-{before}"]
        wait_until(
            lambda: controller_id(cluster.endpoints) != before, what="another one", timeout_seconds=60, error=StackError
        )
    await_flow(cluster.endpoints, archive=False)


def test_a_killed_leader_is_the_one_that_led(cluster: LocalStack, journal: Journal) -> None:
    leader = leader_id(cluster.endpoints, _topic(cluster), 0)
    assert resolve_target(cluster, f"leader of {_topic(cluster)} 0") == [f"kafka-{leader}"]
    with Kill(f"leader of {_topic(cluster)} 0").applied(cluster, journal):
        wait_until(
            lambda: leader_id(cluster.endpoints, _topic(cluster), 0) != leader,
            what="another leader",
            timeout_seconds=60,
            error=StackError,
        )
    await_flow(cluster.endpoints, archive=False)


def test_what_others_send_a_broker_is_cut_and_its_followers_fall_out_and_come_back(
    cluster: LocalStack, journal: Journal
) -> None:
    def with_all() -> bool:
        found = _in_sync(cluster, 2)
        return bool(found) and all(len(isr) > 1 for isr in found)

    wait_until(with_all, what="broker 2 leads, with followers", timeout_seconds=120, error=StackError)
    with Cut("kafka-kafka-2").applied(cluster, journal):
        wait_until(
            lambda: any(isr == {2} for isr in _in_sync(cluster, 2)) or not _in_sync(cluster, 2),
            what="its followers are out of sync, or it leads nothing more",
            timeout_seconds=120,
            error=StackError,
        )
    await_flow(cluster.endpoints, archive=False, timeout_seconds=180)


def test_a_rolling_restart_leaves_every_broker_new_and_the_pipeline_flowing(
    cluster: LocalStack, journal: Journal
) -> None:
    before = {node: cluster.components[f"kafka-{node}"].pids() for node in _NODES}
    record = run_fault(RollingRestart(), cluster, journal)
    assert record.error is None
    assert all(cluster.components[f"kafka-{node}"].pids() != before[node] for node in _NODES)
    await_flow(cluster.endpoints, archive=False, timeout_seconds=180)
