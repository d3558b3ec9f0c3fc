"""Which commands change nothing in a pipeline. Every other one is noted in the audit trail, known here or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["READING", "reads_only"]

READING: Final[frozenset[tuple[str, ...]]] = frozenset(
    (verb,)
    for verb in (
        *("status", "logs", "doctor", "completion", "config", "artefacts", "audit", "trace", "lineage", "quality"),
        *("monitor", "top"),
    )
) | {
    ("chaos", "kinds"),
    ("chaos", "report"),
    ("dlq", "list"),
    ("dlq", "show"),
    ("schema", "plan"),
    ("schema", "check"),
    ("schema", "history"),
    ("verify", "run"),
}
"""`verify events` and `verify state` are not among them: they commit a watermark row, and open a slot."""


def reads_only(words: Sequence[str]) -> bool:
    """Whether the command with these words is one that only reads, or asks for help."""
    if not words or any(word in ("--help", "-h") for word in words):
        return True
    verbs = tuple(word for word in words if not word.startswith("-"))
    return any(verbs[: len(reading)] == reading for reading in READING)
