"""A snapshot and the stream after it that don't fit together."""

from __future__ import annotations

import copy

from tests.quality.damage.drawing import (
    Impossible,
    damages,
    first_xid,
    of_key,
    pick,
    remove,
)
from tests.quality.damage.values import altered
from tests.quality.histories import TABLES, History, Row


@damages("handoff-gap")
def stream_that_begins_too_late(h: History) -> set[str]:
    if h.snapshot_lsn is None:
        raise Impossible
    for _ in range(h.rng.randrange(1, 4)):
        xid = first_xid(h)
        h.log = [row for row in h.log if row["xid"] != xid]
        h.ends = [row for row in h.ends if row["xid"] != xid]
    h.lay_out()
    return {"handoff-gap"}


@damages("handoff-gap")
def snapshot_row_older_than_the_stream(h: History) -> set[str]:
    """The snapshot's image isn't what the first streamed change starts from."""
    rows = []
    for row in h.log:
        own = of_key(h, row)
        if row["op"] == "r" and len(own) > 1 and own[0] is row and row["table"] in ("public.orders", "public.items"):
            rows.append(row)
    row = pick(h, rows)
    row["after"] = altered(h, row["after"], "version")
    h.lay_out()
    return {"handoff-gap"}


def read_with_a_past(h: History, *, alone: bool) -> list[Row]:
    """Snapshot rows of which the wal ledger knows a change from before, `alone`: that nothing follows."""
    known = {(row["table"], row["key"]) for row in h.wal if row["commit_lsn"] < (h.snapshot_lsn or 0)}
    rows = [row for row in h.log if row["op"] == "r" and row["key"] is not None]
    rows = [row for row in rows if (row["table"], row["key"]) in known and TABLES[row["table"]] == "full"]
    return [row for row in rows if not alone or len(of_key(h, row)) == 1]


@damages("handoff-gap")
def row_that_the_snapshot_left_out(h: History) -> set[str]:
    remove(h.log, pick(h, read_with_a_past(h, alone=False)))
    h.lay_out()
    return {"handoff-gap"}


@damages("handoff-gap")
def row_that_the_snapshot_read_too_early(h: History) -> set[str]:
    row = pick(h, read_with_a_past(h, alone=True))
    row["after"] = altered(h, row["after"], "version")
    h.lay_out()
    return {"handoff-gap"}


@damages("resurrection")
def row_that_the_snapshot_read_after_its_deletion(h: History) -> set[str]:
    reads = [row for row in h.log if row["op"] == "r" and row["key"] is not None]
    streamed_keys = {(row["table"], row["key"]) for row in h.log if row["op"] != "r"}
    gone = [
        row
        for row in h.wal
        if row["op"] == "d"
        and row["key"] is not None
        and row["commit_lsn"] < (h.snapshot_lsn or 0)
        and (row["table"], row["key"]) not in streamed_keys
        and not any(
            (each["table"], each["key"]) == (row["table"], row["key"]) and each["lsn"] > row["lsn"] for each in h.wal
        )
    ]
    row = pick(h, gone)
    like = pick(h, [each for each in reads if each["table"] == row["table"]])
    read = copy.copy(like) | {"key": row["key"], "after": row["before"], "unknown": None, "dead": False}
    h.log.insert(h.log.index(like), read)
    h.lay_out()
    return {"resurrection"}


@damages("handoff-overlap")
def row_read_twice_by_the_snapshot(h: History) -> set[str]:
    row = pick(h, [row for row in h.log if row["op"] == "r" and row["key"] is not None])
    last = max(i for i, each in enumerate(h.log) if each["op"] == "r")
    h.log.insert(last + 1, copy.copy(row))
    h.lay_out()
    return {"handoff-overlap"}


def read_late(h: History) -> None:
    """A row that is read later than the snapshot's position: it shows what a streamed change made of it."""
    rows = []
    for row in h.log:
        own = of_key(h, row)
        if row["op"] == "r" and len(own) > 1 and own[0] is row and row["table"] in ("public.orders", "public.items"):
            rows += [(row, later) for later in own[1:] if later["op"] == "u" and later["after"] != row["after"]]
    row, later = pick(h, rows)
    row["after"] = later["after"]
    h.lay_out()


@damages("handoff-overlap")
def row_that_the_snapshot_read_too_late(h: History) -> set[str]:
    read_late(h)
    return {"handoff-overlap"}


@damages("handoff-overlap")
def change_streamed_that_the_snapshot_had_seen(h: History) -> set[str]:
    if h.snapshot_lsn is None:
        raise Impossible
    reads = {(row["table"], row["key"]): row for row in h.log if row["op"] == "r" and row["key"] is not None}
    rows = [
        row
        for row in h.wal
        if row["commit_lsn"] < h.snapshot_lsn
        and row["op"] in ("c", "u")
        and (read := reads.get((row["table"], row["key"]))) is not None
        and read["after"] == row["after"]
    ]
    row = pick(h, rows)
    like = reads[row["table"], row["key"]]
    last = max(i for i, each in enumerate(h.log) if each["op"] == "r")
    made = {"topic": like["topic"], "partition": like["partition"], "arrived_at": like["arrived_at"]}
    h.log.insert(last + 1, copy.copy(row) | made)
    h.lay_out()
    return {"handoff-overlap"}
