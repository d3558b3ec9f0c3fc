"""Debezium 3.7.0.Final counts the changes that it has sent at an LSN (D1), and counts wrong.

`WalPositionLocator` takes the count only if it is above one: after one row of a COPY the others are skipped. And it
counts BEGIN, which has the LSN of the transaction's first row: after two rows or more the last is sent again, and the
later ones have wrong numbers. 3.7.1.Final does neither. What is shipped lets PostgreSQL write a record for each row
instead (`cdcpipe.stack.rowwise`).

The source polls three records at a time here, so that nearly every poll, which is a transaction in Kafka, ends within a
COPY. Without the guard it must be found; with it, the same plan passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult
from cdcpipe.chaos.scenarios import scenario_plan

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_what_is_lost_or_repeated_within_a_copy_is_found(found: Callable[[str, ChaosPlan], ChaosResult]) -> None:
    found("copy-records", scenario_plan("small_copies"))


def test_the_same_plan_passes_with_the_guard(chaos: Chaos) -> None:
    chaos("small_copies", bug="small-polls")
