"""The pipeline on Kubernetes, on a cluster that `kind` makes on this machine: images, manifests, up and down.

The cluster itself is the only state: what was chosen is in its ConfigMap `cdcpipe-plan`, credentials are in its
Secrets. So a stack is found again from anywhere, and nothing of it is left when the cluster is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cdcpipe.events import Listener, ignore
from cdcpipe.settings import Settings

if TYPE_CHECKING:
    from cdcpipe.stack.kind.stack import KindStack

__all__ = ["open_kind"]


def open_kind(folder: Path, settings: Settings, *, listener: Listener = ignore) -> KindStack:
    """The stack on the cluster `cdcpipe`. `folder` only remembers whether a `down --purge` may remove the cluster."""
    from cdcpipe.stack.artefacts import Store
    from cdcpipe.stack.kind.stack import KindStack

    store = Store(settings.cache, mirror=settings.maven_mirror, listener=listener)
    return KindStack(folder, store=store, listener=listener)
