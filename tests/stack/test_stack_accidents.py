"""What goes wrong while a stack comes up: one clear error, nothing half-started, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cdcpipe.errors import StackError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.local.process import processes_below

pytestmark = pytest.mark.stack

_PROGRAMS = frozenset({"java", "postgres", "weed"})
_SHARED = Path("/var/tmp/cdcpipe")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "stack"
    yield folder
    _run(folder, "down", "--purge", "--yes")
    assert _left(folder) == []


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "cdcpipe", *arguments, "--stack", str(folder)]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(folder, *arguments), capture_output=True, text=True, timeout=300, check=False)


def _left(folder: Path) -> list[psutil.Process]:
    """Processes of the stack in `folder`: PostgreSQL's data may lie elsewhere, tied to it by its port file."""
    return processes_below(folder, _PROGRAMS) + [
        process for process in processes_below(_SHARED, frozenset({"postgres"})) if _of(process, folder)
    ]


def _of(process: psutil.Process, folder: Path) -> bool:
    from cdcpipe.stack.local.postgres import _digest

    with contextlib.suppress(psutil.Error):
        return process.cwd().endswith(f"data-{_digest(folder / 'postgres')}")
    return False


def _await_process(folder: Path, component: str) -> psutil.Process:
    def running() -> psutil.Process | None:
        # The storage tool that formats a broker's folder runs elsewhere: what runs in here is the broker.
        found = processes_below(folder / component, _PROGRAMS)
        return found[0] if found else None

    found = wait_until(running, what=f"a process of {component}", timeout_seconds=120, error=StackError)
    assert found is not None
    return found


def test_a_component_killed_during_up_is_named_with_its_log_and_all_else_is_stopped(folder: Path) -> None:
    up = subprocess.Popen(_command(folder, "up"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _await_process(folder, "kafka-1").kill()
    _, stderr = up.communicate(timeout=300)
    assert up.returncode == 2, stderr
    assert "error: `kafka-1` ended while it was starting (killed by SIGKILL)" in stderr
    assert "hint: all of it: `cdcpipe logs kafka-1`" in stderr
    assert "Traceback" not in stderr
    assert _left(folder) == []


def test_a_version_that_cannot_be_had_leaves_nothing_that_could_not_be_taken_down(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDCPIPE_MAVEN_MIRROR", (tmp_path / "empty").as_uri())
    up = _run(folder, "up", "--with", "iceberg=0.0.1")
    assert (up.returncode, "can't download" in up.stderr, "Traceback" in up.stderr) == (2, True, False), up.stderr
    down = _run(folder, "down", "--purge", "--yes")
    assert (down.returncode, folder.exists()) == (0, False), down.stderr


def test_what_a_killed_up_left_running_is_ended_by_the_next_down(folder: Path) -> None:
    up = subprocess.Popen(_command(folder, "up"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _await_process(folder, "kafka-1")
    up.send_signal(signal.SIGKILL)
    up.wait(30)
    assert _left(folder) != []
    assert _run(folder, "down").returncode == 0
    assert _left(folder) == []


def test_ctrl_c_during_up_stops_what_was_started(folder: Path) -> None:
    up = subprocess.Popen(
        _command(folder, "up"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _await_process(folder, "kafka-1")
    os.killpg(up.pid, signal.SIGINT)
    _, stderr = up.communicate(timeout=120)
    assert (up.returncode, stderr.splitlines()[-1]) == (130, "interrupted"), stderr
    assert _left(folder) == []


def test_a_taken_port_stops_it_before_anything_is_started(folder: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = _run(folder, "up", "--port", f"connect={port}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"error: port {port} for `connect` is in use")
    assert not (folder / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", "--port", "connect=http"), "a port is a number from 1 to 65535"),
        (("up", "--port", "connect"), "is not NAME=VALUE"),
        (("up", "--brokers", "2"), "a stack has 1 or 3 brokers, not 2"),
        (("up", "--with", "debezum=1"), "no part of the stack is called `debezum`"),
        (("status",), "there is no stack in"),
        (("logs",), "there is no stack in"),
        (("psql",), "there is no stack in"),
    ],
)
def test_a_wrong_call_is_one_clear_error_and_exit_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = _run(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_a_stack_is_said_as_such(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "stack.json").write_text("{", encoding="utf-8")
    done = _run(folder, "up")
    assert (done.returncode, "is not a stack of this version" in done.stderr) == (2, True)
    (folder / "stack.json").unlink()


@pytest.mark.parametrize("arguments", [("--rate", "0"), ("--rate", "nan"), ("--seconds", "-1"), ("--brokers", "2")])
def test_a_demo_of_wrong_values_starts_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "cdcpipe", "demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    # That it was tried is noted in the audit trail.
    assert [path.name for path in tmp_path.iterdir()] == [".cdcpipe.audit"]
