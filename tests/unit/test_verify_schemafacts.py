"""Facts of schemas out of an archive ledger: what each object's footer says is judged with the ledgers."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from tests.quality.histories import history

from cdcpipe.ledger.change import OBJECTS
from cdcpipe.verify import Verdict, events
from cdcpipe.verify.evidence import Evidence
from cdcpipe.verify.schema import can_unite
from cdcpipe.verify.schemafacts import of_archive


def with_columns(archive: Evidence, odd: dict[str, str] | None = None) -> Evidence:
    """The objects of the ledger with their columns; with `odd`, one object has those instead."""
    assert isinstance(archive.changes, pa.Table)
    first: dict[str, dict[str, object]] = {}
    for row in archive.changes.to_pylist():
        first.setdefault(row["object"], row)
    rows = [
        {
            "object": name,
            "topic": row["topic"],
            "rows": 1,
            "partition": row["partition"],
            "first_offset": row["offset"],
            "columns": [("after.id", "int64"), ("after.amount", "decimal128(12, 2)")],
        }
        for name, row in first.items()
    ]
    if odd is not None:
        rows.append({**rows[0], "object": f"{rows[0]['object']}.b.parquet", "columns": list(odd.items())})
    return replace(archive, side={**archive.side, "objects": pa.Table.from_pylist(rows, OBJECTS)})


def test_objects_of_one_schema_pass_and_one_of_another_type_is_found() -> None:
    wal, log, archive = history(4).evidence()
    good = events(wal, log, with_columns(archive))
    assert good.verdict is Verdict.PASS
    assert good["unreadable-hour"].applies
    assert good["unreadable-hour"].looked_at == len(of_archive(with_columns(archive)) or ())
    bad = events(wal, log, with_columns(archive, {"after.id": "string"}))
    assert "unreadable-hour" in bad.anomalies
    wider = events(wal, log, with_columns(archive, {"after.amount": "decimal128(14, 2)"}))
    assert wider.verdict is Verdict.PASS


def test_an_archive_that_does_not_say_is_not_judged() -> None:
    wal, log, archive = history(4).evidence()
    assert of_archive(archive) is None
    assert not events(wal, log, archive)["unreadable-hour"].applies


def test_decimals_of_one_scale_can_be_united() -> None:
    assert can_unite("decimal128(12, 2)", "decimal128(38, 2)")
    assert not can_unite("decimal128(12, 2)", "decimal128(12, 4)")
