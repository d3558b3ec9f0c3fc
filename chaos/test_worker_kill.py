"""The worker is killed twice: between the upload of a data file and its commit (C3, I2), and while a client has a
transaction open (D1, D13, D15).

What must hold: exactly once. The killed task's Kafka transaction is aborted by its successor; the files that no table
has are written again, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_worker_sigkill_between_upload_and_commit_leaves_no_duplicate_row(chaos: Chaos) -> None:
    chaos("worker_kill")
