"""A smaller schedule that still fails: delta debugging over its steps (Zeller's ddmin), each try a real run.

A run is no pure function: what failed once may pass the next time. So a subset that passes is only "didn't fail this
time", the answer is a schedule that was *seen* to fail, and never an empty one that wasn't run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.events import Listener, Notice, ignore
from cdcpipe.settings import Settings

__all__ = ["Shrunk", "minimize", "shrink_run"]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest plan that was seen to fail, how, and after how many runs. `steps` is what there was before."""

    plan: ChaosPlan
    anomalies: tuple[str, ...]
    runs: int
    steps: int

    def sentence(self) -> str:
        """What was found."""
        left = len(self.plan.schedule.steps)
        if not self.anomalies:
            return f"The plan did not fail in {self.runs} run(s): there is nothing to shrink."
        return f"{left} of {self.steps} faults are enough for {', '.join(self.anomalies)} ({self.runs} runs)."

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "anomalies": list(self.anomalies),
            "runs": self.runs,
            "steps_before": self.steps,
            "steps": [step.to_json() for step in self.plan.schedule.steps],
            "sentence": self.sentence(),
        }


def minimize(items: Sequence[str], fails: Callable[[Sequence[str]], bool], *, tries: int) -> tuple[list[str], int]:
    """The smallest part of `items` found within `tries` calls of `fails` for which it is true, and the calls made.

    `items` as a whole is taken to fail. ddmin: leave out ever smaller parts; what still fails is the new whole.

    >>> minimize("abcdef", lambda part: "b" in part and "e" in part, tries=50)[0]
    ['b', 'e']
    """
    left, parts, calls = list(items), 2, 0
    if left and tries > 0:
        calls += 1
        if fails([]):
            return [], calls
    while len(left) >= 2:
        size = -(-len(left) // parts)
        for begin in range(0, len(left), size):
            rest = left[:begin] + left[begin + size :]
            if calls >= tries:
                return left, calls
            calls += 1
            if fails(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(left))
    return left, calls


def shrink_run(plan: ChaosPlan, settings: Settings, *, runs: int, listener: Listener = ignore) -> Shrunk:
    """Shrink `plan` by running it, at most `runs` times. The first run shows how it fails."""
    from cdcpipe.chaos.run import run_chaos

    first = run_chaos(plan, settings, listener=listener)
    wanted = set(first.anomalies)
    steps = plan.schedule.steps
    if not wanted:
        return Shrunk(plan, (), 1, len(steps))

    shown = tuple(sorted(wanted))

    def fails(ids: Sequence[str]) -> bool:
        nonlocal shown
        gone = [step.id for step in steps if step.id not in ids]
        smaller = replace(plan, schedule=plan.schedule.without(gone))
        listener(Notice(f"trying {len(ids)} of {len(steps)} faults: {', '.join(ids) or 'none'}"))
        found = run_chaos(smaller, settings, listener=listener)
        if again := wanted & set(found.anomalies):
            shown = tuple(sorted(again))  # what fails becomes the new whole, so the last one is the answer's
        return bool(again)

    ids, calls = minimize([step.id for step in steps], fails, tries=runs - 1)
    gone = [step.id for step in steps if step.id not in ids]
    return Shrunk(replace(plan, schedule=plan.schedule.without(gone)), shown, calls + 1, len(steps))
