"""What is judged: up to three ledgers with what is known about their completeness, and how far they must agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, TypeAlias

import pyarrow as pa

from cdcpipe.errors import EvidenceError, UsageError
from cdcpipe.ledger.change import SIDE_TABLES
from cdcpipe.ledger.store import Kind, Ledger, Manifest
from cdcpipe.verify.level import Level

__all__ = ["Cut", "Evidence", "LedgerLike", "Terms"]

LedgerLike: TypeAlias = "Ledger | Evidence | Path | str | pa.Table"
"""Whatever stands for a ledger: itself, its folder, or an Arrow table of its changes (then taken as complete)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One ledger: the source of each of its tables (Arrow or Parquet files), and its manifest if it has one."""

    kind: Kind
    changes: pa.Table | Sequence[Path]
    side: Mapping[str, pa.Table | Sequence[Path]] = field(default_factory=dict)
    manifest: Manifest | None = None

    @classmethod
    def of(cls, ledger: Ledger | Evidence | Path | str | pa.Table | None, kind: Kind) -> Self | None:
        """Of whatever stands for a ledger. EvidenceError when a folder holds none; UsageError when it is another's."""
        if ledger is None:
            return None
        if isinstance(ledger, pa.Table):
            return cls(kind, ledger)
        if isinstance(ledger, Path | str):
            ledger = Ledger.open(Path(ledger))
        if ledger.kind != kind:
            raise UsageError(f"a {kind} ledger was asked for, this is a {ledger.kind} ledger")
        if isinstance(ledger, Ledger):
            side = {name: tuple(ledger.files(name)) for name in SIDE_TABLES}
            return cls(kind, tuple(ledger.files()), side, ledger.manifest)
        return cls(ledger.kind, ledger.changes, ledger.side, ledger.manifest)

    @property
    def complete(self) -> bool:
        """Whether all that was asked for was read."""
        return self.manifest is None or self.manifest.complete

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not complete."""
        return () if self.manifest is None or self.manifest.complete else self.manifest.reasons or ("no reason given",)


@dataclass(frozen=True, slots=True)
class Cut:
    """How far the pipeline has settled. What lies beyond is `unsettled`, no anomaly. None: everything has settled.

    `commit_lsn`: commits up to here must be in the log. `offsets`: records before these, by topic and partition, must
    be in the archive. `reached` is False when the wait for it ran out: what is missing then is `stuck`.
    """

    commit_lsn: int | None = None
    offsets: Mapping[tuple[str, int], int] = field(default_factory=dict)
    reached: bool = True
    waited_seconds: float = 0.0
    waiting_for: str = ""

    def save(self, path: Path) -> None:
        """Write it beside the ledgers (`ledgers/cut.json` of a run), so that the run can be judged again."""
        offsets = [[topic, partition, offset] for (topic, partition), offset in sorted(self.offsets.items())]
        content = {
            "schema": "cdcpipe.cut/1",
            "commit_lsn": self.commit_lsn,
            "offsets": offsets,
            "reached": self.reached,
            "waited_seconds": round(self.waited_seconds, 3),
            "waiting_for": self.waiting_for,
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """The way back. EvidenceError when the file holds no cut."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            offsets = {(str(topic), int(partition)): int(offset) for topic, partition, offset in raw["offsets"]}
            lsn = None if raw["commit_lsn"] is None else int(raw["commit_lsn"])
            return cls(lsn, offsets, bool(raw["reached"]), float(raw["waited_seconds"]), str(raw["waiting_for"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"{path} holds no cut: {error}") from error


@dataclass(frozen=True, slots=True)
class Terms:
    """What the pipeline promises and what was declared about it.

    - `skipped_operations`: the source connector's `skipped.operations`, e.g. `("t",)`.
    - `filtered_tables`: tables that the sink does not archive on purpose.
    - `resnapshots`: reading tables again is on purpose: ad hoc snapshots, or one that was interrupted and begins anew.
    - `filed_by`: what the hour of a folder is made of: the record's timestamp, which is never before the commit, or
      the source's commit time itself.
    - `clock_skew_seconds`: how far the clocks of PostgreSQL and Connect may differ.
    """

    level: Level = Level.EXACTLY_ONCE
    cut: Cut = field(default_factory=Cut)
    skipped_operations: tuple[str, ...] = ()
    filtered_tables: tuple[str, ...] = ()
    resnapshots: bool = False
    filed_by: Literal["record", "commit"] = "record"
    clock_skew_seconds: float = 5.0
    witnesses: int = 20
