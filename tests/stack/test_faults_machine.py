"""A full disk, too little memory, a clock that steps: of one process, felt by that process, and nothing left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.small_servers import PythonServer, SmallStack

from cdcpipe.errors import FaultNotSupported, StackError
from cdcpipe.faults import ClockStep, DiskFull, Fault, Journal, MemorySqueeze, heal, machine
from cdcpipe.stack.component import ComponentState, wait_until

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount and to make control groups"
)
needs_faketime = pytest.mark.skipif(
    machine._library() is None, reason="needs libfaketime (apt-get install libfaketime)"
)

_WRITER = """
import time
number = 0
while True:
    number += 1
    try:
        with open("written", "a") as file:
            file.write(f"{number}\\n" + "." * 4000 + "\\n")
    except OSError as error:
        print(error.strerror, flush=True)
    time.sleep(0.02)
"""
_HOG = """
import time
held = []
while True:
    if len(held) < 200:
        held.append(bytearray(b"x" * 1_000_000))
    time.sleep(0.05)
"""
# libfaketime 0.9.10 breaks Python's own sleep (clock_nanosleep): it waits in select.
_CLOCK = """
import select, time
while True:
    with open("now", "w") as file:
        file.write(str(time.time()))
    select.select([], [], [], 0.05)
"""


@contextlib.contextmanager
def _running(folder: Path, text: str) -> Iterator[SmallStack]:
    server = PythonServer("connect", folder / "connect", folder / "log", text)
    stack = SmallStack(folder, {"connect": server})
    server.start()
    try:
        yield stack
    finally:
        server.kill()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.of_folder(tmp_path)


def _out(stack: SmallStack) -> str:
    path = stack.folder / "log" / "connect.out"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _await_written(folder: Path) -> None:
    wait_until((folder / "connect" / "written").exists, what="it has written", timeout_seconds=20, error=StackError)


def _as_before(stack: SmallStack) -> bool:
    """Whether its folder is on the file system that it was on, with nothing beside it."""
    beside = sorted(path.name for path in stack.folder.iterdir() if path.is_dir())
    return beside == ["connect", "log"] and not os.path.ismount(stack.folder / "connect")


@needs_root
def test_a_full_disk_is_felt_by_one_component_and_all_its_files_come_back(tmp_path: Path, journal: Journal) -> None:
    with _running(tmp_path, _WRITER) as stack:
        _await_written(tmp_path)
        (tmp_path / "connect" / "kept").write_bytes(b"k" * 100_000)
        with DiskFull("connect", room_mb=4).applied(stack, journal):
            wait_until(
                lambda: "No space left on device" in _out(stack), what="felt", timeout_seconds=20, error=StackError
            )
            (tmp_path / "elsewhere").write_bytes(b"x" * 8_000_000)
        assert (tmp_path / "connect" / "kept").read_bytes() == b"k" * 100_000
        assert (tmp_path / "connect" / "written").read_text(encoding="utf-8").startswith("1\n")
        assert stack.components["connect"].state() is ComponentState.READY
        assert _as_before(stack)
        assert journal.open() == []


@needs_root
@pytest.mark.parametrize("died_before", ["mount", "cp", "start", "fill", "umount"])
def test_a_full_disk_is_healed_wherever_the_run_died(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, died_before: str
) -> None:
    with _running(tmp_path, _WRITER) as stack, monkeypatch.context() as patched:
        _await_written(tmp_path)
        (tmp_path / "connect" / "kept").write_bytes(b"k" * 100_000)
        fault = DiskFull("connect", room_mb=4)
        trace = fault.resolve(stack)
        journal.opened(fault, trace)
        run = machine._run

        def dying(*command: str) -> None:
            if command[0] == died_before:
                raise SystemExit
            run(*command)

        patched.setattr(machine, "_run", dying)
        if died_before == "start":
            patched.setattr(PythonServer, "start", lambda self: (_ for _ in ()).throw(SystemExit()))
        with contextlib.suppress(SystemExit):
            fault.set_up(stack, trace)
            if died_before != "fill":
                fault.inject(stack, trace)
                fault.recover(stack, trace)
                fault.clean_up(stack, trace)
        patched.undo()
        stack.components["connect"].start()
        assert not _as_before(stack), "there is something to heal"
        assert [record.error for record in heal(stack, journal)] == [None]
        assert (tmp_path / "connect" / "kept").read_bytes() == b"k" * 100_000
        assert stack.components["connect"].state() is ComponentState.READY
        assert _as_before(stack)


_RUNNER = """
import sys
from pathlib import Path
from cdcpipe.faults import DiskFull, Journal, MemorySqueeze
from tests.stack.test_faults_machine import _WRITER, PythonServer, SmallStack
folder = Path(sys.argv[1])
stack = SmallStack(folder, {"connect": PythonServer("connect", folder / "connect", folder / "log", _WRITER)})
journal = Journal.of_folder(folder)
with DiskFull("connect", room_mb=4).applied(stack, journal) as running:
    print("in force", flush=True)
    sys.stdin.read()
