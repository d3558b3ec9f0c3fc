"""Where `SchemaFacts` come from: the objects of an archive ledger, and a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cdcpipe.schemas.avro import Schema
from cdcpipe.schemas.compatibility import Mode, check
from cdcpipe.schemas.registry import Registered, Registry
from cdcpipe.verify.evidence import Evidence
from cdcpipe.verify.schema import ObjectSchema, VersionFacts

__all__ = ["of_archive", "of_registry"]


def of_archive(archive: Evidence | None) -> list[ObjectSchema] | None:
    """The columns of each object, as the archive ledger read them from its footer. None: it does not say."""
    given = None if archive is None else archive.side.get("objects")
    if given is None:
        return None
    tables = [given] if isinstance(given, pa.Table) else [pq.read_table(path) for path in given]
    rows = [row for table in tables if "columns" in table.column_names for row in table.to_pylist()]
    found = [
        ObjectSchema(row["object"], row["topic"], row["partition"], row["first_offset"], dict(row["columns"]))
        for row in rows
        if row["columns"] and row["topic"] is not None
    ]
    return found or None


def of_registry(url: str, topics: Iterable[str], written_with: Mapping[str, Sequence[int]]) -> list[VersionFacts]:
    """Each version of the topics' values. `written_with`: topic -> ids that something in the log has.

    Raises `RegistryError` when the registry does not answer.
    """
    found: list[VersionFacts] = []
    with Registry(url) as registry:
        known = set(registry.subjects())
        for topic in topics:
            subject = f"{topic}-value"
            if subject not in known:
                continue
            mode = registry.mode(subject)
            used = None if mode.transitive else set(written_with.get(topic, ()))
            found += _judged(subject, registry.versions(subject), mode, used)
    return found


def _judged(subject: str, versions: Sequence[Registered], mode: Mode, used: set[int] | None) -> Iterator[VersionFacts]:
    """Each version against the live ones before it: those whose id is `used`, or all."""
    strict = mode if mode is Mode.NONE else Mode(f"{mode.value.removesuffix('_TRANSITIVE')}_TRANSITIVE")
    earlier: list[tuple[int, Schema]] = []
    for each in versions:
        problems: tuple[tuple[int, str], ...] = ()
        if used is None or each.id in used:
            tree = each.tree  # parsed at each access
            conflicts = check(tree, [other for _, other in earlier], strict).conflicts
            problems = tuple((earlier[item.version - 1][0], item.problem.sentence) for item in conflicts)
            earlier.append((each.version, tree))
        yield VersionFacts(subject, each.version, mode.value, problems)
