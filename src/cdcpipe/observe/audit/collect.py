"""Takes what the servers noted into the trail: each thing once, however often and by whomever it is called.

How far a source was read goes into the trail with what was read. `cursors.json` is only a short cut to it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdcpipe.errors import CdcpipeError
from cdcpipe.observe.audit import connect, postgres, registry
from cdcpipe.observe.audit.anchors import PostgresAnchors, Witness
from cdcpipe.observe.audit.commands import append
from cdcpipe.observe.audit.s3 import AccessListener
from cdcpipe.observe.audit.trail import Entry, Fact, Trail
from cdcpipe.observe.logs import Follower, Line, Position
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.auditing import ACCESS_LOG, AUDIT_SOCKET
from cdcpipe.stack.local.stack import LocalStack

__all__ = ["Collected", "Collector", "Places", "coalesced"]

log = logging.getLogger("cdcpipe.observe.audit")

Files = Callable[[], Sequence[Path]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a pipeline's servers leave what they note. A log that can't be reached from here is left out."""

    endpoints: Endpoints
    logs: Mapping[str, Files]
    """`postgres`, `connect` (the access log), `registry` -> files."""
    config_topic: str
    s3_socket: Path | None = None

    @classmethod
    def of_local(cls, stack: LocalStack) -> Places:
        """Those of a local stack."""
        folder = stack.folder / "log"

        def rotated(name: str) -> Files:
            return lambda: sorted(folder.glob(f"{name}*"), key=lambda path: path.stat().st_mtime)

        return cls(
            stack.endpoints,
            {
                "postgres": stack.components["postgres"].log_files,
                "connect": rotated(ACCESS_LOG),
                "registry": rotated("registry.log"),
            },
            f"{stack.endpoints.topic_prefix}.connect-configs",
            stack.folder / "s3" / AUDIT_SOCKET if stack.plan.observed else None,
        )

    @classmethod
    def of_endpoints(cls, endpoints: Endpoints, *, config_topic: str = "") -> Places:
        """Those of a pipeline whose logs are not on this machine: the DDL table, and Connect's topic."""
        return cls(endpoints, {}, config_topic or f"{endpoints.topic_prefix}.connect-configs")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round took. `problems`: source -> why it could not be read; it is read on from there later."""

    entries: tuple[Entry, ...]
    problems: Mapping[str, str]


class Collector:
    """Collects into `trail`. One process at a time should: two would take a thing twice."""

    def __init__(self, trail: Trail, places: Places) -> None:
        self._trail = trail
        self._places = places
        self._cursors = _load_cursors(trail)
        self._witness = Witness(places.endpoints.postgres)
        self._parsers: dict[str, Callable[[Iterable[Line]], Iterable[Fact]]] = {
            "postgres": postgres.facts_of_log,
            "connect": connect.facts_of_access_log,
            "registry": registry.facts_of_log,
        }

    def close(self) -> None:
        """End its session in the source database."""
        self._witness.close()

    def collect(self) -> Collected:
        """Take what is new. A source that can't be read is a problem, and the others are read."""
        entries: list[Entry] = []
        problems: dict[str, str] = {}
        sources: dict[str, Callable[[], tuple[list[Fact], Any]]] = {
            **{f"{name}.log": self._log_reader(name) for name in self._parsers if name in self._places.logs},
            "postgres.ddl": self._ddl,
            "connect.config": self._config_topic,
        }
        for name, read in sources.items():
            try:
                facts, cursor = read()
                entries.extend(self._take(name, facts, cursor))
            except CdcpipeError as error:
                problems[name] = error.message
        self._save_cursors()
        if entries:
            with contextlib.suppress(CdcpipeError):  # a database that is away holds no anchor this time
                self._anchors().write(entries[-1].seq, entries[-1].hash)
        return Collected(tuple(entries), problems)

    @contextlib.contextmanager
    def listening(self) -> Any:
        """Take the S3 access log as it comes, until the end of the block. Nothing where the stack is not observed."""
        path = self._places.s3_socket
        if path is None:
            yield
            return
        listener = AccessListener(path, lambda facts: self._append(coalesced(facts)))
        self._append([Fact(datetime.now(UTC), "s3", "cdcpipe", "access.heard", str(path.parent))])
        try:
            yield
        finally:
            listener.close()
            self._append([Fact(datetime.now(UTC), "s3", "cdcpipe", "access.unheard", str(path.parent))])

    def _append(self, facts: Sequence[Fact]) -> None:
        try:
            append(self._trail, facts)
        except CdcpipeError as error:
            log.error("%d records are not in the audit trail: %s", len(facts), error.message)

    def _take(self, name: str, facts: list[Fact], cursor: Any) -> list[Entry]:
        found = coalesced(facts)
        if found:
            found[-1] = replace(found[-1], cursor={name: cursor})
        entries = append(self._trail, found) if found else []
        self._cursors[name] = cursor
        return entries

    def _log_reader(self, name: str) -> Callable[[], tuple[list[Fact], Any]]:
        def read() -> tuple[list[Fact], Any]:
            known = {path: Position(int(at), str(mark)) for path, (at, mark) in self._known(f"{name}.log", {}).items()}
            follower = Follower(name, self._places.logs[name], known)
            lines = [*follower.poll(), *follower.flush()]
            # Of files that are gone nothing is remembered.
            there = {str(path) for path in self._places.logs[name]()}
            cursor = {path: [p.offset, p.mark] for path, p in follower.positions.items() if path in there}
            return list(self._parsers[name](lines)), cursor

        return read

    def _ddl(self) -> tuple[list[Fact], Any]:
        return postgres.applied_ddl(self._witness, int(self._known("postgres.ddl", 0)))

    def _config_topic(self) -> tuple[list[Fact], Any]:
        after = int(self._known("connect.config", -1))
        return connect.facts_of_config_topic(self._places.endpoints.bootstrap_servers, self._places.config_topic, after)

    def _known(self, name: str, default: Any) -> Any:
        return self._cursors.get(name, default)

    def _anchors(self) -> PostgresAnchors:
        first = next(self._trail.entries())
        return PostgresAnchors(self._witness, first.object)

    def _save_cursors(self) -> None:
        head = self._trail.head()
        content = {"seq": 0 if head is None else head.seq, "cursors": self._cursors}
        staging = self._trail.folder / f"cursors.{os.getpid()}"
        with contextlib.suppress(OSError):
            staging.write_text(json.dumps(content), encoding="utf-8")
            staging.replace(self._trail.folder / "cursors.json")


def _load_cursors(trail: Trail) -> dict[str, Any]:
    try:
        content = json.loads((trail.folder / "cursors.json").read_text(encoding="utf-8"))
        after, cursors = int(content["seq"]), dict(content["cursors"])
    except (OSError, ValueError, KeyError, TypeError):
        after, cursors = 0, {}
    for entry in trail.entries(after=after):
        cursors.update(entry.cursor or {})
    return cursors


def coalesced(facts: Iterable[Fact]) -> list[Fact]:
    """`facts` with those that differ in nothing but their time taken together, in the order of the first of each."""
    groups: dict[str, Fact] = {}
    for fact in facts:
        parts = [fact.source, fact.actor, fact.action, fact.object, fact.outcome, fact.detail]
        key = json.dumps(parts, sort_keys=True, default=str)
        known = groups.get(key)
        if known is None:
            groups[key] = fact
        else:
            until = max(fact.at, known.until or known.at)
            groups[key] = replace(known, times=known.times + fact.times, until=until)
    return list(groups.values())
