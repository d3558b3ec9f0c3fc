"""The jars and archives of the local stack: locked, downloaded, verified, laid out as folders.

    artefacts.toml   what is wanted: a bundle is a name, a version and a few coordinates; edit this to upgrade
    artefacts.lock   what that resolved to: every file with its size and sha256 (`cdcpipe artefacts lock`)
    cache            per user: `files/` by content, `bundles/` ready to be put on a class path

A file that doesn't have the locked sha256 is never used. A bundle in the cache is checked against its own
manifest each time, and made anew when it doesn't match.
"""

from __future__ import annotations

from cdcpipe.stack.artefacts.lock import Bundle, LockedFile, load_lock, locked_version
from cdcpipe.stack.artefacts.store import Store, link

__all__ = ["Bundle", "LockedFile", "Store", "link", "load_lock", "locked_version"]
