"""What a guard is, and how all of them are run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cdcpipe.connect.pipeline import Part, Pipeline, Place
from cdcpipe.connect.references import redacted

if TYPE_CHECKING:
    from cdcpipe.connect.facts import Facts

__all__ = [
    "EXACTLY_ONCE",
    "PROFILES",
    "Finding",
    "Guard",
    "Hit",
    "Profile",
    "Report",
    "Severity",
    "Unanswered",
    "check",
    "guard",
    "guards",
    "live_guard",
]

Severity = Literal["error", "warning"]
Profile = Literal["exactly_once", "at_least_once"]
PROFILES: tuple[Profile, ...] = ("exactly_once", "at_least_once")
EXACTLY_ONCE: tuple[Profile, ...] = ("exactly_once",)


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a guard's sentence holds: a part, the key that decides, and what else is to be said."""

    part: Part
    key: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A guard that couldn't be answered, and why: said, never taken for a pass."""

    reason: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `value` is what stands there (None when the key is absent), never a secret."""

    rule: str
    severity: Severity
    message: str
    place: Place
    key: str
    value: str | None
    cure: str
    source: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding, in the order of the files, and every guard that could not be answered."""

    findings: tuple[Finding, ...]
    unanswered: tuple[Unanswered, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that must not be deployed."""
        return tuple(found for found in self.findings if found.severity == "error")


Answer = Iterator[Hit | Unanswered]
OfflineCheck = Callable[[Pipeline], Answer]
LiveCheck = Callable[[Pipeline, "Facts"], Answer]


@dataclass(frozen=True, slots=True)
class Guard:
    """A rule. `needs` names the servers that it asks (`postgres`, `kafka`, `connect`, `registry`), none if offline."""

    id: str
    severity: Severity
    sentence: str
    cure: str
    source: str
    keys: tuple[str, ...]
    profiles: tuple[Profile, ...]
    needs: tuple[str, ...]
    offline: OfflineCheck | None
    live: LiveCheck | None


_GUARDS: dict[str, Guard] = {}
_MODULES = (
    "source",
    "values",
    "worker",
    "topics",
    "sinks",
    "files",
    "converters",
    "keys",
    "secrecy",
    "database",
    "servers",
)


def _add(found: Guard) -> None:
    assert found.id not in _GUARDS, f"{found.id} is given twice"
    assert found.cure
    assert found.source
    assert not found.sentence.endswith(".")
    _GUARDS[found.id] = found


def guard(
    id: str,
    severity: Severity,
    sentence: str,
    *,
    cure: str,
    source: str,
    keys: tuple[str, ...],
    profiles: tuple[Profile, ...] = PROFILES,
) -> Callable[[OfflineCheck], OfflineCheck]:
    """Declare a guard that the configs alone can answer (and live topics and registry, where those were asked)."""

    def register(function: OfflineCheck) -> OfflineCheck:
        _add(Guard(id, severity, sentence, cure, source, keys, profiles, (), function, None))
        return function

    return register


def live_guard(
    id: str,
    severity: Severity,
    sentence: str,
    *,
    cure: str,
    source: str,
    keys: tuple[str, ...],
    needs: tuple[str, ...],
    profiles: tuple[Profile, ...] = PROFILES,
) -> Callable[[LiveCheck], LiveCheck]:
    """Declare a guard that asks servers."""

    def register(function: LiveCheck) -> LiveCheck:
        _add(Guard(id, severity, sentence, cure, source, keys, profiles, needs, None, function))
        return function

    return register


def guards() -> tuple[Guard, ...]:
    """Every guard, by id."""
    for module in _MODULES:
        importlib.import_module(f"cdcpipe.connect.guards.{module}")
    return tuple(_GUARDS[id_] for id_ in sorted(_GUARDS))


def check(pipeline: Pipeline, *, profile: Profile = "exactly_once", facts: Facts | None = None) -> Report:
    """Ask every guard of `profile`.

    With `facts`, topics and registry are judged as they are on the servers, and guards that ask servers run; one
    whose server gave no answer is among the unanswered. Without, live guards are left out.
    """
    findings: list[Finding] = []
    unanswered: list[Unanswered] = []
    whole = pipeline if facts is None else facts.merged(pipeline)
    for rule in guards():
        if profile not in rule.profiles:
            continue
        for answer in _ask(rule, whole, facts):
            if isinstance(answer, Hit):
                findings.append(_finding(rule, answer, profile))
            else:
                unanswered.append(Unanswered(answer.reason, rule.id))
    findings.sort(key=lambda found: (found.place.file, found.place.line, found.rule, found.key))
    return Report(tuple(findings), tuple(dict.fromkeys(unanswered)))


def _ask(rule: Guard, pipeline: Pipeline, facts: Facts | None) -> Answer:
    if rule.offline is not None:
        yield from rule.offline(pipeline)
    elif rule.live is not None and facts is not None:
        missing = [f"{server}: {facts.silence(server)}" for server in rule.needs if server not in facts.answered]
        if missing:
            yield Unanswered("; ".join(missing))
        else:
            yield from rule.live(pipeline, facts)


def _finding(rule: Guard, hit: Hit, profile: Profile) -> Finding:
    value = hit.part.config.get(hit.key)
    sentence = f"{hit.part.kind} `{hit.part.name}`: {rule.sentence}"
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        message=f"{sentence}: {hit.note}" if hit.note else sentence,
        place=hit.part.where(hit.key),
        key=hit.key,
        value=None if value is None else redacted(hit.key, value),
        cure=rule.cure,
        source=rule.source,
        profile=profile,
    )
