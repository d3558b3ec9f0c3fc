"""The trail itself: JSON lines in segments, each entry holding the hash of the one before.

    <folder>/trail-000000000001.jsonl      named after the number of its first entry
    <folder>/cursors.json                  how far each source was read (a cache: the entries say it too)

An entry's `hash` is the SHA-256 of all its other members in one spelling: keys in order, no spaces, ASCII. So an entry
that is edited no longer has its hash, and one that is removed, inserted or moved no longer fits its neighbours. What a
chain can't show by itself is that its tail was cut off, or that all of it was written anew: for that there are anchors,
copies of the last number and hash in places that whoever may write the trail should not be able to write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from filelock import FileLock, Timeout

from cdcpipe.errors import DiskFull, EvidenceError, MachineError, StackBusy

if TYPE_CHECKING:
    from cdcpipe.observe.audit.anchors import Anchor
    from cdcpipe.settings import Settings

__all__ = ["Break", "Entry", "Fact", "Outcome", "Source", "Trail", "Verification", "trail_of", "verify"]

Source = Literal["trail", "cdcpipe", "postgres", "connect", "registry", "s3"]
Outcome = Literal["ok", "refused", "failed", "begun"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
_GENESIS: Final = "0" * 64
_LOCK_SECONDS: Final = 20.0
_NEAR_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fact:
    """What happened, before it has its place in the trail. `at` is when, by the clock of who noted it first.

    `times` counts repetitions that were taken together, the last of them at `until`. `cursor` says how far a source
    was read when this fact was taken: it goes into the trail, so that no crash makes a fact be taken twice.
    """

    at: datetime
    source: Source
    actor: str
    action: str
    object: str
    outcome: Outcome = "ok"
    detail: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1
    until: datetime | None = None
    cursor: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail. Times are ISO 8601 in UTC; `noted` is when it was appended."""

    seq: int
    at: str
    noted: str
    source: str
    actor: str
    action: str
    object: str
    outcome: str
    detail: Mapping[str, Any]
    times: int
    until: str | None
    cursor: Mapping[str, Any] | None
    prev: str
    hash: str

    @classmethod
    def after(cls, seq: int, prev: str, fact: Fact, noted: datetime) -> Entry:
        """The entry that comes after the one with hash `prev`."""
        members: dict[str, Any] = {
            "seq": seq,
            "at": _iso(fact.at),
            "noted": _iso(noted),
            "source": fact.source,
            "actor": fact.actor,
            "action": fact.action,
            "object": fact.object,
            "outcome": fact.outcome,
            "detail": dict(fact.detail),
            "times": fact.times,
            "until": None if fact.until is None else _iso(fact.until),
            "cursor": None if fact.cursor is None else dict(fact.cursor),
            "prev": prev,
        }
        return cls(**members, hash=_digest(members))

    @classmethod
    def parse(cls, line: str) -> Entry:
        """The entry of a line. ValueError for a line that is none."""
        content = json.loads(line)
        if not isinstance(content, dict) or set(content) != _MEMBERS:
            raise ValueError("it doesn't have the members of an entry")
        if not isinstance(content["seq"], int) or not isinstance(content["hash"], str):
            raise ValueError("its number or hash is none")
        return cls(**content)

    def line(self) -> str:
        """The entry as it is written, without the line's end."""
        return _spell(asdict(self))

    @property
    def whole(self) -> bool:
        """Whether its hash is that of its content."""
        members = asdict(self)
        del members["hash"]
        return _digest(members) == self.hash


_MEMBERS: Final = frozenset(Entry.__dataclass_fields__)


