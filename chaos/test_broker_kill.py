"""Brokers are killed: the only one; each of three in turn; the leader of a busy partition; the active controller; a
second one as soon as the first is back (K1, K9, D5).

What must hold: exactly once. What was acknowledged is in the log; a transaction whose coordinator died ends one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "scenario",
    ["broker_kill", "broker_kill_each", "broker_leader", "broker_controller", "broker_two_in_a_row"],
)
def test_a_killed_broker_loses_nothing_that_was_acknowledged(chaos: Chaos, scenario: str) -> None:
    chaos(scenario)
