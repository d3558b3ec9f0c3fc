"""Errors tolerated and no dead letter queue (K6): records that can't be decoded are skipped, their offsets committed.

It must be found as `unaccounted-drop`, with topic, partition and offset of each.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.poison import Poison
from cdcpipe.faults.schedule import Schedule, Trigger

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_poisoned_records_that_vanish_are_found(found: Found) -> None:
    poison = Poison("cdc.public.orders", count=5)
    schedule = Schedule.of((Trigger("committed", 20_000), poison), (Trigger("committed", 60_000), poison))
    result = found("no-dead-letters", ChaosPlan(seconds=40, rate=2000, schedule=schedule))
    dropped = result.report["unaccounted-drop"]
    assert dropped.found == 10
    assert {(witness.topic, witness.partition) for witness in dropped.witnesses} == {("cdc.public.orders", 0)}
