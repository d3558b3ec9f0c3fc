"""Damage to a history, by the anomaly that it is. Each function edits the rows and gives the names that must be found.

`Impossible` is raised where a history has nothing to damage in that way (no snapshot, no deleted key, …): draw another.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from tests.quality.histories import PARTITIONS, TABLES, History, Row, value

Damage = Callable[[History], set[str]]
DAMAGES: dict[str, list[Damage]] = {}


class Impossible(Exception):
    """This history can't be damaged so."""


def damages(anomaly: str) -> Callable[[Damage], Damage]:
    def add(function: Damage) -> Damage:
        DAMAGES.setdefault(anomaly, []).append(function)
        return function

    return add


def pick(h: History, rows: list[Any]) -> Any:
    if not rows:
        raise Impossible
    return h.rng.choice(rows)


def streamed(h: History) -> list[Row]:
    return [row for row in h.log if row["kind"] == "change" and row["op"] != "r"]


def alive(h: History) -> list[Row]:
    """Streamed records that the sink archives."""
    return [row for row in streamed(h) if not row.get("dead")]


def half_of_pk_change(h: History, row: Row) -> bool:
    return any(
        other is not row and other["op"] != row["op"] and (other["xid"], other["lsn"]) == (row["xid"], row["lsn"])
        for other in h.wal
        if (other["xid"], other["seq"]) != (row["xid"], row["seq"])
    )


def first_xid(h: History) -> int:
    return int(min(streamed(h), key=lambda row: position(h, row))["xid"])


def position(h: History, row: Row) -> tuple[int, int]:
    own = next(each for each in h.wal if each["xid"] == row["xid"])
    return own["commit_lsn"], row["seq"]


def of_key(h: History, row: Row) -> list[Row]:
    return [
        each
        for each in h.log
        if each["kind"] == "change"
        and row["key"] is not None
        and (each["table"], each["key"]) == (row["table"], row["key"])
    ]


def remove(rows: list[Row], gone: Row) -> None:
    for index, row in enumerate(rows):
        if row is gone:
            del rows[index]
            return
    raise AssertionError("the row is not there")


def drop_with_tombstone(h: History, row: Row) -> None:
    index = next(index for index, each in enumerate(h.log) if each is row)
    del h.log[index]
    while (
        index < len(h.log)
        and h.log[index]["kind"] != "change"
        and h.log[index]["xid"] == row["xid"]
        and (h.log[index]["seq"] == row["seq"])
    ):
        del h.log[index]


# --- delivery --------------------------------------------------------------------


@damages("lost-change")
def drop_one_record(h: History) -> set[str]:
    rows = [row for row in streamed(h) if not half_of_pk_change(h, row) and row["xid"] != first_xid(h)]
    drop_with_tombstone(h, pick(h, rows))
    h.lay_out()
    return {"lost-change@source"}


@damages("lost-change")
def drop_a_whole_transaction(h: History) -> set[str]:
    xid = pick(h, [row for row in streamed(h) if row["xid"] != first_xid(h)])["xid"]
    h.log = [row for row in h.log if row["xid"] != xid]
    h.ends = [row for row in h.ends if row["xid"] != xid]
    h.lay_out()
    return {"lost-change@source"}


@damages("lost-change")
def drop_a_row_of_the_archive(h: History) -> set[str]:
    remove(h.archive, pick(h, h.archive))
    return {"lost-change@sink"}


@damages("lost-change")
def drop_the_end_of_a_partition(h: History) -> set[str]:
    row = pick(h, h.archive)
    place = (row["topic"], row["partition"])
    own = sorted((r for r in h.archive if (r["topic"], r["partition"]) == place), key=lambda r: r["offset"])
    for gone in own[-h.rng.randrange(1, 4) :]:
        remove(h.archive, gone)
    return {"lost-change@sink"}


