"""A kind stack for the session: the one that is there, or a new one that is removed afterwards."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdcpipe.settings import load_settings
from cdcpipe.stack.kind import open_kind
from cdcpipe.stack.kind.stack import KindStack


def engine_lacks() -> str:
    """What keeps a kind cluster from running here; empty when nothing does."""
    for name in ("docker", "kind", "kubectl"):
        if shutil.which(name) is None:
            return f"needs {name}"
    answer = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
    return "" if answer.returncode == 0 else "needs a container engine that runs"


@pytest.fixture(scope="session")
def kind_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KindStack]:
    """The pipeline on kind. A cluster that was there before is left as it was found."""
    lacks = engine_lacks()
    if lacks:
        pytest.skip(lacks)
    folder: Path = tmp_path_factory.mktemp("kind")
    stack = open_kind(folder, load_settings())
    try:
        stack.up(await_archive=True)
        yield stack
    finally:
        stack.down(purge=True)
        stack.close()
