"""The conformance suite's own teeth: for each criterion a pipeline that is wrong in exactly that is found out.

Against each of them run the criterion, what depends on it, and two with which it has nothing to do: about two minutes
each. `CDCPIPE_SABOTEUR_SCOPE=whole` runs the whole suite against each, which takes hours.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cdcpipe.conformance.criteria import load_criteria, suite_folder

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(1800)]


def _sabotage() -> ModuleType:
    path = suite_folder() / "saboteurs" / "sabotage.py"
    spec = importlib.util.spec_from_file_location("cdcpipe_sabotage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cdcpipe_sabotage"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


SABOTAGE = _sabotage()
CONTROLS = ("R1.2", "R3.2")


def scope(saboteur: str) -> tuple[str, ...]:
    if os.environ.get("CDCPIPE_SABOTEUR_SCOPE") == "whole":
        return ()
    return tuple(dict.fromkeys((saboteur, *sorted(load_criteria().dependents(saboteur)), *CONTROLS)))


@pytest.mark.parametrize("saboteur", SABOTAGE.SABOTEURS, ids=lambda each: each.criterion)
def test_the_suite_fails_the_criterion_that_is_violated_and_what_depends_on_it_alone(
    saboteur: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Not below the home or a path of mode 0700: PostgreSQL runs as another user.
    folder = Path(tmp_path_factory.mktemp("saboteur"))
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    result = SABOTAGE.sabotage(saboteur, folder, only=scope(saboteur.criterion))  # type: ignore[attr-defined]
    assert SABOTAGE.findings(saboteur, result) == [], result.out[-4000:]


def test_every_criterion_that_one_machine_can_show_has_a_saboteur() -> None:
    shown = {row.id for row in load_criteria().rows if "local" in row.targets}
    missing = shown - {each.criterion for each in SABOTAGE.SABOTEURS}
    assert missing == set()
