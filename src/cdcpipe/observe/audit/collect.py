"""Takes what the servers noted into the trail: each thing once, however often and by how many processes it is called.

How far a source was read goes into the trail with what was read, and a round holds a lock: each process goes on where
the last one ended. `cursors.json` is only a short cut to it. The S3 access log goes to one listener: who has the
lock of the socket's folder hears it, the others wait until that one ends.
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
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from cdcpipe.errors import CdcpipeError, MachineError, StackBusy, StackError
from cdcpipe.observe.audit import connect, postgres, registry
from cdcpipe.observe.audit.anchors import PostgresAnchors, Witness
from cdcpipe.observe.audit.commands import append
from cdcpipe.observe.audit.s3 import AccessListener
from cdcpipe.observe.audit.trail import Entry, Fact, Trail
from cdcpipe.observe.logs import Follower, Line, Position, grouped
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.auditing import ACCESS_LOG, AUDIT_SOCKET
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.stack import Stack

if TYPE_CHECKING:
    from cdcpipe.stack.kind.kube import Kube
    from cdcpipe.stack.kind.stack import KindStack

__all__ = ["Collected", "Collector", "Places", "coalesced"]

log = logging.getLogger("cdcpipe.observe.audit")

_LOCK_SECONDS: Final = 60.0

Reader = Callable[[Any], tuple[list[Line], Any]]
"""Of a server's log: what came since a cursor, and the cursor after it. None as a cursor: the beginning."""


def files_reader(component: str, files: Callable[[], Sequence[Path]]) -> Reader:
    """Reads files of this machine. The cursor: path -> offset and first bytes."""

    def read(cursor: Any) -> tuple[list[Line], Any]:
        known = {path: Position(int(at), str(mark)) for path, (at, mark) in (cursor or {}).items()}
        follower = Follower(component, files, known)
        lines = [*follower.poll(), *follower.flush()]
        # Of files that are gone nothing is remembered.
        there = {str(path) for path in files()}
        return lines, {path: [p.offset, p.mark] for path, p in follower.positions.items() if path in there}

    return read


def pod_reader(kube: Kube, component: str, pod: str) -> Reader:
    """Reads what Kubernetes keeps of a pod's log. The cursor: the time of its last line."""

    def read(cursor: Any) -> tuple[list[Line], Any]:
        found = kube.log_since(pod, str(cursor or ""))
        return grouped(component, (text for _, text in found)), found[-1][0] if found else cursor

    return read


