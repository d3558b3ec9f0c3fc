"""What a statement does to a table, and the locks of PostgreSQL by strength.

https://www.postgresql.org/docs/18/explicit-locking.html, and ALTER TABLE's own page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AEL", "ROW", "SHARE", "SRE", "STRENGTH", "SUE", "Effect"]

AEL: Final = "ACCESS EXCLUSIVE"
SRE: Final = "SHARE ROW EXCLUSIVE"
SHARE: Final = "SHARE"
SUE: Final = "SHARE UPDATE EXCLUSIVE"
ROW: Final = "ROW EXCLUSIVE"
STRENGTH: Final = ("", ROW, SUE, SHARE, SRE, AEL)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement does to a table. `code` names the kind of change, `column` the column if it is about one.

    `rewrites`: every row is written anew under the lock. `scans`: every row is read under it.
    """

    code: str
    table: str
    what: str
    lock: str = ""
    column: str = ""
    rewrites: bool = False
    scans: bool = False
