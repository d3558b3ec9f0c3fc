"""The worker is killed when a third of a snapshot is in the log, and again while it is read anew (D14, D24).

What must hold: each row that was there is read, none is missing between snapshot and stream (handoff-gap), none that
was read twice hides a newer state. That it *is* read twice is Debezium's way: exactly-once does not cover snapshots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_snapshot_that_is_interrupted_misses_nothing(chaos: Chaos) -> None:
    chaos("snapshot_interrupted")
