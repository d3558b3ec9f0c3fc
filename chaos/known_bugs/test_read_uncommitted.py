"""A sink whose consumer reads uncommitted records (K1): what a killed task had sent in a transaction that was then
aborted is archived, beside the same changes sent again.

It must be found: rows of the archive that no committed record stands behind.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_rows_of_aborted_transactions_are_found(found: Found) -> None:
    found("read-uncommitted", scenario_plan("copy_kills", load="shop", rate=3000))
