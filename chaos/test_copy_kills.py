"""COPY, 2,000 rows a transaction, and the worker killed three times in 40 s (D1, D3): all rows of a transaction share
few LSNs, and a source that compares LSNs alone skips the rest of a transaction.

What must hold: each row arrives, once. Debezium 3.6.0 fails the first, 3.7.0 the second: see known_bugs/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_copy_under_kills_loses_no_row(chaos: Chaos) -> None:
    chaos("copy_kills")


def test_copies_of_ten_rows_under_kills_lose_no_row(chaos: Chaos) -> None:
    chaos("small_copies")
