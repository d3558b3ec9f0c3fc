"""Write `compiled.json`: DuckDB's SQL of every expression, so that a run needn't compile them.

    python -m cdcpipe.verify.compile

A test fails when it is missing, stale, or lacks a query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ibis

from cdcpipe.verify import case, check, fold, images, judge, sequence, sink, source
from cdcpipe.verify.engine import query_name, sources_digest
from cdcpipe.verify.evidence import Terms
from cdcpipe.verify.judge import CHECKS
from cdcpipe.verify.tables import Expr

__all__ = ["queries", "write"]


def queries() -> Iterator[tuple[Callable[..., Expr], tuple[Any, ...]]]:
    """Every expression that a judgement by default terms can need, with its arguments."""
    terms = Terms()
    plain = (
        (source.source_blocks, source.pairs, source.wal_repeats, source.wal_transactions, source.log_transactions),
        (source.snapshots, source.first_streamed, source.orphans, source.missing, source.phantoms, source.differing),
        (source.emptied, sequence.repeat_tails, sequence.full_tables, sequence.truncates, sequence.snapshot_findings),
        (sink.sink_blocks, sink.archive_pairs, sink.objects, sink.holes, sink.missing_rows, sink.phantom_rows),
        (sink.differing_rows, sink.unaccounted, sink.undelivered, sink.accounts),
        (sink.misfiled_by_commit, sink.misfiled_by_time),
        (case.totals_of, case.object_names, check.findings_counted),
        (judge.unknown_columns, judge.missing_offsets, judge.last_transaction),
        (fold.folded, fold.ranges, fold.divergences, fold.by_kind, fold.telling_rows, fold.foldable),
    )
    yield from ((each, ()) for group in plain for each in group)
    for flag in (True, False):
        by_flag = (
            (source.repeats, source.set_aside, source.torn, sequence.order_breaks, sequence.late),
            (sequence.late_findings, sequence.repeat_findings, sequence.chain, sequence.chain_details),
            (sequence.blamed_keys, sink.archive_repeats, sink.overlaps, sink.overlap_findings, sink.repeat_rows),
        )
        yield from ((each, (flag,)) for group in by_flag for each in group)
        yield from ((sequence.chain_findings, (flag, resnapshots)) for resnapshots in (True, False))
    skew = int(terms.clock_skew_seconds * 1_000_000)
    yield from ((each, (skew,)) for each in (sink.early_rows, sink.proper, sink.filed_late, sink.misfiled))
    for place, earlier, later in (("source", "wal", "log"), ("sink", "log", "archive")):
        yield images.drifted, (place, f"{earlier}_images", f"{later}_images")
    for name in ("wal", "log", "archive"):
        yield from (
            (judge.by_operation, (name,)),
            (judge.by_second, (name,)),
            (check.wanted_images, (f"{name}_images",)),
        )
    for each in CHECKS:
        yield check.witness_rows, (each.name, each.also, each.place, terms.witnesses)


def write(path: Path) -> int:
    """Compile all of them into `path`; gives their number."""
    made = {
        query_name(relation, arguments): str(ibis.to_sql(relation(*arguments), dialect="duckdb", pretty=False))
        for relation, arguments in queries()
    }
    content = {"sources": sources_digest(), "queries": dict(sorted(made.items()))}
    path.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
    return len(made)


if __name__ == "__main__":
    print(f"{write(Path(__file__).with_name('compiled.json'))} queries")  # noqa: T201