@damages("torn-transaction")
def tear_a_transaction(h: History) -> set[str]:
    """The second half of a transaction is missing: lost, and torn by it."""
    sizes = Counter(row["xid"] for row in streamed(h))
    xid = pick(h, [xid for xid, n in sizes.items() if n >= 3 and xid != first_xid(h)])
    own = [row for row in streamed(h) if row["xid"] == xid]
    gone = own[len(own) // 2 :]
    kept = own[: len(own) // 2]
    if any(half_of_pk_change(h, row) for row in (gone[0], kept[-1])):
        raise Impossible
    for row in gone:
        drop_with_tombstone(h, row)
    h.lay_out()
    return {"lost-change@source", "(torn-transaction)"}


@damages("torn-transaction")
def end_record_with_another_count(h: History) -> set[str]:
    row = pick(h, [row for row in h.ends if row["status"] == "END"])
    row["event_count"] += h.rng.choice([1, 5, -1])
    return {"torn-transaction"}


@damages("torn-transaction")
def end_record_missing(h: History) -> set[str]:
    remove(h.ends, pick(h, [row for row in h.ends if row["status"] == "END"]))
    return {"torn-transaction"}


@damages("duplicate-change")
def repeat_a_record_at_once(h: History) -> set[str]:
    row = pick(h, alive(h))
    index = next(index for index, each in enumerate(h.log) if each is row)
    h.log.insert(index + 1, copy.copy(row))
    h.lay_out()
    return {"duplicate-change"}


@damages("duplicate-change")
def repeat_the_end_of_the_log(h: History) -> set[str]:
    """What a killed worker without exactly-once does."""
    tail = [row for row in h.log[-h.rng.randrange(2, 9) :] if row["kind"] == "change" and row["op"] != "r"]
    pick(h, tail)
    h.log.extend(copy.copy(row) | {"dead": False} for row in tail)
    h.lay_out()
    return {"duplicate-change"}


@damages("duplicate-row")
def repeat_a_row_of_an_object(h: History) -> set[str]:
    h.archive.append(copy.copy(pick(h, h.archive)))
    return {"duplicate-row@sink"}


@damages("duplicate-row")
def repeat_a_row_in_another_object(h: History) -> set[str]:
    row = copy.copy(pick(h, h.archive))
    others = {each["object"] for each in h.archive if each["topic"] == row["topic"]} - {row["object"]}
    folder = row["object"].rpartition("/")[0]
    row["object"] = pick(h, sorted(each for each in others if each.startswith(folder + "/")))
    h.archive.append(row)
    return {"duplicate-row@sink"}


def phantom(h: History, xid: int) -> Row:
    row: Row = copy.copy(pick(h, [row for row in alive(h) if row["op"] == "c" and row["key"] is not None]))
    row |= {"xid": xid, "seq": 1, "key": b"2:idn6:999999", "lsn": row["lsn"] - 1, "commit_lsn": None}
    return row


@damages("phantom-change")
def record_of_an_aborted_transaction(h: History) -> set[str]:
    if not h.aborted:
        raise Impossible
    row = phantom(h, h.rng.choice(h.aborted))
    index = next(i for i, each in enumerate(h.log) if each["kind"] == "change" and each["after"] == row["after"])
    h.log.insert(index + 1, row)
    h.lay_out()
    return {"phantom-change@source"}


@damages("phantom-change")
def one_change_too_many_in_a_transaction(h: History) -> set[str]:
    row = pick(h, alive(h))
    made = copy.copy(row) | {
        "seq": 1 + max(r["seq"] for r in streamed(h) if r["xid"] == row["xid"]),
        "key": b"2:idn1:0",
    }
    made |= {"op": "c", "before": None, "after": row["after"] or row["before"], "unknown": None}
    h.log.insert(h.log.index(row) + 1, made)
    h.lay_out()
    return {"phantom-change@source"}


@damages("phantom-change")
def row_without_a_record(h: History) -> set[str]:
    row = copy.copy(pick(h, h.archive))
    row |= {"offset": row["offset"] + 5, "key": b"2:idn6:888888"}
    h.archive.append(row)
    return {"phantom-change@sink"}


@damages("offset-hole")
def drop_a_file_of_a_partition(h: History) -> set[str]:
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in h.archive:
        groups.setdefault((row["object"], row["topic"], row["partition"]), []).append(row)
    inner = []
    for (_, topic, partition), rows in groups.items():
        low, high = min(r["offset"] for r in rows), max(r["offset"] for r in rows)
        rest = [r["offset"] for r in h.archive if (r["topic"], r["partition"]) == (topic, partition)]
        # Hours interleave: nothing of another object may lie within.
        alone = sum(low <= each <= high for each in rest) == len(rows)
        if len(rows) > 1 and alone and any(each < low for each in rest) and any(each > high for each in rest):
            inner.append(rows)
    for row in pick(h, inner):
        remove(h.archive, row)
    return {"offset-hole@sink"}


@damages("overlapping-object")
def write_an_object_again(h: History) -> set[str]:
    """Every row of an object a second time, in a second object: a retried upload under another name."""
    sizes = Counter((row["object"], row["topic"], row["partition"]) for row in h.archive)
    name = pick(h, sorted(key for key, n in sizes.items() if n > 1))[0]
    rows = [row for row in h.archive if row["object"] == name]
    counts = Counter((row["topic"], row["partition"]) for row in rows)
    h.archive.extend(
        copy.copy(row) | {"object": name + ".again.parquet"}
        for row in rows
        if counts[row["topic"], row["partition"]] > 1
    )
    return {"overlapping-object@sink"}


@damages("overlapping-object")
def write_half_an_object_again(h: History) -> set[str]:
    sizes = Counter((row["object"], row["topic"], row["partition"]) for row in h.archive)
    name, topic, partition = pick(h, sorted(key for key, n in sizes.items() if n > 2))
    rows = [r for r in h.archive if (r["object"], r["topic"], r["partition"]) == (name, topic, partition)]
    h.archive.extend(copy.copy(row) | {"object": name + ".late.parquet"} for row in rows[-2:])
    return {"overlapping-object@sink"}


@damages("overlapping-object")
def two_writers_at_once(h: History) -> set[str]:
    """Rows of one interval spread over two objects of a folder, none twice."""
    sizes = Counter((row["object"], row["topic"], row["partition"]) for row in h.archive)
    name, topic, partition = pick(h, sorted(key for key, n in sizes.items() if n > 2))
    rows = [r for r in h.archive if (r["object"], r["topic"], r["partition"]) == (name, topic, partition)]
    rows.sort(key=lambda row: row["offset"])
    rows[1]["object"] = name + ".other.parquet"
    return {"overlapping-object@sink"}


@damages("unaccounted-drop")
def poison_without_a_dead_letter(h: History) -> set[str]:
    row = pick(h, alive(h))
    h.log.insert(h.log.index(row), copy.copy(row) | {"kind": "undecoded", "dead": False, "key": None})
    h.lay_out()
    return {"unaccounted-drop@sink"}


@damages("unaccounted-drop")
def dead_letter_lost(h: History) -> set[str]:
    row = pick(h, [row for row in h.log if row["kind"] == "undecoded"])
    row["dead"] = False
    return {"unaccounted-drop@sink"}


# --- order -----------------------------------------------------------------------


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


# --- values ----------------------------------------------------------------------


def values_of(h: History, hashed: bytes) -> dict[str, str]:
    from cdcpipe.verify.images import columns_of

    return columns_of(h.images[hashed])


def altered(h: History, hashed: bytes, column: str) -> bytes:
    values = values_of(h, hashed)
    family, payload = values[column][0], values[column].partition(":")[2]
    digit = payload[-1]
    values[column] = value(family, payload[:-1] + ("1" if digit == "2" else "2"))
    made = h.image(values)
    assert made is not None
    return made


def with_image(h: History, rows: list[Row]) -> Row:
    row: Row = pick(h, [row for row in rows if row["op"] in ("c", "u") and row["after"] is not None])
    return row


@damages("value-drift")
def one_byte_of_a_value_in_the_log(h: History) -> set[str]:
    row = with_image(h, alive(h))
    row["after"] = altered(h, row["after"], h.rng.choice(["amount", "version"]))
    h.file()
    return {"value-drift@source"}


@damages("value-drift")
def one_byte_of_a_value_in_the_archive(h: History) -> set[str]:
    row = with_image(h, h.archive)
    row["after"] = altered(h, row["after"], h.rng.choice(["amount", "version", "state"]))
    return {"value-drift@sink"}


@damages("value-drift")
def change_filed_under_another_key(h: History) -> set[str]:
    row = pick(h, [row for row in h.archive if row["key"] is not None])
    row["key"] = b"2:idn6:777777"
    return {"value-drift@sink"}


@damages("value-drift")
def value_that_became_null(h: History) -> set[str]:
    row = with_image(h, h.archive)
    values = values_of(h, row["after"])
    del values["city"]
    row["after"] = h.image(values)
    return {"value-drift@sink"}


@damages("toast-hole")
def placeholder_for_a_value_in_the_log(h: History) -> set[str]:
    rows = [row for row in alive(h) if row["op"] == "u" and row["after"] and not row["unknown"]]
    row = pick(h, [row for row in rows if "large" in values_of(h, row["after"])])
    row["after"] = h.image(values_of(h, row["after"]) | {"large": "?"})
    row["unknown"] = ["after.large: toast"]
    h.file()
    return {"toast-hole@source"}


@damages("toast-hole")
def placeholder_for_a_value_in_the_archive(h: History) -> set[str]:
    row = pick(
        h, [row for row in h.archive if row["after"] and not row["unknown"] and "large" in values_of(h, row["after"])]
    )
    row["after"] = h.image(values_of(h, row["after"]) | {"large": "?"})
    row["unknown"] = ["after.large: toast"]
    return {"toast-hole@sink"}


@damages("toast-hole")
def null_for_an_unchanged_value(h: History) -> set[str]:
    row = pick(h, [row for row in alive(h) if row["unknown"]])
    values = values_of(h, row["after"])
    del values["large"]
    row["after"], row["unknown"] = h.image(values), None
    h.file()
    return {"toast-hole@source"}


@damages("wrong-schema-decode")
def columns_in_each_others_place(h: History) -> set[str]:
    row = with_image(h, h.archive)
    values = values_of(h, row["after"])
    values["city"], values["state"] = values["state"], values["city"]
    row["after"] = h.image(values)
    return {"wrong-schema-decode@sink"}


@damages("wrong-schema-decode")
def value_of_another_type(h: History) -> set[str]:
    row = with_image(h, alive(h))
    values = values_of(h, row["after"])
    values["amount"] = value("s", values["amount"].partition(":")[2])
    row["after"] = h.image(values)
    h.file()
    return {"wrong-schema-decode@source"}


def in_hour(row: Row, hours: int) -> str:
    folder, _, name = row["object"].rpartition("/")
    base, _, hour = folder.rpartition("=")
    at = datetime.strptime(hour, "%Y-%m-%d-%H") + timedelta(hours=hours)
    return f"{base}={at:%Y-%m-%d-%H}/moved-{name}"


@damages("misfiled-row")
def row_in_an_earlier_hour(h: History) -> set[str]:
    row = pick(h, h.archive)
    row["object"] = in_hour(row, -h.rng.randrange(2, 6))
    return {"misfiled-row@sink"}


@damages("misfiled-row")
def row_in_a_later_hour(h: History) -> set[str]:
    rows = [
        row
        for row in h.archive
        if any(
            (each["topic"], each["partition"]) == (row["topic"], row["partition"]) and each["offset"] > row["offset"]
            for each in h.archive
        )
    ]
    row = pick(h, rows)
    row["object"] = in_hour(row, 48)
    return {"misfiled-row@sink"}
