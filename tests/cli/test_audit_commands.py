"""`cdcpipe audit`: commands that modify note themselves, and tampering makes `verify` exit 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cdcpipe.cli import cli
from cdcpipe.errors import UsageError
from cdcpipe.observe.audit.verbs import reads_only


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words))


def entries(*options: str) -> list[dict[str, object]]:
    shown = run("audit", "show", "--json", *options)
    assert shown.exit_code == 0, shown.output
    found: list[dict[str, object]] = json.loads(shown.stdout)["entries"]
    return found


def test_a_command_that_modifies_is_noted_before_and_after_and_one_that_reads_is_not() -> None:
    run("status")
    run("down", "--help")
    assert not Path(".cdcpipe.audit").exists()
    assert run("down").exit_code == 0
    run("dlq", "replay", "0:1")
    run("up", "--brokers", "9")
    found = entries()
    assert [(entry["action"], entry["outcome"]) for entry in found] == [
        ("trail.begun", "ok"),
        ("command.begun", "begun"),
        ("command.ended", "ok"),
        ("command.begun", "begun"),
        ("command.ended", "failed"),
        ("command.begun", "begun"),
        ("command.ended", "refused"),
    ]
    detail = found[4]["detail"]
    assert isinstance(detail, dict)
    assert (detail["verb"], detail["exit_code"], detail["begun"]) == ("dlq replay", 2, 4)
    assert [entry["seq"] for entry in entries("--actor", "nobody*")] == []
    assert [entry["seq"] for entry in entries("--action", "command.*", "-n", "1")] == [7]
    assert entries("--since", "1h") == found
    assert entries("--until", "2020-01-01") == []
    assert isinstance(run("audit", "show", "--since", "soon").exception, UsageError)


def test_verify_tells_intact_tampered_and_nothing_apart_by_exit_code() -> None:
    assert run("audit", "verify").exit_code == 3
    for _ in range(3):
        run("down")
    intact = run("audit", "verify")
    assert intact.exit_code == 0, intact.output
    anchor = intact.stdout.rpartition(": ")[2].strip()
    (path,) = Path(".cdcpipe.audit").glob("trail-*.jsonl")
    whole = path.read_text()
    path.write_text(whole.replace('"outcome":"ok"', '"outcome":"no"', 2))
    edited = run("audit", "verify", "--json")
    assert edited.exit_code == 1
    assert json.loads(edited.stdout)["first_break"]["seq"] == 1
    path.write_text("".join(whole.splitlines(keepends=True)[:-2]))
    cut = run("audit", "verify")
    assert cut.exit_code == 1
    assert "tail was cut off" in cut.stdout
    for state in Path("state").rglob("*.json"):
        state.unlink()  # whoever cut it knew of this place too
    assert run("audit", "verify").exit_code == 0
    noted = run("audit", "verify", "--anchor", anchor)
    assert noted.exit_code == 1
    assert "the anchor that was given knows entry 7" in noted.stdout


def test_a_trail_that_can_not_be_written_stops_no_command() -> None:
    Path(".cdcpipe.audit").write_text("in the way")
    assert run("down").exit_code == 0


def test_what_looks_like_a_credential_is_not_in_the_trail() -> None:
    run("nosuchverb", "--password", "hunter2hunter2", "--api-key=abcdefgh", "postgresql://me:swordfish@host/db")
    text = "".join(path.read_text() for path in Path(".cdcpipe.audit").glob("*.jsonl"))
    assert "nosuchverb" in text
    assert not any(secret in text for secret in ("hunter2", "abcdefgh", "swordfish"))


def test_a_command_that_nobody_thought_of_is_noted() -> None:
    assert not reads_only(["brandnew", "--fast"])
    assert not reads_only(["dlq", "replay", "--all"])
    assert not reads_only(["verify", "state"])
    assert reads_only(["dlq", "list"])
    assert reads_only(["--debug", "status"])
    assert reads_only(["up", "--help"])
