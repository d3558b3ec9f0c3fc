"""A stranger joins the group of the sink's coordinator and leaves it, again and again, while S3 is slow (I2, I3): each
time the coordinator reads the control topic again from its committed offset, often in the middle of a commit. That is
what a coordinator does to its successor when it was replaced and lives on.

What must hold: no file is committed twice and none is left out, with one task of the sink and with three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos.conftest import Chaos

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize("bug", [None, "three-sink-tasks"], ids=["one-task", "three-tasks"])
def test_a_commit_that_is_read_again_is_committed_once(chaos: Chaos, bug: str | None) -> None:
    chaos("coordinator_joined", bug=bug)
