"""Failed tasks, started again by `cdcpipe monitor --restart-tasks`: Connect itself never does that.

As Strimzi's `autoRestart` has it (Strimzi, "Automatically restarting failed connectors and tasks"): at once, then after
pauses that grow with each try, which are forgotten when the connector has run for longer than the last of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ServiceError
from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_source import Partial
from cdcpipe.verify.progress import SlotState

__all__ = ["Restarts", "is_refused_schema", "pause_seconds"]

_STEP_SECONDS: Final = 5.0
_LONGEST_SECONDS: Final = 120.0
# What the registries' clients say when a schema breaks the compatibility rule: Apicurio's rule, and Confluent's API
# (409 with error code 409, or 42201 for a schema that is none).
_REFUSED = ("RuleViolationException", "IncompatibleSchema", "incompatible with an earlier schema", "error code: 42201")
_REFUSED_CODE = "error code: 409"


def is_refused_schema(trace: str) -> bool:
    """Whether a task's stack trace says that a registry refused its schema."""
    return any(text in trace for text in _REFUSED) or _REFUSED_CODE in trace


def pause_seconds(tries: int) -> float:
    """How long after the last of so many tries the next one is due: 0, 10, 30, 60, 100, then 120 s."""
    return min(_LONGEST_SECONDS, _STEP_SECONDS * tries * (tries + 1))


@dataclass(slots=True)
class _Tries:
    count: int = 0
    at: float = 0.0
    held: str = ""

    @property
    def due(self) -> float:
        return self.at + pause_seconds(self.count)


class Restarts:
    """Restarts what failed of `connectors`, but nothing that a restart can't cure or could make worse.

    Left to a person: a schema that the registry refused, and a source whose slot is gone or has lost its WAL. A
    Debezium that doesn't check its offset against the slot would make a new slot, go on from there, and what was
    committed in between would be lost under a green state.
    """

    def __init__(
        self,
        exporter: Exporter,
        connect: ConnectClient,
        say: Callable[[str], None],
        *,
        source: str,
        connectors: Iterable[str],
    ) -> None:
        self._exporter, self._connect, self._say, self._source = exporter, connect, say, source
        self._tries = {name: _Tries() for name in connectors}
        for name in self._tries:  # a counter that appears with its first count has no increase
            exporter.inc("cdcpipe_connector_restarts_total", 0, connector=name)

    def look(self, states: Mapping[str, str], slot: SlotState | None, now: float | None = None) -> None:
        """Restart what is FAILED in `states` (`name` and `name/task` -> state) and due.

        `slot` is the source's; None when PostgreSQL didn't answer. `now` is a monotonic clock's. Raises `Partial` when
        Connect refuses.
        """
        at = time.monotonic() if now is None else now
        failed = {key.partition("/")[0] for key, state in states.items() if state == "FAILED"}
        for name, tries in self._tries.items():
            if name in failed:
                self._mend(name, tries, slot, at)
            elif at > tries.due:
                self._tries[name] = _Tries()

    def _mend(self, name: str, tries: _Tries, slot: SlotState | None, at: float) -> None:
        if at < tries.due:
            return
        try:
            status = self._connect.status(name)
            if status.failure is None:  # somebody else was faster
                return
            held = self._reason_to_wait(name, status.failure, slot)
            if held:
                if held != tries.held:
                    self._say(f"{name} has failed and is not restarted: {held}")
                tries.held = held
                return
            self._connect.restart(name, only_failed=True)
        except ServiceError as error:
            raise Partial(f"`{name}` can't be restarted: {error.message}") from error
        tries.count, tries.at, tries.held = tries.count + 1, at, ""
        self._exporter.inc("cdcpipe_connector_restarts_total", connector=name)
        after = f"the next try is due in {pause_seconds(tries.count):.0f} s"
        self._say(f"{name} had failed and is restarted (try {tries.count}; {after}): {status.cause}")

    def _reason_to_wait(self, name: str, trace: str, slot: SlotState | None) -> str:
        if is_refused_schema(trace):
            return "the registry refused its schema; see docs/runbooks/SchemaRegistrationRefused.md"
        if name != self._source:
            return ""
        if slot is None:
            return "PostgreSQL doesn't answer"
        if not slot.exists:
            return f"its slot {slot.name} is gone; see docs/runbooks/SlotLost.md"
        if slot.wal_status == "lost" or slot.invalidation_reason:
            return f"its slot {slot.name} has lost its WAL; see docs/runbooks/SlotLost.md"
        return ""