@dataclass(frozen=True, slots=True)
class Places:
    """Where a pipeline's servers leave what they note. A log that can't be reached from here is left out."""

    endpoints: Endpoints
    logs: Mapping[str, Reader]
    """`postgres`, `connect` (the access log), `registry` -> how to read it."""
    config_topic: str
    s3_socket: Path | None = None
    pipeline: str = ""
    """Names a pipeline whose trail is kept together with others'."""

    @classmethod
    def of(cls, stack: Stack) -> Places:
        """Those of a stack of any target. Raises `StackError` for one whose servers' logs can't be reached."""
        from cdcpipe.stack.kind.stack import KindStack

        if isinstance(stack, LocalStack):
            return cls.of_local(stack)
        if isinstance(stack, KindStack):
            return cls.of_kind(stack)
        raise StackError("the audit trail is collected from the servers' logs, which this target doesn't give")

    @classmethod
    def of_local(cls, stack: LocalStack) -> Places:
        """Those of a local stack."""
        folder = stack.folder / "log"

        def rotated(name: str) -> Callable[[], Sequence[Path]]:
            return lambda: sorted(folder.glob(f"{name}*"), key=lambda path: path.stat().st_mtime)

        files = {
            "postgres": stack.components["postgres"].log_files,
            "connect": rotated(ACCESS_LOG),
            "registry": rotated("registry.log"),
        }
        return cls(
            stack.endpoints,
            {name: files_reader(name, each) for name, each in files.items()},
            stack.endpoints.connect_config_topic,
            stack.folder / "s3" / AUDIT_SOCKET if stack.plan.observed else None,
        )

    @classmethod
    def of_kind(cls, stack: KindStack) -> Places:
        """Those of a kind stack: logs of its pods. Its S3 server's requests are heard by nobody."""
        pods = {name: stack.components[name].pod for name in ("postgres", "connect", "registry")}
        return cls(
            stack.endpoints,
            {name: pod_reader(stack.kube, name, pod) for name, pod in pods.items()},
            stack.endpoints.connect_config_topic,
            pipeline=f"kind/{stack.kube.namespace_uid()}",
        )

    @classmethod
    def of_endpoints(cls, endpoints: Endpoints, *, config_topic: str = "") -> Places:
        """Those of a pipeline whose logs are not on this machine: the DDL table, and Connect's topic."""
        return cls(endpoints, {}, config_topic or endpoints.connect_config_topic)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round took. `problems`: source -> why it could not be read; it is read on from there later."""

    entries: tuple[Entry, ...]
    problems: Mapping[str, str]


class Collector:
    """Collects into `trail`. Several processes may: each round goes on where the last one ended, whoever made it."""

    def __init__(self, trail: Trail, places: Places) -> None:
        self._trail = trail
        self._places = places
        self._seen, self._cursors = _load_cursors(trail)
        self._witness = Witness(places.endpoints.postgres)
        self._listener: AccessListener | None = None
        self._parsers: dict[str, Callable[[Iterable[Line]], Iterable[Fact]]] = {
            "postgres": postgres.facts_of_log,
            "connect": connect.facts_of_access_log,
            "registry": registry.facts_of_log,
        }

    def close(self) -> None:
        """End its session in the source database, and hear the S3 access log no more."""
        self._witness.close()
        self._unhear()

    def collect(self) -> Collected:
        """Take what is new. A source that can't be read is a problem, and the others are read.

        `StackBusy` when another process collects and doesn't come to an end, `MachineError` when the trail's folder
        can't be written.
        """
        lock = FileLock(self._trail.folder / "collecting.lock", timeout=_LOCK_SECONDS)
        try:
            self._trail.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise StackBusy(f"another process collects into the audit trail in `{self._trail.folder}`") from error
        except OSError as error:
            raise MachineError(f"`{self._trail.folder}` can't be written: {error.strerror or error}") from error
        try:
            return self._round()
        finally:
            lock.release()

    def _round(self) -> Collected:
        self._catch_up()
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

    def hear(self) -> bool:
        """Take the S3 access log as it comes, from now until `close`. May be called again: False while another process
        hears it, and where the stack is not observed."""
        path = self._places.s3_socket
        if path is None:
            return False
        if self._listener is not None:
            if path.exists():
                return True
            self._unhear()  # the stack was purged, and perhaps made again
        if not path.parent.is_dir():
            return False
        try:
            self._listener = AccessListener(path, lambda facts: self._append(coalesced(facts)))
        except StackBusy:
            return False
        self._note_hearing("access.heard")
        return True

    def _unhear(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._note_hearing("access.unheard")

    def _note_hearing(self, action: str) -> None:
        assert self._places.s3_socket is not None
        self._append([Fact(datetime.now(UTC), "s3", "cdcpipe", action, str(self._places.s3_socket.parent))])

    def _catch_up(self) -> None:
        """Know what others have taken since the last round."""
        for entry in self._trail.entries(after=self._seen):
            self._cursors.update(entry.cursor or {})
            self._seen = entry.seq

    def _append(self, facts: Sequence[Fact]) -> None:
        try:
            append(self._trail, facts)
        except CdcpipeError as error:
            log.error("%d records are not in the audit trail: %s", len(facts), error.message)

    def _take(self, name: str, facts: list[Fact], cursor: Any) -> list[Entry]:
        found = coalesced(facts)
        key = self._key(name)
        if found:
            found[-1] = replace(found[-1], cursor={key: cursor})
        entries = append(self._trail, found) if found else []
        self._cursors[key] = cursor
        return entries

    def _log_reader(self, name: str) -> Callable[[], tuple[list[Fact], Any]]:
        def read() -> tuple[list[Fact], Any]:
            lines, cursor = self._places.logs[name](self._known(f"{name}.log", None))
            return list(self._parsers[name](lines)), cursor

        return read

    def _ddl(self) -> tuple[list[Fact], Any]:
        return postgres.applied_ddl(self._witness, int(self._known("postgres.ddl", 0)))

    def _config_topic(self) -> tuple[list[Fact], Any]:
        after = int(self._known("connect.config", -1))
        return connect.facts_of_config_topic(self._places.endpoints.bootstrap_servers, self._places.config_topic, after)

    def _known(self, name: str, default: Any) -> Any:
        return self._cursors.get(self._key(name), default)

    def _key(self, name: str) -> str:
        return f"{self._places.pipeline}/{name}" if self._places.pipeline else name

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


def _load_cursors(trail: Trail) -> tuple[int, dict[str, Any]]:
    """Up to which entry the cursors are known, and the cursors."""
    try:
        content = json.loads((trail.folder / "cursors.json").read_text(encoding="utf-8"))
        return int(content["seq"]), dict(content["cursors"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, {}


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
