"""One transaction before it is run: its statements, and how many row changes each of them will make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Op", "Plan", "Step"]

Op = Literal["c", "u", "d", "t"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Step:
    """One statement. `rows` is what it will change; `kept` is False where a savepoint will undo it.

    With `copy`, the statement is a `COPY ... FROM STDIN` and `copy` its rows in text form.
    A step without `table` (SAVEPOINT and the like) makes no events.
    """

    sql: str
    parameters: Mapping[str, object] | None = None
    table: str | None = None
    op: Op | None = None
    rows: int = 0
    kept: bool = True
    copy: bytes | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A transaction. `proof` is a query that answers whether it has committed, true or false.

    The proof looks at a row that no other connection touches, so it holds until this connection goes on. It
    is better than the transaction's id: a server that crashes before the WAL is flushed gives the same id out
    again, and then `pg_xact_status` speaks of somebody else's transaction. Only one that is to be rolled back
    has none.
    `on_commit` moves the generator's own picture of the tables on.
    """

    kind: str
    steps: tuple[Step, ...]
    proof: Step | None = None
    commit: bool = True
    on_commit: Callable[[], None] = _nothing

    @property
    def events(self) -> int:
        """Row changes that will be committed: what the schedule counts."""
        return sum(step.rows for step in self.steps if step.kept and step.table) if self.commit else 0
