"""`--target containers` on a real engine.

Where no registry of images can be reached, `official/` gives our own images the interface of the official ones: what
they read from environment, command and mounts. What is not shown there is that the official ones start.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.gating import gate
from tests.kind.conftest import engine_lacks

from cdcpipe.settings import load_settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.kind.images import COMPONENTS, Images

pytestmark = [pytest.mark.kind, pytest.mark.slow, pytest.mark.timeout(1500)]

OFFICIAL = Path(__file__).parent / "official"


@pytest.fixture(scope="module")
def settings() -> str:
    """`[containers]` with images that can be had here."""
    lacks = engine_lacks()
    if lacks:
        pytest.skip(lacks)
    Images(Store(load_settings().cache)).build()
    names = {}
    for component in set(COMPONENTS) - {"connect"}:
        names[component] = f"cdcpipe-official/{component}:test"
        build = ["docker", "build", "--quiet", "--tag", names[component], "--build-arg", f"COMPONENT={component}"]
        subprocess.run([*build, str(OFFICIAL)], check=True, capture_output=True, timeout=300)
    names["connect"] = names["kafka"]  # as with the official ones: plugins are mounted
    return "[containers]\n" + "".join(f'{name} = "{image}"\n' for name, image in names.items())


def test_the_gate_judges_a_pipeline_in_containers(settings: str, tmp_path: Path) -> None:
    load = "\n[conformance]\nrate = 400\nseconds = 20\nwarm_up = 0\n"
    (tmp_path / "cdcpipe.toml").write_text(settings + load, encoding="utf-8")
    # The helper that removes what a killed test leaves is an image of its own, which can't be had here either.
    matrix = gate(
        [sys.executable, "-m", "cdcpipe"], tmp_path, "--target", "containers", TESTCONTAINERS_RYUK_DISABLED="true"
    )
    assert matrix.of("fail", "not run") == {}
    # At this rate the first two can't be shown; the audit trail is collected from files that containers don't give.
    assert set(matrix.of("inconclusive")) <= {"R2.1", "R2.2", "R7.5"}
    left = subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Image}}"], capture_output=True, text=True, check=True
    ).stdout
    assert "cdcpipe-official" not in left
