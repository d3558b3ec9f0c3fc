"""Columns are added under load just before the worker and the broker are killed (D19, R1, C8): WAL of the old schema
is then read by a source that has seen the new one.

What must hold: exactly once; each row decodes with the schema that it was written with; every hour stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def test_a_schema_change_under_faults_alters_no_value(chaos: Chaos) -> None:
    chaos("schema_change")
