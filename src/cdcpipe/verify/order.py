"""Order: the log tells each key's story in the order in which it happened."""

from __future__ import annotations

from typing import Final

from cdcpipe.verify.case import Case
from cdcpipe.verify.check import Check

__all__ = ["CHECKS"]


def _no_snapshot(case: Case) -> str | None:
    return None if case.totals.read else "no snapshot rows: nothing was handed over"


def _keyed(case: Case) -> int:
    return case.totals.streamed - case.totals.keyless + case.totals.read


def _no_keys(case: Case) -> str | None:
    if case.totals.streamed and not _keyed(case):
        return "no captured table has a key"
    return None


CHECKS: Final = (
    Check(
        name="key-inversion",
        group="order",
        claim="Within a partition, no change of a key comes before an earlier change of that key.",
        not_proven="Order between keys of different partitions, which Kafka does not keep.",
        stage="order",
        needs=("later",),
        looked_at=_keyed,
        applies=_no_keys,
    ),
    Check(
        name="commit-inversion",
        group="order",
        claim="Within a partition, changes come in the order of their commits, and within a transaction in its own.",
        not_proven="That commits became visible in PostgreSQL in the order of their LSNs; they need not.",
        stage="order",
        needs=("later",),
    ),
    Check(
        name="key-gap",
        group="order",
        claim="Each change of a key continues the one before: its old row is the previous new row (where the table has "
        "REPLICA IDENTITY FULL), nothing is created twice or changed after its deletion.",
        not_proven="Lost updates of tables without REPLICA IDENTITY FULL; images with unchanged TOAST values.",
        stage="chain",
        needs=("later",),
        looked_at=_keyed,
        applies=_no_keys,
    ),
    Check(
        name="key-split",
        group="order",
        claim="All changes of a key lie in one partition.",
        not_proven="That the partition is the one Kafka's partitioner would choose today.",
        stage="chain",
        needs=("later",),
        looked_at=_keyed,
        applies=_no_keys,
    ),
    Check(
        name="pk-change-orphan",
        place="source",
        group="order",
        claim="Of a changed primary key, the delete of the old key and the create of the new one are both in the log.",
        not_proven="Without a wal ledger, nothing: a delete and a create look like any other.",
        stage="source",
        needs=("wal", "later"),
        absent_in="later",
        looked_at=lambda case: case.totals.expected,
    ),
    Check(
        name="stale-overwrite",
        group="order",
        claim="No key ends in an older state because of a repeated change or a late snapshot row.",
        not_proven="Repetitions that a newer change follows; those are `duplicate-change`.",
        stage="chain",
        needs=("later",),
        looked_at=_keyed,
        applies=_no_keys,
    ),
    Check(
        name="resurrection",
        group="order",
        claim="No deleted key comes back because of a repeated change or a late snapshot row.",
        not_proven="Keys that were truncated away: a truncate has no place among the keys of other partitions.",
        stage="chain",
        needs=("later",),
        looked_at=_keyed,
        applies=_no_keys,
    ),
    Check(
        name="handoff-gap",
        group="order",
        claim="Nothing is lost between a snapshot and the stream that follows it.",
        not_proven="Without a wal ledger: keys that never changed again, and tables without full old rows.",
        stage="chain",
        needs=("later",),
        looked_at=lambda case: case.totals.read,
        applies=_no_snapshot,
    ),
    Check(
        name="handoff-overlap",
        group="order",
        claim="No row is read twice by a snapshot, and no change that the snapshot had seen is streamed again.",
        not_proven="Snapshots that were declared (`resnapshots`).",
        stage="chain",
        needs=("later",),
        looked_at=lambda case: case.totals.read,
        applies=_no_snapshot,
    ),
)
