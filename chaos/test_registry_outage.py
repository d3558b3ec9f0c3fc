"""The registry is down for 15 s under load (R1, K6).

What must hold: exactly once: known schemas are cached, and nothing is dropped because its schema can not be asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_registry_outage_drops_nothing(chaos: Chaos) -> None:
    chaos("registry_outage")
