"""A ledger: one row a change, the same columns wherever the change was seen.

Three ledgers are written of one pipeline: `wal` (what PostgreSQL committed, read through our own slot), `log`
(what the Kafka topics hold) and `archive` (what the Parquet files hold). `cdcpipe.verify` compares them.

**Identity.** A change is `(xid, seq)`: the transaction, and the place within it counting captured tables only,
as Debezium's `transaction.total_order` does (from 1). A record is `(topic, partition, offset)`. An LSN alone is
no identity: the rows of one COPY share it. Snapshot rows (`op` = `r`) have neither `seq` nor `commit_lsn`.

**A changed primary key** is two changes in all three ledgers, `d` of the old key then `c` of the new one, each with
its own `seq`: that is what Debezium publishes.

**Images.** `before` and `after` are MD5 of the row image in canonical form (see `canonical`). Two images are equal
only if they make the same claims. A column that is null is not part of the image, so a column that doesn't exist
(an older file, an older schema) equals a null. Where the table's REPLICA IDENTITY is not FULL, `before` covers the
identity's columns only; it is null where PostgreSQL sends none.

**`unknown`** names the columns of the image that could not be compared, `before.` or `after.` first:
- `after.note: toast`: an unchanged TOAST value, which the WAL does not hold. It is in the image as a marker, so it
  equals the same marker and never a value. Log against wal, `after` equal: the same claim. Not equal, and `unknown`
  names a column in one ledger but not in the other: a `toast-hole`.
- `after.area: unsupported polygon[]`: a type without a canonical form. It is left out of the image on both
  sides: equal images say nothing about that column. A check that passes should report these columns.

**On disk** a ledger is a folder:

    runs/<name>/<time>/ledgers/log/
      manifest.json               what was read, and whether that is all of it; written last
      changes/000000.parquet      SCHEMA
      transactions/000000.parquet TRANSACTIONS, from the transaction topic (log) or from COMMIT (wal)
      tombstones/…  dead_letters/…  undecoded/…  images/…  objects/…

A folder without a manifest is a ledger that was not finished: `Ledger.open` raises EvidenceError.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import pyarrow as pa

__all__ = [
    "DEAD_LETTERS",
    "IMAGES",
    "OBJECTS",
    "SCHEMA",
    "SIDE_TABLES",
    "TOMBSTONES",
    "TRANSACTIONS",
    "UNDECODED",
    "Op",
    "empty",
]


class Op(StrEnum):
    """What a change did, in Debezium's letters."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"
    READ = "r"
    MESSAGE = "m"


_TIME: Final = pa.timestamp("us", "UTC")
_HASH: Final = pa.binary(16)

SCHEMA: Final[pa.Schema] = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),  # schema.table; "" for a logical message
        pa.field("xid", pa.uint64()),  # widened with the epoch
        pa.field("seq", pa.int64()),  # from 1, within the transaction
        pa.field("commit_lsn", pa.uint64()),  # LSN of the commit record; null where the source doesn't say
        pa.field("lsn", pa.uint64()),  # LSN of the change
        pa.field("op", pa.string(), nullable=False),
        pa.field("key", pa.binary()),  # canonical bytes of the primary key; null without one, and for t, m
        pa.field("before", _HASH),
        pa.field("after", _HASH),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("object", pa.string()),  # object key or URI of the Parquet file
        pa.field("committed_at", _TIME),
        pa.field("unknown", pa.list_(pa.string())),  # null when every column could be compared
    ]
)
"""The columns of `changes`. For a logical message, `after` is the hash of prefix and content."""

TRANSACTIONS: Final[pa.Schema] = pa.schema(
    [
        pa.field("xid", pa.uint64(), nullable=False),
        pa.field("event_count", pa.int64()),  # changes of captured tables; null in a BEGIN record
        pa.field("status", pa.string(), nullable=False),  # BEGIN or END (log), END only (wal)
        pa.field("commit_lsn", pa.uint64()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("committed_at", _TIME),
    ]
)
"""Transactions as their source announced them; wal: transactions with at least one captured change."""

TOMBSTONES: Final[pa.Schema] = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
    ]
)
"""Records with a key and no value. They hold an offset and no change."""

UNDECODED: Final[pa.Schema] = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Records of captured topics that are not a change: poison, or written with a schema that is gone."""

DEAD_LETTERS: Final[pa.Schema] = pa.schema(
    [
        pa.field("topic", pa.string()),  # where the record came from: the context headers; null without them
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("connector", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("exception", pa.string()),  # class
        pa.field("message", pa.string()),
        pa.field("dlq_topic", pa.string(), nullable=False),
        pa.field("dlq_partition", pa.int32(), nullable=False),
        pa.field("dlq_offset", pa.int64(), nullable=False),
    ]
)
"""The dead letter queue."""

IMAGES: Final[pa.Schema] = pa.schema(
    [pa.field("hash", _HASH, nullable=False), pa.field("image", pa.string(), nullable=False)]
)
"""Row images in canonical form by their hash; only when a ledger was written with `images=True`."""

OBJECTS: Final[pa.Schema] = pa.schema(
    [
        pa.field("object", pa.string(), nullable=False),
        pa.field("topic", pa.string()),
        pa.field("hour", _TIME),  # beginning of the hour (or day) that its folder names; null when it names none
        pa.field("event_time_min", _TIME),  # of the records in it, by the Kafka record's timestamp
        pa.field("event_time_max", _TIME),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("partition", pa.int32()),  # of its first row, as is the offset
        pa.field("first_offset", pa.int64()),
        pa.field("columns", pa.map_(pa.string(), pa.string())),  # dotted path -> type as Arrow names it
    ]
)
"""The archive's files. A row whose time lies outside its folder's hour is filed wrongly."""

SIDE_TABLES: Final[dict[str, pa.Schema]] = {
    "transactions": TRANSACTIONS,
    "tombstones": TOMBSTONES,
    "undecoded": UNDECODED,
    "dead_letters": DEAD_LETTERS,
    "images": IMAGES,
    "objects": OBJECTS,
}


def empty() -> pa.Table:
    """A ledger without changes."""
    return SCHEMA.empty_table()
