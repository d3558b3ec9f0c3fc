"""Faults of the machine under one component: a full disk, too little memory, a clock that steps.

They need Linux, root, and a component that is a process on this machine; whatever else is missing is said by name.
Nothing but that component feels them: its files lie on a small file system of their own meanwhile, its processes in a
control group of their own, and its clock is its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from cdcpipe.errors import FaultError
from cdcpipe.faults.fault import Trace, register
from cdcpipe.faults.process import ComponentFault, components
from cdcpipe.faults.targets import resolve_target
from cdcpipe.stack.component import Component, ComponentState, wait_until
from cdcpipe.stack.stack import Stack

__all__ = ["ClockStep", "DiskFull", "MemorySqueeze"]

_MB = 1024 * 1024


@runtime_checkable
class Hosted(Protocol):
    """A component whose processes and files are on this machine."""

    environment: dict[str, str]

    def working_folder(self) -> Path: ...

    def pids(self) -> list[int]: ...


def _unhosted(stack: Stack, target: str) -> str | None:
    if sys.platform != "linux":
        return f"needs Linux, not {sys.platform}"
    if os.geteuid() != 0:
        return "needs root"
    names = [target] if target in stack.components else resolve_target(stack, target)
    distant = [name for name in names if not isinstance(stack.components[name], Hosted)]
    return f"`{distant[0]}` is no process on this machine" if distant else None


def _hosted(component: Component) -> Hosted:
    assert isinstance(component, Hosted)
    return component


def _restart(component: Component) -> None:
    component.stop()
    component.start()
    _await(component)


def _await(component: Component) -> None:
    wait_until(
        lambda: component.readiness().ready,
        what=f"`{component.name}` is ready again",
        timeout_seconds=90,
        error=FaultError,
    )


# Disk -----------------------------------------------------------------------------------------------

_BALLAST = ".cdcpipe-ballast"
_WHOLE = ".cdcpipe-whole"  # says that all files have come to the small file system


@register
@dataclass(frozen=True, slots=True)
class DiskFull(ComponentFault):
    """No room is left where it writes. Its files are moved to a small file system (tmpfs) first, with `room_mb` free;
    that is filled to the last byte, emptied after `seconds`, and the files are moved back. What gave up is started."""

    kind: ClassVar[str] = "disk-full"
    needs: ClassVar[str] = "Linux, root, `mount`; a component that is a process on this machine"
    provokes: ClassVar[tuple[str, ...]] = ("D5", "D18", "C6", "C11", "K9")

    room_mb: int = 64

    def supports(self, stack: Stack) -> str | None:
        reason = ComponentFault.supports(self, stack) or _unhosted(stack, self.component)
        if reason is None and shutil.which("mount") is None:
            reason = "there is no `mount` on this machine"
        return reason

    def resolve(self, stack: Stack) -> Trace:
        trace = ComponentFault.resolve(self, stack)
        trace["folders"] = [str(_hosted(each).working_folder().resolve()) for each in components(stack, trace)]
        return trace

    def set_up(self, stack: Stack, trace: Trace) -> None:
        for component, name in zip(components(stack, trace), trace["folders"], strict=True):
            component.stop()
            folder, aside = Path(name), _aside(Path(name))
            size = _size(folder) + self.room_mb * _MB
            folder.rename(aside)
            folder.mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"size={size}", "cdcpipe-fault", str(folder))
            _run("cp", "-a", f"{aside}/.", str(folder))
            (folder / _WHOLE).touch()
            component.start()
            _await(component)

    def inject(self, stack: Stack, trace: Trace) -> None:
        for name in trace["folders"]:
            folder = Path(name)
            if not os.path.ismount(folder):
                raise FaultError(f"`{folder}` is no file system of its own: it won't be filled")
            try:
                with (folder / _BALLAST).open("wb", buffering=0) as ballast:
                    while True:  # until it is full; a component that writes much may have filled it itself by now
                        ballast.write(bytes(_MB))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        for name in trace["folders"]:
            free = os.statvfs(name).f_bfree
            if free:
                return f"`{name}` has {free} free blocks"
        return None

    def recover(self, stack: Stack, trace: Trace) -> None:
        for name in trace["folders"]:
            if os.path.ismount(name):
                (Path(name) / _BALLAST).unlink(missing_ok=True)
        ComponentFault.recover(self, stack, trace)

    def clean_up(self, stack: Stack, trace: Trace) -> None:
        for component, name in zip(components(stack, trace), trace["folders"], strict=True):
            folder = Path(name)
            if not _moved(folder):
                continue
            ran = component.state() is not ComponentState.STOPPED
            component.stop()
            _move_back(folder)
            if ran or stack.running():
                component.start()
                _await(component)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cdcpipe-aside")


def _back(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.cdcpipe-back")


def _moved(folder: Path) -> bool:
    return os.path.ismount(folder) or _aside(folder).exists() or _back(folder).exists()


def _move_back(folder: Path) -> None:
    """Put the files where they were: each step may be the first one after we were killed."""
    back, aside = _back(folder), _aside(folder)
    if os.path.ismount(folder) and not (folder / _WHOLE).exists():
        _run("umount", str(folder))
    if os.path.ismount(folder):
        part = folder.with_name(f"{folder.name}.cdcpipe-part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(back, ignore_errors=True)
        (folder / _BALLAST).unlink(missing_ok=True)
        _run("cp", "-a", str(folder), str(part))
        (part / _WHOLE).unlink()
        part.rename(back)
        _run("umount", str(folder))
    if back.exists():  # all of it: a part has another name
        shutil.rmtree(folder, ignore_errors=True)
        back.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():  # not all was there yet, or the machine was restarted and the small file system is gone
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


def _size(folder: Path) -> int:
    """Bytes on disk of everything below `folder`."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) + 2 * _MB


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FaultError(f"`{' '.join(command[:2])}` failed: {(done.stderr or done.stdout).strip()}")