def _spell(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(members: Mapping[str, Any]) -> str:
    return hashlib.sha256(_spell(members).encode()).hexdigest()


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def trail_of(settings: Settings) -> Trail:
    """The trail of the stack that `settings` name: in the folder that they give, else beside the stack's, so that a
    purge leaves it."""
    stack = settings.stack.absolute()
    return Trail(settings.audit if settings.audit is not None else stack.with_name(f"{stack.name}.audit"))


class Trail:
    """A trail in `folder`, made by the first `append`. Several processes may append at once."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes

    def segments(self) -> list[Path]:
        """Its files, oldest first."""
        return sorted(self.folder.glob("trail-*.jsonl"))

    def entries(self, *, after: int = 0) -> Iterator[Entry]:
        """Entries with a number above `after`, oldest first. `EvidenceError` at a line that is none: see `verify`."""
        segments = self.segments()
        for index, path in enumerate(segments):
            following = segments[index + 1] if index + 1 < len(segments) else None
            if following is not None and _first_number(following) <= after + 1:
                continue
            for text in _lines_from(path, _place_after(path, after)):
                try:
                    entry = Entry.parse(text)
                except ValueError as error:
                    number = next(number for number, line in _lines(path) if line == text)
                    raise EvidenceError(
                        f"line {number} of `{path}` is no entry: {error}", hint="`cdcpipe audit verify` says more"
                    ) from error
                if entry.seq > after:
                    yield entry

    def head(self) -> Entry | None:
        """The last entry; None when there is none."""
        for path in reversed(self.segments()):
            last = _last_line(path)
            if last is not None:
                try:
                    return Entry.parse(last)
                except ValueError as error:
                    raise EvidenceError(
                        f"the last line of `{path}` is no entry: {error}", hint="`cdcpipe audit verify` says more"
                    ) from error
        return None

    def append(self, facts: Iterable[Fact]) -> list[Entry]:
        """Append entries, in order, and give them once they are on the disk.

        `StackBusy` when another process holds the trail for too long, `DiskFull` and `MachineError` when it can't be
        written: then none of `facts` is in it.
        """
        wanted = list(facts)
        if not wanted:
            return []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=_LOCK_SECONDS):
                return self._append(wanted)
        except Timeout as error:
            raise StackBusy(f"another process writes to the audit trail in `{self.folder}`") from error
        except OSError as error:
            kind = DiskFull if error.errno == 28 else MachineError
            raise kind(f"the audit trail in `{self.folder}` can't be written: {error.strerror or error}") from error

    def _append(self, facts: Sequence[Fact]) -> list[Entry]:
        cut = self._mend()
        head = self.head()
        noted = datetime.now(UTC)
        facts = [*([cut] if cut else []), *facts]
        if head is None:
            made = Fact(noted, "trail", "cdcpipe", "trail.begun", str(uuid.uuid4()))
            facts = [made, *facts]
        seq, prev = (0, _GENESIS) if head is None else (head.seq, head.hash)
        made_entries = []
        for fact in facts:
            entry = Entry.after(seq + 1, prev, fact, noted)
            made_entries.append(entry)
            seq, prev = entry.seq, entry.hash
        path = self._open_segment(made_entries[0].seq)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write("".join(f"{entry.line()}\n" for entry in made_entries).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)  # all of them or none
            raise
        return made_entries

    def _mend(self) -> Fact | None:
        """Cut off half a line that a crash left, and say so. It was in no answer and under no anchor."""
        segments = self.segments()
        if not segments:
            return None
        path = segments[-1]
        content = path.read_bytes() if path.stat().st_size < 1 << 16 else _end_of(path, 1 << 16)
        if not content or content.endswith(b"\n"):
            return None
        torn = len(content) - (content.rfind(b"\n") + 1)
        os.truncate(path, path.stat().st_size - torn)
        return Fact(datetime.now(UTC), "trail", "cdcpipe", "trail.mended", path.name, detail={"torn_bytes": torn})

    def _open_segment(self, first: int) -> Path:
        segments = self.segments()
        if segments and segments[-1].stat().st_size < self._segment_bytes:
            return segments[-1]
        return self.folder / f"trail-{first:012d}.jsonl"


@dataclass(frozen=True, slots=True)
class Break:
    """The first entry that doesn't fit. `seq` is the number that was expected there."""

    segment: str
    line: int
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk along the chain found. `anchored` is the highest entry that an anchor vouches for."""

    entries: int
    head: tuple[int, str] | None
    first_break: Break | None
    anchored: int
    anchors: int

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong. A trail without entries that no anchor misses is intact, and proves nothing."""
        return self.first_break is None


def verify(folder: Path, anchors: Iterable[Anchor] = ()) -> Verification:
    """Walk the chain in `folder` from its first entry and compare it with `anchors`.

    Found: an entry that was edited, removed, inserted or moved, a tail or a segment that was cut off below an anchor,
    and a chain that was written anew from below an anchor on. Not found: what was done to entries above the highest
    anchor by someone who recomputed the chain behind them.
    """
    wanted: dict[int, list[Anchor]] = {}
    for anchor in anchors:
        wanted.setdefault(anchor.seq, []).append(anchor)
    trail = Trail(folder)
    seq, prev, anchored, where = 0, _GENESIS, 0, ("", 0)
    for path in trail.segments():
        for number, text in _lines(path):
            where = (path.name, number)
            reason = _wrong(text, seq + 1, prev)
            if reason is not None:
                return Verification(seq, (seq, prev), Break(*where, seq + 1, reason), anchored, len(wanted))
            entry = Entry.parse(text)
            seq, prev = entry.seq, entry.hash
            for anchor in wanted.get(seq, ()):
                if anchor.hash != entry.hash:
                    reason = f"{anchor.place} holds another hash for entry {seq}: the trail was written anew"
                    return Verification(seq, (seq, prev), Break(*where, seq, reason), anchored, len(wanted))
                anchored = seq
    beyond = [anchor for number, each in wanted.items() if number > seq for anchor in each]
    if beyond:
        highest = max(beyond, key=lambda anchor: anchor.seq)
        reason = f"the trail ends at entry {seq}, but {highest.place} knows entry {highest.seq}: its tail was cut off"
        return Verification(seq, (seq, prev) if seq else None, Break(*where, seq + 1, reason), anchored, len(wanted))
    return Verification(seq, (seq, prev) if seq else None, None, anchored, len(wanted))


def _wrong(text: str, expected: int, prev: str) -> str | None:
    """Why a line is not the entry `expected`; None when it is."""
    try:
        entry = Entry.parse(text)
    except ValueError as error:
        return f"the line is no entry: {error}"
    if not entry.whole or entry.line() != text:
        return f"entry {entry.seq} was edited: its hash is not that of its content"
    if entry.seq != expected:
        return f"entry {expected} is missing, or was moved: entry {entry.seq} stands in its place"
    if entry.prev != prev:
        return f"entry {entry.seq} does not follow the one before it: the chain was cut and joined again"
    return None


def _first_number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(_lines_from(path, 0), 1)


def _lines_from(path: Path, place: int) -> Iterator[str]:
    with path.open("rb") as file:
        file.seek(place)
        for line in file:
            yield line.decode("utf-8", "replace").rstrip("\n")


def _place_after(path: Path, after: int) -> int:
    """Where a line begins, at or before the first entry above `after`: found by halving, as the numbers grow."""
    low, high = 0, path.stat().st_size if after else 0
    with path.open("rb") as file:
        while high - low > _NEAR_BYTES:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()  # the rest of a line
            begin, line = file.tell(), file.readline()
            try:
                number = Entry.parse(line.decode().rstrip("\n")).seq
            except ValueError:
                return low  # no entry, or the end: whoever reads on from here comes upon it
            if number > after:
                high = middle
            else:
                low = begin
    return low


def _end_of(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def _last_line(path: Path) -> str | None:
    size = 1 << 14
    while True:
        content = _end_of(path, size)
        lines = [line for line in content.split(b"\n") if line]
        if len(lines) > 1 or (lines and size >= path.stat().st_size):
            return lines[-1].decode("utf-8", "replace")
        if size >= path.stat().st_size:
            return None
        size *= 8
