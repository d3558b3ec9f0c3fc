"""Profiles of the past, one Parquet file a table."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cdcpipe.errors import EvidenceError, MachineError
from cdcpipe.observe.quality.profiling import PROFILE

__all__ = ["History", "quality_folder"]


def quality_folder(stack: Path, given: Path | None = None) -> Path:
    """Where profiles and baseline of the stack in folder `stack` lie: `given`, else beside it."""
    return given if given is not None else stack.with_name(f"{stack.name}.quality")


class History:
    """Profiles in `folder`, and the baseline that was learned from them. A span that is added again is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.baseline = folder / "baseline.json"

    def tables(self) -> list[str]:
        """Tables that there are profiles of."""
        return sorted(urllib.parse.unquote(path.stem) for path in (self.folder / "profiles").glob("*.parquet"))

    def load(self, tables: Sequence[str] | None = None) -> pa.Table:
        """The profiles of `tables` (default: of all), in the shape `PROFILE`."""
        found = [self._read(table) for table in (self.tables() if tables is None else tables)]
        return pa.concat_tables(found) if found else PROFILE.empty_table()

    def last(self, table: str) -> datetime | None:
        """The newest span of a table."""
        rows = self._read(table)
        at = pc.max(rows["bucket"]).as_py() if rows.num_rows else None
        return at if isinstance(at, datetime) else None

    def add(self, profile: pa.Table) -> None:
        """Keep the spans of `profile`, in place of those that were there."""
        for table in pc.unique(profile["table"]).to_pylist():
            own = profile.filter(pc.equal(profile["table"], table))
            known = self._read(table)
            if known.num_rows:
                known = known.filter(pc.invert(pc.is_in(known["bucket"], value_set=pc.unique(own["bucket"]))))
            rows = pa.concat_tables([known, own.cast(PROFILE)]).sort_by([("bucket", "ascending")])
            path = self._path(table)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                staging = path.with_name(f".{path.name}.new")
                pq.write_table(rows, staging, compression="zstd")
                staging.replace(path)
            except OSError as error:
                raise MachineError(f"profiles can't be kept in `{path.parent}`: {error.strerror or error}") from error

    def _path(self, table: str) -> Path:
        return self.folder / "profiles" / f"{urllib.parse.quote(table, safe='.')}.parquet"

    def _read(self, table: str) -> pa.Table:
        path = self._path(table)
        if not path.exists():
            return PROFILE.empty_table()
        try:
            return pq.read_table(path).cast(PROFILE)
        except (pa.ArrowException, OSError) as error:
            raise EvidenceError(f"the profiles in `{path}` can't be read: {str(error)[:300]}") from error
