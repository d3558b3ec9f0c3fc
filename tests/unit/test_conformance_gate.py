"""What `cdcpipe gate` makes of a suite that did not come to its end: never a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdcpipe.cli.gate import _finished
from cdcpipe.errors import CdcpipeError, MachineError


def leave(folder: Path, **facts: str) -> None:
    content = {"exit_code": 0, "facts": facts}
    (folder / "conformance-report.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_suite_that_crashed_has_no_verdict_even_if_it_left_a_report(tmp_path: Path) -> None:
    leave(tmp_path)
    with pytest.raises(CdcpipeError, match="ended by signal 11") as caught:
        _finished(tmp_path, -11)
    assert caught.value.exit_code == 70
    assert "cdcpipe down --purge" in (caught.value.hint or "")


@pytest.mark.parametrize("code", [2, 4, 5])
def test_a_suite_that_could_not_be_collected_or_ran_nothing_is_an_error_of_the_environment(
    tmp_path: Path, code: int
) -> None:
    leave(tmp_path)
    with pytest.raises(MachineError):
        _finished(tmp_path, code)


def test_a_suite_without_a_report_has_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        _finished(tmp_path, 0)


def test_an_interrupted_suite_is_interrupted(tmp_path: Path) -> None:
    leave(tmp_path, interrupted="by Ctrl-C")
    with pytest.raises(KeyboardInterrupt):
        _finished(tmp_path, 2)


@pytest.mark.parametrize("code", [0, 1])
def test_a_suite_that_came_to_its_end_has_the_verdict_of_its_report(tmp_path: Path, code: int) -> None:
    leave(tmp_path)
    assert _finished(tmp_path, code)["exit_code"] == 0
