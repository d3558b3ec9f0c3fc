"""How results are put into words, the same in every rendering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cdcpipe.verify.images import columns_of
from cdcpipe.verify.verdict import CheckResult, Image, Verdict, Witness, format_lsn

__all__ = ["GROUPS", "compare_images", "facts_of", "mood_of", "word_of"]

GROUPS: Final = {
    "delivery": "Delivery: every change arrives, once",
    "order": "Order: each key's story in the order it happened",
    "value": "Values: what arrives is what was committed",
    "schema": "Schemas: everything stored can be read",
    "progress": "Progress: nothing is stuck, nothing runs ahead",
    "state": "State: the archive equals the tables",
}


def word_of(result: CheckResult) -> str:
    """The verdict, or why there is none."""
    if not result.applies:
        return "not judged"
    if result.verdict is Verdict.FAIL and not result.is_cause:
        return "consequence"
    return result.verdict.value


def mood_of(result: CheckResult) -> str:
    """A colour's name for the verdict; `plain` where there is none."""
    if not result.applies:
        return "plain"
    if result.verdict is Verdict.FAIL and not result.is_cause:
        return "inconclusive"
    return result.verdict.value


def key_text(key: str) -> str:
    """A canonical key as people write it: `id=42`."""
    columns = _columns(key)
    return key if columns is None else ", ".join(f"{name}={_shown(value)}" for name, value in columns.items())


def facts_of(witness: Witness) -> list[tuple[str, str]]:
    """What there is to look it up, in the order in which one would."""
    place = None if witness.topic is None else f"{witness.topic}/{witness.partition}@{witness.offset}"
    change = None if witness.xid is None else f"{witness.xid}" + (f"#{witness.seq}" if witness.seq else "")
    pairs = (
        ("table", witness.table),
        ("key", None if witness.key is None else key_text(witness.key)),
        ("op", witness.op),
        ("transaction", change),
        ("commit", format_lsn(witness.commit_lsn)),
        ("lsn", format_lsn(witness.lsn)),
        ("record", place),
        ("object", witness.object),
        ("committed", None if witness.committed_at is None else witness.committed_at.isoformat()),
    )
    return [(name, value) for name, value in pairs if value]


def compare_images(witness: Witness) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """Both images by column, `(column, value, differs)`, titled; hashes where a ledger kept no image."""
    both: list[tuple[str, list[tuple[str, str, bool]]]] = []
    for moment in ("before", "after"):
        e, f = _side(witness.expected, moment), _side(witness.found, moment)
        if e == f:
            continue
        names = dict.fromkeys([*(e or {}), *(f or {})])
        for title, own, other in (("expected", e, f), ("found", f, e)):
            if own is not None:
                against = own if other is None else other
                rows = [(name, own.get(name, "null"), own.get(name) != against.get(name)) for name in names]
                both.append((f"{title} {moment}", rows))
    return both


def _side(images: Mapping[str, Image | None] | None, moment: str) -> dict[str, str] | None:
    image = None if images is None else images.get(moment)
    if image is None:
        return None
    columns = None if image.text is None else _columns(image.text)
    if columns is None:
        return {"hash": image.hash}
    return {name: _shown(value) for name, value in columns.items()}


def _columns(text: str) -> dict[str, str] | None:
    try:
        return columns_of(text)
    except (ValueError, UnicodeDecodeError):
        return None


def _shown(value: str) -> str:
    if value == "?":
        return "(unchanged TOAST)"
    payload = value.partition(":")[2]
    return payload if len(payload) <= 200 else payload[:199] + "…"
