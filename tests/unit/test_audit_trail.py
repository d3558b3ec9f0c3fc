"""The audit trail: whatever is done to it behind its back is found, and named at the first place."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdcpipe.errors import EvidenceError, MachineError, UsageError
from cdcpipe.observe.audit import Entry, Fact, FileAnchors, Trail, Verification, verify
from cdcpipe.observe.audit.anchors import parse_anchor
from cdcpipe.observe.audit.commands import append

BEGIN = datetime(2026, 11, 24, 12, tzinfo=UTC)


def fact(number: int) -> Fact:
    return Fact(BEGIN + timedelta(seconds=number), "postgres", "shop", "session.opened", f"db {number}")


def filled(folder: Path, entries: int = 20, *, segment_bytes: int = 3000) -> tuple[Trail, FileAnchors]:
    """A trail of several segments, and its anchors."""
    trail = Trail(folder / "trail", segment_bytes=segment_bytes)
    anchors = FileAnchors(trail.folder, state=folder / "state")
    for number in range(entries):
        trail.append([fact(number)])
        head = trail.head()
        assert head is not None
        anchors.write(head.seq, head.hash)
    assert len(trail.segments()) > 2
    return trail, anchors


def lines_of(trail: Trail) -> list[str]:
    return [line for path in trail.segments() for line in path.read_text().splitlines()]


def rewrite(trail: Trail, lines: Sequence[str]) -> None:
    """The given lines as one segment, in place of all."""
    for path in trail.segments():
        path.unlink()
    (trail.folder / "trail-000000000001.jsonl").write_text("".join(f"{line}\n" for line in lines))


def checked(trail: Trail, anchors: FileAnchors) -> Verification:
    return verify(trail.folder, anchors.read()[-1:])


def test_a_trail_that_nobody_touched_is_intact(tmp_path: Path) -> None:
    trail, anchors = filled(tmp_path)
    found = checked(trail, anchors)
    assert found.intact
    assert found.entries == 21
    assert found.anchored == 21
    assert [entry.object for entry in trail.entries(after=1)] == [f"db {number}" for number in range(20)]
    assert [entry.seq for entry in trail.entries(after=15)] == [16, 17, 18, 19, 20, 21]


def edited(lines: list[str]) -> list[str]:
    lines[9] = lines[9].replace('"shop"', '"somebody"')
    return lines


def edited_with_its_hash(lines: list[str]) -> list[str]:
    """As one who knows the format would: content and hash of one entry, the next ones as they were."""
    entry = Entry.parse(lines[9])
    changed = Fact(BEGIN, "postgres", "somebody", entry.action, entry.object)
    lines[9] = Entry.after(entry.seq, entry.prev, changed, BEGIN).line()
    return lines


def deleted(lines: list[str]) -> list[str]:
    return [*lines[:9], *lines[10:]]


def swapped(lines: list[str]) -> list[str]:
    return [*lines[:9], lines[10], lines[9], *lines[11:]]


def doubled(lines: list[str]) -> list[str]:
    return [*lines[:10], lines[9], *lines[10:]]


def inserted(lines: list[str]) -> list[str]:
    before = Entry.parse(lines[8])
    return [*lines[:9], Entry.after(10, before.hash, fact(99), BEGIN).line(), *lines[9:]]


def beheaded(lines: list[str]) -> list[str]:
    return lines[1:]


def truncated(lines: list[str]) -> list[str]:
    return lines[:9]


def emptied(lines: list[str]) -> list[str]:
    return []


def half_a_line(lines: list[str]) -> list[str]:
    lines[9] = lines[9][:40]
    return lines


def respelled(lines: list[str]) -> list[str]:
    """The same members with other spaces: no other content, but not what was written either."""
    lines[9] = json.dumps(json.loads(lines[9]))
    return lines


def renumbered(lines: list[str]) -> list[str]:
    """Everything from one entry on left out and written anew, with a chain that fits."""
    kept = lines[:9]
    prev = Entry.parse(kept[-1]).hash
    for number in range(10, 22):
        entry = Entry.after(number, prev, fact(number + 1000), BEGIN)
        kept.append(entry.line())
        prev = entry.hash
    return kept


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (edited, "edited"),
        (edited_with_its_hash, "does not follow"),
        (deleted, "missing, or was moved"),
        (swapped, "missing, or was moved"),
        (doubled, "missing, or was moved"),
        (inserted, "missing, or was moved"),
        (beheaded, "missing, or was moved"),
        (truncated, "tail was cut off"),
        (emptied, "tail was cut off"),
        (half_a_line, "is no entry"),
        (respelled, "edited"),
        (renumbered, "written anew"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_tampering_is_found_at_the_first_entry_that_it_touches(
    tmp_path: Path, tamper: Callable[[list[str]], list[str]], says: str
) -> None:
    trail, anchors = filled(tmp_path)
    rewrite(trail, lines_of(trail))
    assert checked(trail, anchors).intact, "the file was only joined, and every entry is as it was"
    rewrite(trail, tamper(lines_of(trail)))
    found = checked(trail, anchors)
    assert found.first_break is not None
    assert says in found.first_break.reason
    first = {"beheaded": 1, "emptied": 1, "edited_with_its_hash": 11, "doubled": 11, "inserted": 11, "renumbered": 21}
    assert found.first_break.seq == first.get(tamper.__name__, 10)


def test_entries_after_a_number_are_those_however_long_their_lines_are(tmp_path: Path) -> None:
    trail = Trail(tmp_path / "trail", segment_bytes=1 << 20)
    for number in range(40):
        sizes = [10, 200, 90_000 if number % 7 == 3 else 3, 5_000]
        trail.append(Fact(BEGIN, "postgres", "shop", "asked", "x" * size) for size in sizes * 5)
    numbers = [entry.seq for entry in trail.entries()]
    assert len(trail.segments()) > 3
    assert numbers == list(range(1, 802))
    for after in (0, 1, 2, 63, 64, 400, 401, 402, 799, 800, 801, 900):
        assert [entry.seq for entry in trail.entries(after=after)] == numbers[after:]


def test_the_more_anchors_the_earlier_a_new_chain_is_found(tmp_path: Path) -> None:
    trail, anchors = filled(tmp_path)
    rewrite(trail, renumbered(lines_of(trail)))
    found = verify(trail.folder, anchors.read())
    assert found.first_break is not None
    assert (found.first_break.seq, found.anchored) == (10, 9)


def test_a_segment_that_is_gone_is_found(tmp_path: Path) -> None:
    for index in (0, 1, -1):
        trail, anchors = filled(tmp_path / str(index))
        trail.segments()[index].unlink()
        assert not checked(trail, anchors).intact


def test_without_an_anchor_a_cut_tail_passes_and_that_is_why_there_are_anchors(tmp_path: Path) -> None:
    trail, anchors = filled(tmp_path)
    rewrite(trail, truncated(lines_of(trail)))
    assert verify(trail.folder).intact
    assert not checked(trail, anchors).intact
    given = parse_anchor(f"21:{anchors.read()[-1].hash}")
    assert not verify(trail.folder, [given]).intact


def test_a_cut_tail_stays_found_whatever_is_appended_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    trail = Trail(tmp_path / "trail")
    for number in range(20):
        append(trail, [fact(number)])
    rewrite(trail, truncated(lines_of(trail)))
    for number in range(80):
        append(trail, [fact(number)])
    told = [entry for entry in trail.entries() if entry.action == "trail.cut-found"]
    assert [(entry.seq, entry.detail["anchor_seq"], entry.detail["ends_at"]) for entry in told] == [(10, 21, 9)]
    found = verify(trail.folder, FileAnchors(trail.folder).read())
    assert found.first_break is not None
    assert found.first_break.seq == 10
    assert "written anew" in found.first_break.reason


def test_half_a_line_of_a_crash_is_cut_off_and_told(tmp_path: Path) -> None:
    trail, anchors = filled(tmp_path)
    with trail.segments()[-1].open("a") as file:
        file.write('{"action":"half')
    trail.append([fact(50)])
    assert checked(trail, anchors).intact
    *_, mended, last = trail.entries()
    assert (mended.action, mended.detail) == ("trail.mended", {"torn_bytes": 15})
    assert last.object == "db 50"


def test_two_writers_make_one_chain(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: Trail(tmp_path / "t").append([fact(number)] * 3), range(40)))
    found = verify(tmp_path / "t")
    assert found.intact
    assert found.entries == 121


def test_a_trail_that_cannot_be_read_or_written_says_so(tmp_path: Path) -> None:
    trail, _ = filled(tmp_path)
    rewrite(trail, half_a_line(lines_of(trail)))
    with pytest.raises(EvidenceError, match="line 10"):
        list(trail.entries())
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MachineError, match="can't be written"):
        Trail(tmp_path / "file").append([fact(1)])
    with pytest.raises(UsageError, match="no anchor"):
        parse_anchor("12:abc")
