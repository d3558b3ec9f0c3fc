"""Lets each step of a schedule begin when its time has come, and sees that all of them end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cdcpipe.chaos.gauge import Moments
from cdcpipe.chaos.recovery import FaultOutcome
from cdcpipe.errors import CdcpipeError
from cdcpipe.faults.fault import FaultRecord, run_fault
from cdcpipe.faults.journal import Journal
from cdcpipe.faults.schedule import Schedule, Step
from cdcpipe.stack.stack import Stack

__all__ = ["Conductor"]

Tell = Callable[[FaultOutcome, str], None]


@dataclass(slots=True)
class _Run:
    step: Step
    thread: threading.Thread | None = None
    record: FaultRecord | None = None
    note: str | None = None
    over: float | None = None  # monotonic
    moments: list[str] = field(default_factory=list)


class Conductor:
    """Runs a schedule's faults on `stack`, each in a thread of its own. `tell` hears of every moment.

    `skipped`: step -> why the stack can't do it.
    """

    def __init__(
        self, schedule: Schedule, stack: Stack, journal: Journal, *, skipped: Mapping[str, str], tell: Tell
    ) -> None:
        self._stack = stack
        self._journal = journal
        self._skipped = dict(skipped)
        self._tell = tell
        self._moments = Moments(stack.endpoints)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._runs = {step.id: _Run(step) for step in schedule.steps}
        for id_, reason in self._skipped.items():
            self._runs[id_].over = 0.0
            self._tell(self._outcome(self._runs[id_]), f"skipped: {reason}")

    @property
    def measures(self) -> frozenset[str]:
        """What the steps that haven't begun are keyed on."""
        return frozenset(run.step.trigger.measure for run in self._runs.values() if run.thread is None)

    @property
    def waiting(self) -> list[str]:
        """Steps that haven't begun."""
        return [id_ for id_, run in self._runs.items() if run.thread is None and id_ not in self._skipped]

    @property
    def active(self) -> bool:
        """Whether a fault is under way."""
        return any(run.thread is not None and run.thread.is_alive() for run in self._runs.values())

    def tick(self, progress: Mapping[str, float | None]) -> None:
        """Let begin what is due. `progress` gives the measures, None where one is not known right now."""
        for run in self._runs.values():
            if run.thread is None and run.step.id not in self._skipped and self._due(run.step, progress):
                run.thread = threading.Thread(target=self._run, args=(run,), name=f"fault-{run.step.id}", daemon=True)
                run.thread.start()

    def _due(self, step: Step, progress: Mapping[str, float | None]) -> bool:
        trigger = step.trigger
        if trigger.measure == "after":
            over = self._runs[str(trigger.step)].over
            return over is not None and time.monotonic() >= over + trigger.value
        now = progress.get(trigger.measure)
        return now is not None and now >= trigger.value

    def _run(self, run: _Run) -> None:
        step = run.step
        if step.trigger.moment is not None:
            run.note = self._moments.wait(step.trigger.moment, self._stop)
        if not self._stop.is_set():
            try:
                run.record = run_fault(
                    step.fault,
                    self._stack,
                    self._journal,
                    stop=self._stop,
                    on_moment=lambda record: self._moment(run, record),
                )
            except CdcpipeError as error:
                run.note = str(error)
        run.over = time.monotonic()

    def _moment(self, run: _Run, record: FaultRecord) -> None:
        names = ("set_up", "injected", "effective", "recovering", "recovered", "cleaned")
        reached = [name for name in names if getattr(record, name) is not None]
        with self._lock:
            run.record = record
            new = [name for name in reached if name not in run.moments]
            run.moments = reached
            for name in new:
                self._tell(self._outcome(run), name)
            if record.error is not None and run.note is None:
                run.note = record.error
                self._tell(self._outcome(run), f"error: {record.error}")

    def _outcome(self, run: _Run) -> FaultOutcome:
        step = run.step
        skipped = self._skipped.get(step.id)
        return FaultOutcome(step.id, str(step.trigger), str(step.fault), run.record, skipped, run.note)

    def await_end(self, *, timeout_seconds: float) -> None:
        """Let the faults that are under way end by themselves, but no longer than this; then have them healed."""
        deadline = time.monotonic() + timeout_seconds
        for run in self._runs.values():
            if run.thread is not None:
                run.thread.join(max(0.0, deadline - time.monotonic()))
        self.heal()

    def heal(self) -> None:
        """End all faults now, and wait until each is healed."""
        self._stop.set()
        for run in self._runs.values():
            if run.thread is not None:
                run.thread.join(180)

    def outcomes(self) -> list[FaultOutcome]:
        """What became of each step. One that never began says so."""
        found = []
        for run in self._runs.values():
            if run.thread is None and run.step.id not in self._skipped:
                run.note = run.note or "its time never came"
            found.append(self._outcome(run))
        return found
