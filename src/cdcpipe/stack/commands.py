"""A component of somebody else's pipeline, managed by the shell commands that its owner gave."""

from __future__ import annotations

import subprocess

from cdcpipe.errors import ComponentFailed, UsageError
from cdcpipe.settings import ComponentSettings
from cdcpipe.stack.component import ComponentState, Readiness, wait_until

__all__ = ["CommandComponent"]


class CommandComponent:
    """`[endpoints.components.<name>]`. What has no command can't be done, and raises `UsageError`."""

    def __init__(self, name: str, settings: ComponentSettings) -> None:
        self.name = name
        self.version = settings.version
        self._settings = settings

    def start(self) -> None:
        self._run("start")

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        self._run("stop", timeout_seconds=timeout_seconds + 30)

    def kill(self) -> None:
        self._run("kill")

    def pause(self) -> None:
        self._run("pause")

    def resume(self) -> None:
        self._run("resume")

    def readiness(self) -> Readiness:
        if self._settings.ready is None:
            return Readiness(False, "no command `ready` is given")
        done = self._call(self._settings.ready, 30)
        return Readiness(done.returncode == 0, (done.stderr or done.stdout).strip()[-200:])

    def state(self) -> ComponentState:
        """Seen from outside: ready, or not."""
        return ComponentState.READY if self.readiness().ready else ComponentState.STOPPED

    def await_ready(self, *, timeout_seconds: float = 60.0) -> None:
        """Wait until `ready` says so. Raises `ComponentFailed`."""
        wait_until(
            lambda: self.readiness().ready,
            what=f"`{self.name}` ready",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
            error=lambda text: ComponentFailed(self.name, text),
        )

    def memory_bytes(self) -> int:
        """0 when no command `memory` is given."""
        if self._settings.memory is None:
            return 0
        text = self._call(self._settings.memory, 30).stdout.split()
        return int(text[0]) if text and text[0].isdigit() else 0

    def cpu_seconds(self) -> float:
        """0 when no command `cpu` is given."""
        if self._settings.cpu is None:
            return 0.0
        text = self._call(self._settings.cpu, 30).stdout.split()
        try:
            return float(text[0]) if text else 0.0
        except ValueError:
            return 0.0

    def log_tail(self, lines: int = 20) -> list[str]:
        if self._settings.log is None:
            return []
        return self._call(self._settings.log, 60).stdout.splitlines()[-lines:]

    def can(self, verb: str) -> bool:
        """Whether there is a command for `verb`."""
        return getattr(self._settings, verb, None) is not None

    def _run(self, verb: str, *, timeout_seconds: float = 120) -> None:
        command = getattr(self._settings, verb)
        if command is None:
            raise UsageError(
                f"`{self.name}` can't be told to {verb}: no command is given",
                hint=f"set `{verb}` in [endpoints.components.{self.name}]",
            )
        done = self._call(command, timeout_seconds)
        if done.returncode != 0:
            text = (done.stderr or done.stdout).strip()[-1000:]
            raise ComponentFailed(self.name, f"the command to {verb} `{self.name}` failed", detail=text)

    def _call(self, command: str, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        try:
            # The owner of the pipeline wrote this command into his own settings: a shell is what he expects.
            return subprocess.run(  # noqa: S602
                command,
                shell=True,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as error:
            raise ComponentFailed(
                self.name, f"a command for `{self.name}` did not end within {timeout_seconds:g} s", detail=command
            ) from error
