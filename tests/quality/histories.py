"""Random histories of a pipeline that does nothing wrong: what PostgreSQL commits, and what log and archive then hold.

Written independently of `cdcpipe.verify`: plain Python over rows. Damage is done by editing these rows; see `damage`.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from cdcpipe.ledger.change import DEAD_LETTERS, IMAGES, SCHEMA, TOMBSTONES, TRANSACTIONS, UNDECODED
from cdcpipe.ledger.store import Manifest, SlotRead
from cdcpipe.verify.evidence import Evidence

Row = dict[str, Any]
START = datetime(2026, 11, 24, 12, 40, tzinfo=UTC)
PARTITIONS = 3
TABLES = {"public.orders": "full", "public.items": "full", "public.notes": "default", "public.journal": "keyless"}


def value(family: str, payload: str) -> str:
    return f"{family}{len(payload.encode())}:{payload}"


def image_of(values: dict[str, str]) -> str:
    return "".join(f"{len(name)}:{name}{values[name]}" for name in sorted(values))


def digest(text: str | None) -> bytes | None:
    return None if text is None else hashlib.md5(text.encode()).digest()


@dataclass
class Live:
    """A row in the database."""

    values: dict[str, str]


@dataclass
class History:
    """Three ledgers as rows. `log` is in the order of arrival; `lay_out` gives offsets and files."""

    rng: random.Random
    wal: list[Row] = field(default_factory=list)
    log: list[Row] = field(default_factory=list)
    archive: list[Row] = field(default_factory=list)
    ends: list[Row] = field(default_factory=list)
    images: dict[bytes, str] = field(default_factory=dict)
    snapshot_lsn: int | None = None
    begin_lsn: int = 0
    end_lsn: int = 1 << 40
    aborted: list[int] = field(default_factory=list)
    objects_of: int = 8

    def image(self, values: dict[str, str] | None) -> bytes | None:
        if values is None:
            return None
        text = image_of(values)
        hashed = digest(text)
        assert hashed is not None
        self.images[hashed] = text
        return hashed

    # --- log and archive -------------------------------------------------------

    def lay_out(self) -> None:
        """Give each record its offset (with gaps, as transaction markers leave them), and file it."""
        next_offset: dict[tuple[str, int], int] = {}
        rng = random.Random(7)
        for row in self.log:
            place = (row["topic"], row["partition"])
            offset = next_offset.get(place, rng.choice([0, 17]))
            row["offset"] = offset
            next_offset[place] = offset + rng.choice([10, 10, 10, 20])
        for earlier, later in itertools.pairwise(self.log):
            later["arrived_at"] = max(earlier["arrived_at"], later["arrived_at"])
        self.file()

    def file(self) -> None:
        """The archive that a faultless sink makes of the log."""
        self.archive = []
        counts: dict[tuple[str, int], int] = {}
        for row in self.log:
            place = (row["topic"], row["partition"])
            number = counts[place] = counts.get(place, 0) + 1
            if row["kind"] != "change" or row.get("dead"):
                continue
            arrived: datetime = row["arrived_at"]
            name = row["topic"].rpartition(".")[2]
            batch = number // self.objects_of
            filed = copy.copy(row)
            folder = f"s3://lake/shop/{name}/data/event_time_hour={arrived:%Y-%m-%d-%H}"
            filed["object"] = f"{folder}/{batch:05d}-{row['partition'] % 2}.parquet"
            self.archive.append(filed)

    # --- as evidence -------------------------------------------------------------

    def evidence(self) -> tuple[Evidence, Evidence, Evidence]:
        rows = [row for row in self.log if row["kind"] == "change"]
        slot = SlotRead("s", "p", True, self.begin_lsn, self.end_lsn)
        identities = {name: {"identity": "default" if kind == "default" else "full"} for name, kind in TABLES.items()}
        manifest = Manifest("wal", complete=True, slots=(slot,), tables=identities)
        images = pa.Table.from_pylist(
            [{"hash": hashed, "image": text} for hashed, text in self.images.items()], schema=IMAGES
        )
        tombstones = [row for row in self.log if row["kind"] == "tombstone"]
        undecoded = [row | {"reason": "unknown schema id 99"} for row in self.log if row["kind"] == "undecoded"]
        dead = [
            row | {"dlq_topic": "dlq", "dlq_partition": 0, "dlq_offset": number}
            for number, row in enumerate(row for row in self.log if row.get("dead"))
        ]
        side = {
            "transactions": table(self.ends, TRANSACTIONS),
            "tombstones": table(tombstones, TOMBSTONES),
            "undecoded": table(undecoded, UNDECODED),
            "dead_letters": table(dead, DEAD_LETTERS),
            "images": images,
        }
        return (
            Evidence("wal", table(self.wal, SCHEMA), {"images": images}, manifest),
            Evidence("log", table(rows, SCHEMA), side),
            Evidence("archive", table(self.archive, SCHEMA), {"images": images}),
        )


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


class Database:
    """Makes transactions, in the order of their commits."""

    def __init__(self, history: History, rng: random.Random) -> None:
        self.history, self.rng = history, rng
        self.live: dict[str, dict[int, Live]] = {name: {} for name in TABLES}
        self.next_id = 1
        self.xid, self.lsn, self.now = 5_000, 10_000_000, START

    def new_row(self, name: str, number: int) -> Live:
        rng = self.rng
        values = {
            "id": value("n", str(number)),
            "amount": value("n", str(rng.randrange(10_000))),
            "state": value("s", rng.choice(["new", "paid", "sent"])),
            "city": value("s", rng.choice(["Bonn", "Köln", "Aachen"])),
            "version": value("n", str(rng.randrange(1 << 40))),
        }
        if rng.random() < 0.3:
            values["large"] = value("s", "x" * 20 + str(rng.random()))
        return Live(values)

    def key(self, name: str, number: int) -> bytes | None:
        return None if TABLES[name] == "keyless" else image_of({"id": value("n", str(number))}).encode()

    def old(self, name: str, number: int, live: Live, *, for_delete: bool) -> bytes | None:
        if TABLES[name] != "default":
            return self.history.image(live.values)
        return self.history.image({"id": value("n", str(number))}) if for_delete else None

    def transaction(self, *, size: int, interleave: bool) -> list[Row]:
        """The changes of one transaction. With `interleave`, its first LSNs lie before the previous commit."""
        rng, h = self.rng, self.history
        self.xid += rng.choice([1, 1, 2])
        xid = self.xid
        if rng.random() < 0.15:
            self.xid += 1
            h.aborted.append(self.xid)
        # Two transactions open at a time: the one that began later may commit first.
        if interleave and rng.random() < 0.5:
            xid, self.xid = self.xid + 1, self.xid + 1
        rows: list[Row] = []
        touched: set[tuple[str, int]] = set()
        first_lsn = self.lsn - 40 if interleave else self.lsn
        while len(rows) < size:
            name = rng.choice(list(TABLES))
            rows.extend(self.change(name, touched))
        lsn = first_lsn
        for seq, row in enumerate(rows, 1):
            if not row.pop("same_lsn", False):
                lsn += rng.randrange(1, 30)
            row |= {"xid": xid, "seq": seq, "lsn": lsn}
        self.lsn = max(self.lsn, lsn) + rng.randrange(10, 60)
        self.now += timedelta(seconds=rng.choice([1, 20, 90, 240]))
        for row in rows:
            row |= {"commit_lsn": self.lsn, "committed_at": self.now}
        self.lsn += rng.randrange(60, 100)
        return rows

    def change(self, name: str, touched: set[tuple[str, int]]) -> list[Row]:
        rng, live, h = self.rng, self.live[name], self.history
        ids = [number for number in live if rng.random() < 0.9]
        kind = rng.choices(["c", "u", "d", "pk", "back", "t"], [30, 42, 12, 6, 8, 1.2])[0]
        base: Row = {"table": name, "kind": "change", "before": None, "after": None, "unknown": None, "key": None}
        if kind == "t":
            live.clear()
            return [base | {"op": "t"}]
        if kind == "back" and self.next_id > 3:
            number = rng.randrange(1, self.next_id)
            if number in live:
                kind = "u"
        else:
            number = self.next_id
        if kind in ("u", "d", "pk") and not ids:
            kind, number = "c", self.next_id
        if kind in ("c", "back") or TABLES[name] == "keyless":
            self.next_id = max(self.next_id, number + 1)
            row = self.new_row(name, number)
            live[number] = row
            return [base | {"op": "c", "key": self.key(name, number), "after": h.image(row.values)}]
        number = rng.choice(ids)
        row = live[number]
        gone: Row = {"op": "d", "key": self.key(name, number), "before": self.old(name, number, row, for_delete=True)}
        if kind == "d":
            del live[number]
            return [base | gone]
        if kind == "pk":
            new = self.next_id
            self.next_id += 1
            del live[number]
            live[new] = Live(row.values | {"id": value("n", str(new))})
            made = {"op": "c", "key": self.key(name, new), "after": h.image(live[new].values), "same_lsn": True}
            return [base | gone, base | made]
        before = self.old(name, number, row, for_delete=False)
        fresh = self.new_row(name, number).values
        large = row.values.get("large")
        unchanged = large is not None and rng.random() < 0.7
        after = {key: each for key, each in fresh.items() if key != "large"} | ({"large": large} if large else {})
        live[number] = Live(after)
        unknown = None
        shown = after
        if unchanged and TABLES[name] == "default":
            shown, unknown = after | {"large": "?"}, ["after.large: toast"]
        return [
            base
            | {"op": "u", "key": self.key(name, number), "before": before, "after": h.image(shown), "unknown": unknown}
        ]


def partition_of(row: Row, rng: random.Random) -> int:
    if row["key"] is None:
        return rng.randrange(PARTITIONS)
    return int.from_bytes(hashlib.md5(row["key"]).digest()[:4]) % PARTITIONS


def record(row: Row, rng: random.Random, lag: float) -> Row:
    made = copy.copy(row)
    made |= {
        "topic": f"shop.{row['table']}",
        "partition": partition_of(row, rng),
        "arrived_at": row["committed_at"] + timedelta(seconds=lag),
        "commit_lsn": row["commit_lsn"] if rng.random() < 0.5 else None,
    }
    return made


def history(seed: int, *, transactions: int | None = None, snapshot: bool | None = None) -> History:
    """A history without damage."""
    rng = random.Random(seed)
    h = History(rng, objects_of=rng.choice([4, 8, 16]))
    db = Database(h, rng)
    count = transactions or rng.randrange(25, 60)
    with_snapshot = rng.random() < 0.6 if snapshot is None else snapshot
    committed: list[Row] = []
    lag = rng.choice([0.2, 3.0, 400.0])
    h.begin_lsn = db.lsn - 100
    if with_snapshot:
        for _ in range(rng.randrange(4, 12)):
            committed.extend(db.transaction(size=rng.randrange(1, 5), interleave=False))
        db.lsn += 500
        h.snapshot_lsn = db.lsn
        db.lsn += 500
        for name, rows in db.live.items():
            for number, row in rows.items():
                read: Row = {
                    "table": name, "kind": "change", "op": "r", "key": db.key(name, number), "before": None,
                    "after": h.image(row.values), "unknown": None, "xid": None, "seq": None, "commit_lsn": None,
                    "lsn": h.snapshot_lsn, "committed_at": db.now,
                }  # fmt: skip
                h.log.append(record(read, rng, lag) | {"commit_lsn": None})
        if rng.random() < 0.5:  # the wal slot was opened after the snapshot
            committed.clear()
            h.begin_lsn = db.lsn
    before = len(committed)
    for number in range(count):
        committed.extend(db.transaction(size=rng.choice([1, 1, 2, 3, 8]), interleave=number > 0 and rng.random() < 0.3))
    h.wal = committed
    order = 0
    for change in committed[before:]:
        made = record(change, rng, lag)
        h.log.append(made)
        if rng.random() < 0.01:
            made["dead"] = True
        if rng.random() < 0.01:
            h.log.append(made | {"kind": "undecoded", "dead": True, "key": None})
        if change["op"] == "d" and change["key"] is not None and seed % 2:
            h.log.append(made | {"kind": "tombstone", "dead": False})
    for xid in dict.fromkeys(change["xid"] for change in committed[before:]):
        own = [change for change in committed if change["xid"] == xid]
        order += 2
        base = {"xid": xid, "partition": 0, "commit_lsn": own[0]["commit_lsn"], "committed_at": own[0]["committed_at"]}
        h.ends.append(base | {"status": "BEGIN", "event_count": None, "offset": order})
        h.ends.append(base | {"status": "END", "event_count": len(own), "offset": order + 1})
    h.lay_out()
    return h
