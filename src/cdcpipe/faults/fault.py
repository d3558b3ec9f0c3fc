"""A fault: a value that says what is broken, where and for how long, and how it is healed.

A fault has six moments: set up, inject, *wait until it has taken effect*, recover, *wait until recovered*, clean up.
The two waits only observe, so that the times in a `FaultRecord` are those of the system and not of a timer. What a
fault finds out on its way (which broker is the leader, where it mounted something) goes into its *trace*, which the
journal keeps on disk before anything is touched: whoever reads it can heal, even when we were killed.

    with Kill("connect").applied(stack, journal):
        ...                                       # the worker is dead in here, and ready again behind it
    record = run_fault(Pause("kafka-1", seconds=20), stack, journal)

A fault knows components, links and endpoints, never which kind of stack it stands before. `supports` says why a stack
can't do a fault; nothing is ever skipped without a word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import json
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from cdcpipe.errors import CdcpipeError, FaultError, FaultNotSupported, UsageError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.stack import Stack

if TYPE_CHECKING:
    from cdcpipe.faults.journal import Journal

__all__ = [
    "Fault",
    "FaultRecord",
    "RunningFault",
    "Trace",
    "fault_from_dict",
    "kinds",
    "nearest",
    "register",
    "run_fault",
]

Trace = dict[str, Any]
"""What a fault must know to be healed, as JSON: resolved names, process ids, mount points, toxics."""

F = TypeVar("F", bound="type[Fault]")

_KINDS: dict[str, type[Fault]] = {}
_MODULES = ("process", "link", "storage", "postgres", "rebalance", "machine")  # where kinds of fault are defined


@dataclass(frozen=True, slots=True)
class Fault(ABC):
    """One thing that is done to a running stack. `seconds` is how long it lasts once it has taken effect."""

    kind: ClassVar[str]
    provokes: ClassVar[tuple[str, ...]] = ()
    """The failure modes that it may bring out, by their ids in failure-modes.md (`D1`, `K2`, `C6`)."""
    needs: ClassVar[str] = "any stack"
    """Where it is supported, in a few words; `supports` has the last one."""
    effect_seconds_max: ClassVar[float] = 30.0
    """How long to wait for the effect before that is an error."""
    recovery_seconds_max: ClassVar[float] = 120.0
    persists: ClassVar[bool] = False
    """Whether it lies in a server's data: then it can be healed only while that server runs."""

    seconds: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float | int) and not isinstance(value, bool) and not (0 <= value < math.inf):
                raise UsageError(f"`{self.kind}`: {each.name} must be a number of at least 0, not {value}")
        self.check()

    def check(self) -> None:
        """Raise `UsageError` for values that can't be right together."""
        return

    @property
    @abstractmethod
    def target(self) -> str:
        """What it is aimed at, as it was written: `connect`, `leader of cdc.public.orders 0`, `connect-s3`."""

    @abstractmethod
    def supports(self, stack: Stack) -> str | None:
        """None when `stack` can do it, else the reason why not. Raises `UsageError` for a target that isn't there."""

    # The six moments ------------------------------------------------------------------------------

    def resolve(self, stack: Stack) -> Trace:
        """Decide, at the moment of injection, what exactly will be done. Only asks."""
        return {}

    def set_up(self, stack: Stack, trace: Trace) -> None:
        """Prepare what the pipeline doesn't feel as the fault itself."""
        return

    @abstractmethod
    def inject(self, stack: Stack, trace: Trace) -> None:
        """Do it."""

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        """None once it has taken effect, else what is still missing. Only observes."""
        return None

    @abstractmethod
    def recover(self, stack: Stack, trace: Trace) -> None:
        """Undo it. May be called again, and after an `inject` that never came to its end."""

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        """None once the target is well again, else what is still missing. Only observes."""
        return None

    def clean_up(self, stack: Stack, trace: Trace) -> None:
        """Undo `set_up`. May be called again, and without a `set_up` that came to its end."""
        return

    # The same for all -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """As JSON: `kind` and every field that isn't at its default."""
        values = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.default is dataclasses.MISSING or getattr(self, each.name) != each.default
        }
        return {"kind": self.kind} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
        }

    def __str__(self) -> str:
        lasting = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.kind} {self.target}{lasting}"

    @contextlib.contextmanager
    def applied(
        self, stack: Stack, journal: Journal, *, on_moment: Callable[[FaultRecord], None] | None = None
    ) -> Iterator[RunningFault]:
        """In force within the block, healed behind it whatever happens. `seconds` plays no part.

        Raises `FaultNotSupported`, `UsageError`, and `FaultError` when it takes no effect or does not heal.
        """
        running = RunningFault(self, stack, journal, on_moment=on_moment)
        try:
            running.begin()
            yield running
        except BaseException:
            with contextlib.suppress(CdcpipeError):  # the first error is the one to know; the record has both
                running.end()
            raise
        running.end()


