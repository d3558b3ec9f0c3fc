"""The four that happen most: a worker killed between upload and commit (D1, D13, C3), a broker killed (K1), the link
to the database cut (D26), S3 answering 503 SlowDown to every second request (C6). One stack, one run, 3,000 events/s;
on kind 1,000, and the link to S3 is cut instead.

What must hold: nothing is lost, repeated, reordered or altered; the flow comes back by itself each time; the load is
held while things are broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(900)]


def test_worker_broker_link_and_s3_one_after_the_other(chaos: Chaos) -> None:
    result = chaos("smoke" if chaos.target == "local" else f"smoke_{chaos.target}")
    assert sum(each.took_effect for each in result.outcomes) == 4
    assert result.interventions == ()
    assert result.rate_during_faults is not None
    assert result.rate_during_faults >= 0.95 * result.plan.rate
