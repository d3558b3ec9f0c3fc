"""Logs: those of the components, merged by time, and our own as JSON lines.

Each server writes in its own way; `parse` finds time and level in each, and a line without them (a stack trace, a
statement over several lines) belongs to the one before. `Follower` reads on where it stopped, through rotation.

Ours are records of the loggers `cdcpipe.*`, one JSON object a line. `bound` adds what a record is about (run,
component, connector, table, transaction) to all records below it. A credential that was told to `hide` is in none of
them, and a disk that is full stops no work: the records are lost, and that is told once.
"""

from __future__ import annotations

import contextlib
import contextvars
import heapq
import json
import logging
import logging.handlers
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cdcpipe import events

__all__ = ["Follower", "Line", "Position", "bound", "grouped", "hide", "listener", "merged", "parse", "write_to"]

OWN: Final = "cdcpipe"
"""The component name of our own log."""
OWN_FILE: Final = "cdcpipe.jsonl"

_MARK_BYTES: Final = 64
_FILE_BYTES: Final = 10 * 1024 * 1024
_FILES: Final = 4


@dataclass(frozen=True, slots=True)
class Line:
    """A record of a log: its first line and what belongs to it. `at` is in UTC, None where nothing tells it."""

    at: datetime | None
    component: str
    level: str
    text: str

    @property
    def bad(self) -> bool:
        """Whether it warns or fails."""
        return self.level in ("WARN", "ERROR", "FATAL")


# --- reading ------------------------------------------------------------------------------------

_LEVELS: Final = {
    "WARNING": "WARN", "PANIC": "FATAL", "SEVERE": "ERROR", "CRITICAL": "FATAL", "LOG": "INFO", "NOTICE": "INFO",
    "STATEMENT": "INFO", "DETAIL": "INFO", "HINT": "INFO", "CONTEXT": "INFO",
}  # fmt: skip

_POSTGRES: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC \[\d+\] \S*@\S* ([A-Z]+\d?):  ")
_LOG4J: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)Z ([A-Z]+) ")
_GLOG: Final = re.compile(r"([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d+) ")
_BRACKETS: Final = re.compile(r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z?\] ")
_GLOG_LEVELS: Final = {"I": "INFO", "W": "WARN", "E": "ERROR", "F": "FATAL"}


def parse(component: str, text: str) -> Line | None:
    """The line of a component's log; None for one that belongs to the line before."""
    if found := _POSTGRES.match(text):
        at = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        return Line(at, component, _LEVELS.get(found[2], found[2]), text)
    if found := _LOG4J.match(text):
        at = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        return Line(at, component, _LEVELS.get(found[2], found[2]), text)
    if text.startswith("{"):
        return _parse_json(component, text)
    if found := _GLOG.match(text):
        now = datetime.now().astimezone()
        at = datetime.fromisoformat(f"{now.year}-{found[2]}-{found[3]} {found[4]}").astimezone(UTC)
        if (at - now).days > 1:  # it has no year: one from December is read in January
            at = at.replace(year=at.year - 1)
        return Line(at, component, _GLOG_LEVELS[found[1]], text)
    if found := _BRACKETS.match(text):
        return Line(datetime.fromisoformat(found[1]).replace(tzinfo=UTC), component, "INFO", text)
    return None


def _parse_json(component: str, text: str) -> Line | None:
    try:
        content = json.loads(text)
        stamp = str(content.get("timestamp") or content["at"])
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", stamp)).astimezone(UTC)
    except (ValueError, KeyError, AttributeError):
        return None
    level = str(content.get("level", "INFO"))
    return Line(at, component, _LEVELS.get(level, level), text)


