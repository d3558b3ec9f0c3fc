"""The cluster: made, found, filled with images, removed. Everything goes through `kind` and the engine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdcpipe.errors import StackError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.kind.tools import deploy_folder, run, tool

__all__ = ["Cluster"]


class Cluster:
    """The kind cluster called `name`, whether it is there or not."""

    def __init__(self, name: str = "cdcpipe") -> None:
        self.name = name

    @property
    def context(self) -> str:
        """Its context in the kubeconfig."""
        return f"kind-{self.name}"

    @property
    def node(self) -> str:
        """The container that is its one node."""
        return f"{self.name}-control-plane"

    def exists(self) -> bool:
        """Whether it is there, running or not. Raises `StackError` when the engine doesn't answer."""
        clusters = run("kind", "get", "clusters", what="asking kind for its clusters", timeout_seconds=60)
        return self.name in clusters.split()

    def running(self) -> bool:
        """Whether its node's container runs."""
        done = subprocess.run(
            [tool("docker"), "inspect", "--format", "{{.State.Running}}", self.node],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() == "true"

    def create(self) -> None:
        """Make it, ready to take pods. Raises `StackError`; a half-made one is removed by kind."""
        run(
            *("kind", "create", "cluster", "--name", self.name, "--wait", "120s"),
            *("--config", str(deploy_folder("kind", "cluster.yaml"))),
            what=f"making the cluster `{self.name}`",
        )

    def delete(self) -> None:
        """Remove it with all its data, and its context. Nothing happens when it isn't there."""
        run("kind", "delete", "cluster", "--name", self.name, what=f"removing the cluster `{self.name}`")

    def start(self) -> None:
        """Start a node that was stopped, say by a restart of the machine."""
        run("docker", "start", self.node, what=f"starting the node `{self.node}`")

    def stop(self) -> None:
        """Stop its node, orderly; what its volumes hold stays."""
        run("docker", "stop", "--time", "60", self.node, what=f"stopping the node `{self.node}`")

    def await_api(self, timeout_seconds: float = 120) -> None:
        """Wait until the API server answers and the node is ready, which it is not at once after a start."""

        def ready() -> bool:
            try:
                text = self.kubectl(
                    *("get", "nodes", "-o", "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}"),
                    what="asking for the node",
                )
            except StackError:
                return False
            return text.strip() == "True"

        wait_until(
            ready,
            what=f"the node `{self.node}` ready",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
            error=StackError,
        )

    def restart(self) -> None:
        """Restart the node: everything on it dies at once and comes back by itself."""
        run("docker", "restart", "--time", "5", self.node, what=f"restarting the node `{self.node}`")

    def loaded(self) -> set[str]:
        """Names of the images that the node's containerd has."""
        text = run("docker", "exec", self.node, "crictl", "images", "-o", "json", what="asking the node for its images")
        tags = [tag for image in json.loads(text)["images"] for tag in image.get("repoTags", [])]
        return {tag.removeprefix("docker.io/") for tag in tags}

    def load(self, images: Sequence[str]) -> list[str]:
        """Bring the images that the node lacks into its containerd, and give their names.

        Not `kind load`: that imports every platform that an image's index names, which fails on an engine with the
        containerd image store, where the other platforms' layers aren't there ("content digest not found").
        """
        missing = sorted(set(images) - self.loaded())
        if missing:
            handle, name = tempfile.mkstemp(prefix="cdcpipe-images-", suffix=".tar")
            os.close(handle)
            archive = Path(name)
            try:
                run("docker", "save", "--output", str(archive), *missing, what="saving the images")
                with archive.open("rb") as content:
                    run(
                        *(
                            "docker",
                            "exec",
                            "--interactive",
                            self.node,
                            "ctr",
                            "--namespace=k8s.io",
                            "images",
                            "import",
                        ),
                        *("--digests", "--snapshotter=overlayfs", "-"),
                        what="loading the images into the node",
                        stdin=content,
                    )
            finally:
                archive.unlink(missing_ok=True)
            if missing := sorted(set(images) - self.loaded()):
                raise StackError(f"the node has no {', '.join(missing)} after loading")
        return missing

    def kubectl(self, *arguments: str, what: str, stdin: str | None = None) -> str:
        """Run kubectl against this cluster, whatever the current context is."""
        return run("kubectl", "--context", self.context, *arguments, what=what, stdin=stdin, timeout_seconds=120)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder beside nothing, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="cdcpipe-kind-") as name:
        yield Path(name)
