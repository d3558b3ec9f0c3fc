"""A component that is a process on this machine.

There are no pid files, so none can be stale. Each component runs in a working directory of its own below
the stack's folder; a process belongs to the component if it runs the component's program in there. That
holds after our own process was killed at any moment, for the children that a server forks, and never for
a process that merely got a recycled pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cdcpipe.errors import ComponentFailed, MachineError
from cdcpipe.stack.component import ComponentState, Readiness, wait_until

__all__ = ["LocalProcess", "processes_below"]

_OUT_BYTES_MAX = 4 * 1024 * 1024


def processes_below(folder: Path, programs: frozenset[str]) -> list[psutil.Process]:
    """Every process that runs one of `programs` with its working directory in or below `folder`."""
    home = os.path.realpath(folder)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() not in programs or process.status() == psutil.STATUS_ZOMBIE:
                continue
            cwd = process.cwd().removesuffix(" (deleted)")
            if cwd == home or cwd.startswith(home + os.sep):
                found.append(process)
    return found


class _Server(subprocess.Popen[bytes]):
    """A child that outlives the object that started it, which `Popen` would warn of."""

    def __del__(self) -> None:
        pass


class LocalProcess:
    """Base of all local components: start, find, stop, kill, pause, memory, logs.

    A subclass says what to run (`argv`, `env`, `program`), how to prepare its folder (`prepare`) and how to
    ask whether it is ready (`readiness`). Its own log rotates by the server's own means (`log_files`);
    what it prints before that is set up goes to `<name>.out`.
    """

    name: str
    version: str
    program: str = "java"
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, name: str, version: str, folder: Path, log_folder: Path) -> None:
        self.name = name
        self.version = version
        self.folder = folder
        self.log_folder = log_folder
        self.environment: dict[str, str] = {}
        """Put on top of `env()` from the next start on; for faults and experiments."""
        self._process: psutil.Process | None = None
        self._child: subprocess.Popen[bytes] | None = None

    # What a subclass says -----------------------------------------------------------------------

    def prepare(self) -> None:
        """Write config files and make folders; called before each start, must be repeatable."""

    def argv(self) -> Sequence[str]:
        raise NotImplementedError

    def env(self) -> Mapping[str, str]:
        """Environment on top of a minimal one. Secrets never stand here: other users may read it."""
        return {}

    def user(self) -> int | None:
        """The uid to run as; None for our own."""
        return None

    def log_files(self) -> list[Path]:
        """Its own log files, newest last."""
        own = self.log_folder / f"{self.name}.log"
        return [own] if own.exists() else []

    def readiness(self) -> Readiness:
        raise NotImplementedError

    # The same for all ---------------------------------------------------------------------------

    def start(self) -> None:
        if self.find() is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        out = self.log_folder / f"{self.name}.out"
        if out.exists() and out.stat().st_size > _OUT_BYTES_MAX:
            out.replace(out.with_suffix(".out.1"))
        environment = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
        environment |= {"HOME": str(self.folder), "TMPDIR": str(self.folder)} | dict(self.env()) | self.environment
        uid = self.user()
        identity = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        with out.open("ab") as sink:
            try:
                # A session of its own: Ctrl-C in our terminal must not reach the servers, we stop them in order.
                self._child = _Server(
                    self.argv(),
                    cwd=self.working_folder(),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    close_fds=True,
                    **identity,  # type: ignore[call-overload]
                )
            except OSError as error:
                raise MachineError(
                    f"`{self.name}` can't be started: {error.strerror}: {error.filename}",
                    hint="run `cdcpipe doctor`",
                ) from error
        self._process = None

    def working_folder(self) -> Path:
        """Where it runs and keeps its data."""
        return self.folder

    def find(self) -> psutil.Process | None:
        """Its main process, or None. A zombie is not running."""
        if self._child is not None:
            self._child.poll()  # reap it if it has ended
        if self._process is not None and self._process.is_running():
            with contextlib.suppress(psutil.Error):
                if self._process.status() != psutil.STATUS_ZOMBIE:
                    return self._process
        own = self._own_processes()
        pids = {process.pid for process in own}
        main = [process for process in own if _parent_pid(process) not in pids]
        self._process = main[0] if main else None
        return self._process

    def pids(self) -> list[int]:
        """All its processes."""
        return [process.pid for process in self._own_processes()]

    def _own_processes(self) -> list[psutil.Process]:
        return processes_below(self.folder, frozenset({self.program}))

    def state(self) -> ComponentState:
        process = self.find()
        if process is None:
            return ComponentState.STOPPED
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                return ComponentState.PAUSED
        return ComponentState.READY if self.readiness().ready else ComponentState.STARTING

    def await_ready(self, *, timeout_seconds: float = 60.0) -> None:
        """Wait until it can serve. Raises `ComponentFailed` with the end of its log if it dies or the time is over."""
        last = Readiness(False, "not asked yet")

        def ready() -> bool:
            nonlocal last
            if self.find() is None:
                raise self.failure(f"`{self.name}` ended while it was starting{self._exit_text()}")
            last = self.readiness()
            return last.ready

        wait_until(
            ready,
            what=lambda: f"`{self.name}` ready ({last.reason})",
            timeout_seconds=timeout_seconds,
            error=self.failure,
        )

    def failure(self, message: str) -> ComponentFailed:
        """An error about this component that ends with the last lines of its log."""
        tail = self.log_tail(12)
        shown = "\n".join([f"last lines of {self.name}'s log:", *tail]) if tail else f"{self.name} left no log"
        return ComponentFailed(self.name, message, detail=shown, hint=f"all of it: `cdcpipe logs {self.name}`")

    def _exit_text(self) -> str:
        if self._child is None:  # started by another process: its parent has the code
            return ""
        try:
            code = self._child.wait(2)
        except subprocess.TimeoutExpired:
            return ""
        return f" (killed by {signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        process = self.find()
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
            process.send_signal(self.stop_signal)
            try:
                process.wait(timeout_seconds)
            except psutil.TimeoutExpired:
                self.kill()
        self._reap()

    def discard(self) -> None:
        """End it when its data goes, too: there is nothing to put in order."""
        self.kill()

    def kill(self) -> None:
        own = self._own_processes()
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(own, timeout=10)
        self._reap()

    def _reap(self) -> None:
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
        self._process = None

    def pause(self) -> None:
        own = self._own_processes()
        for process in own:
            process.send_signal(signal.SIGSTOP)
        wait_until(  # a signal is delivered some time after it was sent
            lambda: all(process.status() == psutil.STATUS_STOPPED for process in own),
            what=f"`{self.name}` stopped by SIGSTOP",
            timeout_seconds=10,
            error=self.failure,
        )

    def resume(self) -> None:
        for process in self._own_processes():
            process.send_signal(signal.SIGCONT)

    def memory_bytes(self) -> int:
        total = 0
        for process in self._own_processes():
            with contextlib.suppress(psutil.Error):
                info = process.memory_full_info()
                total += getattr(info, "pss", 0) or info.uss  # PSS is Linux only; elsewhere the unique set
        return total

    def cpu_seconds(self) -> float:
        """User and system time of its processes so far; 0 when it isn't running."""
        total = 0.0
        for process in self._own_processes():
            with contextlib.suppress(psutil.Error):
                used = process.cpu_times()
                total += used.user + used.system
        return total

    def log_tail(self, lines: int = 20) -> list[str]:
        for path in [*reversed(self.log_files()), self.log_folder / f"{self.name}.out"]:
            with contextlib.suppress(OSError):
                tail = _tail(path, lines)
                if tail:
                    return tail
        return []


def _parent_pid(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _tail(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - max(64 * 1024, 1024 * lines))
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    found = text.splitlines()[1 if begin else 0 :]  # the first may be half a line
    return [line for line in found if line.strip()][-lines:]