"""


@needs_root
def test_the_mount_that_a_killed_runner_left_is_gone_after_the_next_start(tmp_path: Path, journal: Journal) -> None:
    with _running(tmp_path, _WRITER) as stack:
        _await_written(tmp_path)
        runner = subprocess.Popen(
            [sys.executable, "-c", _RUNNER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        with runner:
            assert runner.stdout is not None
            assert runner.stdout.readline() == "in force\n"
            runner.send_signal(signal.SIGKILL)
        assert os.path.ismount(tmp_path / "connect")
        for component in stack.components.values():
            component.kill()  # and the stack was taken down since
        assert [record.error for record in heal(stack, journal)] == [None]
        assert _as_before(stack)
        assert stack.running() == []
        assert journal.open() == []


def _groups_left() -> list[Path]:
    found = machine._groups()
    return [] if found is None else sorted(found[0].glob("cdcpipe-connect-*"))


@needs_root
@pytest.mark.skipif(machine._groups() is None, reason="needs control groups for memory that root may make")
def test_a_component_that_wants_more_memory_than_it_may_have_is_killed_and_comes_back(
    tmp_path: Path, journal: Journal
) -> None:
    with _running(tmp_path, _HOG) as stack:
        hog = stack.components["connect"]
        with MemorySqueeze("connect", more_mb=4).applied(stack, journal):
            assert len(_groups_left()) == 1
            wait_until(
                lambda: hog.state() is ComponentState.STOPPED, what="killed", timeout_seconds=30, error=StackError
            )
        assert hog.state() is ComponentState.READY
        assert _groups_left() == []
        assert journal.open() == []


@needs_root
@needs_faketime
@pytest.mark.parametrize(("back", "sign"), [(False, 1), (True, -1)])
def test_a_clock_steps_for_one_component_and_back_again(
    tmp_path: Path, journal: Journal, back: bool, sign: int
) -> None:
    with _running(tmp_path, _CLOCK) as stack:
        now = tmp_path / "connect" / "now"

        def off() -> float:
            return float(now.read_text(encoding="utf-8") or "nan") - time.time()

        def near(wanted: float) -> bool:
            return now.exists() and abs(off() - wanted) < 60

        def reached(wanted: float) -> None:
            wait_until(lambda: near(wanted), what=f"{wanted} s off", timeout_seconds=20, error=StackError)

        with ClockStep("connect", step_seconds=7200, back=back).applied(stack, journal):
            reached(sign * 7200)
        reached(0)
        process = stack.components["connect"].find()
        assert process is not None
        assert "LD_PRELOAD" not in process.environ()
        assert list(Path("/tmp").glob("cdcpipe-clock-connect-*")) == []


@pytest.mark.parametrize("fault", [DiskFull("connect"), MemorySqueeze("connect"), ClockStep("connect")], ids=str)
def test_who_is_not_root_is_told_that_it_needs_root(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(FaultNotSupported, match=rf"`{fault}` is not supported here: needs root"):
        with fault.applied(SmallStack(tmp_path), journal):
            pass


@needs_root
def test_a_clock_without_libfaketime_says_what_to_install(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_library", lambda: None)
    with pytest.raises(FaultNotSupported, match="libfaketime is not installed"):
        with ClockStep("connect").applied(SmallStack(tmp_path), journal):
            pass
