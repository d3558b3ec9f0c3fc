"""`cdcpipe chaos` as a user types it: plans, and what is refused before anything is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def cdcpipe(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdcpipe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd)


def test_the_same_seed_gives_the_same_plan_byte_for_byte(tmp_path: Path) -> None:
    words = ("chaos", "run", "--minutes", "5", "--brokers", "3", "--plan-only", "--seed")
    first, again, other = (cdcpipe(*words, seed, cwd=tmp_path) for seed in ("11", "11", "12"))
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout
    plan = json.loads(first.stdout)
    assert (plan["seed"], plan["seconds"], plan["brokers"]) == (11, 300, 3)
    assert len(plan["schedule"]["steps"]) >= 4
    assert {each.name for each in tmp_path.iterdir()} <= {".cdcpipe.audit"}  # no run, no stack


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--faults", "kil"), "did you mean `kill`"),
        (("run", "--scenario", "worker_kil"), "did you mean `worker_kill`"),
        (("run", "--bug", "eos-of"), "did you mean `eos-off`"),
        (("run", "--rate", "0"), "rate: 0.0 is not between"),
        (("run", "--target", "nowhere"), "neither one of local, kind nor the folder"),
        (("replay", "."), "can't be read"),
        (("run", "--schedule", "none.json"), "can't be read"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = cdcpipe("chaos", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


def test_an_impossible_schedule_is_refused_with_each_place(tmp_path: Path) -> None:
    steps = [
        {
            "id": "a",
            "when": {"measure": "committed", "value": 10**9},
            "fault": {"kind": "kill", "component": "connect"},
        },
        {"id": "b", "when": {"measure": "after", "step": "z"}, "fault": {"kind": "pause", "component": "kafka-1"}},
    ]
    (tmp_path / "s.json").write_text(json.dumps({"schema": "cdcpipe.schedule/1", "seed": None, "steps": steps}))
    done = cdcpipe("chaos", "run", "--schedule", "s.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "$.steps[0].when.value: the load makes 360,000 events" in done.stderr
    assert "$.steps[1].when.step: `z` is no earlier step" in done.stderr


def test_a_folder_without_a_run_cannot_be_reported(tmp_path: Path) -> None:
    done = cdcpipe("chaos", "report", ".", cwd=tmp_path)
    assert done.returncode == 3
    assert "has no result" in done.stderr


def test_the_kinds_are_listed(tmp_path: Path) -> None:
    done = cdcpipe("chaos", "kinds", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("kill", "committed", "upload", "worker_kill", "eos-off", "poison"):
        assert f"  {name} " in done.stdout
