"""The pipeline on a real kind cluster: data flows, survives its pods, and what breaks says why."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psycopg
import pytest
import yaml

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ComponentFailed, EvidenceError, StackError
from cdcpipe.observe.audit import Collector, Trail
from cdcpipe.observe.audit.collect import Places
from cdcpipe.stack.catalog import archived_offsets
from cdcpipe.stack.component import ComponentState, wait_until
from cdcpipe.stack.deploy import await_flow, probe
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.kind.images import Image
from cdcpipe.stack.kind.kube import quantity_bytes
from cdcpipe.stack.kind.stack import KindStack
from cdcpipe.stack.status import pipeline_status

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


def _all_ready(stack: KindStack, seconds: float = 240) -> None:
    for component in stack.components.values():
        component.await_ready(timeout_seconds=seconds)


def _token(stack: KindStack) -> int:
    with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        row = connection.execute("SELECT token FROM cdcpipe.watermark WHERE name = 'kept'").fetchone()
    return 0 if row is None else int(row[0])


def test_a_row_comes_out_of_the_archive_of_the_cluster(kind_stack: KindStack) -> None:
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=180)
    assert pipeline_status(kind_stack.endpoints, kind_stack.settings).healthy


def test_the_whole_node_takes_less_than_4_gb(kind_stack: KindStack) -> None:
    assert 500 << 20 < kind_stack.node_memory_bytes() < 4_000_000_000
    own = kind_stack.memory_bytes()
    assert set(own) == {"postgres", "kafka-1", "s3", "registry", "connect"}
    assert all(size > 20 << 20 for size in own.values()), own


def test_images_are_in_the_nodes_containerd(kind_stack: KindStack) -> None:
    runtime = kind_stack.cluster.kubectl(
        *("get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}"), what="asking the node"
    )
    assert runtime.startswith("containerd://")
    assert {image.name for image in kind_stack.build()} <= kind_stack.cluster.loaded()


def test_a_pod_that_would_run_as_root_is_refused(kind_stack: KindStack) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": "cdcpipe"},
        "spec": {"containers": [{"name": "root", "image": "cdcpipe/s3:local"}]},
    }
    with pytest.raises(StackError) as refused:
        kind_stack.cluster.kubectl(
            "apply", "--dry-run=server", "-f", "-", what="making a pod that runs as root", stdin=yaml.safe_dump(pod)
        )
    assert "violates PodSecurity" in str(refused.value.detail)


def test_who_came_in_and_what_was_changed_stands_in_the_audit_trail(kind_stack: KindStack, tmp_path: Path) -> None:
    places = Places.of(kind_stack)
    with contextlib.closing(Collector(Trail(tmp_path / "trail"), places)) as collector:
        assert collector.collect().problems == {}
        _audited(kind_stack, collector)
    # Whoever begins anew reads on from there, as the trail says, not as a process remembers.
    with contextlib.closing(Collector(Trail(tmp_path / "trail"), places)) as collector:
        again = collector.collect()
    assert not [entry for entry in again.entries if entry.action in ("ddl.applied", "logger.changed")]


def _audited(kind_stack: KindStack, collector: Collector) -> None:
    """Come in, change something at PostgreSQL and Connect, and find it in the trail."""
    owner = kind_stack.endpoints.postgres.roles["owner"].name
    with psycopg.connect(kind_stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.audited (id int PRIMARY KEY)")
        connection.execute("DROP TABLE public.audited")
    with ConnectClient(kind_stack.endpoints.connect_url) as client:
        client.set_logger("org.apache.kafka.connect.runtime.rest.audited", "INFO")
    wanted = {(owner, "session.opened"), (owner, "ddl.applied"), (owner, "ddl.asked")}
    seen: set[tuple[str, str]] = set()
    actions: set[str] = set()

    def all_there() -> bool:
        for entry in collector.collect().entries:
            seen.add((entry.actor, entry.action))
            actions.add(entry.action)
        return wanted <= seen and "logger.changed" in actions

    wait_until(all_there, what="the trail", timeout_seconds=30, interval_seconds=1, error=EvidenceError)


def test_a_killed_server_stays_down_until_it_is_started_and_a_paused_one_answers_nobody(kind_stack: KindStack) -> None:
    connect = kind_stack.components["connect"]
    assert connect.state() is ComponentState.READY
    connect.pause()
    assert connect.state() is ComponentState.PAUSED
    assert not connect.readiness().ready
    connect.resume()
    assert connect.state() is ComponentState.READY
    connect.kill()
    assert connect.state() is ComponentState.STOPPED
    assert connect.memory_bytes() < 20 << 20
    time.sleep(2)  # nothing restarts it
    assert connect.state() is ComponentState.STOPPED
    connect.start()
    connect.await_ready(timeout_seconds=180)
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=180)


def test_a_stopped_server_ended_in_order(kind_stack: KindStack) -> None:
    postgres = kind_stack.components["postgres"]
    postgres.stop()
    assert postgres.state() is ComponentState.STOPPED
    assert any("database system is shut down" in line for line in postgres.log_tail(40))
    postgres.start()
    postgres.await_ready(timeout_seconds=120)
    assert not any("was not properly shut down" in line for line in postgres.log_tail(40))
    # The sink's task fails for good when it asks its catalog in the moment without one.
    with ConnectClient(kind_stack.endpoints.connect_url) as client:
        for name in (SOURCE, SINK):
            client.restart(name, only_failed=True)
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=180)


def test_data_is_there_after_every_pod_was_deleted_by_force(kind_stack: KindStack) -> None:
    token = probe(kind_stack.endpoints, "kept")
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=180)
    archived = archived_offsets(kind_stack.endpoints, "cdc.cdcpipe.watermark")
    deleted = [component.pod for component in kind_stack.components.values()]
    uids = {pod.metadata.uid for pod in kind_stack.kube.pods() if pod.metadata.name in deleted}
    for component in kind_stack.components.values():
        component.delete(force=True)
    wait_until(
        lambda: uids.isdisjoint(pod.metadata.uid for pod in kind_stack.kube.pods()),
        what="other pods",
        timeout_seconds=60,
        error=AssertionError,  # type: ignore[arg-type]
    )
    _all_ready(kind_stack)
    assert _token(kind_stack) == token
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=240)
    after = archived_offsets(kind_stack.endpoints, "cdc.cdcpipe.watermark")
    assert all(after[partition] >= offset for partition, offset in archived.items())
    claims = kind_stack.cluster.kubectl(
        *("--namespace", "cdcpipe", "get", "pvc", "-o", "jsonpath={.items[*].status.phase}"), what="asking for claims"
    )
    assert claims.split() == ["Bound"] * 3


@pytest.mark.slow
def test_data_is_there_after_the_node_was_restarted(kind_stack: KindStack) -> None:
    token = probe(kind_stack.endpoints, "kept")
    await_flow(kind_stack.endpoints, archive=True, timeout_seconds=180)
    kind_stack.cluster.restart()
    kind_stack.up(await_archive=True)
    assert _token(kind_stack) == token


def test_a_failed_up_names_the_pod_and_the_reason_and_the_next_one_mends_it(
    kind_stack: KindStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = kind_stack.build(kind_stack.plan)
    lacking = [
        Image("registry", "cdcpipe/registry:lacking", "") if image.component == "registry" else image
        for image in images
    ]
    with monkeypatch.context() as patch:
        patch.setattr(kind_stack, "build", lambda _: lacking)
        patch.setattr(kind_stack.cluster, "load", lambda _: [])
        with pytest.raises(ComponentFailed) as failed:
            kind_stack.up()
        kind_stack.components["connect"].delete(force=True)
        wait_until(
            lambda: "`await` has not ended" in kind_stack.pods_text().get("connect-0", ""),
            what="a worker that waits for the registry",
            timeout_seconds=60,
            error=EvidenceError,
        )
        with pytest.raises(ComponentFailed) as again:
            kind_stack.up()
    assert again.value.component == "registry"
    assert "log: waits for registry" in str(again.value.detail)
    assert failed.value.component == "registry"
    assert "pod `registry-0`" in str(failed.value.detail)
    assert "cdcpipe/registry:lacking" in str(failed.value.detail)
    assert "event: Failed" in str(failed.value.detail)
    kind_stack.up()
    _all_ready(kind_stack)


def test_quantities_are_read_as_kubernetes_means_them() -> None:
    assert quantity_bytes("448Mi") == 448 << 20
    assert quantity_bytes("1Gi") == 1 << 30
    assert quantity_bytes("500M") == 500_000_000
