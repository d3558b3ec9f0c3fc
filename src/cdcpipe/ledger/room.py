"""How much of a ledger is held in memory at once while it is read and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ROOMY", "SMALL", "Room"]


@dataclass(frozen=True, slots=True)
class Room:
    """Bounds of the buffers. They change how fast a ledger is made and compared, never what comes out."""

    batch_rows: int
    """Rows that are decoded and hashed by one query."""
    file_rows: int
    """Rows that wait until they are written as one Parquet file."""
    block_bytes: int
    """Text of a table that is parsed at once."""
    threads: int


ROOMY: Final = Room(batch_rows=100_000, file_rows=1_000_000, block_bytes=32 << 20, threads=2)
SMALL: Final = Room(batch_rows=10_000, file_rows=100_000, block_bytes=2 << 20, threads=1)
"""For a verification beside a pipeline that runs: it has time, and takes memory from what it watches.

DuckDB's own limit stays: 500,000 keys are folded in 400 MB, and with less than it needs it gives up, it doesn't spill.
"""