def register(kind: F) -> F:
    """Make a class of faults known by its `kind`."""
    _KINDS[kind.kind] = kind
    return kind


def kinds() -> Mapping[str, type[Fault]]:
    """Every kind of fault: its name -> its class."""
    for module in _MODULES:
        importlib.import_module(f"cdcpipe.faults.{module}")
    return dict(sorted(_KINDS.items()))


def nearest(name: str, known: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """A hint: the known name closest to `name`, and all of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return (f"did you mean `{near[0]}`? " if near else "") + f"there are: {', '.join(known) or 'none'}"


def fault_from_dict(content: Mapping[str, Any]) -> Fault:
    """The fault that `to_dict` described. Raises `UsageError` that names what is unknown or of a wrong type."""
    from pydantic import TypeAdapter, ValidationError

    values = dict(content)
    kind = values.pop("kind", None)
    known = kinds()
    if not isinstance(kind, str) or kind not in known:
        raise UsageError(f"there is no fault of kind `{kind}`", hint=nearest(str(kind), list(known)))
    names = [each.name for each in fields(known[kind])]
    for name in values:
        if name not in names:
            raise UsageError(f"a fault of kind `{kind}` has no `{name}`", hint=nearest(name, names))
    try:
        made: Fault = TypeAdapter(known[kind]).validate_python(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError(f"a fault of kind `{kind}` is written wrongly", detail="\n".join(lines)) from error
    return made


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """What became of one fault. Moments are seconds since the epoch, all from one monotonic clock; None: not reached.

    `set_up`, `injected`: when that work was done. `effective`: when the fault was seen to have taken effect.
    `recovering`: when the cure began. `recovered`: when the target was seen to be well again. `cleaned`: the end.
    `trace` says what exactly was done; `error` why it did not go as it should.
    """

    kind: str
    target: str
    fault: dict[str, Any]
    trace: Trace = field(default_factory=dict)
    set_up: float | None = None
    injected: float | None = None
    effective: float | None = None
    recovering: float | None = None
    recovered: float | None = None
    cleaned: float | None = None
    error: str | None = None

    @property
    def recovery_seconds(self) -> float | None:
        """From the begin of the cure until the target was well again; None if that was never seen."""
        if self.recovering is None or self.recovered is None:
            return None
        return self.recovered - self.recovering

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class RunningFault:
    """A fault on its way through its moments. `record` is replaced at each of them, and `on_moment` told."""

    def __init__(
        self,
        fault: Fault,
        stack: Stack,
        journal: Journal,
        *,
        on_moment: Callable[[FaultRecord], None] | None = None,
        trace: Trace | None = None,
        entry: int | None = None,
    ) -> None:
        self.fault = fault
        self.record = FaultRecord(fault.kind, fault.target, fault.to_dict(), trace=trace or {})
        self._stack = stack
        self._journal = journal
        self._on_moment = on_moment
        self._entry = entry
        self._epoch = time.time() - time.monotonic()

    @property
    def trace(self) -> Trace:
        """What exactly is being done."""
        return self.record.trace

    def begin(self) -> None:
        """Up to the moment when it has taken effect. What was begun is healed by `end`, also after an error."""
        with self._recording_errors():
            reason = self.fault.supports(self._stack)
            if reason is not None:
                raise FaultNotSupported(f"`{self.fault}` is not supported here: {reason}")
            self.record = replace(self.record, trace=self.fault.resolve(self._stack))
            self._entry = self._journal.opened(self.fault, self.trace)
            journalled = json.dumps(self.trace)
            try:
                self.fault.set_up(self._stack, self.trace)
            finally:
                if json.dumps(self.trace) != journalled:
                    self._journal.noted(self._entry, self.trace)
            self._reached("set_up")
            self.fault.inject(self._stack, self.trace)
            self._reached("injected")
            self._await(self.fault.effect, self.fault.effect_seconds_max, "taken effect")
            self._reached("effective")

    def end(self, *, resting: bool = False) -> None:
        """Recover, wait, clean up. The journal keeps the fault until the cure and the cleaning went through.

        `resting`: nothing of the stack runs, so that only the machine is put right and nothing is started; a fault that
        persists in a server's data then stays in the journal.
        """
        if self._entry is None:
            return  # it never began
        if resting and self.fault.persists:
            return  # it stays in the journal
        entry, self._entry = self._entry, None
        self._reached("recovering")
        failed: list[CdcpipeError] = []
        undone = resting or self._undo(self.fault.recover, failed)
        if undone and not resting:
            self._await_recovery(failed)
        if self._undo(self.fault.clean_up, failed) and undone:
            self._reached("cleaned")
            self._journal.healed(entry)  # also when it isn't well yet: nothing of ours is left on the machine
        if failed:
            raise failed[0]

    def _undo(self, step: Callable[[Stack, Trace], None], failed: list[CdcpipeError]) -> bool:
        try:
            with self._recording_errors():
                step(self._stack, self.trace)
        except CdcpipeError as error:
            failed.append(error)
            return False
        return True

    def _await_recovery(self, failed: list[CdcpipeError]) -> None:
        try:
            with self._recording_errors():
                self._await(self.fault.recovery, self.fault.recovery_seconds_max, "recovered")
                self._reached("recovered")
        except CdcpipeError as error:
            failed.append(error)

    def _await(self, asked: Callable[[Stack, Trace], str | None], seconds: float, done: str) -> None:
        missing: str | None = "not asked yet"

        def reached() -> bool:
            nonlocal missing
            missing = asked(self._stack, self.trace)
            return missing is None

        wait_until(
            reached,
            what=lambda: f"`{self.fault}` has {done} ({missing})",
            timeout_seconds=seconds,
            interval_seconds=0.05,
            error=FaultError,
        )

    @contextlib.contextmanager
    def _recording_errors(self) -> Iterator[None]:
        try:
            yield
        except CdcpipeError as error:
            self._replace(error=self.record.error or error.message)
            raise
        except Exception as error:  # of psutil, psycopg, Kafka, HTTP, the system: a fault's work touches them all
            text = f"`{self.fault}`: {type(error).__name__}: {error}"
            self._replace(error=self.record.error or text)
            raise FaultError(text) from error

    def _reached(self, moment: str) -> None:
        self._replace(**{moment: self._epoch + time.monotonic()})

    def _replace(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        if self._on_moment is not None:
            self._on_moment(self.record)


def run_fault(
    fault: Fault,
    stack: Stack,
    journal: Journal,
    *,
    stop: threading.Event | None = None,
    on_moment: Callable[[FaultRecord], None] | None = None,
) -> FaultRecord:
    """Take `fault` through its six moments, `fault.seconds` long in effect, shorter when `stop` is set meanwhile.

    An error of ours is in the record (`error`) and not raised: what else runs goes on, and the journal keeps what isn't
    healed. Anything else, such as Ctrl-C, is raised after healing.
    """
    running = RunningFault(fault, stack, journal, on_moment=on_moment)
    try:
        with contextlib.suppress(CdcpipeError):
            running.begin()
            (stop or threading.Event()).wait(fault.seconds)
    finally:
        with contextlib.suppress(CdcpipeError):
            running.end()
    return running.record
