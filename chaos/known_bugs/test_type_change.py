"""A column's type is changed under load (R1): the registry, which is FULL_TRANSITIVE, refuses the new schema, and the
source's task fails for good. Restarting it doesn't help.

It must be found as `stuck`, the refusal must be named, and nothing that was committed before may be lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.plan import Migration

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]
Found = Callable[[str, ChaosPlan], ChaosResult]


def test_a_refused_schema_stops_the_source_and_is_named(found: Found) -> None:
    plan = ChaosPlan(
        seconds=40,
        rate=1000,
        drain_seconds=90,
        migrations=(Migration(15_000, "ALTER TABLE public.customers ALTER COLUMN points TYPE bigint"),),
    )
    result = found("type-change", plan)
    assert any("failed for good" in each for each in result.interventions)
    assert result.report["duplicate-change"].found == 0
