"""What a conformance test leaves: figures, artefacts, or the reason why there is no verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cdcpipe.conformance.matrix import Figure

__all__ = ["Evidence", "Inconclusive", "NotApplicable", "NotRun"]


class Inconclusive(Exception):
    """The test can't tell whether the criterion holds; the message says why."""


class NotApplicable(Exception):
    """The criterion has no meaning for this pipeline; the message says why."""


class NotRun(Exception):
    """The test was not done, since it was not asked for: a fault without `--allow-faults`."""


@dataclass(slots=True)
class Evidence:
    """Figures and artefacts of one test. `folder` is the test's own place in the run's folder, made on first use."""

    folder: Path
    bounds: Mapping[str, float]
    required: Mapping[str, float]
    record: Callable[[str, object], None]
    figures: list[Figure] = field(default_factory=list)
    artefacts: dict[str, str] = field(default_factory=dict)

    def figure(self, name: str, value: float | int | str, unit: str = "") -> None:
        """Note one figure. It stands in the report and among the JUnit properties."""
        found = Figure(name, value, unit)
        self.figures.append(found)
        self.record(name, f"{value} {unit}".strip())

    def bound(self, name: str) -> float:
        """The bound called `name`. One that is looser than the requirement ends the test as inconclusive."""
        own, required = self.bounds[name], self.required[name]
        at_least = name in ("events_per_second", "partition_speed_up")
        if own < required if at_least else own > required:
            self.inconclusive(f"the bound `{name}` is set to {own:g}, the requirement is {required:g}")
        return own

    def artefact(self, name: str, content: str | bytes | Mapping[str, Any] | Path) -> Path:
        """Keep `content` (text, bytes, an object as JSON, or a file that is there already) under `name`."""
        if isinstance(content, Path):
            path = content
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / re.sub(r"[^\w.-]+", "-", name)
            if isinstance(content, Mapping):
                content = json.dumps(content, indent=1, default=str)
            path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        self.artefacts[name] = str(path)
        return path

    def inconclusive(self, reason: str) -> NoReturn:
        """End the test: it can't tell."""
        raise Inconclusive(reason)

    def not_applicable(self, reason: str) -> NoReturn:
        """End the test: the criterion has no meaning for this pipeline."""
        raise NotApplicable(reason)
