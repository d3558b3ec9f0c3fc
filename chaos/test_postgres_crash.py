"""PostgreSQL is killed inside an open transaction, twice (D26, D5, D18); and its sessions are ended, one and all,
while a transaction that has written stays open.

What must hold: exactly once: what was not committed never shows up (phantom), what was does, and the source reads on
from its slot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize("scenario", ["postgres_crash", "postgres_sessions"])
def test_a_crash_of_postgresql_shows_no_uncommitted_row(chaos: Chaos, scenario: str) -> None:
    chaos(scenario)
