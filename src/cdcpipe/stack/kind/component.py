"""A component that is a pod. Its server runs as a child of the container's first process
(deploy/kind/images/common/run), so everything that a fault does to it is a command in the container, on any cluster,
without access to a node.

A server that was killed or stopped stays down until `start`: a file in the pod holds it, so that a fault decides how
long it lasts. `delete` takes the whole pod away, and then Kubernetes decides.
"""

from __future__ import annotations

from collections.abc import Callable

from cdcpipe.errors import ComponentFailed, StackError
from cdcpipe.stack.component import ComponentState, Readiness, wait_until
from cdcpipe.stack.kind.kube import Kube, is_ready, why_not_ready

__all__ = ["KindComponent"]

_HOLD = "/run/cdcpipe/hold"
_PID = "/run/cdcpipe/pid"
# PSS of every process but the shell that counts.
_PSS = r"""
t=0
for p in /proc/[0-9]*; do
  [ "${p#/proc/}" = "$$" ] && continue
  while read -r key value _; do [ "$key" = Pss: ] && t=$((t + value)); done 2>/dev/null <"$p/smaps_rollup"
done
echo $t
"""
# Nanoseconds.
_CPU = r"""
if [ -r /sys/fs/cgroup/cpu.stat ]; then
  while read -r key value; do [ "$key" = usage_usec ] && echo $((value * 1000)); done </sys/fs/cgroup/cpu.stat; true
else
  cat /sys/fs/cgroup/cpuacct/cpuacct.usage
fi
"""


class KindComponent:
    """The pod `pod`, which `ask` asks over its server's own protocol from outside of the cluster."""

    def __init__(
        self, name: str, version: str, pod: str, kube: Kube, ask: Callable[[], Readiness], *, stop_signal: str = "TERM"
    ) -> None:
        self.name = name
        self.version = version
        self.pod = pod
        self._kube = kube
        self._ask = ask
        self._stop_signal = stop_signal

    def start(self) -> None:
        """Let its server run again. Returns before it is ready."""
        wait_until(
            lambda: self._try(f"rm -f {_HOLD}") is not None,
            what=lambda: f"a container of pod `{self.pod}` to start the server in ({self._why()})",
            timeout_seconds=120,
            interval_seconds=0.5,
            error=self.failure,
        )

    def readiness(self) -> Readiness:
        return self._ask()

    def state(self) -> ComponentState:
        said = self._try(
            f"[ -e {_HOLD} ] && echo held; read -r pid <{_PID} 2>/dev/null && cut -d' ' -f3 /proc/$pid/stat; true"
        )
        if said is None:
            return ComponentState.STOPPED
        words = said.split()
        status = [word for word in words if word != "held"]
        if not status or status[0] in ("Z", "X"):
            return ComponentState.STOPPED if "held" in words else ComponentState.STARTING
        if status[0] in ("T", "t"):
            return ComponentState.PAUSED
        return ComponentState.READY if self.readiness().ready else ComponentState.STARTING

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        """Signal its server and wait; kill it when the time is over. Its pod stays."""
        script = (
            f"touch {_HOLD}; read -r pid <{_PID} 2>/dev/null || exit 0; kill -CONT -1; kill -{self._stop_signal} $pid"
        )
        if self._try(script) is None:
            return
        try:
            wait_until(
                lambda: self.state() is ComponentState.STOPPED,
                what=f"`{self.name}` stopped by SIG{self._stop_signal}",
                timeout_seconds=timeout_seconds,
                interval_seconds=0.2,
                error=self.failure,
            )
        except ComponentFailed:
            self.kill()

    def kill(self) -> None:
        # All processes but the container's first and this shell; the first one knows that it is held.
        if self._try(f"touch {_HOLD}; kill -KILL -1") is None:
            return
        wait_until(
            lambda: self._try(f"[ ! -e {_PID} ]") is not None,
            what=f"`{self.name}` ended by SIGKILL",
            timeout_seconds=20,
            error=self.failure,
        )

    def pause(self) -> None:
        self._kube.exec(self.pod, "kill -STOP -1")
        wait_until(
            lambda: self.state() is ComponentState.PAUSED,
            what=f"`{self.name}` stopped by SIGSTOP",
            timeout_seconds=20,
            error=self.failure,
        )

    def resume(self) -> None:
        self._kube.exec(self.pod, "kill -CONT -1")

    def delete(self, *, force: bool = False) -> None:
        """Delete its pod: orderly, or at once. Kubernetes makes another, on the same volume."""
        self._kube.delete_pod(self.pod, force=force)

    def memory_bytes(self) -> int:
        said = self._try(_PSS)
        return int(said.split()[-1]) * 1024 if said else 0

    def cpu_seconds(self) -> float:
        """User and system time of its container, as the container's cgroup counts (version 2, or 1)."""
        said = self._try(_CPU)
        return float(said.split()[-1]) / 1e9 if said else 0.0

    def log_tail(self, lines: int = 20) -> list[str]:
        return self._kube.log(self.pod, lines) or self._kube.log(self.pod, lines, previous=True)

    def await_ready(self, *, timeout_seconds: float = 60.0) -> None:
        """Wait until it can serve and its pod says so. Raises `ComponentFailed` with what Kubernetes says of it."""
        last = Readiness(False, "not asked yet")

        def ready() -> bool:
            nonlocal last
            pod = self._kube.pod(self.pod)
            last = self._ask() if pod is not None and is_ready(pod) else Readiness(False, self._why())
            return last.ready

        wait_until(
            ready,
            what=lambda: f"`{self.name}` ready ({last.reason})",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
            error=self.failure,
        )

    def failure(self, message: str) -> ComponentFailed:
        """An error about this component, with what Kubernetes and its log say."""
        found = [trouble.text() for trouble in self._kube.troubles() if trouble.pod == self.pod]
        detail = found[0] if found else "\n".join([f"last lines of {self.name}'s log:", *self.log_tail(12)])
        return ComponentFailed(self.name, message, detail=detail, hint=f"all of it: `cdcpipe kind logs {self.name}`")

    def _why(self) -> str:
        pod = self._kube.pod(self.pod)
        return "there is no such pod" if pod is None else why_not_ready(pod)

    def _try(self, script: str) -> str | None:
        """What the script printed in the container; None when it failed or there is no container."""
        try:
            return self._kube.exec(self.pod, script)
        except StackError:
            return None
