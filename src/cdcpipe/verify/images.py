"""Row images side by side, where the ledgers kept them: to show a witness, and to tell how a value went wrong."""

from __future__ import annotations

from typing import Final

import ibis

from cdcpipe.verify.tables import FINDINGS, Expr

__all__ = ["IMAGE", "columns_of", "drifted", "is_wrong_schema"]

IMAGE: Final = {"hash": "binary", "image": "string"}
LIMIT: Final = 10_000
"""Differing images that are told apart one by one; what lies beyond stays `value-drift`."""


def drifted(place: str, earlier: str, later: str) -> Expr:
    """Findings of `value-drift` with both images."""
    e = ibis.table(IMAGE, name=earlier).select(e_hash="hash", expected_image="image").distinct()
    f = ibis.table(IMAGE, name=later).select(f_hash="hash", found_image="image").distinct()
    t = FINDINGS.filter(FINDINGS["name"] == "value-drift", FINDINGS["place"] == place)
    t = t.join(e, t["expected_after"] == e["e_hash"]).join(f, t["found_after"] == f["f_hash"])
    return t.select("topic", "partition", "offset", "xid", "expected_image", "found_image").limit(LIMIT)


def columns_of(image: str) -> dict[str, str]:
    """Encoded values by column, of an image in canonical form.

    >>> columns_of("2:idn2:424:notes3:abc5:large?")
    {'id': 'n2:42', 'note': 's3:abc', 'large': '?'}
    """
    raw, at = image.encode(), 0
    found: dict[str, str] = {}
    while at < len(raw):
        name, at = _counted(raw, at)
        if raw[at : at + 1] in (b"?", b"~"):
            found[name], at = raw[at : at + 1].decode(), at + 1
            continue
        start = at
        _, at = _counted(raw, at + 1)
        found[name] = raw[start:at].decode()
    return found


def _counted(raw: bytes, at: int) -> tuple[str, int]:
    colon = raw.index(b":", at)
    end = colon + 1 + int(raw[at:colon])
    return raw[colon + 1 : end].decode(), end


def is_wrong_schema(expected: str, found: str) -> bool:
    """Whether the bytes look read by another version's schema: values under each other's names, or of another type.

    A changed value keeps its column's type; a column that became null, or was null, says nothing.
    """
    try:
        e, f = columns_of(expected), columns_of(found)
    except (ValueError, UnicodeDecodeError):
        return False
    if any(e[name][0] != f[name][0] for name in e.keys() & f.keys() if "?" not in (e[name], f[name])):
        return True
    moved = {name for name in e.keys() | f.keys() if e.get(name) != f.get(name)}
    return len(moved) > 1 and sorted(e[name] for name in moved if name in e) == sorted(
        f[name] for name in moved if name in f
    )
