"""Prometheus, Alertmanager and `cdcpipe monitor` in the cluster, beside the pipeline that they watch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.kind.conftest import watchers_lack

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import EvidenceError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SOURCE
from cdcpipe.stack.kind.plan import PORTS
from cdcpipe.stack.kind.stack import KindStack

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


@pytest.fixture
def watched(kind_stack: KindStack) -> KindStack:
    if not kind_stack.plan.monitoring:
        pytest.skip(watchers_lack() or "the cluster that is here was brought up without `--monitoring`")
    return kind_stack


def _query(expression: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{PORTS['prometheus']}/api/v1/query"
    answer = httpx2.get(url, params={"query": expression}, timeout=10, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
    return found


def _await(condition: Callable[[], bool], what: str, seconds: float) -> None:
    wait_until(condition, what=what, timeout_seconds=seconds, interval_seconds=1, error=EvidenceError)


def _alerts(stack: KindStack) -> set[tuple[str, str]]:
    """What Alertmanager has: name and component."""
    path = "/api/v1/namespaces/cdcpipe/services/alertmanager:9093/proxy/api/v2/alerts"
    labels = [
        each["labels"] for each in json.loads(stack.cluster.kubectl("get", "--raw", path, what="asking for alerts"))
    ]
    return {(each["alertname"], each.get("component", "")) for each in labels}


def test_every_server_is_scraped_and_the_probes_lag_is_known(watched: KindStack) -> None:
    await_flow(watched.endpoints, archive=True, timeout_seconds=180)
    # PostgreSQL has no metrics of its own: the monitor, which has no component, asks it.
    wanted = {"", *watched.components} - {"postgres"}

    def components(expression: str) -> set[str]:
        return {each["metric"].get("component", "") for each in _query(expression)}

    _await(lambda: components("up == 1") == wanted, "every target scraped", 120)
    _await(lambda: components("cdcpipe_component_up == 1") == set(watched.components), "every server seen up", 60)
    _await(
        lambda: len(_query('cdcpipe_probe_duration_seconds_count{hop="commit_to_archive"} > 0')) == 1,
        "a probe row in the archive, as the monitor in the cluster sees it",
        120,
    )
    # What was watched from its beginning has no anomaly: a monitor that is there first sees a slot that isn't.
    assert _query("cdcpipe_anomalies_total > 0") == []


def test_a_killed_worker_is_told_to_alertmanager_and_taken_back(watched: KindStack) -> None:
    connect = watched.components["connect"]
    down = ("ComponentDown", "connect")
    assert down not in _alerts(watched)
    connect.kill()
    try:
        _await(lambda: down in _alerts(watched), "the alert that Connect is down", 90)
    finally:
        connect.start()
        connect.await_ready(timeout_seconds=180)
    _await(lambda: down not in _alerts(watched), "the end of the alert", 120)
    await_flow(watched.endpoints, archive=True, timeout_seconds=180)


@pytest.mark.slow
def test_a_task_that_failed_for_good_is_started_again_by_the_monitor(watched: KindStack) -> None:
    """A worker's process that begins again in its container waits for nobody: that is the pod's doing."""
    connect, registry = watched.components["connect"], watched.components["registry"]
    for component in (connect, registry):
        component.kill()
    try:
        connect.start()
        connect.await_ready(timeout_seconds=180)
        with ConnectClient(watched.endpoints.connect_url, timeout_seconds=60) as client:
            _await(lambda: client.status(SOURCE).failure is not None, "a source that failed without the registry", 120)
    finally:
        registry.start()
        registry.await_ready(timeout_seconds=180)
    await_flow(watched.endpoints, archive=True, timeout_seconds=240)
    assert _query(f'cdcpipe_connector_restarts_total{{connector="{SOURCE}"}} > 0')
