"""A sink whose consumer reads uncommitted records (K1): what a killed task had sent in a transaction that was then
aborted is archived, beside the same changes sent again.

It must be found: rows of the archive that no committed record stands behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan
from cdcpipe.faults.schedule import Schedule, Trigger

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_rows_of_aborted_transactions_are_found(found: Found) -> None:
    plan = scenario_plan("copy_kills")  # 2,000 rows a transaction: each kill finds a large batch half sent
    kills = [step.fault for step in plan.schedule.steps]
    shares = [Trigger("committed", share * plan.events) for share in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)]
    found("read-uncommitted", replace(plan, schedule=Schedule.of(*((at, kills[0]) for at in shares))))
