"""Whether the database is about to stop its pipeline: the catalog of now against the registry.

A table whose schema is not registered yet is `pending`; if the registry will refuse it, `blocked`: the next row of that
table stops the source. `unpublished` tables are captured by the connector's lists, and not in the publication.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from cdcpipe.schemas.avro import parse
from cdcpipe.schemas.catalog import Catalog, streamed
from cdcpipe.schemas.compatibility import Mode, check
from cdcpipe.schemas.connect_types import to_avro
from cdcpipe.schemas.types import Modes, envelope_schema, key_schema

__all__ = ["Finding", "inspect"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One table's part (`key` or `value`) that isn't as it is registered."""

    table: str
    part: Literal["key", "value"]
    state: Literal["pending", "blocked", "unpublished"]
    reasons: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What it means."""
        match self.state:
            case "blocked":
                why = "; ".join(self.reasons)
                return f"{self.table}: the next row stops the source, its {self.part} schema is refused: {why}"
            case "unpublished":
                return f"{self.table}: not in the publication, its changes aren't captured"
        return f"{self.table}: a new {self.part} schema will be registered with the next row"


def inspect(
    catalog: Catalog,
    tables: Iterable[str],
    *,
    prefix: str,
    modes: Modes,
    history: Callable[[str], tuple[str, ...]],
    mode_of: Callable[[str], Mode],
    publication: str | None = None,
) -> tuple[Finding, ...]:
    """Findings about `tables` (full names); a table that was never registered has none."""
    found = []
    published = catalog.publications.get(publication) if publication else None
    for name in tables:
        table = catalog.tables[name]
        if published is not None and not published.has(table):
            if not history(f"{prefix}.{name}-value"):
                continue
            found.append(Finding(name, "value", "unpublished"))
            continue
        parts: tuple[tuple[Literal["key", "value"], object], ...] = (
            ("key", key_schema(table, prefix, modes)),
            ("value", envelope_schema(streamed(table, published), prefix, modes)),
        )
        for part, schema in parts:
            subject = f"{prefix}.{name}-{part}"
            versions = history(subject)
            if schema is None or not versions:
                continue
            avro = to_avro(schema)  # type: ignore[arg-type] # a ConnectSchema, see above
            if avro in [json.loads(text) for text in versions]:
                continue
            verdict = check(parse(json.dumps(avro)), [parse(text) for text in versions], mode_of(subject), table=name)
            reasons = tuple(dict.fromkeys(conflict.sentence for conflict in verdict.conflicts))
            found.append(Finding(name, part, "blocked" if reasons else "pending", reasons))
    return tuple(found)
