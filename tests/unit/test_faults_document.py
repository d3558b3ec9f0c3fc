"""docs/faults.md says of every fault what its class says."""

from __future__ import annotations

from pathlib import Path

from cdcpipe.faults.document import documented, own_kinds

_PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def test_the_page_of_faults_is_up_to_date() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    assert documented(page) == page, "run `python -m cdcpipe.faults.document docs/faults.md`"


def test_the_page_has_every_kind_once() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    assert own_kinds()
    for kind in own_kinds():
        assert page.count(f"### `{kind}` (") == 1, kind
