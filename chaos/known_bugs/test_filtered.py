"""A transform of the sink that drops the records of one topic (K5, K6): offsets are committed, nothing fails.

It must be found, for that topic alone.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_records_that_a_transform_drops_are_found(found: Found) -> None:
    result = found("filtered", ChaosPlan(seconds=30, rate=1000))
    topics = {witness.topic for check in result.report.failed for witness in check.witnesses if witness.topic}
    assert topics == {"cdc.public.payments"}
