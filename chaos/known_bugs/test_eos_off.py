"""Exactly-once support of the worker switched off (D13): a killed task had sent what its stored offset doesn't know
of, and sends it again.

It must be found as `duplicate-change`; nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_a_kill_without_exactly_once_sends_twice(found: Found) -> None:
    result = found("eos-off", scenario_plan("copy_kills", load="shop", rate=3000))
    assert result.report["lost-change@source"].found == 0
    assert result.report["duplicate-change"].found > 0
