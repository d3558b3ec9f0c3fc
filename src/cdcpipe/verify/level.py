"""Guarantee levels: which repetitions are allowed. No level allows a loss, a reordering or an altered value."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Level"]


class Level(StrEnum):
    """What the pipeline promises.

    - `at_least_once`: a change may be there more than once.
    - `effectively_once`: it may, if every repetition is identical, so that folding by key can't go wrong.
    - `exactly_once`: it may not.
    """

    AT_LEAST_ONCE = "at_least_once"
    EFFECTIVELY_ONCE = "effectively_once"
    EXACTLY_ONCE = "exactly_once"

    def allows_repeat(self, *, identical: bool) -> bool:
        """Whether a repetition is no anomaly at this level."""
        return self is Level.AT_LEAST_ONCE or (self is Level.EFFECTIVELY_ONCE and identical)
