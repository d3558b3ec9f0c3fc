"""Delivery: every committed change arrives, once, and nothing else does."""

from __future__ import annotations

from typing import Final

from cdcpipe.verify.case import Case
from cdcpipe.verify.check import Check

__all__ = ["CHECKS"]


def _expected(case: Case) -> int:
    return case.totals.expected


def _records(case: Case) -> int:
    return case.totals.streamed + case.totals.read


def _archived(case: Case) -> int:
    return case.totals.archived


def _no_transactions(case: Case) -> str | None:
    if case.has_wal or case.has_ends:
        return None
    return "there is neither a wal ledger nor the transaction topic to count against"


CHECKS: Final = (
    Check(
        name="lost-change",
        place="source",
        group="delivery",
        claim="Every change that PostgreSQL committed in a captured table, up to the watermark, is in the log.",
        not_proven="Changes from before the wal slot was opened, and of tables that the publication lacks.",
        stage="source",
        needs=("wal", "later"),
        absent_in="later",
        also=("handoff-gap", "pk-change-orphan"),
        counts=("lost-change", "handoff-gap", "pk-change-orphan", "unsettled", "covered"),
        looked_at=_expected,
    ),
    Check(
        name="lost-change",
        place="sink",
        group="delivery",
        claim="Every record of the log, up to the settled offsets, is in the archive, in the dead letter queue, "
        "or declared filtered.",
        not_proven="Records that retention removed from the log before it was read.",
        stage="sink",
        needs=("log", "archive"),
        absent_in="archive",
        also=("offset-hole",),
        counts=("lost-change", "offset-hole", "unsettled"),
        looked_at=_records,
    ),
    Check(
        name="offset-hole",
        place="sink",
        group="delivery",
        claim="Between two objects of a partition no two records of the log are missing.",
        not_proven="The end of a partition, where a missing object leaves no hole but a `lost-change`.",
        stage="sink",
        needs=("log", "archive"),
        absent_in="archive",
        looked_at=_records,
    ),
    Check(
        name="unaccounted-drop",
        place="sink",
        group="delivery",
        claim="Per partition, what the sink consumed is what it archived, sent to the dead letter queue, or was told "
        "to filter; tombstones hold no change.",
        not_proven="That a dead letter can be repaired.",
        stage="sink",
        needs=("log", "archive"),
        absent_in="archive",
        looked_at=_records,
    ),
    Check(
        name="duplicate-change",
        group="delivery",
        claim="No change has two records in the log.",
        not_proven="Repeated snapshot rows: those are `handoff-overlap`.",
        stage="source",
        needs=("later",),
    ),
    Check(
        name="duplicate-row",
        place="sink",
        group="delivery",
        claim="No record of the log has two rows in the archive.",
        not_proven="That the record itself is no repetition: that is `duplicate-change`.",
        stage="sink",
        needs=("archive",),
        looked_at=_archived,
    ),
    Check(
        name="overlapping-object",
        place="sink",
        group="delivery",
        claim="No two objects of a folder hold intersecting offsets of a partition, and no two objects hold two or "
        "more of the same records.",
        not_proven="Objects that were overwritten and are gone: those leave an `offset-hole` or a `late-mutation`.",
        stage="sink",
        needs=("archive",),
        looked_at=_archived,
    ),
    Check(
        name="phantom-change",
        place="source",
        group="delivery",
        claim="Every change in the log was committed by PostgreSQL.",
        not_proven="Records outside the interval that the wal ledger covers.",
        stage="source",
        needs=("wal", "later"),
        absent_in="wal",
        counts=("outside",),
    ),
    Check(
        name="phantom-change",
        place="sink",
        group="delivery",
        claim="Every row of the archive is a record of the log.",
        not_proven="Rows outside the offsets that the log ledger covers.",
        stage="sink",
        needs=("log", "archive"),
        absent_in="log",
        counts=("outside",),
        looked_at=_archived,
    ),
    Check(
        name="torn-transaction",
        group="delivery",
        claim="Of every transaction up to the watermark all changes are in the log, as many as its END record says.",
        not_proven="That a reader of the archive sees a transaction at once: partitions are committed apart.",
        stage="transactions",
        needs=("later",),
        applies=_no_transactions,
    ),
)
