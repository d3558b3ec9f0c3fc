"""Whatever the seed draws: all kinds of faults on processes and links, alone and in pairs, as long as `--minutes` says
(ten by default).

What must hold: exactly once, all the time; and the pipeline comes back by itself each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


@pytest.mark.parametrize(("brokers", "proxied"), [(1, False), (1, True), (3, False)])
def test_random_faults_lose_repeat_reorder_and_alter_nothing(chaos: Chaos, brokers: int, proxied: bool) -> None:
    chaos("soak", brokers=brokers, proxied=proxied)
