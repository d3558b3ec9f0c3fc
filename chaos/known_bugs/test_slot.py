"""The slot dropped and made again, or moved, under the source (D6, D7): what was committed in between is in no slot.

With the shipped configuration the source must refuse to go on, and the loss of the slot must be found; nothing may be
lost without a word. Told to check neither the slot (`offset.mismatch.strategy=no_validation`, Debezium's default) nor
the log's position (`internal.log.position.check.enable=false`) it goes on as if nothing had been: the flow is back by
itself, and what is lost must be found as `lost-change@source`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.faults.fault import fault_from_dict
from cdcpipe.faults.schedule import Schedule, Trigger

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]

DROPPED = fault_from_dict({"kind": "slot-dropped", "seconds": 5})
STOPPED = fault_from_dict({"kind": "stop", "component": "connect", "seconds": 15})
ADVANCED = fault_from_dict({"kind": "slot-advanced"})


def assert_lost_without_a_word(result: ChaosResult) -> None:
    """Changes are lost, and nobody had to restart anything: a source that refused would lose them all the same."""
    assert result.report["lost-change@source"].found > 0
    assert result.interventions == ()
    assert all(each.recovery is not None and each.recovery.flows is not None for each in result.outcomes)


def test_a_slot_that_is_dropped_and_made_again_is_found(found: Found) -> None:
    plan = ChaosPlan(
        seconds=40, rate=1000, drain_seconds=60, schedule=Schedule.of((Trigger("committed", 12_000), DROPPED))
    )
    result = found("slot-dropped", plan)
    assert "slot-loss" in result.anomalies
    assert result.report["duplicate-change"].found == 0


def test_a_slot_that_is_made_again_unchecked_loses_what_was_in_between(found: Found) -> None:
    schedule = Schedule.of((Trigger("committed", 12_000), DROPPED))
    assert_lost_without_a_word(found("slot-unchecked", ChaosPlan(seconds=40, rate=1000, schedule=schedule)))


def test_a_slot_that_is_moved_unchecked_loses_what_it_passed(found: Found) -> None:
    schedule = Schedule.of((Trigger("committed", 12_000), STOPPED), (Trigger("committed", 22_000), ADVANCED))
    assert_lost_without_a_word(found("slot-unchecked", ChaosPlan(seconds=45, rate=1000, schedule=schedule)))
