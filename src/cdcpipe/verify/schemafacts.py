"""Where `SchemaFacts` come from: the objects of an archive ledger, and a registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cdcpipe.schemas.compatibility import Mode, check
from cdcpipe.schemas.registry import Registry
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
    found = []
    with Registry(url) as registry:
        known = set(registry.subjects())
        for topic in topics:
            subject = f"{topic}-value"
            if subject not in known:
                continue
            mode, versions = registry.mode(subject), registry.versions(subject)
            strict = Mode(f"{mode.value.removesuffix('_TRANSITIVE')}_TRANSITIVE") if mode is not Mode.NONE else mode
            live = [each for each in versions if mode.transitive or each.id in set(written_with.get(topic, ()))]
            for each in versions:
                earlier = [other for other in live if other.version < each.version]
                verdict = check(each.tree, [other.tree for other in earlier], strict)
                problems = tuple(
                    (earlier[conflict.version - 1].version, conflict.problem.sentence)
                    for conflict in verdict.conflicts
                    if each in live
                )
                found.append(VersionFacts(subject, each.version, mode.value, problems))
    return found
