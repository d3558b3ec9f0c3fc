"""From decoded pgoutput to the rows of a ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cdcpipe.ledger.canonical import Modes, encode, family_of
from cdcpipe.ledger.catalogue import Column, Table
from cdcpipe.ledger.change import IMAGES, SCHEMA, TRANSACTIONS
from cdcpipe.ledger.columns import Cell, Engine, image_sql, literal, text_sql, unknown_sql
from cdcpipe.ledger.pgoutput import Chunk, Cursor, Message, Relation, Tuples

__all__ = ["RowBuilder", "plain_hashes", "widen", "widen_array", "widen_column"]

Ints = npt.NDArray[np.int64]


def widen(xid: int, xid_next: int) -> int:
    """A 32-bit transaction id with its epoch, when `xid_next` (64 bits) was the next one at that time or since."""
    full = (xid_next & ~0xFFFFFFFF) | (xid & 0xFFFFFFFF)
    return full - (1 << 32) if full > xid_next and full >= 1 << 32 else full


def widen_array(xids: Ints, xid_next: int) -> npt.NDArray[np.uint64]:
    """`widen` for many."""
    full = (xids & 0xFFFFFFFF) | (xid_next & ~0xFFFFFFFF)
    older = (full > xid_next) & (full >= 1 << 32)
    return np.where(older, full - (1 << 32), full).astype(np.uint64)


def widen_column(xids: pa.Array, xid_next: int) -> pa.Array:
    """`widen` for a column with nulls. Ids that are 64 bits already stay, and so do all when `xid_next` is 0."""
    values = np.asarray(pc.fill_null(xids, 0).to_numpy(zero_copy_only=False), np.int64)
    wide = values.astype(np.uint64)
    if xid_next:
        wide = np.where(values >> 32 > 0, wide, widen_array(values, xid_next))
    return pa.array(wide, mask=xids.is_null().to_numpy(zero_copy_only=False))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to read the rows of one relation."""

    table: Table
    captured: bool
    columns: tuple[Column, ...]
    unsupported: tuple[str, ...]
    key: frozenset[str]
    """Columns of the primary key; empty when the table has none."""
    key_in_old: bool
    """Whether an old row has the whole key."""


