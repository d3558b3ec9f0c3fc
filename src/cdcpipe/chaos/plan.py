"""A plan: all that decides what a run does. The same plan does the same again; `plan.json` of a run is one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

import cdcpipe.chaos.poison  # noqa: F401 - makes its kind of fault known
from cdcpipe.chaos.bugs import BUGS
from cdcpipe.chaos.loads import LOADS
from cdcpipe.errors import UsageError
from cdcpipe.faults.fault import nearest
from cdcpipe.faults.menu import Shape
from cdcpipe.faults.schedule import Schedule, draw
from cdcpipe.verify.level import Level

__all__ = ["ChaosPlan", "Migration", "load_plan"]

_SCHEMA: Final = "cdcpipe.chaos/1"


@dataclass(frozen=True, slots=True)
class Migration:
    """SQL that the owner runs once `committed` events are committed: a schema change in the middle of it."""

    committed: float
    sql: str


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What a run does.

    - `load`: see `chaos.loads`; `rate` events/s for `seconds`, values drawn from `seed`.
    - `brokers`, `proxied`, `versions`: the stack; `proxied` routes its connections through proxies, so that they can be
      cut. `bug` misconfigures it (see `chaos.bugs`).
    - `snapshot`: the load's rows are there before the source is, which then reads them; faults are keyed on `logged`.
    - `level`, `resnapshots`: what is judged. `drain_seconds` bounds the wait until all is archived; while
      records still come out it may take two and a half times that.
    """

    name: str = "random"
    seed: int = 7
    seconds: float = 120
    rate: float = 3000
    load: str = "shop"
    brokers: int = 1
    proxied: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    versions: Mapping[str, str] = field(default_factory=dict)
    bug: str | None = None
    snapshot: int = 0
    migrations: tuple[Migration, ...] = ()
    level: str = Level.EXACTLY_ONCE.value
    resnapshots: bool = False
    drain_seconds: float = 240

    def __post_init__(self) -> None:
        checks = (
            (_between(self.seconds, 1, 86_400), f"seconds: {self.seconds!r} is not between 1 and 86,400"),
            (_between(self.rate, 1, 1_000_000), f"rate: {self.rate!r} is not between 1 and 1,000,000 events/s"),
            (self.brokers in (1, 3), f"brokers: a stack has 1 or 3, not {self.brokers}"),
            (self.load in LOADS, f"load: there is no `{self.load}`; {nearest(self.load, list(LOADS))}"),
            (self.bug is None or self.bug in BUGS, f"bug: there is no `{self.bug}`; {nearest(str(self.bug), BUGS)}"),
            (self.level in set(Level), f"level: there is no `{self.level}`; {nearest(self.level, list(Level))}"),
            (_between(self.drain_seconds, 1, 86_400), f"drain_seconds: {self.drain_seconds!r} is not above 1"),
        )
        if wrong := [text for good, text in checks if not good]:
            raise UsageError("the plan can't be right: " + "; ".join(wrong))

    @property
    def events(self) -> float:
        """How many events the load makes."""
        return self.rate * self.seconds

    @property
    def shape(self) -> Shape:
        """What the schedule is drawn for."""
        return Shape(self.brokers, self.proxied)

    @classmethod
    def drawn(cls, *, kinds: Sequence[str] | None = None, every_seconds: float = 40.0, **values: Any) -> Self:
        """A plan whose schedule is drawn from its seed."""
        plan = cls(**values)
        schedule = draw(
            plan.seed, plan.shape, events=plan.events, seconds=plan.seconds, kinds=kinds, every_seconds=every_seconds
        )
        return replace(plan, schedule=schedule)

    def check(self) -> None:
        """Raise UsageError when the schedule can't be run, with the place and the reason of each finding."""
        events = self.events + self.snapshot
        self.schedule.check(events=events, seconds=self.seconds, brokers=self.brokers)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in schema `cdcpipe.chaos/1`."""
        content: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        content["schedule"] = self.schedule.to_json()
        content["versions"] = dict(sorted(self.versions.items()))
        content["migrations"] = [{"committed": each.committed, "sql": each.sql} for each in self.migrations]
        for name in ("seconds", "rate", "drain_seconds"):
            content[name] = int(content[name]) if float(content[name]).is_integer() else content[name]
        return {"schema": _SCHEMA, **content}

    def dumps(self) -> str:
        """The JSON text: the same plan gives the same bytes."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, content: object) -> Self:
        """The way back. UsageError with what is wrong and where."""
        if not isinstance(content, dict):
            raise UsageError(f"a plan is a JSON object, this is {type(content).__name__}")
        values = dict(content)
        if values.pop("schema", None) != _SCHEMA:
            raise UsageError(f"$.schema: this is no plan of schema `{_SCHEMA}`")
        known = [each.name for each in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise UsageError(f"$.{unknown[0]}: unknown", hint=nearest(unknown[0], known))
        if "schedule" in values:
            values["schedule"] = Schedule.from_json(values["schedule"])
        try:
            values["migrations"] = tuple(Migration(**each) for each in values.get("migrations", ()))
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"the plan can't be read: {error}") from error


def load_plan(path: Path) -> ChaosPlan:
    """The plan in `path`: a file, or the folder of a run. UsageError when there is none."""
    file = path / "plan.json" if path.is_dir() else path
    try:
        return ChaosPlan.from_json(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"`{file}` can't be read: {error.strerror}", hint="name a run's folder or a plan") from error
    except ValueError as error:
        raise UsageError(f"`{file}` is not JSON: {error}") from error


def _between(number: object, low: float, high: float) -> bool:
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and low <= number <= high
    )
