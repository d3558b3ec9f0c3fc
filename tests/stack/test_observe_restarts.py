"""Failed tasks that the monitor starts again, on a real pipeline: what fails for good in a stack that comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.stack.test_observe_input import FAST, until

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.observe.monitor import Monitor
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

MENDING = FAST.model_copy(update={"restart_tasks": True})


@pytest.fixture
def client(stack: LocalStack) -> Iterator[ConnectClient]:
    """Of a pipeline that is whole again afterwards."""
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        yield client
    stack.up(await_archive=True)


def begin_without(stack: LocalStack, absent: str) -> None:
    """As after a loss of power, with one server later than the worker."""
    for name in ("connect", absent):
        stack.components[name].kill()
    stack.components["connect"].start()
    stack.components["connect"].await_ready(timeout_seconds=120)


@pytest.mark.parametrize(
    ("absent", "failing"), [("registry", SOURCE), pytest.param("postgres", SINK, marks=pytest.mark.slow)]
)
def test_a_task_that_began_without_a_server_is_restarted_until_it_runs(
    stack: LocalStack, client: ConnectClient, absent: str, failing: str
) -> None:
    begin_without(stack, absent)
    until(lambda: client.status(failing).failure, f"{failing} failed", 90)
    assert "Connection refused" in (client.status(failing).cause or "")
    stack.components[absent].start()
    stack.components[absent].await_ready(timeout_seconds=60)
    with Monitor(stack, FAST) as idle:  # which was not asked to, and has looked
        seen = {"connector": failing, "task": "0", "state": "FAILED"}
        until(lambda: idle.ready and idle.exporter.value("cdcpipe_task_state", **seen), "the failure was seen")
    assert client.status(failing).failure
    with Monitor(stack, MENDING) as monitor:
        await_flow(stack.endpoints, archive=True, timeout_seconds=180)
        assert monitor.exporter.value("cdcpipe_connector_restarts_total", connector=failing)
        (first, *_) = [line for line in monitor.state()["lines"] if "is restarted" in line["sentence"]]
        assert first["sentence"].startswith(f"{failing} had failed and is restarted (try 1; ")


def test_the_command_says_that_it_restarts(stack: LocalStack) -> None:
    command = [sys.executable, "-m", "cdcpipe", "monitor", "--restart-tasks", "--once", "--stack", str(stack.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 'cdcpipe_connector_restarts_total{connector="cdcpipe-sink"} 0.0' in done.stdout
