"""What all damage is drawn with: the register of it, and ways to choose a row, and to take one out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.quality.histories import History, Row

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
