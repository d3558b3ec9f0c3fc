"""Changes and rows that are lost, torn, repeated, made up, or in the wrong objects."""

from __future__ import annotations

import copy
from collections import Counter

from tests.quality.damage.drawing import (
    Impossible,
    alive,
    damages,
    drop_with_tombstone,
    first_xid,
    half_of_pk_change,
    pick,
    remove,
    streamed,
)
from tests.quality.histories import History, Row


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
