"""The table of all faults for `docs/faults.md`, made of the classes themselves.

python -m cdcpipe.faults.document docs/faults.md        puts it between the two marks of that file
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

from cdcpipe.faults.fault import Fault, kinds

__all__ = ["BEGIN", "END", "documented", "own_kinds", "table"]

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def table() -> str:
    """A Markdown section for each fault: what it does, its values, where it is supported, what it provokes."""
    return "\n".join(_section(name, kind) for name, kind in own_kinds().items())


def own_kinds() -> dict[str, type[Fault]]:
    """The kinds of this package: a user of it may have registered more."""
    return {name: kind for name, kind in kinds().items() if kind.__module__.startswith("cdcpipe.faults.")}


def documented(page: str) -> str:
    """`page` with the table between its marks brought up to date."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def _section(name: str, kind: type[Fault]) -> str:
    values = ", ".join(_value(each) for each in dataclasses.fields(kind))
    said = inspect.cleandoc(kind.__doc__ or "")
    return (
        f"\n### `{name}` ({kind.__name__})\n\n{said}\n\n"
        f"- values: {values}\n- needs: {kind.needs}\n- may bring out: {', '.join(kind.provokes)}"
    )


def _value(each: dataclasses.Field[object]) -> str:
    if each.default is dataclasses.MISSING:
        return f"`{each.name}`"
    default = list(each.default) if isinstance(each.default, tuple) else each.default
    return f"`{each.name}` = `{default!r}`"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(documented(path.read_text(encoding="utf-8")), encoding="utf-8")
