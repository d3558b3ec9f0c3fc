"""Debezium 3.6.0.Final skips changes after a restart (D1): several changes share one LSN under COPY, and it takes what
it has not sent yet for done. Connector and task say RUNNING throughout.

It must be found as `lost-change@source`, with the rows. The same plan on 3.7.0.Final passes: `test_copy_kills.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_the_loss_under_copy_and_kills_is_found_with_its_rows(found: Found) -> None:
    result = found("debezium-3.6", scenario_plan("copy_kills"))
    lost = result.report["lost-change@source"]
    wal, log = (next(each.changes for each in result.report.ledgers if each.kind == kind) for kind in ("wal", "log"))
    assert lost.found == wal - log > 0
    assert {witness.table for witness in lost.witnesses} == {"public.bulk"}
    assert all(witness.key and witness.xid and witness.seq for witness in lost.witnesses)
    assert result.report["false-green"].found == 0 or "lost-change@source" in result.anomalies
