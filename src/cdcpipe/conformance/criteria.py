"""The 35 criteria, their bounds, and where the suite lies: in the source tree or inside the wheel."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cdcpipe.errors import MachineError, UsageError

__all__ = ["TARGETS", "Criteria", "Criterion", "load_criteria", "suite_folder"]

TARGETS = ("local", "containers", "kind", "existing")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One row of the matrix.

    `targets` are those that can show it, `elsewhere` why the others can't. `needs` are the criteria without which it
    can't hold: where one of them fails, this one may fail with it.
    """

    id: str
    sentence: str
    evidence: str
    not_proven: str
    targets: tuple[str, ...]
    elsewhere: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Criteria:
    """All rows in order, and the bounds that the requirements set."""

    rows: tuple[Criterion, ...]
    bounds: Mapping[str, float]

    def __getitem__(self, id_: str) -> Criterion:
        for row in self.rows:
            if row.id == id_:
                return row
        raise UsageError(f"there is no criterion `{id_}`", hint="the criteria are R1.1 to R7.5, see criteria.toml")

    def dependents(self, id_: str) -> set[str]:
        """The criteria that may fail when `id_` fails, itself left out."""
        found: set[str] = set()
        while True:
            more = {row.id for row in self.rows if {id_, *found} & set(row.needs)} - found
            if not more:
                return found - {id_}
            found |= more


def suite_folder() -> Path:
    """Where the tests and `criteria.toml` lie. Raises `MachineError` when the package came without them."""
    package = Path(__file__).resolve().parent
    # The source tree first: an editable install may hold an old copy of the other.
    for folder in (package.parents[2] / "conformance", package / "suite"):
        if (folder / "criteria.toml").is_file():
            return folder
    raise MachineError("this installation has no conformance suite", hint="install cdcpipe from its wheel")


def load_criteria(path: Path | None = None) -> Criteria:
    """The criteria of `path` (default: the suite's)."""
    content = tomllib.loads((path or suite_folder() / "criteria.toml").read_text(encoding="utf-8"))
    rows = []
    for raw in content["criterion"]:
        sequences = {key: tuple(raw[key]) for key in ("targets", "needs") if key in raw}
        rows.append(Criterion(**{**raw, **sequences}))
    return Criteria(tuple(rows), dict(content["bounds"]))
