"""`cdcpipe dlq` and `schema guard` without a stack: what they say, and how they exit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cdcpipe.cli import main; main()", *arguments]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [("dlq", "list"), ("dlq", "show", "0:1"), ("dlq", "replay", "--all"), ("schema", "guard", "--once")],
)
def test_without_a_stack_the_way_to_one_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert "cdcpipe up" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("dlq", "replay"), ("dlq", "replay", "0:1", "--all")])
def test_a_replay_wants_places_or_all(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(tmp_path, *arguments).returncode == 2


def test_help_names_every_command(tmp_path: Path) -> None:
    assert all(word in run(tmp_path, "dlq", "--help").stdout for word in ("list", "show", "replay"))
    assert all(word in run(tmp_path, "schema", "--help").stdout for word in ("plan", "check", "history", "guard"))
