"""The journal holds what is in force, and nothing that was healed, whatever was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdcpipe.errors import StackError
from cdcpipe.faults import Journal, Kill, Pause


def test_what_was_opened_and_not_healed_is_open(tmp_path: Path) -> None:
    journal = Journal.of_folder(tmp_path)
    first = journal.opened(Kill("connect"), {"components": ["connect"]})
    second = journal.opened(Pause("kafka-1", seconds=2), {"components": ["kafka-1"]})
    journal.healed(first)
    (left,) = Journal.of_folder(tmp_path).open()
    assert (left.id, left.fault) == (second, {"kind": "pause", "component": "kafka-1", "seconds": 2})
    assert left.trace == {"components": ["kafka-1"]}
    assert left.owner_lives
    journal.healed(second)
    assert journal.open() == []


def test_the_newest_trace_counts(tmp_path: Path) -> None:
    journal = Journal.of_folder(tmp_path)
    number = journal.opened(Kill("connect"), {"components": ["connect"]})
    journal.noted(number, {"components": ["connect"], "mount": "/x"})
    assert journal.open()[0].trace["mount"] == "/x"


@pytest.mark.parametrize("torn", [b'{"event": "opened", "id": 2, "fa', b"\x00\xff", b'{"event": "healed", "id": 1}'])
def test_a_line_without_its_end_does_not_count_and_spoils_no_later_one(tmp_path: Path, torn: bytes) -> None:
    journal = Journal.of_folder(tmp_path)
    first = journal.opened(Kill("connect"), {})
    with journal.path.open("ab") as file:
        file.write(torn)
    assert [entry.id for entry in journal.open()] == [first]
    second = journal.opened(Kill("s3"), {})
    assert [entry.id for entry in journal.open()] == [first, second]


def test_a_file_that_is_no_journal_is_said_as_such(tmp_path: Path) -> None:
    journal = Journal.of_folder(tmp_path)
    for content in (b"not json\n", b'{"event": "opened", "id": 1}\n', b"[1]\n"):
        journal.path.write_bytes(content)
        with pytest.raises(StackError, match="is no journal of faults"):
            journal.open()


def test_a_journal_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert Journal(tmp_path / "nowhere" / "faults.jsonl").open() == []
