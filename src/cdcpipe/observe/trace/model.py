"""What a trace says. Times are UTC; None is "not known" or "not there yet", and `notes` say which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

__all__ = ["Change", "ObjectTrace", "Range", "Trace", "lsn_text"]


def lsn_text(lsn: int | None) -> str | None:
    """An LSN as PostgreSQL writes it."""
    return None if lsn is None else f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change, hop by hop. `row` is its number in the object, from 0."""

    table: str
    op: str
    key: Mapping[str, Any]
    xid: int | None
    seq: int | None
    lsn: str | None
    committed_at: datetime | None
    captured_at: datetime | None
    topic: str
    partition: int
    offset: int
    produced_at: datetime | None
    object: str | None = None
    row: int | None = None
    snapshot: int | None = None
    archived_at: datetime | None = None
    state: Literal["archived", "in the log", "dead letter"] = "archived"

    @property
    def order(self) -> tuple[str, int, int]:
        """The order in which the log has them."""
        return (self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Range:
    """Records of one partition: how many, and their first and last offset."""

    topic: str
    partition: int
    first: int
    last: int
    records: int


@dataclass(frozen=True, slots=True)
class ObjectTrace:
    """What an object holds. `current` is whether the table's snapshot of now has it."""

    name: str
    table: str
    bytes: int
    rows: int
    ranges: tuple[Range, ...]
    operations: Mapping[str, int]
    transactions: int
    first_xid: int | None
    last_xid: int | None
    first_lsn: str | None
    last_lsn: str | None
    committed: tuple[datetime | None, datetime | None]
    produced: tuple[datetime | None, datetime | None]
    written_at: datetime | None
    snapshot: int | None
    archived_at: datetime | None
    current: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """The answer. `looked_at` counts objects and records that were read, and objects that were passed over."""

    kind: Literal["key", "transaction", "object"]
    subject: str
    changes: tuple[Change, ...]
    object: ObjectTrace | None = None
    transaction: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    looked_at: Mapping[str, int] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Whether there is anything of it."""
        return bool(self.changes) or self.object is not None
