"""The relations that checks speak about, as unbound Ibis tables, and the few functions SQL has no name for.

Every expression in this package is made of these, so it compiles to DuckDB (which runs it here, out of core) and to
Spark SQL (for an archive that outgrew a machine). A back end has to supply three macros: `digest_change`,
`digest_record` (a 64-bit hash of all that is compared) and `digest_key`; see `Engine` for DuckDB's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import ibis

__all__ = [
    "ARCHIVE",
    "BOUNDS",
    "DEAD_LETTERS",
    "FILTERED",
    "FINDING",
    "FINDINGS",
    "LOG",
    "OBJECT_HOURS",
    "OBJECT_TIMES",
    "PARTITIONS",
    "SKIPPED",
    "TABLES",
    "TOMBSTONES",
    "TRANSACTIONS",
    "UNDECODED",
    "WAL",
    "bit_xor",
    "digest_change",
    "digest_key",
    "digest_record",
    "finding",
    "saved",
    "toast",
]

Expr = Any
"""An Ibis expression; Ibis has no types of its own for mypy."""

CHANGE: Final[dict[str, str]] = {
    "table": "string",
    "xid": "int64",
    "seq": "int64",
    "commit_lsn": "int64",
    "lsn": "int64",
    "op": "string",
    "key": "binary",
    "before": "binary",
    "after": "binary",
    "topic": "string",
    "partition": "int32",
    "offset": "int64",
    "object": "string",
    "committed_at": "int64",
    "unknown": "array<string>",
}
"""A ledger's columns. 64-bit unsigned figures are signed here: Spark has no others, and no LSN or xid comes near 2^63.
Times are microseconds since 1970 UTC."""

WAL: Final = ibis.table(CHANGE, name="wal")
LOG: Final = ibis.table(CHANGE, name="log")
ARCHIVE: Final = ibis.table(CHANGE, name="archive")

_RECORD: Final = {"topic": "string", "partition": "int32", "offset": "int64"}
DEAD_LETTERS: Final = ibis.table({**_RECORD, "stage": "string", "exception": "string"}, name="dead_letters")
TOMBSTONES: Final = ibis.table(_RECORD, name="tombstones")
UNDECODED: Final = ibis.table({**_RECORD, "reason": "string"}, name="undecoded")
TRANSACTIONS: Final = ibis.table(
    {"xid": "int64", "event_count": "int64", "status": "string", "offset": "int64"}, name="transactions"
)

BOUNDS: Final = ibis.table({"begin_lsn": "int64", "end_lsn": "int64", "through": "int64"}, name="bounds")
"""One row. What the wal ledger covers, and the commit LSN up to which the pipeline has settled. Null: no bound."""
PARTITIONS: Final = ibis.table(
    {"topic": "string", "partition": "int32", "begin": "int64", "end": "int64", "settled": "int64"}, name="partitions"
)
"""What the log ledger covers, and the offset before which the sink has settled. Without a row: no bound."""
SKIPPED: Final = ibis.table({"op": "string"}, name="skipped")
"""Operations that the source connector is told not to publish."""
FILTERED: Final = ibis.table({"table": "string"}, name="filtered")
"""Tables that the sink is told not to archive."""
TABLES: Final = ibis.table({"table": "string", "full": "boolean"}, name="tables")
"""Whether `before` is the whole row (REPLICA IDENTITY FULL)."""
OBJECT_HOURS: Final = ibis.table(
    {"object": "string", "folder": "string", "begins": "int64", "ends": "int64"}, name="object_hours"
)
"""The hour (or day) that an object's path promises; null where it promises none."""
OBJECT_TIMES: Final = ibis.table(
    {"object": "string", "topic": "string", "event_time_min": "int64", "event_time_max": "int64", "rows": "int64"},
    name="object_times",
)
"""The times of the records in an object, where the archive ledger has read them."""

FINDING: Final[dict[str, str]] = {
    "name": "string",
    "place": "string",
    "cause": "string",
    "repeat": "string",  # `identical` or `differs`: a repetition, which a level may allow
    "note": "string",
    **{name: kind for name, kind in CHANGE.items() if name not in ("before", "after", "unknown")},
    "expected_before": "binary",
    "expected_after": "binary",
    "found_before": "binary",
    "found_after": "binary",
}
"""What every classification ends in: one row a finding."""
FINDINGS: Final = ibis.table(FINDING, name="findings")
"""All that was found so far."""


def _declare(module: Any, name: str, *kinds: str) -> Callable[..., Expr]:
    """A function that the back end has: `kinds` of its arguments; it gives an int64."""

    def one(a: Any) -> Any: ...
    def two(a: Any, b: Any) -> Any: ...
    def four(a: Any, b: Any, c: Any, d: Any) -> Any: ...
    def seven(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any) -> Any: ...

    shape = {1: one, 2: two, 4: four, 7: seven}[len(kinds)]
    declared: Callable[..., Expr] = module.builtin(shape, name=name, signature=(kinds, "int64"))
    return declared


digest_change: Final = _declare(
    ibis.udf.scalar, "digest_change", "string", "int64", "int64", "string", "binary", "binary", "binary"
)
"""64 bits of a change as its source made it."""
digest_record: Final = _declare(ibis.udf.scalar, "digest_record", "string", "int32", "int64", "int64")
"""64 bits of a change and of its place in the log."""
digest_key: Final = _declare(ibis.udf.scalar, "digest_key", "string", "binary")
"""64 bits of a table and a key."""
bit_xor: Final = _declare(ibis.udf.agg, "bit_xor", "int64")
"""Exclusive or of a group. With the count it tells two groups of distinct digests apart."""


def change_digest(t: Expr) -> Expr:
    """Of a row of a ledger."""
    return digest_change(t["table"], t["xid"], t["seq"], t["op"], t["key"], t["before"], t["after"])


def record_digest(t: Expr) -> Expr:
    """Of a row of a ledger, its place in the log included."""
    return digest_record(t["topic"], t["partition"], t["offset"], change_digest(t))


def finding(t: Expr, name: str | Expr, **values: Any) -> Expr:
    """The rows of `t` as findings: columns of the same name are taken, `values` override them, the rest is null."""
    values = {"name": name, **values}
    columns = {}
    for column, kind in FINDING.items():
        value = values.get(column, t[column] if column in t.columns else ibis.null())
        if isinstance(value, str):
            value = ibis.literal(value)
        columns[column] = value.cast(kind)
    return t.select(**columns)


def toast(unknown: Expr) -> Expr:
    """Whether the image holds an unchanged TOAST value as a marker."""
    return unknown.join(",").contains(": toast").fill_null(False)


@cache
def saved(name: str, relation: Callable[..., Expr], *arguments: Any) -> Expr:
    """The table that `Engine.save(name, relation, *arguments)` made."""
    return ibis.table(relation(*arguments).schema(), name=name)
