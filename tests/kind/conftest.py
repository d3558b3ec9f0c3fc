"""A kind stack for the session: the one that is there, or a new one that is removed afterwards."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cdcpipe.settings import load_settings
from cdcpipe.stack.kind import open_kind
from cdcpipe.stack.kind.images import BASE, PYTHON_BASE, WATCHERS
from cdcpipe.stack.kind.plan import KindPlan
from cdcpipe.stack.kind.stack import KindStack


def engine_lacks() -> str:
    """What keeps a kind cluster from running here; empty when nothing does."""
    for name in ("docker", "kind", "kubectl"):
        if shutil.which(name) is None:
            return f"needs {name}"
    answer = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
    return "" if answer.returncode == 0 else "needs a container engine that runs"


def _stand_in(name: str, *lines: str, program: str | None = None) -> str:
    """What keeps `name` from being had here. Where no registry of images can be reached, a stand-in with the same
    interface is made of what this machine has."""
    for ask in (["image", "inspect", name], ["pull", "--quiet", name]):
        if subprocess.run(["docker", *ask], capture_output=True, check=False, timeout=300).returncode == 0:
            return ""
    with tempfile.TemporaryDirectory() as context:
        if program is not None:
            found = shutil.which(program)
            if found is None:
                return f"needs the image {name}, or {program} on the PATH"
            shutil.copy(found, Path(context) / "program")
            shared = Path("/usr/share/prometheus")  # Debian's programs read templates from there
            if shared.is_dir():
                shutil.copytree(shared, Path(context) / "share")
            else:
                (Path(context) / "share").mkdir()
        (Path(context) / "Dockerfile").write_text("\n".join((f"FROM {BASE}", *lines, "")), encoding="utf-8")
        build = ["docker", "build", "--quiet", "--tag", name, context]
        done = subprocess.run(build, capture_output=True, text=True, check=False, timeout=300)
    return "" if done.returncode == 0 else f"needs the image {name}: {done.stderr[-200:]}"


@cache
def watchers_lack() -> str:
    """What keeps Prometheus, Alertmanager and the monitor from running in a cluster here; empty when nothing does."""
    install = "RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3"
    prometheus, alertmanager = WATCHERS
    lines = ("COPY program /bin/program", "COPY share /usr/share/prometheus", 'ENTRYPOINT ["/bin/program"]')
    return (
        _stand_in(PYTHON_BASE, install)
        or _stand_in(prometheus, *lines, program="prometheus")
        or _stand_in(alertmanager, *lines, program="prometheus-alertmanager")
    )


@pytest.fixture(scope="session")
def kind_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KindStack]:
    """The pipeline on kind. A cluster that was there before is left as it was found."""
    lacks = engine_lacks()
    if lacks:
        pytest.skip(lacks)
    folder: Path = tmp_path_factory.mktemp("kind")
    stack = open_kind(folder, load_settings())
    try:
        plan = None if stack.exists else KindPlan(monitoring=not watchers_lack())
        stack.up(plan, await_archive=True)
        yield stack
    finally:
        stack.down(purge=True)
        stack.close()