class RowBuilder:
    """Turns chunks into rows with the columns of a ledger. `describe` gives a relation's table from the catalogue."""

    def __init__(
        self,
        engine: Engine,
        modes: Modes,
        describe: Callable[[Relation], Table],
        *,
        captures: Callable[[str], bool] = lambda table: True,
        images: bool = False,
    ) -> None:
        self._engine = engine
        self._modes = modes
        self._describe = describe
        self._captures = captures
        self._images = images
        self._plans: dict[Relation, _Plan] = {}

    def build(self, chunk: Chunk, cursor: Cursor, xid_next: int) -> dict[str, pa.Table]:
        """The rows of `chunk` by table of the ledger. `cursor.seq` is moved on."""
        parts = [each for tuples in chunk.tuples if (each := self._row_changes(tuples)) is not None]
        images = [part.select(["after", "after_image", "before", "before_image"]) for part in parts if self._images]
        parts = [part.select(_PART.names) for part in parts]
        parts.append(self._truncates(chunk))
        parts.append(_messages(chunk.messages))
        rows = pa.concat_tables(parts)
        order = rows["i"].to_numpy() * 65_536 + rows["sub"].to_numpy()
        if (order[1:] < order[:-1]).any():
            rows = rows.take(pa.array(np.argsort(order, kind="stable")))
        changes, transactions = _place(rows, chunk, cursor, xid_next)
        built = {"changes": changes, "transactions": transactions}
        if images:
            built["images"] = _images(self._engine, pa.concat_tables(images))
        return built

    def _plan(self, relation: Relation) -> _Plan:
        known = self._plans.get(relation)
        if known is not None:
            return known
        table = self._describe(relation)
        columns = tuple(column for column in table.columns if family_of(column.type, self._modes))
        unsupported = tuple(
            f"{column.name}: unsupported {column.type}"
            for column in table.columns
            if not family_of(column.type, self._modes)
        )
        present = {column.name for column in columns}
        key = frozenset(table.key) if table.key and present.issuperset(table.key) else frozenset()
        plan = _Plan(
            table,
            self._captures(table.name),
            columns,
            unsupported,
            key,
            bool(key) and (table.identity == "full" or key <= set(table.identity_columns)),
        )
        self._plans[relation] = plan
        return plan

    def _row_changes(self, tuples: Tuples) -> pa.Table | None:
        plan = self._plan(tuples.relation)
        if not plan.captured:
            return None
        frame: dict[str, pa.Array] = {
            "i": pa.array(tuples.index),
            "op": pa.array(np.array(["c", "u", "d"])[_OPS[tuples.op]]),
            "hn": pa.array(tuples.has_new),
            "ho": pa.array(tuples.has_old),
        }
        sides = {"n": self._cells(plan, tuples, frame, "n"), "o": self._cells(plan, tuples, frame, "o")}
        payloads = ", ".join(f"{cell.payload} AS {alias}" for side in sides.values() for cell, alias in side)
        new, old = ([cell.at(alias) for cell, alias in side] for side in sides.values())
        toasts = ", ".join(cell.toast for cell in new if cell.toast)
        inner = ", ".join(filter(None, ["i", "op", "hn", "ho", toasts, payloads]))
        outer = ", ".join(
            [
                "i",
                "op",
                f"CASE WHEN hn THEN {image_sql(new)} END AS after_image",
                f"CASE WHEN ho THEN {image_sql(old)} END AS before_image",
                f"{self._key(plan, new)} AS key_new",
                f"CASE WHEN ho THEN {self._key(plan, old) if plan.key_in_old else 'NULL'} END AS key_old",
                f"{_unknown(plan, new)} AS unknown",
            ]
        )
        kept = ", after_image, before_image" if self._images else ""
        hashed = (
            f"SELECT i, op, md5_number(after_image) AS after, md5_number(before_image) AS before, key_new, key_old, "
            f"unknown{kept} FROM (SELECT {outer} FROM (SELECT {inner} FROM frame))"
        )
        return _split(self._engine, plain_hashes(self._engine.query(hashed, frame=pa.table(frame))), plan, kept)

    def _key(self, plan: _Plan, cells: Sequence[Cell]) -> str:
        return image_sql([cell for cell in cells if cell.name in plan.key]) if plan.key else "NULL::VARCHAR"

    def _cells(self, plan: _Plan, tuples: Tuples, frame: dict[str, pa.Array], side: str) -> list[tuple[Cell, str]]:
        """The cells of one side with the alias of their payload; their columns are put into `frame`."""
        arrays, present = (tuples.new, tuples.has_new) if side == "n" else (tuples.old, tuples.has_old)
        missing = int(len(present) - present.sum())
        cells: list[tuple[Cell, str]] = []
        if missing == len(present):
            return cells
        places = {column[0]: place for place, column in enumerate(tuples.relation.columns)}
        for column in plan.columns:
            place = places.get(column.name)
            if place is None or arrays[place].null_count == len(present):
                if side == "n" and place is not None and tuples.toast[place].any():
                    pass
                else:
                    continue
            label = f"{side}{place}"
            frame[label] = arrays[place]
            toast = None
            if side == "n" and tuples.toast[place].any():
                toast = f"t{place}"
                frame[toast] = pa.array(tuples.toast[place])
            family = family_of(column.type, self._modes)
            assert family is not None
            payload = text_sql(self._engine, label, column.type, self._modes)
            nullable = arrays[place].null_count > missing
            cells.append((Cell(column.name, family, payload, nullable, toast), f"p{label}"))
        return cells

    def _truncates(self, chunk: Chunk) -> pa.Table:
        found = [(each, self._plan(each.relation)) for each in chunk.truncates]
        return _rare([(each.index, each.place, plan.table.name, "t", None) for each, plan in found if plan.captured])


_OPS = np.zeros(256, np.int64)
_OPS[[ord("I"), ord("U"), ord("D")]] = [0, 1, 2]

_PART = pa.schema(
    [
        ("i", pa.int64()),
        ("sub", pa.int64()),
        ("table", pa.string()),
        ("op", pa.string()),
        ("key", pa.binary()),
        ("before", pa.binary(16)),
        ("after", pa.binary(16)),
        ("unknown", pa.list_(pa.string())),
    ]
)


def plain_hashes(table: pa.Table) -> pa.Table:
    """Hashes as plain 16 bytes: DuckDB hands out its 128-bit integers as an extension type."""
    for name in ("after", "before"):
        place = table.schema.get_field_index(name)
        if isinstance(table.schema.field(place).type, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in table.column(place).chunks]
            table = table.set_column(place, name, pa.chunked_array(chunks, pa.binary(16)))
    return table


def _unknown(plan: _Plan, new: Sequence[Cell]) -> str:
    entries = [(cell.toast, f"after.{cell.name}: toast") for cell in new if cell.toast]
    entries += [("hn", f"after.{text}") for text in plan.unsupported]
    entries += [("ho", f"before.{text}") for text in plan.unsupported]
    return unknown_sql(entries)


