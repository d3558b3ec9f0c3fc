"""Changes in another order than that in which they were made: of a key, of commits, of a snapshot that comes late."""

from __future__ import annotations

import copy
import itertools

from tests.quality.damage.drawing import (
    alive,
    damages,
    drop_with_tombstone,
    first_xid,
    half_of_pk_change,
    of_key,
    pick,
    position,
    remove,
    streamed,
)
from tests.quality.histories import PARTITIONS, History, Row


@damages("key-inversion")
def swap_two_changes_of_a_key(h: History) -> set[str]:
    pairs = []
    for row in alive(h):
        later = [
            r for r in of_key(h, row) if r["op"] != "r" and not r.get("dead") and position(h, r) > position(h, row)
        ]
        if later:
            pairs.append((row, later[0]))
    one, two = pick(h, pairs)
    i, j = h.log.index(one), h.log.index(two)
    h.log[i], h.log[j] = two, one
    h.lay_out()
    return {"key-inversion"}


@damages("key-inversion")
def move_a_change_before_its_predecessor(h: History) -> set[str]:
    late = []
    for row in alive(h):
        earlier = [r for r in of_key(h, row) if r["op"] != "r" and position(h, r) < position(h, row)]
        if earlier:
            late.append((row, earlier[-1]))
    row, before = pick(h, late)
    h.log.remove(row)
    h.log.insert(h.log.index(before), row)
    h.lay_out()
    return {"key-inversion"}


@damages("commit-inversion")
def swap_neighbours_of_different_keys(h: History) -> set[str]:
    pairs = []
    for place in {(row["topic"], row["partition"]) for row in streamed(h)}:
        own = [row for row in streamed(h) if (row["topic"], row["partition"]) == place]
        pairs += [(a, b) for a, b in itertools.pairwise(own) if (a["key"] != b["key"]) or a["key"] is None]
    one, two = pick(h, pairs)
    i = next(i for i, each in enumerate(h.log) if each is one)
    j = next(i for i, each in enumerate(h.log) if each is two)
    h.log[i], h.log[j] = two, one
    h.lay_out()
    return {"commit-inversion"}


@damages("key-gap")
def change_that_our_witness_missed_too(h: History) -> set[str]:
    row = pick(h, inner_updates(h))
    drop_with_tombstone(h, row)
    h.wal = [each for each in h.wal if (each["xid"], each["seq"]) != (row["xid"], row["seq"])]
    renumber(h, row["xid"])
    h.lay_out()
    return {"key-gap"}


def inner_updates(h: History) -> list[Row]:
    """Updates of tables with full old rows that another change of the key follows, and whose loss shows."""
    rows = []
    for row in streamed(h):
        if row["op"] != "u" or row["table"] not in ("public.orders", "public.items"):
            continue
        own = of_key(h, row)
        index = next(i for i, each in enumerate(own) if each is row)
        if (
            0 < index < len(own) - 1
            and own[index - 1]["op"] != "r"
            and own[index + 1]["before"] != own[index - 1]["after"]
        ):
            rows.append(row)
    return rows


def renumber(h: History, xid: int) -> None:
    """As if the change had never been counted."""
    for rows in (h.wal, [row for row in h.log if row["kind"] == "change"]):
        own = sorted((row for row in rows if row["xid"] == xid), key=lambda row: row["seq"])
        for seq, row in enumerate(own, 1):
            row["seq"] = seq
    count = sum(row["xid"] == xid for row in h.wal)
    h.ends = [row for row in h.ends if row["xid"] != xid or count]
    for row in h.ends:
        if row["xid"] == xid and row["status"] == "END":
            row["event_count"] = count


@damages("key-split")
def move_a_key_to_another_partition(h: History) -> set[str]:
    keys = [row for row in alive(h) if len([r for r in of_key(h, row) if r["op"] != "r"]) > 1]
    row = pick(h, keys)
    own = of_key(h, row)
    at = h.rng.randrange(1, len(own))
    other = (row["partition"] + h.rng.randrange(1, PARTITIONS)) % PARTITIONS
    for each in own[at:]:
        each["partition"] = other
    h.lay_out()
    return {"key-split"}


@damages("pk-change-orphan")
def drop_half_of_a_pk_change(h: History) -> set[str]:
    rows = [row for row in streamed(h) if half_of_pk_change(h, row) and row["xid"] != first_xid(h)]
    drop_with_tombstone(h, pick(h, rows))
    h.lay_out()
    return {"pk-change-orphan@source"}


def repeat_at_the_end(h: History, *, deleted: bool) -> None:
    rows = []
    for row in alive(h):
        if row["op"] not in ("c", "u") or row["key"] is None:
            continue
        newest = of_key(h, row)[-1]
        if newest is not row and (newest["op"] == "d") == deleted and newest["after"] != row["after"]:
            rows.append(row)
    h.log.append(copy.copy(pick(h, rows)) | {"arrived_at": h.log[-1]["arrived_at"]})
    h.lay_out()


@damages("stale-overwrite")
def an_old_change_comes_again(h: History) -> set[str]:
    repeat_at_the_end(h, deleted=False)
    return {"stale-overwrite"}


@damages("resurrection")
def a_deleted_key_comes_again(h: History) -> set[str]:
    repeat_at_the_end(h, deleted=True)
    return {"resurrection"}


def late_snapshot_row(h: History, *, deleted: bool) -> None:
    """The first record of the key goes back to a snapshot row that arrives at the end."""
    rows = []
    for row in streamed(h):
        own = of_key(h, row)
        handed_over = own and own[0]["op"] == "r" and own[-1]["op"] != "r"
        if handed_over and (own[-1]["op"] == "d") == deleted and own[-1]["after"] != own[0]["after"]:
            rows.append(own[0])
    row = pick(h, rows)
    remove(h.log, row)
    h.log.append(row | {"arrived_at": h.log[-1]["arrived_at"], "dead": False})
    h.lay_out()


@damages("stale-overwrite")
def a_snapshot_row_comes_late(h: History) -> set[str]:
    late_snapshot_row(h, deleted=False)
    return {"stale-overwrite"}


@damages("resurrection")
def a_snapshot_row_of_a_deleted_key_comes_late(h: History) -> set[str]:
    late_snapshot_row(h, deleted=True)
    return {"resurrection"}
