"""The programs that a kind deployment is made with, `docker`, `kind` and `kubectl`: found and asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cdcpipe.errors import MachineError, StackError

__all__ = ["deploy_folder", "engine_arch", "run", "tool"]

_WHERE = {
    "docker": "install Docker Desktop, or an engine of your system (docs/kind.md)",
    "kind": "get it from https://kind.sigs.k8s.io (quick start), or `winget install Kubernetes.kind`",
    "kubectl": "get it from https://kubernetes.io/docs/tasks/tools/, or `winget install Kubernetes.kubectl`",
}


def tool(name: str) -> str:
    """The path of `name`. Raises `MachineError` that says where to get it."""
    found = shutil.which(name)
    if found is None:
        raise MachineError(f"`{name}` is not on the PATH", hint=_WHERE[name])
    return found


def run(
    *command: str,
    what: str,
    stdin: IO[bytes] | str | None = None,
    timeout_seconds: float = 600,
    error: Callable[..., StackError] = StackError,
) -> str:
    """Run a tool to its end and give what it printed. `what` begins the error's sentence: "<what> failed".

    Raises `MachineError` without the tool, `error` with the tool's own last words.
    """
    argv = [tool(command[0]), *command[1:]]
    text = stdin.encode() if isinstance(stdin, str) else None
    file = subprocess.DEVNULL if stdin is None else stdin
    try:
        if text is not None:
            done = subprocess.run(argv, capture_output=True, check=False, timeout=timeout_seconds, input=text)
        else:
            done = subprocess.run(argv, capture_output=True, check=False, timeout=timeout_seconds, stdin=file)  # type: ignore[arg-type]
    except subprocess.TimeoutExpired as late:
        raise error(f"{what} took longer than {timeout_seconds:g} s", detail=" ".join(command)) from late
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.returncode != 0:
        said = (err + out).strip().splitlines()
        raise error(f"{what} failed", detail="\n".join(said[-12:]), hint=_hint("\n".join(said)))
    return out


def _hint(said: str) -> str | None:
    if "Cannot connect to the Docker daemon" in said or "docker daemon is not running" in said:
        return "start Docker Desktop, or the engine, and run it again"
    if "port is already allocated" in said or "address already in use" in said:
        return "end what uses that port, or change `hostPort` in deploy/kind/cluster.yaml and the base address with it"
    if "permission denied" in said and "docker.sock" in said:
        return "your user may not use the engine: `sudo usermod -aG docker $USER`, then log in again"
    return None


def engine_arch() -> str:
    """`amd64` or `arm64`: what the engine runs. Raises `StackError` when it doesn't answer."""
    text = run(
        "docker", "version", "--format", "{{json .Server}}", what="asking the container engine", timeout_seconds=30
    )
    return str(json.loads(text)["Arch"])


def deploy_folder(*parts: str) -> Path:
    """A folder below `deploy/`: of the checkout, else of the installed package. Raises `MachineError`."""
    package = Path(__file__).resolve().parents[2]
    places = [package.parents[1] / "deploy", package / "_deploy"]
    for place in places:
        if place.joinpath(*parts).exists():
            return place.joinpath(*parts)
    raise MachineError(
        f"the manifests are not there: no {' or '.join(str(place.joinpath(*parts)) for place in places)}",
        hint="run it from a checkout of cdcpipe, or install the package anew",
    )