def _split(engine: Engine, rows: pa.Table, plan: _Plan, kept: str) -> pa.Table:
    """As Debezium publishes it: an update that changes the key is a delete and a create."""
    changed = "op = 'u' AND key_old IS NOT NULL AND key_new <> key_old"
    one_side = "nullif(list_filter(unknown, lambda e: starts_with(e, '{}')), []::VARCHAR[])"
    columns = f'{literal(plan.table.name)} AS "table"'
    sql = f"""
        SELECT i, 0::BIGINT AS sub, {columns}, op, CASE op WHEN 'd' THEN key_old ELSE key_new END AS key,
               before, after, unknown{kept} FROM rows WHERE NOT coalesce({changed}, false)
        UNION ALL SELECT i, 0, {columns}, 'd', key_old, before, NULL, {one_side.format("before.")}{kept}
        FROM rows WHERE {changed}
        UNION ALL SELECT i, 1, {columns}, 'c', key_new, NULL, after, {one_side.format("after.")}{kept}
        FROM rows WHERE {changed}
    """
    split = engine.query(sql, rows=rows)
    names = [*_PART.names, *(["after_image", "before_image"] if kept else [])]
    split = split.select(names)
    fields = [*_PART, *([pa.field("after_image", pa.string()), pa.field("before_image", pa.string())] if kept else [])]
    return split.cast(pa.schema(fields))


def _rare(rows: list[tuple[int, int, str, str, bytes | None]]) -> pa.Table:
    """Rows without key: (message, place in it, table, op, hash)."""
    columns: dict[str, list[object]] = {name: [] for name in _PART.names}
    for index, sub, table, op, after in rows:
        for name, value in zip(_PART.names, (index, sub, table, op, None, None, after, None), strict=True):
            columns[name].append(value)
    return pa.table(columns, _PART)


def _messages(messages: Sequence[Message]) -> pa.Table:
    rows: list[tuple[int, int, str, str, bytes | None]] = []
    for each in messages:
        image = encode("s", each.prefix) + encode("y", each.content.hex())
        digest = hashlib.md5(image.encode(), usedforsecurity=False).digest()
        rows.append((each.index, 0, "", "m", digest))
    return _rare(rows)


def _place(rows: pa.Table, chunk: Chunk, cursor: Cursor, xid_next: int) -> tuple[pa.Table, pa.Table]:
    """Give each row its transaction and its place there; count the transactions that ended."""
    index = rows["i"].to_numpy()
    count = len(index)
    transaction = chunk.transaction[index]
    loose = {each.index for each in chunk.messages if not each.transactional}
    # Debezium counts transactional messages too; others belong to no transaction.
    no_xid = np.fromiter((int(i) in loose for i in index), bool, count) if loose else np.zeros(count, bool)
    counted = ~no_xid
    running = np.cumsum(counted)
    # Rows before the first of each transaction: what to take off the running count.
    total = int(chunk.transaction[-1]) + 1 if len(chunk.transaction) else 1
    per = np.bincount(transaction[counted], minlength=total)
    carried = np.zeros(total, np.int64)
    carried[0] = cursor.seq
    offset = np.concatenate(([0], np.cumsum(per)[:-1])) - carried
    seq = running - offset[transaction]
    per = per + carried
    xid = widen_array(chunk.xid[index], xid_next)
    lsn = chunk.lsn[index]
    nothing = pa.nulls(count)
    changes = pa.table(
        {
            "table": rows["table"],
            "xid": pa.array(xid, mask=no_xid),
            "seq": pa.array(seq, mask=no_xid),
            "commit_lsn": pa.array(chunk.commit_lsn[index], mask=no_xid),
            "lsn": pa.array(lsn),
            "op": rows["op"],
            "key": rows["key"],
            "before": rows["before"],
            "after": rows["after"],
            "topic": nothing.cast(pa.string()),
            "partition": nothing.cast(pa.int32()),
            "offset": nothing.cast(pa.int64()),
            "object": nothing.cast(pa.string()),
            "committed_at": pa.array(chunk.committed_at[index], pa.timestamp("us", "UTC"), mask=no_xid),
            "unknown": rows["unknown"],
        }
    ).cast(SCHEMA)
    ended = chunk.commits[per[chunk.commits] > 0]
    # Any message of a transaction tells its xid and commit.
    first = np.searchsorted(chunk.transaction, ended)
    transactions = pa.table(
        {
            "xid": pa.array(widen_array(chunk.xid[first], xid_next)),
            "event_count": pa.array(per[ended]),
            "status": pa.array(["END"] * len(ended), pa.string()),
            "commit_lsn": pa.array(chunk.commit_lsn[first]),
            "partition": pa.nulls(len(ended), pa.int32()),
            "offset": pa.nulls(len(ended), pa.int64()),
            "committed_at": pa.array(chunk.committed_at[first], pa.timestamp("us", "UTC")),
        }
    ).cast(TRANSACTIONS)
    cursor.seq = int(per[-1]) if cursor.open else 0
    return changes, transactions


def _images(engine: Engine, parts: pa.Table) -> pa.Table:
    sql = """
        SELECT DISTINCT hash, image FROM (
          SELECT after AS hash, after_image AS image FROM parts UNION ALL SELECT before, before_image FROM parts)
        WHERE hash IS NOT NULL AND image IS NOT NULL
    """
    return engine.query(sql, parts=parts).cast(IMAGES)
