"""One row a transaction from eight writers, and the worker restarted four times, clean and hard (D2): from PostgreSQL
17 on a COMMIT ends at the LSN where the next transaction begins, which older sources take for already done.

What must hold: each row arrives, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_tiny_transactions_under_restarts_lose_nothing(chaos: Chaos) -> None:
    chaos("tiny_restarts")
