"""pgoutput, protocol version 1, decoded a chunk at a time.

A chunk is many messages in one buffer. Only what is rare (relations, truncates, logical messages) is read one by one;
begin, commit, insert, update and delete are read for all messages at once, a column at a time, by NumPy over the
buffer. Column values are never copied: they become Arrow string views into it.

https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cdcpipe.errors import EvidenceError

__all__ = ["Chunk", "Cursor", "Message", "Relation", "Truncate", "Tuples", "decode"]

Ints = npt.NDArray[np.int64]

PG_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970-01-01."""

_PADDING: Final = b"\0" * 64
_INLINE: Final = 12
"""A string view of up to this many bytes holds them itself."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as a Relation message describes it: `columns` are (name, type OID, typmod, part of the identity)."""

    oid: int
    table: str
    identity: str
    columns: tuple[tuple[str, int, int, bool], ...]


@dataclass(frozen=True, slots=True)
class Truncate:
    """One table of a Truncate message."""

    index: int
    place: int
    relation: Relation


@dataclass(frozen=True, slots=True)
class Message:
    """A logical decoding message (pg_logical_emit_message)."""

    index: int
    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Tuples:
    """All row changes of one relation in a chunk. `index` is each message's place in the chunk.

    `new` and `old` have a column of Arrow string views each, null where the value is null or not sent. `toast` says
    which of the new values are unchanged TOAST (after REPLICA IDENTITY FULL has filled in what the old row knows).
    """

    relation: Relation
    index: Ints
    op: npt.NDArray[np.uint8]
    has_new: npt.NDArray[np.bool_]
    has_old: npt.NDArray[np.bool_]
    new: list[pa.Array]
    old: list[pa.Array]
    toast: list[npt.NDArray[np.bool_]]


