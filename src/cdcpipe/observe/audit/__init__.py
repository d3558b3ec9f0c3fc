"""Who read or changed what: an append-only trail whose entries are chained by hashes, so that tampering shows.

`Trail` appends and reads, `verify` walks the chain and compares it with anchors that lie elsewhere. `Collector` takes
what the servers noted since the last time: sessions and DDL of PostgreSQL, changes of Connect and the registry, access
to S3 objects. `recorded` notes a command of ours.

Names are resolved on first use: a command that only reads loads none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdcpipe.observe.audit.anchors import Anchor, FileAnchors, PostgresAnchors
    from cdcpipe.observe.audit.collect import Collector
    from cdcpipe.observe.audit.commands import recorded
    from cdcpipe.observe.audit.trail import Break, Entry, Fact, Trail, Verification, trail_of, verify

__all__ = [
    "Anchor",
    "Break",
    "Collector",
    "Entry",
    "Fact",
    "FileAnchors",
    "PostgresAnchors",
    "Trail",
    "Verification",
    "recorded",
    "trail_of",
    "verify",
]

_MODULES = {
    "anchors": ("Anchor", "FileAnchors", "PostgresAnchors"),
    "collect": ("Collector",),
    "commands": ("recorded",),
    "trail": ("Break", "Entry", "Fact", "Trail", "Verification", "trail_of", "verify"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