def grouped(component: str, texts: Iterable[str], before: Iterable[Line] = ()) -> list[Line]:
    """Records out of lines; those that belong to none of them go to the last of `before`."""
    found = list(before)
    for text in texts:
        line = parse(component, text)
        if line is None and found:
            found[-1] = replace(found[-1], text=f"{found[-1].text}\n{text}")
        else:
            found.append(line or Line(None, component, "INFO", text))
    return found


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read: `mark` are the first bytes of the file, so that a new one under its name is seen."""

    offset: int
    mark: str


class Follower:
    """Reads the lines of a component's files on from where it stopped, `positions`. `files` are asked for each time.

    A file that is shorter than before, or begins otherwise, is a new one and read from its beginning.
    """

    def __init__(
        self, component: str, files: Callable[[], Sequence[Path]], positions: dict[str, Position] | None = None
    ) -> None:
        self.component = component
        self.positions: dict[str, Position] = dict(positions or {})
        self._files = files
        self._last: Line | None = None

    def skip_to(self, lines: int) -> None:
        """Begin with about the last `lines` lines of the newest file, and with nothing of the older ones."""
        files = list(self._files())
        for path in files:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                begin = size if path is not files[-1] else max(0, size - 400 * lines)
                if 0 < begin < size:
                    with path.open("rb") as file:
                        file.seek(begin)
                        begin += len(file.readline())  # the rest of a line
                self.positions[str(path)] = Position(begin, _mark(path))

    def poll(self) -> list[Line]:
        """Whole records that came since the last call. The newest of a file may still get lines: see `flush`."""
        texts: list[str] = []
        for path in self._files():
            with contextlib.suppress(OSError):
                texts.extend(self._read(path))
        found = grouped(self.component, texts, self.flush())
        self._last = found.pop() if found else None
        return found

    def flush(self) -> list[Line]:
        """The record that waits for lines that might belong to it."""
        last, self._last = self._last, None
        return [last] if last is not None else []

    def _read(self, path: Path) -> Iterator[str]:
        size, mark = path.stat().st_size, _mark(path)
        own = self.positions.get(str(path))
        # A rotation gives what was read another name: the same file is the one that begins alike.
        others = (each for each in self.positions.values() if len(each.mark) == _MARK_BYTES)
        fits = [each for each in (own, *others) if each is not None and mark.startswith(each.mark)]
        offset = next((each.offset for each in fits if each.offset <= size), 0)
        if size > offset:
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read(size - offset)
            whole = content[: content.rfind(b"\n") + 1]
            offset += len(whole)
            yield from whole.decode("utf-8", "replace").splitlines()
        self.positions[str(path)] = Position(offset, mark)


def _mark(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MARK_BYTES).decode("latin-1")


def merged(followers: Sequence[Follower], *, follow: bool, hold_seconds: float = 0.5) -> Iterator[Line]:
    """Records of several components in the order of their times; with `follow` without end.

    While following, a record waits `hold_seconds`, in which an older one of another component may come.
    """
    waiting: list[tuple[datetime, int, float, Line]] = []
    number = 0
    last = datetime.min.replace(tzinfo=UTC)
    while True:
        begin = time.monotonic()
        for follower in followers:
            before = last
            for line in [*follower.poll(), *follower.flush()]:
                before = line.at or before
                number += 1
                heapq.heappush(waiting, (before, number, begin, line))
        while waiting and (not follow or begin - waiting[0][2] >= hold_seconds):
            last, _, _, line = heapq.heappop(waiting)
            yield line
        if not follow:
            return
        time.sleep(0.2)


# --- writing --------------------------------------------------------------------------------------

_about: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("cdcpipe_about", default=None)
_hidden: set[str] = set()
_FIELDS: Final = ("run", "component", "connector", "table", "transaction")


@contextlib.contextmanager
def bound(**about: str) -> Iterator[None]:
    """Let every record below say what it is about: `run`, `component`, `connector`, `table`, `transaction`."""
    unknown = set(about) - set(_FIELDS)
    if unknown:
        raise TypeError(f"a record can't say `{unknown.pop()}`; it can say {', '.join(_FIELDS)}")
    token = _about.set({**(_about.get() or {}), **about})
    try:
        yield
    finally:
        _about.reset(token)


def hide(secrets: Iterable[str]) -> None:
    """Keep these credentials out of every record from now on, whoever writes them."""
    _hidden.update(secret for secret in map(str, secrets) if len(secret) >= 6)


class _Json(logging.Formatter):
    """A record as one JSON object: at, level, logger, message, what it is about, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **(_about.get() or {}),
            **{name: str(getattr(record, name)) for name in _FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        text = json.dumps(content, ensure_ascii=False, default=str)
        for secret in sorted(_hidden, key=len, reverse=True):
            text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], "***")
        return text


class _Handler(logging.handlers.RotatingFileHandler):
    """Makes no folder, and stops no work when it can't write."""

    def __init__(self, path: Path, credentials: Path | None) -> None:
        super().__init__(path, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", delay=True)
        self.setFormatter(_Json())
        self._told = False
        self._credentials = credentials

    def emit(self, record: logging.LogRecord) -> None:
        if self._credentials is not None and self._credentials.exists():
            hide(_texts(self._credentials))  # they may be made while the command runs
            self._credentials = None
        if os.path.isdir(os.path.dirname(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # logging's own name for it
        error = sys.exc_info()[1]
        if not self._told and isinstance(error, OSError):
            self._told = True
            print(  # noqa: T201 - where it would be logged is what can't be written
                f"warning: our log in `{self.baseFilename}` can't be written: {error.strerror}; work goes on without",
                file=sys.stderr,
            )


def _texts(path: Path) -> list[str]:
    """Every text in a JSON file; nothing of one that can't be read."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, str) and len(value) >= 16 and not value.startswith("cdcpipe_"):  # roles' names
            found.append(value)

    with contextlib.suppress(OSError, ValueError):
        walk(json.loads(path.read_text(encoding="utf-8")))
    return found


@contextlib.contextmanager
def write_to(folder: Path, *, credentials: Path | None = None, **about: str) -> Iterator[Path]:
    """Write the records of `cdcpipe.*` to `<folder>/cdcpipe.jsonl`, rotated, until the end of the block.

    Every text in the JSON file `credentials` is hidden, from when it is there.

    The folder must be there: a record that comes before it is, or after it was removed, is dropped.
    """
    handler = _Handler(folder / OWN_FILE, credentials)
    logger = logging.getLogger("cdcpipe")
    level = logger.level
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
    try:
        with bound(**about):
            yield folder / OWN_FILE
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def listener(then: events.Listener = events.ignore) -> events.Listener:
    """A listener that logs what happens, and passes it on to `then`. Percentages are not logged."""
    log = logging.getLogger("cdcpipe.run")

    def heard(event: events.Event) -> None:
        match event:
            case events.PhaseStarted(phase=phase, title=title):
                log.info("%s: %s", phase, title)
            case events.PhaseFinished(phase=phase, seconds=seconds, ok=ok):
                log.log(logging.INFO if ok else logging.ERROR, "%s %s after %.1f s", phase, _end(ok), seconds)
            case events.ComponentStarting(component=component):
                log.info("starting", extra={"component": component})
            case events.ComponentReady(component=component, seconds=seconds):
                log.info("ready after %.1f s", seconds, extra={"component": component})
            case events.Notice(text=text, warning=warning):
                log.log(logging.WARNING if warning else logging.INFO, "%s", text)
            case _:
                pass
        then(event)

    return heard


def _end(ok: bool) -> str:
    return "ended" if ok else "failed"
