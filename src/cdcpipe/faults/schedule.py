"""A schedule: which fault begins when. Drawn from a seed, or written by hand; plain data, JSON in and out.

When is said by *progress*, not by the clock: "once 40,000 events are committed", "then, when a data file was uploaded
that no table has yet". So a schedule means the same on a fast machine and on a slow one. The same seed and the same
shape of a stack give the same schedule, byte for byte; what can't be run is refused with the place and the reason,
before anything is broken.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from cdcpipe.errors import UsageError
from cdcpipe.faults.fault import Fault, fault_from_dict, nearest
from cdcpipe.faults.menu import Dish, Shape, brokers_down, menu

if TYPE_CHECKING:
    from cdcpipe.stack.stack import Stack

__all__ = ["MEASURES", "MOMENTS", "Schedule", "Step", "Trigger", "draw"]

_SCHEMA: Final = "cdcpipe.schedule/1"

MEASURES: Final[Mapping[str, str]] = {
    "committed": "events that PostgreSQL committed since the load began",
    "logged": "records in the change topics since the load began; while a snapshot runs, its rows",
    "archived": "rows in the archive since the load began",
    "after": "seconds after the step named by `step` is over",
    "seconds": "seconds since the load began; the last resort",
}
"""What a trigger is keyed on."""

MOMENTS: Final[Mapping[str, str]] = {
    "upload": "between upload and commit: a data file has appeared that no table has yet",
    "open_transaction": "inside an open transaction that has written",
}
"""What it may wait for then, so that a fault falls into a moment that lasts milliseconds."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Begin once `measure` has reached `value`, and with `moment` at the next such moment.

    >>> str(Trigger("committed", 40_000, moment="upload")), str(Trigger("after", 2, step="s1"))
    ('committed >= 40,000, then at upload', '2 s after s1')
    """

    measure: str
    value: float = 0
    step: str | None = field(default=None, kw_only=True)
    moment: str | None = field(default=None, kw_only=True)

    def __str__(self) -> str:
        text = f"{self.value:g} s after {self.step}" if self.measure == "after" else ""
        text = text or f"{self.measure} >= {self.value:,.10g}"
        return f"{text}, then at {self.moment}" if self.moment else text

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        plain: dict[str, Any] = {"measure": self.measure, "value": _plain(self.value)}
        return plain | {name: getattr(self, name) for name in ("step", "moment") if getattr(self, name) is not None}


@dataclass(frozen=True, slots=True)
class Step:
    """A fault and when it begins. `id` names it in the report."""

    id: str
    trigger: Trigger
    fault: Fault

    def __str__(self) -> str:
        return f"{self.id}: {self.fault}, when {self.trigger}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"id": self.id, "when": self.trigger.to_json(), "fault": _plain_values(self.fault.to_dict())}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in the order in which they are expected. `seed` is what they were drawn from, None if by hand.

    `overload` lets it take down more brokers at once than the cluster survives.
    """

    steps: tuple[Step, ...] = ()
    seed: int | None = None
    overload: bool = False

    @classmethod
    def of(cls, *steps: tuple[Trigger, Fault], overload: bool = False) -> Self:
        """By hand: steps `s1`, `s2`, ... in this order."""
        numbered = tuple(Step(f"s{n}", trigger, fault) for n, (trigger, fault) in enumerate(steps, 1))
        return cls(numbered, overload=overload)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in schema `cdcpipe.schedule/1`."""
        content = {"schema": _SCHEMA, "seed": self.seed, "steps": [step.to_json() for step in self.steps]}
        return content | ({"overload": True} if self.overload else {})

    def dumps(self) -> str:
        """The JSON text: the same schedule gives the same bytes."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The way back. UsageError with the place of everything that is wrong."""
        found: list[str] = []
        if not isinstance(content, dict):
            raise UsageError(f"a schedule is a JSON object, this is {type(content).__name__}")
        known = ("schema", "seed", "steps", "overload")
        found += [f"$.{name}: unknown; {nearest(name, known)}" for name in content if name not in known]
        if content.get("schema") != _SCHEMA:
            found.append(f"$.schema: `{content.get('schema')}` is not `{_SCHEMA}`")
        raw, seed, overload = content.get("steps"), content.get("seed"), content.get("overload", False)
        if not isinstance(raw, list):
            found.append("$.steps: not a list")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            found.append(f"$.seed: {seed!r} is not a whole number")
        if not isinstance(overload, bool):
            found.append(f"$.overload: {overload!r} is neither true nor false")
        steps = [_step(each, f"$.steps[{n}]", found) for n, each in enumerate(raw if isinstance(raw, list) else ())]
        _refuse(found)
        return cls(tuple(step for step in steps if step is not None), seed, overload)

    @classmethod
    def loads(cls, text: str) -> Self:
        """From JSON text."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UsageError(f"the schedule is not JSON: {error}") from error
        return cls.from_json(content)

    def without(self, ids: Iterable[str]) -> Schedule:
        """The same without these steps; what came after one of them begins when that one would have."""
        gone = set(ids)
        triggers = {step.id: step.trigger for step in self.steps}

        def moved(trigger: Trigger) -> Trigger:
            while trigger.step in gone:
                trigger = triggers[str(trigger.step)]
            return trigger

        kept = tuple(replace(step, trigger=moved(step.trigger)) for step in self.steps if step.id not in gone)
        return replace(self, steps=kept)

    def check(self, *, events: float, seconds: float, brokers: int) -> None:
        """Raise UsageError when it can't be run: `detail` lists each finding as `$.steps[n]...: reason`.

        The load is `events` in `seconds`; `brokers` is the size of the cluster.
        """
        found: list[str] = []
        before: set[str] = set()
        for index, step in enumerate(self.steps):
            place = f"$.steps[{index}]"
            if step.id in before:
                found.append(f"{place}.id: `{step.id}` is an earlier step's already")
            found += _never(step, f"{place}.when", before, events=events, seconds=seconds)
            if step.fault.seconds > 3600:
                found.append(f"{place}.fault.seconds: {step.fault.seconds:g} is more than an hour")
            before.add(step.id)
        _refuse(found)
        if not self.overload:
            _refuse(list(self._too_many_down(events, seconds, brokers)))

    def check_stack(self, stack: Stack) -> dict[str, str]:
        """Step -> why `stack` can't do it: such steps are skipped, by name.

        Raises UsageError for a component or link that isn't there.
        """
        reasons: dict[str, str] = {}
        found: list[str] = []
        for index, step in enumerate(self.steps):
            try:
                reason = step.fault.supports(stack)
            except UsageError as error:
                found.append(f"$.steps[{index}].fault: {error.message}" + (f" ({error.hint})" if error.hint else ""))
                continue
            if reason is not None:
                reasons[step.id] = reason
        _refuse(found)
        return reasons

    def expected(self, *, events: float, seconds: float) -> dict[str, tuple[float, float]]:
        """Step -> seconds from the start of the load at which it is expected to begin and to end."""
        spans: dict[str, tuple[float, float]] = {}
        for step in self.steps:
            trigger = step.trigger
            if trigger.measure == "after":
                begin = spans.get(str(trigger.step), (0.0, 0.0))[1] + trigger.value
            elif trigger.measure == "seconds":
                begin = trigger.value
            else:
                begin = trigger.value / max(events, 1) * seconds
            spans[step.id] = (begin, begin + step.fault.seconds + _RECOVERY_SECONDS)
        return spans

    def _too_many_down(self, events: float, seconds: float, brokers: int) -> Iterator[str]:
        spans = self.expected(events=events, seconds=seconds)
        down = [(n, step, brokers_down(step.fault)) for n, step in enumerate(self.steps) if brokers_down(step.fault)]
        for index, step, names in down:
            if brokers >= 3 and len(names) > 1:
                yield f"$.steps[{index}].fault: {len(names)} brokers down at once; {brokers} survive one"
            for other_index, other, other_names in down:
                (begin, end), (first, last) = spans[step.id], spans[other.id]
                if other_index < index and brokers >= 3 and names != other_names and begin < last and first < end:
                    yield (
                        f"$.steps[{index}].fault: `{step.fault}` while `{other.fault}` of step `{other.id}` lasts or "
                        f"recovers; {brokers} brokers with min.insync.replicas 2 survive one (`overload` allows it)"
                    )


# How long a target takes to be well again, for the question which faults may meet. Never slept for.
_RECOVERY_SECONDS = 12.0


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise UsageError(
            f"the schedule can't be run: {found[0]}" if len(found) == 1 else "the schedule can't be run",
            detail="\n".join(found) if len(found) > 1 else None,
            hint="`cdcpipe chaos kinds` lists faults, their fields, and what a trigger may be",
        )


def _step(raw: object, place: str, found: list[str]) -> Step | None:
    if not isinstance(raw, dict):
        found.append(f"{place}: not an object")
        return None
    begun = len(found)
    known = ("id", "when", "fault")
    found += [f"{place}.{name}: unknown; {nearest(name, known)}" for name in raw if name not in known]
    if not isinstance(raw.get("id"), str) or not raw["id"]:
        found.append(f"{place}.id: {raw.get('id')!r} is not a name")
    trigger = _trigger(raw.get("when"), f"{place}.when", found)
    fault = None
    if not isinstance(raw.get("fault"), dict):
        found.append(f'{place}.fault: not an object such as {{"kind": "kill", "component": "connect"}}')
    else:
        try:
            fault = fault_from_dict(raw["fault"])
        except UsageError as error:
            text = "; ".join(filter(None, [error.message, *(error.detail or "").splitlines(), error.hint]))
            found.append(f"{place}.fault: {text}")
    if len(found) > begun or trigger is None or fault is None:
        return None
    return Step(raw["id"], trigger, fault)


def _trigger(raw: object, place: str, found: list[str]) -> Trigger | None:
    if not isinstance(raw, dict):
        found.append(f'{place}: not an object such as {{"measure": "committed", "value": 40000}}')
        return None
    begun = len(found)
    known = ("measure", "value", "step", "moment")
    found += [f"{place}.{name}: unknown; {nearest(name, known)}" for name in raw if name not in known]
    value = raw.get("value", 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        found.append(f"{place}.value: {value!r} is no number of at least 0")
    for name in ("step", "moment"):
        if raw.get(name) is not None and not isinstance(raw[name], str):
            found.append(f"{place}.{name}: {raw[name]!r} is not a name")
    if not isinstance(raw.get("measure"), str):
        found.append(f"{place}.measure: {raw.get('measure')!r} is not a name")
    if len(found) > begun:
        return None
    return Trigger(raw["measure"], value, step=raw.get("step"), moment=raw.get("moment"))


def _never(step: Step, place: str, before: set[str], *, events: float, seconds: float) -> Iterator[str]:
    """Why a step's trigger can't come."""
    trigger = step.trigger
    if trigger.measure not in MEASURES:
        yield f"{place}.measure: there is no `{trigger.measure}`; {nearest(trigger.measure, list(MEASURES))}"
    if trigger.moment is not None and trigger.moment not in MOMENTS:
        yield f"{place}.moment: there is no `{trigger.moment}`; {nearest(trigger.moment, list(MOMENTS))}"
    if trigger.measure == "after" and trigger.step not in before:
        yield f"{place}.step: `{trigger.step}` is no earlier step"
    if trigger.measure != "after" and trigger.step is not None:
        yield f"{place}.step: only `after` takes a step"
    if trigger.measure in ("committed", "archived") and trigger.value > events:
        yield f"{place}.value: the load makes {events:,.0f} events, so {trigger.value:,.0f} is never reached"
    if trigger.measure == "seconds" and trigger.value > seconds:
        yield f"{place}.value: the load lasts {seconds:g} s, so {trigger.value:g} s is never reached"


def _plain_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """With 20 for 20.0: whoever wrote the number, the text is the same."""
    return {name: _plain(value) if isinstance(value, float) else value for name, value in content.items()}


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number


# --- drawing ------------------------------------------------------------------


def draw(
    seed: int,
    shape: Shape,
    *,
    events: float,
    seconds: float,
    kinds: Iterable[str] | None = None,
    every_seconds: float = 40.0,
    together: float = 0.2,
) -> Schedule:
    """A schedule for a stack of `shape`: a fault about each `every_seconds`, a share of `together` of them in pairs.

    The first begins when a tenth of the load is committed, the last early enough to recover within the load. `kinds`
    takes only these faults of the menu. Never more brokers down at once than the cluster survives. UsageError when
    nothing can be drawn.
    """
    dishes = menu(shape, kinds)
    rng = random.Random(
        f"cdcpipe.schedule/{seed}/{shape}/{events:.0f}/{seconds:.0f}/{'+'.join(d.name for d in dishes)}"
    )
    first, last = 0.1 * seconds, max(0.15 * seconds, seconds - 25)
    count = max(1, round((last - first) / every_seconds))
    steps: list[Step] = []
    for slot in range(count):
        at = first + (last - first) * (slot + 0.6 * rng.random()) / count
        trigger = Trigger("committed", float(round(at / seconds * events, -2 if events >= 10_000 else None)))
        moment, pair = rng.random(), rng.random()
        dish = _choose(rng, dishes)
        faults = [dish.make(rng)]
        if pair < together:
            twin = _choose(rng, dishes).make(rng)
            meets = bool(brokers_down(faults[0]) and brokers_down(twin))
            if not meets and twin.target != faults[0].target:
                faults.append(twin)
        elif moment < 0.5 and dish.moments:
            trigger = replace(trigger, moment=rng.choice(dish.moments))
        steps += [Step(f"s{len(steps) + n}", trigger, fault) for n, fault in enumerate(faults, 1)]
    drawn = Schedule(tuple(steps), seed)
    return drawn.without(_meeting(drawn, events, seconds, shape.brokers))


def _choose(rng: random.Random, dishes: Sequence[Dish]) -> Dish:
    return rng.choices(dishes, weights=[dish.weight for dish in dishes])[0]


def _meeting(drawn: Schedule, events: float, seconds: float, brokers: int) -> list[str]:
    """Steps that must go so that not two brokers are down at once."""
    gone: list[str] = []
    while problems := list(drawn.without(gone)._too_many_down(events, seconds, brokers)):
        index = int(problems[0].partition("[")[2].partition("]")[0])
        gone.append(drawn.without(gone).steps[index].id)
    return gone
