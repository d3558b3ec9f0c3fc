"""Faults of processes, on processes that are real and cheap: the six moments, the journal, a runner that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stack.small_servers import Sleeper, SmallStack

from cdcpipe.errors import FaultNotSupported, StackBusy, StackError, UsageError
from cdcpipe.faults import (
    Fault,
    FaultRecord,
    Journal,
    Kill,
    Pause,
    Restart,
    RestartStorm,
    RollingRestart,
    Stop,
    heal,
    run_fault,
)
from cdcpipe.stack.component import ComponentState, Readiness, wait_until
from cdcpipe.stack.local.process import processes_below


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[SmallStack]:
    stack = SmallStack(tmp_path)
    for component in stack.components.values():
        component.start()
    started = list(stack.components.values())
    yield stack
    for component in started:
        component.kill()
    assert processes_below(tmp_path, frozenset({"sleep"})) == []


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.of_folder(tmp_path)


def _moments(record: FaultRecord) -> list[float]:
    named = (record.set_up, record.injected, record.effective, record.recovering, record.recovered, record.cleaned)
    assert None not in named
    return [moment for moment in named if moment is not None]


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        (Kill("connect"), {"connect"}),
        (Stop("connect"), {"connect"}),
        (Restart("kafka-1", hard=True), {"kafka-1"}),
        (RestartStorm("connect", times=3), {"connect"}),
        (RollingRestart(), {"kafka-1", "kafka-2"}),
        (Kill("every broker"), {"kafka-1", "kafka-2"}),
        (Pause("kafka-2", seconds=0.1), set()),
    ],
    ids=str,
)
def test_a_fault_goes_through_its_moments_in_order_and_leaves_the_target_well(
    sleepers: SmallStack, journal: Journal, fault: Fault, changed: set[str]
) -> None:
    before = sleepers.main_pids()
    record = run_fault(fault, sleepers, journal)
    assert record.error is None
    assert _moments(record) == sorted(_moments(record))
    assert {name for name, pid in sleepers.main_pids().items() if before[name] != pid} == changed
    assert {each.state() for each in sleepers.components.values()} == {ComponentState.READY}
    assert journal.open() == []


def test_within_the_block_the_fault_is_in_force_and_behind_it_healed(sleepers: SmallStack, journal: Journal) -> None:
    connect = sleepers.components["connect"]
    with Pause("connect").applied(sleepers, journal) as running:
        assert connect.state() is ComponentState.PAUSED
        assert running.record.effective is not None
        assert running.record.recovering is None
        assert len(journal.open()) == 1
    assert connect.state() is ComponentState.READY
    assert journal.open() == []


def test_an_error_within_the_block_heals_too_and_is_the_one_that_is_raised(
    sleepers: SmallStack, journal: Journal
) -> None:
    with pytest.raises(KeyboardInterrupt), Kill("connect").applied(sleepers, journal):
        raise KeyboardInterrupt
    assert sleepers.components["connect"].state() is ComponentState.READY
    assert journal.open() == []


def test_a_fault_ends_early_when_it_is_told_to(sleepers: SmallStack, journal: Journal) -> None:
    stop = threading.Event()
    seen: list[FaultRecord] = []

    def told(record: FaultRecord) -> None:
        seen.append(record)
        if record.effective is not None:
            stop.set()

    record = run_fault(Pause("connect", seconds=500), sleepers, journal, stop=stop, on_moment=told)
    assert record.cleaned is not None
    assert seen[-1] == record


def test_an_unknown_component_is_a_usage_error_with_the_known_names(sleepers: SmallStack, journal: Journal) -> None:
    with (
        pytest.raises(UsageError, match="no component `konnect`") as caught,
        Kill("konnect").applied(sleepers, journal),
    ):
        pass
    assert "did you mean `connect`? there are: kafka-1, kafka-2, connect, every broker" in (caught.value.hint or "")
    assert journal.open() == []


def test_a_stack_that_manages_nothing_says_that_it_cannot(sleepers: SmallStack, journal: Journal) -> None:
    sleepers.components = {}
    with pytest.raises(FaultNotSupported, match="`kill connect` is not supported here: this kind of stack can't"):
        with Kill("connect").applied(sleepers, journal):
            pass


def test_ctrl_c_is_raised_even_when_healing_fails(
    sleepers: SmallStack, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kill, "recovery_seconds_max", 0.3)
    monkeypatch.setattr(Sleeper, "readiness", lambda self: Readiness(False, "it doesn't run"))

    def interrupt(record: FaultRecord) -> None:
        if record.effective is not None and record.recovering is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fault(Kill("connect"), sleepers, journal, on_moment=interrupt)


def test_a_component_that_does_not_come_back_is_an_error_in_the_record(
    sleepers: SmallStack, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kill, "recovery_seconds_max", 0.3)
    monkeypatch.setattr(Sleeper, "readiness", lambda self: Readiness(False, "it doesn't run"))
    record = run_fault(Kill("connect"), sleepers, journal)
    assert record.recovered is None
    assert "`kill connect` has recovered (`connect`: it doesn't run)" in (record.error or "")


_RUNNER = """
import sys
from pathlib import Path
from cdcpipe.faults import Journal, Pause, Kill
from tests.stack.small_servers import SmallStack
stack = SmallStack(Path(sys.argv[1]))
journal = Journal.of_folder(stack.folder)
with Pause("kafka-1").applied(stack, journal), Kill("connect").applied(stack, journal):
    print("in force", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def runner(sleepers: SmallStack) -> Iterator[subprocess.Popen[str]]:
    """Another process of ours that has a fault in force."""
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(sleepers.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert runner.stdout is not None
    assert runner.stdin is not None
    assert runner.stdout.readline() == "in force\n"
    with runner:
        yield runner
        runner.kill()


def test_the_next_start_heals_what_a_killed_runner_left(
    sleepers: SmallStack, journal: Journal, runner: subprocess.Popen[str]
) -> None:
    runner.send_signal(signal.SIGKILL)
    runner.wait(30)
    states = {name: each.state() for name, each in sleepers.components.items()}
    assert (states["kafka-1"], states["connect"]) == (ComponentState.PAUSED, ComponentState.STOPPED)
    healed = heal(sleepers, journal)
    assert [(record.kind, record.error) for record in healed] == [("kill", None), ("pause", None)]
    assert {each.state() for each in sleepers.components.values()} == {ComponentState.READY}
    assert journal.open() == []
    assert heal(sleepers, journal) == []


def test_what_a_living_runner_breaks_is_left_alone(
    sleepers: SmallStack, journal: Journal, runner: subprocess.Popen[str]
) -> None:
    with pytest.raises(StackBusy, match=f"process {runner.pid} is breaking this stack"):
        heal(sleepers, journal)
    assert sleepers.components["kafka-1"].state() is ComponentState.PAUSED


def test_ctrl_c_heals_before_the_runner_ends(
    sleepers: SmallStack, journal: Journal, runner: subprocess.Popen[str]
) -> None:
    os.kill(runner.pid, signal.SIGINT)
    runner.wait(30)
    assert {each.state() for each in sleepers.components.values()} == {ComponentState.READY}
    assert journal.open() == []


def test_a_stack_that_was_taken_down_meanwhile_is_not_started_by_healing(
    sleepers: SmallStack, journal: Journal, runner: subprocess.Popen[str]
) -> None:
    runner.send_signal(signal.SIGKILL)
    runner.wait(30)
    for component in sleepers.components.values():
        component.kill()
    wait_until(lambda: not sleepers.running(), what="nothing runs", timeout_seconds=10, error=StackError)
    assert [record.error for record in heal(sleepers, journal)] == [None, None]
    assert sleepers.running() == []
    assert journal.open() == []
