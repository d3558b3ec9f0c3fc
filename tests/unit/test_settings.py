"""Which setting wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdcpipe.errors import SettingsError
from cdcpipe.settings import load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CDCPIPE_STACK", "CDCPIPE_CACHE", "CDCPIPE_RUNS", "CDCPIPE_MAVEN_MIRROR"):
        monkeypatch.delenv(name, raising=False)


def test_command_line_beats_environment_beats_file_beats_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pyproject.toml").write_text('[tool.cdcpipe]\nstack = "p"\nruns = "p"\n', encoding="utf-8")
    assert load_settings().stack == Path("p")
    Path("cdcpipe.toml").write_text('stack = "f"\n', encoding="utf-8")
    assert (load_settings().stack, load_settings().runs) == (Path("f"), Path("p"))
    monkeypatch.setenv("CDCPIPE_STACK", "e")
    assert load_settings().stack == Path("e")
    assert load_settings(stack=Path("c")).stack == Path("c")
    assert load_settings(stack=None).stack == Path("e")


def test_an_unknown_key_suggests_the_nearest() -> None:
    Path("cdcpipe.toml").write_text('cachee = "x"\n', encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert caught.value.detail == "`cachee`: unknown setting; did you mean `cache`?"


def test_a_file_that_is_not_toml_is_said_as_such() -> None:
    Path("cdcpipe.toml").write_text("stack = \n", encoding="utf-8")
    with pytest.raises(SettingsError, match="can't be read"):
        load_settings()


def test_a_mirror_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDCPIPE_MAVEN_MIRROR", "repo")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "maven_mirror" in (caught.value.detail or "")
