"""`run_chaos`: the phases of a run in order. Whatever happens, what was broken is healed and nothing stays running."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cdcpipe.chaos.bugs import BUGS, apply
from cdcpipe.chaos.judging import Evidence, judge
from cdcpipe.chaos.loads import LOADS, Load
from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.report import write_reports
from cdcpipe.chaos.result import ChaosResult
from cdcpipe.chaos.session import Session
from cdcpipe.events import Listener, Notice, PhaseFinished, PhaseStarted, ignore
from cdcpipe.faults.journal import Journal, heal
from cdcpipe.settings import Settings
from cdcpipe.stack.local.stack import LocalStack

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
    stack: LocalStack | None = None,
    keep: bool = False,
    listener: Listener = ignore,
) -> ChaosResult:
    """Run `plan` and judge it. Leaves `runs/chaos/<time>/` behind.

    Without `stack` one is brought up for the run and taken down after it, unless `keep`. A stack that is given must
    have been brought up with the plan's brokers, versions and links, and stays. What an earlier run left broken is
    healed first. UsageError for a schedule that can't be run; anomalies are in the result.
    """
    plan.check()
    phases = Phases(listener)
    run = _new_run(settings.runs)
    (run / "plan.json").write_text(plan.dumps(), encoding="utf-8")
    own = stack is None
    target = stack or own_stack(settings, listener)
    done = False
    try:
        if own:
            phases.run("up", "bringing the pipeline up", lambda: bring_up(plan, target))
        else:
            heal_left(target, listener)
        result = _broken(plan, target, run, phases)
        done = True
    finally:
        with contextlib.suppress(OSError):
            shutil.copytree(target.folder / "log", run / "logs", dirs_exist_ok=True, ignore_dangling_symlinks=True)
        if own and not (keep and done):
            phases.run("down", "taking it down", lambda: _down(target))
    result = replace(result, phases=dict(phases.seconds))
    leave(result, settings.runs)
    return result


def bring_up(plan: ChaosPlan, stack: LocalStack) -> None:
    """A stack as `plan` wants it, the bug put in."""
    bug = None if plan.bug is None else BUGS[plan.bug]
    versions = {**(bug.versions if bug else {}), **plan.versions}
    late = plan.snapshot > 0 or (bug is not None and bug.late_topics)
    tables = () if late else LOADS[plan.load](plan.seed).TABLES
    options: dict[str, Any] = {"proxied": True} if plan.proxied else {}
    stack.up(brokers=plan.brokers, versions=versions, tables=tables, **options)
    if bug is not None:
        apply(bug, stack)


def heal_left(stack: LocalStack, listener: Listener) -> None:
    """Heal what an earlier run left broken on `stack`, by its journal."""
    for record in heal(stack, Journal.of_folder(stack.folder)):
        how = f"it did not heal: {record.error}" if record.error else "healed"
        listener(
            Notice(f"an earlier run left `{record.kind} {record.target}`: {how}", warning=record.error is not None)
        )


def own_stack(settings: Settings, listener: Listener) -> LocalStack:
    """A new stack beside the user's own, in a folder of a fixed name; what an earlier run left there is removed."""
    folder = settings.stack.with_name(f"{settings.stack.name}-chaos")
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    if stack.exists or folder.exists():
        listener(Notice(f"removing the stack that an earlier run left in `{folder}`"))
        if stack.exists:
            heal_left(stack, listener)
        stack.down(purge=True)
        stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    return stack


def _down(stack: LocalStack) -> None:
    if stack.exists:
        heal(stack, Journal.of_folder(stack.folder))
    stack.down(purge=True)


def _broken(plan: ChaosPlan, stack: LocalStack, run: Path, phases: Phases) -> ChaosResult:
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


def _versions(stack: LocalStack) -> Mapping[str, str]:
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
