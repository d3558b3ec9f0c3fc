"""Options and fixtures of the chaos scenarios: real stacks, kept from one scenario to the next while they are well.

pytest chaos/ -m smoke                       about five minutes, in CI
pytest chaos/ -m nightly --seed 3            each failure mode by itself
pytest chaos/ -m soak --minutes 60           whatever the seed draws, for an hour
pytest chaos/known_bugs                      the suite's own teeth: each bug must be found
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult, run_chaos
from cdcpipe.chaos.bugs import BUGS, Bug, apply, take_out
from cdcpipe.chaos.scenarios import scenario_plan
from cdcpipe.chaos.target import TARGETS, Breakable, bring_up, local_of, new_stack, take_down
from cdcpipe.events import Event, Notice, PhaseFinished
from cdcpipe.settings import Settings, load_settings
from cdcpipe.verify import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdcpipe")
    group.addoption("--minutes", dest="chaos_minutes", type=float, help="how long each load lasts, instead of its own")
    group.addoption(
        "--rate", dest="chaos_rate", type=float, help="no more events/s than this, on a machine that is busy"
    )
    # The plugin's own options; where it isn't installed, the scenarios still have a seed and a target.
    with contextlib.suppress(ValueError):
        group.addoption("--seed", dest="cdcpipe_seed", type=int, default=7, help="seed of load and schedule (7)")
    with contextlib.suppress(ValueError):
        group.addoption("--target", dest="cdcpipe_target", default="local", help="which pipeline is broken")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: all of these within 6 minutes on 2 cores; in CI")
    config.addinivalue_line("markers", "nightly: one failure mode each, two to four minutes")
    config.addinivalue_line("markers", "soak: drawn from the seed, as long as `--minutes` says")


class Chaos:
    """Runs plans. `chaos("worker_kill")` runs a scenario and demands that it passed; `chaos.run(plan)` only runs."""

    def __init__(
        self, settings: Settings, *, target: str, seed: int, seconds: float | None, rate: float | None
    ) -> None:
        self.target = target
        self.seed = seed
        self.seconds = seconds
        self.rate = rate
        self._settings = settings
        self._stack: Breakable | None = None
        self._shape: tuple[object, ...] = ()

    def __call__(self, scenario: str, **changes: Any) -> ChaosResult:
        """Run a scenario; fails with the verdict's sentence and the line that replays it."""
        plan = scenario_plan(scenario, seed=self.seed, seconds=self.seconds, **changes)
        if self.rate is not None and plan.rate > self.rate:
            plan = scenario_plan(scenario, seed=self.seed, seconds=self.seconds, **{**changes, "rate": self.rate})
        result = self.run(plan)
        assert result.verdict is Verdict.PASS, f"{result.sentence()}\nreport: {result.run}/report.html\n{result.replay}"
        return result

    def run(self, plan: ChaosPlan) -> ChaosResult:
        """Run `plan` on a stack of its shape: the last one's, if that is well and has no bug in it."""
        if self.target != "local" and (plan.bug or plan.snapshot or plan.versions or plan.brokers > 1):
            pytest.skip(f"--target {self.target}: this needs a stack of another shape, which only `local` makes")
        bug = None if plan.bug is None else BUGS[plan.bug]
        fresh = plan.snapshot > 0 or (bug is not None and not bug.configured)
        shape = (plan.brokers, plan.proxied, plan.load, tuple(sorted(plan.versions.items())), plan if fresh else None)
        well = False
        try:
            stack = self._stack
            if stack is None or fresh or shape != self._shape:
                self.drop()
                stack = self._stack = new_stack(self._settings, _tell, self.target)
                self._shape = shape
                bring_up(plan, stack)
            elif bug is not None:
                apply(bug, local_of(stack))
            result = run_chaos(plan, self._settings, stack=stack, listener=_tell)
            well = not fresh and not result.interventions and self._well(result, bug)
            if well and bug is not None:
                take_out(local_of(stack))
            return result
        finally:
            if not well:  # nor is one that did not come up
                self.drop()

    @staticmethod
    def _well(result: ChaosResult, bug: Bug | None) -> bool:
        """Whether the stack is fit for the next run: it passed, or failed as its bug does and stands still nowhere."""
        if bug is None:
            return result.verdict is Verdict.PASS
        return all(result.report[name].verdict is Verdict.PASS for name in ("stuck", "slot-loss", "schedule"))

    def drop(self) -> None:
        """Heal and take down the stack, with its data."""
        if self._stack is not None:
            take_down(self._stack, _tell)
        self._stack = None


def _tell(event: Event) -> None:
    """What pytest shows of a failed test: phases and faults."""
    if isinstance(event, PhaseFinished):
        print(f"{event.phase}: {event.seconds:.1f} s")  # noqa: T201
    elif isinstance(event, Notice):
        print(event.text)  # noqa: T201


@pytest.fixture(scope="session")
def chaos_session(pytestconfig: pytest.Config) -> Iterator[Chaos]:
    target = pytestconfig.getoption("cdcpipe_target")
    if target not in TARGETS:
        pytest.skip(f"--target {target}: these scenarios kill servers and cut links of a stack of our own")
    minutes = pytestconfig.getoption("chaos_minutes")
    session = Chaos(
        load_settings(),
        target=target,
        seed=pytestconfig.getoption("cdcpipe_seed"),
        seconds=None if minutes is None else minutes * 60,
        rate=pytestconfig.getoption("chaos_rate"),
    )
    try:
        yield session
    finally:
        session.drop()


@pytest.fixture
def chaos(chaos_session: Chaos) -> Chaos:
    """`chaos("worker_kill")` runs a scenario of `cdcpipe.chaos.scenarios`, and demands that nothing went wrong."""
    return chaos_session


@pytest.fixture
def found(chaos_session: Chaos) -> Callable[[str, ChaosPlan], ChaosResult]:
    """`found("eos-off", plan)`: run the plan with the bug put in; its anomaly must be found, under its right name."""

    def run(name: str, plan: ChaosPlan) -> ChaosResult:
        bug = BUGS[name]
        result = chaos_session.run(replace(plan, bug=name, name=f"bug-{name}"))
        named = {*result.anomalies, *(each.partition("@")[0] for each in result.anomalies)}
        assert result.verdict is Verdict.FAIL, f"`{name}` was not found: {result.sentence()} ({result.run})"
        assert named & set(bug.expects), f"`{name}` was found as {sorted(named)}, not {bug.expects} ({result.run})"
        return result

    return run
