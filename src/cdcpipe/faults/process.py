"""Faults of processes: killed, stopped, frozen, restarted; each by name or by role."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from cdcpipe.faults.fault import Fault, Trace, register
from cdcpipe.faults.targets import check_target, resolve_target
from cdcpipe.stack.component import Component, ComponentState
from cdcpipe.stack.stack import Stack

__all__ = ["ComponentFault", "Kill", "Pause", "Restart", "RestartStorm", "RollingRestart", "Stop"]


@dataclass(frozen=True, slots=True)
class ComponentFault(Fault):
    """Base of what is done to components. `component`: a name, `every broker`, `controller`, `leader of TOPIC N`."""

    needs: ClassVar[str] = "a stack that manages its servers: `local`, `kind`, `containers`"

    component: str

    @property
    def target(self) -> str:
        return self.component

    def supports(self, stack: Stack) -> str | None:
        if not stack.components:
            return "this kind of stack can't manage its servers"
        check_target(stack, self.component)
        return None

    def resolve(self, stack: Stack) -> Trace:
        return {"components": resolve_target(stack, self.component)}

    def recover(self, stack: Stack, trace: Trace) -> None:
        """Start what doesn't run. After a crash of ours the fault may have got anywhere, or nowhere."""
        for component in components(stack, trace):
            component.start()

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return missing(components(stack, trace), lambda each: each.readiness().reason, lambda e: e.readiness().ready)


def components(stack: Stack, trace: Trace) -> list[Component]:
    """The components that `trace` names."""
    return [stack.components[name] for name in trace["components"]]


def missing(
    found: Iterable[Component], why: Callable[[Component], str], done: Callable[[Component], bool]
) -> str | None:
    """None when `done` holds for each component, else the first for which it doesn't, and why."""
    for component in found:
        if not done(component):
            return f"`{component.name}`: {why(component)}"
    return None


def _in_state(stack: Stack, trace: Trace, wanted: ComponentState) -> str | None:
    return missing(components(stack, trace), lambda e: f"is {e.state()}", lambda e: e.state() is wanted)


@register
@dataclass(frozen=True, slots=True)
class Kill(ComponentFault):
    """SIGKILL: nothing is flushed, nobody is told. Started again after `seconds`."""

    kind: ClassVar[str] = "kill"
    provokes: ClassVar[tuple[str, ...]] = ("D1", "D2", "D3", "D5", "D13", "D15", "K1", "K3", "C3", "C4", "I2")

    def inject(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            component.kill()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _in_state(stack, trace, ComponentState.STOPPED)


@register
@dataclass(frozen=True, slots=True)
class Stop(ComponentFault):
    """An orderly end, as an upgrade does it. Started again after `seconds`."""

    kind: ClassVar[str] = "stop"
    provokes: ClassVar[tuple[str, ...]] = ("D2", "D3", "D26", "K3", "K7")

    def inject(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            component.stop()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _in_state(stack, trace, ComponentState.STOPPED)


@register
@dataclass(frozen=True, slots=True)
class Pause(ComponentFault):
    """SIGSTOP, after `seconds` SIGCONT. Longer than a session timeout it makes a zombie: others have taken over, and
    it goes on as if nothing had been. What no signal can bring back is started again."""

    kind: ClassVar[str] = "pause"
    provokes: ClassVar[tuple[str, ...]] = ("K1", "K2", "C1", "C2", "I1", "I3")

    def inject(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            component.pause()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _in_state(stack, trace, ComponentState.PAUSED)

    def recover(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            component.resume()
            component.start()


@register
@dataclass(frozen=True, slots=True)
class Restart(ComponentFault):
    """Down and up at once, by SIGKILL when `hard`."""

    kind: ClassVar[str] = "restart"
    provokes: ClassVar[tuple[str, ...]] = ("D1", "D2", "D3", "D4", "D26", "K3")

    hard: bool = False

    def inject(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            _down(component, hard=self.hard)
        for component in components(stack, trace):
            component.start()


@register
@dataclass(frozen=True, slots=True)
class RestartStorm(ComponentFault):
    """Down and up `times` times, each time as soon as it is ready, or, when it isn't by then, after `pause_seconds`."""

    kind: ClassVar[str] = "restart-storm"
    provokes: ClassVar[tuple[str, ...]] = ("D1", "D2", "D5", "D15", "K2", "K3", "K7", "I2")

    times: int = 4
    pause_seconds: float = 8.0
    hard: bool = True

    def inject(self, stack: Stack, trace: Trace) -> None:
        for _ in range(self.times):
            for component in components(stack, trace):
                _down(component, hard=self.hard)
                component.start()
            _until_ready(components(stack, trace), self.pause_seconds)


@register
@dataclass(frozen=True, slots=True)
class RollingRestart(ComponentFault):
    """One after the other down and up, each ready before the next is touched: what an upgrade of brokers does."""

    kind: ClassVar[str] = "rolling-restart"
    provokes: ClassVar[tuple[str, ...]] = ("D5", "K1", "K9")

    component: str = "every broker"
    hard: bool = False
    ready_seconds_max: float = 60.0

    def inject(self, stack: Stack, trace: Trace) -> None:
        for component in components(stack, trace):
            _down(component, hard=self.hard)
            component.start()
            _until_ready([component], self.ready_seconds_max)


def _down(component: Component, *, hard: bool) -> None:
    if hard:
        component.kill()
    else:
        component.stop()


def _until_ready(waited: list[Component], seconds: float) -> None:
    """Until all are ready or the time is over; which of the two is no matter, the storm goes on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(component.readiness().ready for component in waited):
        time.sleep(0.1)
