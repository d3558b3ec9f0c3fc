"""A second worker joins and leaves, in order and by SIGKILL, then the first is killed (K7, I2, I3): each time tasks
move.

What must hold: exactly once, and offsets that never go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_storm_of_rebalances_moves_no_offset_back(chaos: Chaos) -> None:
    chaos("rebalance_storm")
