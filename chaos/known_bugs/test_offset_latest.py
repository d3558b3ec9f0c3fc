"""A sink that begins at the end of a topic which it sees for the first time (I1, apache/iceberg#17551): the default of
its own clients. No fault is needed: the first changes of a new table are enough.

It must be found as `lost-change@sink`, with the offsets.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_the_first_changes_of_a_new_table_are_missed_and_found(found: Found) -> None:
    result = found("offset-latest", ChaosPlan(seconds=30, rate=1000))
    assert result.report["lost-change@source"].found == 0
