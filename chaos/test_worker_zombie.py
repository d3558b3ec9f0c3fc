"""The worker is stopped by SIGSTOP for longer than its session, and wakes as if nothing had been (K2, C1, I1, I3).

What must hold: exactly once, and no writer of an older generation: what the zombie still has in hand is fenced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_worker_that_wakes_after_its_session_is_fenced(chaos: Chaos) -> None:
    chaos("worker_zombie")
