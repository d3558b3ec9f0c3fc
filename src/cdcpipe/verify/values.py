"""Values: what arrives is what was committed, under its own key, in its own hour."""

from __future__ import annotations

from typing import Final

from cdcpipe.verify.case import Case
from cdcpipe.verify.check import Check
from cdcpipe.verify.verdict import Place

__all__ = ["CHECKS"]


def _no_hours(case: Case) -> str | None:
    return None if case.hours_known else "no object's path names a date or an hour"


def _both(name: str, claim: str, not_proven: str) -> tuple[Check, ...]:
    sides: tuple[tuple[Place, str], ...] = (("source", "of the log"), ("sink", "of the archive"))
    return tuple(
        Check(
            name=name,
            place=place,
            group="value",
            claim=claim.format(where=where),
            not_proven=not_proven,
            stage=place,
            needs=("wal", "later") if place == "source" else ("log", "archive"),
        )
        for place, where in sides
    )


CHECKS: Final = (
    *_both(
        "value-drift",
        "Every change {where} has the operation, the key and the row images of the change it comes from.",
        "Columns of types without a canonical form (`unknown`), and what the connector's modes round on purpose.",
    ),
    *_both(
        "toast-hole",
        "No change {where} has a placeholder or a null where the ledger before it has a value.",
        "Values that the WAL itself does not hold (unchanged TOAST without REPLICA IDENTITY FULL).",
    ),
    *_both(
        "wrong-schema-decode",
        "No change {where} has its values under each other's columns, or as another type.",
        "It tells this from `value-drift` only where both ledgers kept their images.",
    ),
    Check(
        name="misfiled-row",
        place="sink",
        group="value",
        claim="Every row lies in the folder of its hour.",
        not_proven="Where folders follow the record's timestamp: rows filed later than they should be, if nothing of "
        "their partition follows.",
        stage="objects",
        needs=("archive",),
        looked_at=lambda case: case.totals.archived,
        applies=_no_hours,
    ),
)
