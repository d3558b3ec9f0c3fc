"""Each link is cut for 12 s (connections are refused), then half open for 20 s (connections live, and nothing comes):
the source to PostgreSQL (D26), Connect to Kafka (K1, K2), the sink to S3 (C2), to the catalog (I4) and to the registry
(R1); one broker from the others.

What must hold: exactly once, and nobody who says RUNNING and stands still for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "link",
    [
        "connect_postgres",
        "connect_kafka",
        "connect_s3",
        "connect_catalog",
        "connect_registry",
        "kafka_kafka",
    ],
)
def test_a_link_that_is_cut_and_comes_back_loses_nothing(chaos: Chaos, link: str) -> None:
    chaos(f"partition_{link}")
