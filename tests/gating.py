"""`cdcpipe gate` as a command of somebody else's, and its matrix."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Matrix:
    """What the gate said: the exit code that it told, and `verdict: reason` of each criterion."""

    exit_code: int
    told: dict[str, str]

    def of(self, *verdicts: str) -> dict[str, str]:
        """The criteria with one of these verdicts."""
        return {id_: text for id_, text in self.told.items() if text.partition(":")[0] in verdicts}


def gate(command: Sequence[str], folder: Path, *options: str, **variables: str) -> Matrix:
    """Run `command gate --json` in `folder`, without this session's own settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CDCPIPE_", "PYTEST_"))}
    done = subprocess.run(
        [*command, "gate", "--json", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=inherited | variables,
        check=False,
        timeout=1400,
    )
    assert done.stdout, done.stderr[-4000:]
    found = json.loads(done.stdout)
    told = {row["id"]: f"{row['verdict']}: {row['reason']}" for row in found["rows"]}
    return Matrix(found["exit_code"], told)
