"""Debezium 3.6.0.Final skips changes after a restart (D1): several changes share one LSN under COPY, and it takes what
it has not sent yet for done. Connector and task say RUNNING throughout.

It must be found as `lost-change@source`, and the transactions of exactly the rows that are in no record must be named.
The same plan on the shipped version passes: `test_copy_kills.py`. (3.6.0 also numbers the changes of a transaction anew
after a restart, D15: so more changes than those rows have no record under their own number, and others have one twice.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan
from cdcpipe.ledger.store import Ledger

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def missing_rows(run: Path) -> dict[bytes, int]:
    """Key -> transaction of the inserted rows that no record of the log has: a plain difference of two sets."""
    wal, log = ([str(file) for file in Ledger.open(run / "ledgers" / kind).files()] for kind in ("wal", "log"))
    query = (
        "SELECT key, xid FROM read_parquet(?) WHERE \"table\" = 'public.bulk' "
        "AND key NOT IN (SELECT key FROM read_parquet(?) WHERE \"table\" = 'public.bulk')"
    )
    return dict(duckdb.execute(query, [wal, log]).fetchall())


def test_the_loss_under_copy_and_kills_is_found_with_its_transactions(found: Found) -> None:
    result = found("debezium-3.6", scenario_plan("copy_kills"))
    lost, missing = result.report["lost-change@source"], missing_rows(result.run)
    assert lost.found >= len(missing) > 0
    assert {witness.table for witness in lost.witnesses} == {"public.bulk"}
    assert {witness.xid for witness in lost.witnesses} <= set(missing.values())
    torn = result.report["torn-transaction"]
    assert {witness.xid for witness in torn.witnesses} == set(missing.values())
