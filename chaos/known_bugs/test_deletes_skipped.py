"""A source told to skip deletes (D12): the stream has no gap that offsets could show.

It must be found as `lost-change@source`, deletes only.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_deletes_that_the_source_skips_are_found(found: Found) -> None:
    result = found("deletes-skipped", ChaosPlan(seconds=30, rate=1000))
    assert {witness.op for witness in result.report["lost-change@source"].witnesses} == {"d"}
