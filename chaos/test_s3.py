"""S3 has a bad hour: every second write is answered 503 SlowDown, then all of them 500, then every second one is done
and its answer lost (C6, I2, A1); and S3 is killed between upload and commit, then frozen (C2, I4).

What must hold: exactly once. A write whose answer was lost may leave a file that no table has, never a row twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize("scenario", ["s3_brownout", "s3_outage"])
def test_an_s3_that_fails_and_lies_causes_no_loss_and_no_duplicate(chaos: Chaos, scenario: str) -> None:
    chaos(scenario)
