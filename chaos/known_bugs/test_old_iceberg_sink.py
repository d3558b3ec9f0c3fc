"""Older Iceberg sinks whose coordinator reads the control topic again in the middle of a commit (I1, I2, I3): it
commits files a second time, or rewinds its offsets (apache/iceberg#17340, #17551, #17637, #13763).

Three tasks announce their files one after the other while S3 is slow. When the group rebalances meanwhile, the old
coordinator counts those that it reads twice as if all had come.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


@pytest.mark.parametrize("bug", ["iceberg-1.10", "iceberg-1.11"])
def test_an_old_coordinator_is_found(found: Found, bug: str) -> None:
    found(bug, scenario_plan("coordinator_joined"))