# Memory ---------------------------------------------------------------------------------------------

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def _groups() -> tuple[Path, str] | None:
    """Where a control group for memory can be made, and the name of its limit; None where it can't."""
    if (_V1 / "memory.limit_in_bytes").exists() and os.access(_V1, os.W_OK):
        return _V1, "memory.limit_in_bytes"
    with contextlib.suppress(OSError):
        if "memory" in (_V2 / "cgroup.subtree_control").read_text().split() and os.access(_V2, os.W_OK):
            return _V2, "memory.max"
    return None


@register
@dataclass(frozen=True, slots=True)
class MemorySqueeze(ComponentFault):
    """It may use `more_mb` more memory than it uses now, and not a byte beyond: the kernel first takes its page cache,
    then kills it. It is restarted into a control group of its own first. After `seconds` it may use what it wants, and
    what was killed is started."""

    kind: ClassVar[str] = "memory-squeeze"
    needs: ClassVar[str] = "Linux, root, control groups (v1 or v2); a component that is a process on this machine"
    provokes: ClassVar[tuple[str, ...]] = ("C11", "D5", "D13", "K2")
    effect_seconds_max: ClassVar[float] = 60.0

    more_mb: int = 0

    def supports(self, stack: Stack) -> str | None:
        reason = ComponentFault.supports(self, stack) or _unhosted(stack, self.component)
        if reason is None and _groups() is None:
            reason = "no control group for memory can be made (neither cgroup v1 nor v2 with `memory` is writable)"
        return reason

    def resolve(self, stack: Stack) -> Trace:
        trace = ComponentFault.resolve(self, stack)
        found = _groups()
        assert found is not None
        root, limit = found
        names = [root / f"cdcpipe-{name}-{secrets.token_hex(4)}" for name in trace["components"]]
        return trace | {"groups": [str(name) for name in names], "limit": limit}

    def set_up(self, stack: Stack, trace: Trace) -> None:
        # What a process has already used stays on the account of its old group; so it is moved as soon as it starts.
        for component, name in zip(components(stack, trace), trace["groups"], strict=True):
            group = Path(name)
            group.mkdir()
            component.stop()
            component.start()
            _enter(group, _hosted(component).pids())
            _await(component)
            _enter(group, _hosted(component).pids())  # what it forked in between

    def inject(self, stack: Stack, trace: Trace) -> None:
        for name in trace["groups"]:
            group = Path(name)
            for _ in range(20):  # it may grow while we look
                with contextlib.suppress(OSError):
                    used = int(_usage(group).read_text())
                    (group / trace["limit"]).write_text(str(used + self.more_mb * _MB))
                    break
            else:
                raise FaultError(f"the kernel takes no limit for `{group.name}`")

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        for component, name in zip(components(stack, trace), trace["groups"], strict=True):
            if not _hit(Path(name)) and component.state() is not ComponentState.STOPPED:
                return f"`{component.name}` has not wanted more yet"
        return None

    def recover(self, stack: Stack, trace: Trace) -> None:
        unlimited = "-1" if trace["limit"] == "memory.limit_in_bytes" else "max"
        for name in trace["groups"]:
            if Path(name).exists():
                (Path(name) / trace["limit"]).write_text(unlimited)
        ComponentFault.recover(self, stack, trace)

    def clean_up(self, stack: Stack, trace: Trace) -> None:
        for name in trace["groups"]:
            group = Path(name)
            if not group.exists():
                continue
            _enter(group.parent, [int(pid) for pid in (group / "cgroup.procs").read_text().split()])
            wait_until(
                lambda group=group: _removed(group),  # type: ignore[misc]
                what=f"control group `{group.name}` is empty",
                timeout_seconds=10,
                error=FaultError,
            )