@dataclass(slots=True)
class Cursor:
    """What is carried from chunk to chunk: the open transaction and the relations seen in this session."""

    xid: int = 0
    commit_lsn: int = 0
    committed_at: int = 0
    seq: int = 0
    """Captured changes of the open transaction so far."""
    open: bool = False
    end_lsn: int = 0
    """End of the last commit seen."""
    relations: dict[int, Relation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A decoded chunk. Arrays have one entry a message; `transaction` numbers the transactions of the chunk from 0,
    where 0 is the one that was open at its beginning.
    """

    lsn: npt.NDArray[np.uint64]
    transaction: Ints
    xid: Ints
    commit_lsn: npt.NDArray[np.uint64]
    committed_at: Ints
    commits: Ints
    """Transactions that ended here."""
    tuples: list[Tuples]
    truncates: list[Truncate]
    messages: list[Message]


class _Buffer:
    """The bytes of a chunk, with unaligned big-endian integers at any position."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.bytes = b"".join([*messages, _PADDING])
        self.u8 = np.frombuffer(self.bytes, np.uint8)
        size = len(self.bytes)
        # Views of every position, one byte apart: NumPy reads unaligned integers.
        self._i16 = np.ndarray((size - 1,), ">i2", self.bytes, 0, (1,))
        self._i32 = np.ndarray((size - 3,), ">i4", self.bytes, 0, (1,))
        self._i64 = np.ndarray((size - 7,), ">i8", self.bytes, 0, (1,))
        self._u32 = np.ndarray((size - 3,), "<u4", self.bytes, 0, (1,))
        self._u64 = np.ndarray((size - 7,), "<u8", self.bytes, 0, (1,))
        self.arrow = pa.py_buffer(self.bytes)

    def i16(self, at: Ints) -> Ints:
        return self._i16[at].astype(np.int64)

    def i32(self, at: Ints) -> Ints:
        return self._i32[at].astype(np.int64)

    def i64(self, at: Ints) -> Ints:
        return self._i64[at].astype(np.int64)

    def strings(self, at: Ints, length: Ints, valid: npt.NDArray[np.bool_]) -> pa.Array:
        """Arrow string views of the bytes [at, at + length): 16 bytes each, which hold a short value themselves.

        Layout: length (4 bytes), then up to 12 bytes of the value; or its first 4 bytes, buffer, offset.
        """
        count = len(at)
        whole = bool(valid.all())
        if not whole:
            length = np.where(valid, length, 0)
        long = length > _INLINE
        views = np.empty((count, 2), "<u8")
        # Bytes beyond the value must be zero: views are compared as they are.
        first = self._u32[at].astype(np.uint64) & _MASKS[np.minimum(length, 4)]
        views[:, 0] = length.astype(np.uint64) | (first << np.uint64(32))
        if long.all():
            views[:, 1] = at.astype(np.uint64) << np.uint64(32)
        else:
            views[:, 1] = self._u64[at + 4] & _MASKS[np.clip(length - 4, 0, 8)]
            if long.any():
                views[long, 1] = at[long].astype(np.uint64) << np.uint64(32)
        bitmap = None if whole else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
        nulls = 0 if whole else int(count - valid.sum())
        return pa.Array.from_buffers(pa.string_view(), count, [bitmap, pa.py_buffer(views), self.arrow], nulls)


_MASKS: Final = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


def _text(raw: bytes, at: int) -> tuple[str, int]:
    end = raw.index(b"\0", at)
    return raw[at:end].decode(), end + 1


def _relation(raw: bytes) -> Relation:
    (oid,) = struct.unpack_from(">I", raw, 1)
    schema, at = _text(raw, 5)
    table, at = _text(raw, at)
    identity = chr(raw[at])
    (count,) = struct.unpack_from(">h", raw, at + 1)
    at += 3
    columns: list[tuple[str, int, int, bool]] = []
    for _ in range(count):
        flags = raw[at]
        column, at = _text(raw, at + 1)
        type_oid, typmod = struct.unpack_from(">Ii", raw, at)
        at += 8
        columns.append((column, type_oid, typmod, bool(flags & 1)))
    return Relation(oid, f"{schema or 'pg_catalog'}.{table}", identity, tuple(columns))


def _message(raw: bytes, index: int) -> Message:
    flags, lsn = struct.unpack_from(">BQ", raw, 1)
    prefix, at = _text(raw, 10)
    (length,) = struct.unpack_from(">i", raw, at)
    return Message(index, bool(flags & 1), lsn, prefix, raw[at + 4 : at + 4 + length])


def decode(messages: Sequence[bytes], lsns: bytes, cursor: Cursor) -> Chunk:
    """Decode `messages` (in the order of the stream), with their LSNs as 8 big-endian bytes each.

    `cursor` is moved on to the end of the chunk, but for `seq`: the caller counts what is captured. EvidenceError for
    a message that protocol version 1 doesn't have, or a row of a relation that was never described.
    """
    buffer = _Buffer(messages)
    lengths = np.fromiter(map(len, messages), np.int64, len(messages))
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    kinds = buffer.u8[starts]
    transaction, xid, commit_lsn, committed_at = _transactions(buffer, starts, kinds, cursor)
    commits = np.flatnonzero(kinds == ord("C"))
    if len(commits):
        cursor.end_lsn = int(buffer.i64(starts[commits[-1:]] + 10)[0])
    described, versions = _relations(messages, np.flatnonzero(kinds == ord("R")), cursor)
    _refuse_unknown(kinds)
    return Chunk(
        np.frombuffer(lsns, ">u8").astype(np.uint64),
        transaction,
        xid,
        commit_lsn,
        committed_at,
        transaction[commits],
        _tuples(buffer, starts, kinds, described, versions),
        [
            each
            for index in np.flatnonzero(kinds == ord("T")).tolist()
            for each in _truncates(messages[index], index, versions, described)
        ],
        [_message(messages[index], index) for index in np.flatnonzero(kinds == ord("M")).tolist()],
    )


def _refuse_unknown(kinds: npt.NDArray[np.uint8]) -> None:
    unknown = set(np.unique(kinds).tolist()) - set(b"BCORYIUDTM")
    if unknown:
        raise EvidenceError(f"pgoutput sent messages of unknown type {sorted(map(chr, unknown))}")


def _transactions(
    buffer: _Buffer, starts: Ints, kinds: npt.NDArray[np.uint8], cursor: Cursor
) -> tuple[Ints, Ints, npt.NDArray[np.uint64], Ints]:
    begins = starts[kinds == ord("B")]
    number = np.cumsum(kinds == ord("B"))
    final = np.concatenate(([cursor.commit_lsn], buffer.i64(begins + 1)))
    stamp = np.concatenate(([cursor.committed_at], buffer.i64(begins + 9) + PG_EPOCH_US))
    xids = np.concatenate(([cursor.xid], buffer.i32(begins + 17) & 0xFFFFFFFF))
    cursor.commit_lsn, cursor.committed_at, cursor.xid = int(final[-1]), int(stamp[-1]), int(xids[-1])
    ends = np.flatnonzero((kinds == ord("B")) | (kinds == ord("C")))
    if len(ends):
        cursor.open = bool(kinds[ends[-1]] == ord("B"))
    return number, xids[number], final[number].astype(np.uint64), stamp[number]


_Versions = dict[int, list[tuple[int, Relation]]]


def _relations(messages: Sequence[bytes], indices: Ints, cursor: Cursor) -> tuple[dict[int, Relation], _Versions]:
    """The relations known before the chunk, and by OID what the chunk says of them and where."""
    before = dict(cursor.relations)
    versions: _Versions = {}
    for index in indices.tolist():
        relation = _relation(messages[index])
        # One object for each version, so that its rows are decoded together.
        if cursor.relations.get(relation.oid) == relation:
            relation = cursor.relations[relation.oid]
        cursor.relations[relation.oid] = relation
        versions.setdefault(relation.oid, []).append((index, relation))
    return before, versions


def _at(index: int, oid: int, versions: _Versions, before: dict[int, Relation]) -> Relation:
    said = [relation for place, relation in versions.get(oid, []) if place < index]
    relation = said[-1] if said else before.get(oid)
    if relation is None:
        raise EvidenceError(f"the WAL has a change of relation {oid}, which was never described")
    return relation


def _truncates(raw: bytes, index: int, versions: _Versions, before: dict[int, Relation]) -> list[Truncate]:
    count, _options = struct.unpack_from(">iB", raw, 1)
    oids = struct.unpack_from(f">{count}I", raw, 6)
    return [Truncate(index, place, _at(index, oid, versions, before)) for place, oid in enumerate(oids)]


def _tuples(
    buffer: _Buffer,
    starts: Ints,
    kinds: npt.NDArray[np.uint8],
    before: dict[int, Relation],
    versions: _Versions,
) -> list[Tuples]:
    rows = np.flatnonzero((kinds == ord("I")) | (kinds == ord("U")) | (kinds == ord("D")))
    if not len(rows):
        return []
    oids = buffer.i32(starts[rows] + 1) & 0xFFFFFFFF
    groups: dict[int, tuple[Relation, list[Ints]]] = {}
    for oid in np.unique(oids).tolist():
        mine = rows[oids == oid]
        said = versions.get(oid, [])
        places = np.searchsorted(np.array([place for place, _ in said], np.int64), mine)
        for place in np.unique(places).tolist():
            relation = said[place - 1][1] if place else before.get(oid)
            if relation is None:
                raise EvidenceError(f"the WAL has a change of relation {oid}, which was never described")
            groups.setdefault(id(relation), (relation, []))[1].append(mine[places == place])
    return [_rows(buffer, relation, np.concatenate(parts), starts, kinds) for relation, parts in groups.values()]


def _rows(buffer: _Buffer, relation: Relation, index: Ints, starts: Ints, kinds: npt.NDArray[np.uint8]) -> Tuples:
    op = kinds[index]
    at = starts[index] + 5
    tag = buffer.u8[at]
    has_old = (tag == ord("K")) | (tag == ord("O"))
    has_new = op != ord("D")
    old = _walk(buffer, at + 1, has_old, relation)
    new = _walk(buffer, np.where(has_old, old.end, at) + 1, has_new, relation)
    absent = np.zeros(len(index), bool)
    nothing = pa.nulls(len(index), pa.string_view())
    columns: tuple[list[pa.Array], list[pa.Array], list[npt.NDArray[np.bool_]]] = ([], [], [])
    for column in range(len(relation.columns)):
        unchanged = absent
        if new.cells:
            position, length, kind = new.cells[column]
            valid = kind == ord("t")
            if (kind == ord("u")).any():
                unchanged = kind == ord("u")
                if old.cells:
                    # REPLICA IDENTITY FULL: the old row has the value. Debezium takes it from there too.
                    known = unchanged & (tag == ord("O")) & (old.cells[column][2] == ord("t"))
                    position = np.where(known, old.cells[column][0], position)
                    length = np.where(known, old.cells[column][1], length)
                    valid = valid | known
                    unchanged = unchanged & ~known
            columns[0].append(buffer.strings(position, length, valid))
        else:
            columns[0].append(nothing)
        if old.cells:
            position, length, kind = old.cells[column]
            columns[1].append(buffer.strings(position, length, kind == ord("t")))
        else:
            columns[1].append(nothing)
        columns[2].append(unchanged)
    return Tuples(relation, index, op, has_new, has_old, *columns)


@dataclass(frozen=True, slots=True)
class _Walk:
    """Of each column, its values' positions, lengths and kinds, where no tuple is the kind is 0; and where tuples end.

    No cells when no message has such a tuple.
    """

    cells: list[tuple[Ints, Ints, npt.NDArray[np.uint8]]]
    end: Ints


def _walk(buffer: _Buffer, at: Ints, present: npt.NDArray[np.bool_], relation: Relation) -> _Walk:
    """Go through the tuples at `at`, a column at a time."""
    if not present.any():
        return _Walk([], at)
    whole = bool(present.all())
    if not whole:
        at = np.where(present, at, 0)
    if (buffer.i16(at)[present] != len(relation.columns)).any():
        raise EvidenceError(
            f"a row of {relation.table} does not have the {len(relation.columns)} columns that were described"
        )
    cells: list[tuple[Ints, Ints, npt.NDArray[np.uint8]]] = []
    last = len(buffer.u8) - len(_PADDING) // 2
    position = at + 2
    for _ in relation.columns:
        if not whole:
            # Without a tuple this walks through other bytes: it must stay in the buffer, and nothing is taken of it.
            position = np.clip(position, 0, last)
        kind = buffer.u8[position]
        if not whole:
            kind = np.where(present, kind, 0).astype(np.uint8)
        length = buffer.i32(position + 1)
        value = kind == ord("t")
        if value.all():
            cells.append((position + 5, length, kind))
            position = position + 5 + length
        else:
            length = np.where(value, length, 0)
            cells.append((position + 5, length, kind))
            position = position + 1 + np.where(value, 4 + length, 0)
    return _Walk(cells, position)
