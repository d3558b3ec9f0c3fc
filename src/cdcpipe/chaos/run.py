"""`run_chaos`: the phases of a run in order. Whatever happens, what was broken is healed and nothing stays running."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cdcpipe.chaos.judging import Evidence, judge
from cdcpipe.chaos.loads import LOADS, Load
from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.report import write_reports
from cdcpipe.chaos.result import ChaosResult
from cdcpipe.chaos.session import Session
from cdcpipe.chaos.target import Breakable, bring_up, heal_left, keep_logs, new_stack, take_down
from cdcpipe.events import Listener, Notice, PhaseFinished, PhaseStarted, ignore
from cdcpipe.settings import Settings

__all__ = ["run_chaos"]

T = TypeVar("T")


class Phases:
    """Runs each phase between its two events, and keeps how long it took."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.seconds: dict[str, float] = {}

    def run(self, phase: str, title: str, work: Callable[[], T]) -> T:
        begin, ok = time.monotonic(), False
        self.listener(PhaseStarted(phase, title))
        try:
            result = work()
            ok = True
            return result
        finally:
            self.seconds[phase] = time.monotonic() - begin
            self.listener(PhaseFinished(phase, self.seconds[phase], ok))


def run_chaos(
    plan: ChaosPlan,
    settings: Settings,
    *,
    stack: Breakable | None = None,
    target: str = "local",
    keep: bool = False,
    listener: Listener = ignore,
) -> ChaosResult:
    """Run `plan` and judge it. Leaves `runs/chaos/<time>/` behind.

    Without `stack` one of `target` (`local`, `kind`) is brought up for the run and taken down after it, unless `keep`.
    A stack that is given must have been brought up with the plan's brokers, versions and links, and stays. What an
    earlier run left broken is healed first. UsageError for a schedule that can't be run; anomalies are in the result.
    """
    plan.check()
    phases = Phases(listener)
    run = _new_run(settings.runs)
    (run / "plan.json").write_text(plan.dumps(), encoding="utf-8")
    own = stack is None
    broken = stack or new_stack(settings, listener, target)
    done = False
    try:
        if own:
            phases.run("up", "bringing the pipeline up", lambda: bring_up(plan, broken))
        else:
            heal_left(broken, listener)
        result = _broken(plan, broken, run, phases)
        done = True
    finally:
        keep_logs(broken, run / "logs")
        if own and not (keep and done):
            phases.run("down", "taking it down", lambda: take_down(broken, listener))
    result = replace(result, phases=dict(phases.seconds))
    leave(result, settings.runs)
    return result


def _broken(plan: ChaosPlan, stack: Breakable, run: Path, phases: Phases) -> ChaosResult:
    load: Load = LOADS[plan.load](plan.seed)
    skipped = plan.schedule.check_stack(stack)
    for step, reason in skipped.items():
        phases.listener(Notice(f"{step} is skipped: {reason}", warning=True))
    with Session(plan, stack, load, run, skipped=skipped, listener=phases.listener) as session:
        phases.run("prepare", "making the load's tables", session.prepare)
        phases.run("load", _title(plan), session.load)
        phases.run("heal", "healing what is still broken", session.heal)
        phases.run("settle", "waiting until all of it is archived", session.settle)
        evidence: Evidence = session.read(phases.run)
    verified = phases.run("verify", "comparing every change", lambda: judge(plan, evidence, session.findings(), run))
    return session.result(verified, versions=_versions(stack))


def _title(plan: ChaosPlan) -> str:
    faults = len(plan.schedule.steps)
    return f"writing {plan.rate:,.0f} events/s for {plan.seconds:g} s, {faults} fault{'' if faults == 1 else 's'}"


def _versions(stack: Breakable) -> Mapping[str, str]:
    return {name: component.version for name, component in stack.components.items()} | stack.plugin_versions()


def _new_run(runs: Path) -> Path:
    base = runs.resolve() / "chaos" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    run = base
    number = 1
    while run.exists():
        number += 1
        run = base.with_name(f"{base.name}-{number}")
    run.mkdir(parents=True)
    return run


def leave(result: ChaosResult, runs: Path) -> None:
    """Write the result and its renderings into the run's folder, and point `runs/latest` to it."""
    run = result.run
    (run / "result.json").write_text(json.dumps(result.to_json(), indent=1, default=str), encoding="utf-8")
    write_reports(result)
    latest = runs.resolve() / "latest"
    with contextlib.suppress(OSError):
        latest.unlink(missing_ok=True)
        latest.symlink_to(run.relative_to(runs.resolve()), target_is_directory=True)
