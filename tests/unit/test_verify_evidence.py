"""No evidence is no pass: ledgers that are missing, empty, incomplete or damaged, and what is then said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tests.quality.damage.delivery import drop_one_record, repeat_the_end_of_the_log, write_an_object_again
from tests.quality.damage.order import move_a_key_to_another_partition
from tests.quality.histories import History, history

from cdcpipe.errors import EvidenceError, UsageError
from cdcpipe.ledger.change import empty
from cdcpipe.ledger.store import LedgerWriter, Manifest, PartitionRead
from cdcpipe.verify import Cut, Evidence, Verdict, events, judge_run
from cdcpipe.verify.engine import Engine, compiled
from cdcpipe.verify.folders import promised_hour
from cdcpipe.verify.verdict import CheckResult


@pytest.fixture(scope="module")
def good() -> History:
    return history(3, snapshot=False)


@pytest.fixture(scope="module")
def three(good: History) -> tuple[Evidence, Evidence, Evidence]:
    return good.evidence()


def test_empty_ledgers_are_inconclusive() -> None:
    report = events(empty(), empty(), empty())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.verified_through is None
    assert "nothing to look at" in report.sentence()


def test_no_ledger_at_all_is_inconclusive() -> None:
    report = events()
    assert [each.id for each in report.results if each.applies] == []
    assert report.verdict is Verdict.INCONCLUSIVE


def test_an_archive_that_was_not_written_loses_everything(three: tuple[Evidence, ...]) -> None:
    report = events(three[0], three[1], empty())
    assert "lost-change@sink" in report.anomalies


def test_a_ledger_that_was_not_given_is_said(three: tuple[Evidence, ...]) -> None:
    report = events(log=three[1], archive=three[2])
    assert report.verdict is Verdict.PASS
    assert any("no wal ledger was given" in note for note in report.notes)
    assert not report["lost-change@source"].applies


def test_what_an_incomplete_ledger_lacks_is_not_called_lost(good: History) -> None:
    damaged = history(3, snapshot=False)
    drop_one_record(damaged)
    wal, log, archive = damaged.evidence()
    reason = "topic shop.public.orders/0: vanished at offset 17"
    cut_short = replace(log, manifest=Manifest("log", complete=False, reasons=(reason,)))
    report = events(wal, cut_short, archive)
    assert report["lost-change@source"].verdict is Verdict.INCONCLUSIVE
    assert reason in (report["lost-change@source"].reason or "")
    assert report["lost-change@source"].witnesses


def test_an_incomplete_ledger_never_passes(three: tuple[Evidence, ...]) -> None:
    for index, kind in enumerate(("wal", "log", "archive")):
        given = list(three)
        given[index] = replace(three[index], manifest=Manifest(kind, complete=False, reasons=("gone",)))  # type: ignore[arg-type]
        report = events(*given)
        assert report.verdict is Verdict.INCONCLUSIVE
        assert "gone" in report.sentence()


def test_ledgers_of_different_value_modes_are_not_compared(three: tuple[Evidence, ...]) -> None:
    wal = replace(three[0], manifest=Manifest("wal", True, modes={"decimal": "exact"}))
    log = replace(three[1], manifest=Manifest("log", True, modes={"decimal": "double"}))
    report = events(wal, log, three[2])
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "value modes" in report.sentence()


def test_a_witness_that_saw_a_change_twice_is_none(good: History) -> None:
    twice = history(3, snapshot=False)
    twice.wal.append(dict(twice.wal[5]))
    report = events(*twice.evidence())
    assert report["lost-change@source"].verdict is Verdict.INCONCLUSIVE
    assert "no witness" in (report["lost-change@source"].reason or "")


def test_changes_without_transaction_metadata_have_no_identity(good: History) -> None:
    bare = history(3, snapshot=False)
    for row in bare.log + bare.archive:
        row["seq"] = None
    report = events(*bare.evidence())
    assert report["lost-change@source"].verdict is Verdict.INCONCLUSIVE
    assert "provide.transaction.metadata" in str(report["lost-change@source"].reason) or "identity" in report.sentence()


def test_what_lies_beyond_the_cut_is_unsettled_and_no_anomaly(good: History) -> None:
    late = history(3, snapshot=False)
    last = late.log[-1]["xid"]
    own = next(row for row in late.wal if row["xid"] == last)
    late.log = [row for row in late.log if row["xid"] != last]
    late.ends = [row for row in late.ends if row["xid"] != last]
    late.lay_out()
    beyond = [row for row in late.archive if row["offset"] >= 50]
    late.archive = [row for row in late.archive if row["offset"] < 50]
    offsets = {(row["topic"], row["partition"]): 50 for row in beyond}
    report = events(*late.evidence(), cut=Cut(own["commit_lsn"] - 1, offsets))
    assert report.verdict is Verdict.PASS, report.sentence()
    assert report.unsettled > len(beyond)
    there = len(late.wal) - report.unsettled  # with those in the dead letter queue
    assert len(late.archive) <= there < len(late.archive) + 5
    assert report.sentence().startswith(f"All {there} changes arrived")
    assert report.verified_through is not None
    assert (report.verified_through.commit_lsn or 0) < own["commit_lsn"]


def test_a_bound_that_passed_is_stuck(three: tuple[Evidence, ...]) -> None:
    cut = Cut(reached=False, waited_seconds=120, waiting_for="the sink's committed offsets")
    report = events(*three, cut=cut)
    assert report.anomalies == ("stuck",)
    assert "the sink's committed offsets" in report["stuck"].witnesses[0].note


def test_rows_outside_the_offsets_that_were_read_are_not_judged(good: History) -> None:
    wal, log, archive = good.evidence()
    assert isinstance(log.changes, pa.Table)
    rows = log.changes.filter(pa.compute.greater_equal(log.changes["offset"], 40))
    places = {(row["topic"], row["partition"]) for row in good.log}
    read = tuple(PartitionRead(topic, partition, 0, 10_000, 0, first_available=40) for topic, partition in places)
    kept = replace(log, changes=rows, manifest=Manifest("log", True, partitions=read))
    report = events(None, kept, archive)
    assert not report["phantom-change@sink"].found
    assert report["phantom-change@sink"].counts["outside"] > 0
    unbalanced = [
        each for each in report.accounts if each.archived + each.dead_lettered != each.changes + each.undecoded
    ]
    assert unbalanced == []
    del wal


def written(evidence: Evidence, folder: Path) -> None:
    with LedgerWriter(folder, evidence.kind) as writer:
        assert isinstance(evidence.changes, pa.Table)
        writer.write(evidence.changes)
        for name, rows in evidence.side.items():
            assert isinstance(rows, pa.Table)
            writer.write(rows, name)
        writer.finish(evidence.manifest or Manifest(evidence.kind, True))


def test_a_run_folder_is_judged_again_with_its_cut(three: tuple[Evidence, ...], tmp_path: Path) -> None:
    for each in three:
        written(each, tmp_path / "ledgers" / each.kind)
    assert judge_run(tmp_path).verdict is Verdict.PASS
    cut = Cut(17, {("t", 0): 5}, False, 3.0, "the sink")
    cut.save(tmp_path / "ledgers" / "cut.json")
    assert Cut.load(tmp_path / "ledgers" / "cut.json") == cut
    assert "stuck" in judge_run(tmp_path).anomalies


def test_a_folder_without_a_finished_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no ledgers"):
        judge_run(tmp_path)
    (tmp_path / "ledgers" / "wal").mkdir(parents=True)
    with pytest.raises(EvidenceError, match="no finished ledger"):
        judge_run(tmp_path)


def test_a_ledger_given_in_anothers_place_is_a_usage_error(three: tuple[Evidence, ...]) -> None:
    with pytest.raises(UsageError, match="a log ledger was asked for"):
        events(log=three[0])


def test_files_that_are_damaged_make_the_checks_inconclusive(three: tuple[Evidence, ...], tmp_path: Path) -> None:
    written(three[1], tmp_path / "log")
    path = next((tmp_path / "log" / "changes").glob("*.parquet"))
    raw = path.read_bytes()
    path.write_bytes(raw[:200] + bytes(400) + raw[600:])
    evidence = Evidence("log", (path,))
    report = events(three[0], evidence, three[2])
    assert report.verdict is Verdict.INCONCLUSIVE, report.anomalies
    assert "can't be read" in report.sentence()


def times(archive: Evidence, wrong: str | None = None) -> Evidence:
    """With the times of each object's records, as the archive ledger reads them: right, but in object `wrong`."""
    assert isinstance(archive.changes, pa.Table)
    rows = []
    for name in archive.changes["object"].unique().to_pylist():
        begin, end = promised_hour(name) or (0, 0)
        late = 1 if name == wrong else -1
        rows.append((name, begin, end + late))
    names, low, high = zip(*rows, strict=True)
    made = {"object": names, "rows": [1] * len(rows)}
    stamps = {"event_time_min": low, "event_time_max": high}
    columns = {name: pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC")) for name, values in stamps.items()}
    return replace(archive, side={**archive.side, "objects": pa.table({**made, **columns})})


def test_an_object_with_records_of_another_hour_is_misfiled(three: tuple[Evidence, ...]) -> None:
    wal, log, archive = three
    assert events(wal, log, times(archive)).verdict is Verdict.PASS
    assert isinstance(archive.changes, pa.Table)
    wrong = archive.changes["object"][3].as_py()
    report = events(wal, log, times(archive, wrong))
    assert report.anomalies == ("misfiled-row@sink",)
    assert [each.object for each in report["misfiled-row"].witnesses] == [wrong]


def test_a_verdict_needs_checks_that_apply() -> None:
    assert Verdict.merge([]) is Verdict.INCONCLUSIVE
    assert Verdict.merge([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]) is Verdict.FAIL


def test_every_expression_compiles_to_spark_sql_too() -> None:
    """What DuckDB ran in this process can be run by Spark: the same expressions, another dialect."""
    from cdcpipe.verify import fold, sequence, sink, source

    relations = [
        *(
            (each, ())
            for each in (source.source_blocks, source.pairs, source.missing, source.phantoms, source.differing)
        ),
        *((each, (True,)) for each in (source.repeats, source.torn, sequence.late_findings, sequence.chain)),
        (sequence.chain_findings, (True, False)),
        (sequence.repeat_findings, (True,)),
        *((each, ()) for each in (sink.sink_blocks, sink.archive_pairs, sink.missing_rows, sink.accounts)),
        *((each, (False,)) for each in (sink.overlaps, sink.repeat_rows)),
        (sink.misfiled, (5_000_000,)),
        *((each, ()) for each in (fold.folded, fold.ranges, fold.divergences)),
    ]
    for relation, arguments in relations:
        assert "SELECT" in compiled(relation, *arguments, dialect="pyspark")


def test_an_engine_leaves_no_files_behind(tmp_path: Path) -> None:
    with Engine(temp_folder=tmp_path) as engine:
        engine.define("wal", {"table": "string"}, None)
        assert engine.count("wal") == 0
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_results_say_where(three: tuple[Evidence, ...]) -> None:
    report = events(*three, figures=False)
    ids = [each.id for each in report.results]
    assert len(ids) == len(set(ids))
    for each in report.results:
        assert isinstance(each, CheckResult)
        assert each.claim.endswith(".")
        assert each.not_proven.endswith(".")


def test_every_query_is_shipped_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled in a judgement, good or bad. If this fails: `python -m cdcpipe.verify.compile`."""
    from cdcpipe.verify import compile as shipping
    from cdcpipe.verify import engine

    names = {engine.query_name(relation, arguments) for relation, arguments in shipping.queries()}
    assert names == set(engine._shipped()), "run `python -m cdcpipe.verify.compile`"

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled in a run")

    compiled.cache_clear()
    monkeypatch.setattr("cdcpipe.verify.engine.ibis.to_sql", refuse)
    for seed in (3, 4, 5):
        made = history(seed)
        assert events(*made.evidence()).verdict is Verdict.PASS
        for damage in (
            drop_one_record,
            repeat_the_end_of_the_log,
            write_an_object_again,
            move_a_key_to_another_partition,
        ):
            made = history(seed)
            damage(made)
            assert not [each.reason for each in events(*made.evidence()).results if "compiled" in (each.reason or "")]
    log, archive = history(3, snapshot=False).evidence()[1:]
    assert events(log=log, archive=archive).verdict is Verdict.PASS