def _enter(group: Path, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(pid))


def _usage(group: Path) -> Path:
    v1 = group / "memory.usage_in_bytes"
    return v1 if v1.exists() else group / "memory.current"


def _hit(group: Path) -> bool:
    """Whether the limit was ever in the way."""
    v1 = group / "memory.failcnt"
    if v1.exists():
        return int(v1.read_text()) > 0
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(events.get("max", 0)) > 0


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


# Clock ----------------------------------------------------------------------------------------------

_LIBRARIES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/*.so.1",
)


def _library() -> Path | None:
    """libfaketime, where distributions put it."""
    for pattern in _LIBRARIES:
        found = sorted(Path("/").glob(pattern.lstrip("/")))
        if found:
            return found[0]
    return None


@register
@dataclass(frozen=True, slots=True)
class ClockStep(ComponentFault):
    """Its clock jumps by `step_seconds`, back when `back`, and jumps again to the right time after `seconds`.

    Only its wall clock: timers go on, as when NTP steps. It is restarted with libfaketime first, without it at last.
    """

    kind: ClassVar[str] = "clock-step"
    needs: ClassVar[str] = "Linux, root, libfaketime; a component that is a process on this machine, but not `s3`"
    provokes: ClassVar[tuple[str, ...]] = ("D20", "C4", "C9", "K1")

    step_seconds: float = 3600.0
    back: bool = False

    def supports(self, stack: Stack) -> str | None:
        reason = ComponentFault.supports(self, stack) or _unhosted(stack, self.component)
        if reason is None and _library() is None:
            reason = "libfaketime is not installed (Debian: `apt-get install libfaketime`)"
        if reason is None and self.component == "s3":
            reason = "`s3` is a static Go program, which asks the kernel itself for the time"
        return reason

    def resolve(self, stack: Stack) -> Trace:
        trace = ComponentFault.resolve(self, stack)
        files = [f"/tmp/cdcpipe-clock-{name}-{secrets.token_hex(4)}" for name in trace["components"]]
        return trace | {"clocks": files}

    def set_up(self, stack: Stack, trace: Trace) -> None:
        library = _library()
        for component, name in zip(components(stack, trace), trace["clocks"], strict=True):
            _set_clock(name, 0)
            _hosted(component).environment |= {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": name,
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            _restart(component)

    def inject(self, stack: Stack, trace: Trace) -> None:
        for name in trace["clocks"]:
            _set_clock(name, -self.step_seconds if self.back else self.step_seconds)

    def recover(self, stack: Stack, trace: Trace) -> None:
        for name in trace["clocks"]:
            if Path(name).exists():
                _set_clock(name, 0)
        ComponentFault.recover(self, stack, trace)

    def clean_up(self, stack: Stack, trace: Trace) -> None:
        for component, name in zip(components(stack, trace), trace["clocks"], strict=True):
            for key in (
                "LD_PRELOAD",
                "FAKETIME_TIMESTAMP_FILE",
                "FAKETIME_CACHE_DURATION",
                "FAKETIME_DONT_FAKE_MONOTONIC",
            ):
                _hosted(component).environment.pop(key, None)
            try:
                if Path(name).exists() and component.state() is not ComponentState.STOPPED:
                    _restart(component)
            finally:
                Path(name).unlink(missing_ok=True)


def _set_clock(name: str, seconds: float) -> None:
    path = Path(name)
    staging = path.with_name(f"{path.name}.new")
    staging.write_text(f"{seconds:+.3f}\n", encoding="ascii")
    staging.replace(path)  # a reader never sees half of it
