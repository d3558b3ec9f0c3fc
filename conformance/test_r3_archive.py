"""R3, archive: all of it on S3, as Parquet by date and hour, once, whatever fails on the way."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.faulting import Faults
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.verify.outcome import Report

MISSING = ("lost-change@source", "lost-change@sink", "offset-hole", "torn-transaction", "unaccounted-drop")
REPEATED = ("duplicate-change", "duplicate-row", "overlapping-object", "phantom-change")


@pytest.mark.criterion("R3.1")
def test_everything_in_kafka_is_written_to_s3_by_the_sink(pipeline: Pipeline, load: Load, evidence: Evidence) -> None:
    objects = load.archive.manifest.objects
    records = load.settled_records
    rows = sum(account.archived for account in load.report.accounts)
    missing = load.report["lost-change@sink"].found + load.report["offset-hole"].found
    with pipeline.connect() as client:
        sink = client.config(pipeline.sink)
    evidence.figure("records in the log", records)
    evidence.figure("of these in the archive", rows)
    evidence.figure("objects", len(objects))
    evidence.figure("size", sum(each.bytes for each in objects) / 1e6, "MB")
    evidence.figure("missing", missing)
    evidence.figure("sink", sink["connector.class"].rpartition(".")[2])
    if not records:
        evidence.inconclusive("the log holds no record: there was no traffic")
    assert load.settled.cut.reached, f"the archive did not catch up: {load.settled.cut.waiting_for}"
    for name in ("lost-change@sink", "offset-hole", "unaccounted-drop"):
        found = load.report[name]
        assert found.found == 0, f"{name}: {found.found} found; {found.witnesses[0].note if found.witnesses else ''}"
    assert rows >= records, f"{records - rows} records of the log have no row"


@pytest.mark.criterion("R3.2")
def test_every_object_of_the_archive_is_parquet(pipeline: Pipeline, load: Load, evidence: Evidence) -> None:
    import pyarrow.parquet as pq

    from cdcpipe.ledger.objects import Bucket

    bucket, objects = Bucket(pipeline.endpoints.s3), load.archive.manifest.objects
    codecs: Counter[str] = Counter()
    rows, columns, other = 0, set(), []
    for each in objects:
        try:
            with bucket.open(each.name) as source:
                file = pq.ParquetFile(source)
                rows += file.metadata.num_rows
                columns |= set(file.schema_arrow.names)
                if file.metadata.num_row_groups:
                    codecs[file.metadata.row_group(0).column(0).compression] += 1
        except (OSError, ValueError) as error:
            other.append(f"{each.name}: {str(error)[:100]}")
    listed = [each for each in _data_objects(pipeline, load) if not each.endswith(".parquet")]
    evidence.figure("objects opened", len(objects))
    evidence.figure("rows by their footers", rows)
    evidence.figure("codecs", ", ".join(f"{name} {count}" for name, count in codecs.most_common()))
    evidence.figure("other objects among the data", len(other) + len(listed))
    if not objects:
        evidence.inconclusive("the archive holds no object")
    assert other == []
    assert listed == [], f"{listed[0]} lies among the data and is no Parquet"
    assert {"op", "after", "source", "kafka_partition", "kafka_offset"} <= columns


def _data_objects(pipeline: Pipeline, load: Load) -> list[str]:
    from cdcpipe.ledger.objects import Bucket

    bucket = Bucket(pipeline.endpoints.s3)
    folders = sorted({each.name.rpartition("/data/")[0] + "/data/" for each in load.archive.manifest.objects})
    return [listed.name for folder in folders for listed in bucket.list(folder)]


@pytest.mark.criterion("R3.3")
def test_every_row_lies_in_the_folder_of_its_date_and_hour(pipeline: Pipeline, load: Load, evidence: Evidence) -> None:
    import pyarrow.parquet as pq

    from cdcpipe.ledger.objects import Bucket, hour_of

    bucket = Bucket(pipeline.endpoints.s3)
    by_hour: Counter[str] = Counter()
    unplaced, misfiled = [], []
    for each in load.archive.manifest.objects:
        hour = hour_of(each.name)
        if hour is None:
            unplaced.append(each.name)
            continue
        with bucket.open(each.name) as source:
            times = pq.read_table(source, columns=["event_time"])["event_time"].to_pylist()
        by_hour[hour.strftime("%Y-%m-%d %H")] += len(times)
        wrong = [
            at
            for at in times
            if at.replace(minute=0, second=0, microsecond=0, tzinfo=None) != hour.replace(tzinfo=None)
        ]
        misfiled += [f"{each.name}: a row of {wrong[0]}"] if wrong else []
    evidence.figure("objects", len(load.archive.manifest.objects))
    evidence.figure("rows by hour", ", ".join(f"{hour}h {count:,}" for hour, count in sorted(by_hour.items())))
    evidence.figure("objects with rows of another hour", len(misfiled))
    evidence.figure("objects outside of an hour's folder", len(unplaced))
    if not load.archive.manifest.objects:
        evidence.inconclusive("the archive holds no object")
    assert unplaced == [], f"{unplaced[0]} lies in no folder of a date and hour"
    assert misfiled == [], misfiled[0]


@pytest.mark.criterion("R3.4")
def test_a_failing_s3_is_tried_again_until_it_is_back(
    pipeline: Pipeline, tables: dict[str, str], faults: Faults, tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.verifying import Verifier

    faults.demand("s3")
    with Verifier(pipeline, tmp_path / "run") as verifier:
        with pipeline.workload(rate=300, seconds=25, connections=2) as work:
            _until(lambda: work.progress().events_committed > 600)
            begin = time.monotonic()
            with faults.kill("s3"):
                # Longer than two commits of the sink: both fail while there is nobody to write to.
                _until(lambda: time.monotonic() - begin > 12 or not work.running)
            outage = time.monotonic() - begin
            result = work.wait()
        report = verifier.events()
    with pipeline.connect() as client:
        status = client.status(pipeline.sink)
    _figures(report, evidence)
    evidence.figure("outage of S3", round(outage, 1), "s")
    evidence.figure("committed meanwhile and around it", result.events)
    evidence.figure("sink afterwards", "RUNNING" if status.running else "FAILED")
    evidence.artefact("verification.json", report.to_json())
    assert status.running, f"the sink did not survive: {(status.failure or '').splitlines()[:1]}"
    _demand_settled(report)
    _demand_none(report, MISSING)


@pytest.mark.criterion("R3.4", "R5.4")
def test_what_cannot_be_decoded_is_dead_lettered_and_the_rest_goes_on(
    pipeline: Pipeline, tables: dict[str, str], faults: Faults, evidence: Evidence
) -> None:
    from cdcpipe.conformance.poison import POISONS, poison

    faults.demand()
    table = tables["poisoned"]
    result = poison(pipeline, table, timeout_seconds=90)
    evidence.figure("invalid records", len(POISONS))
    evidence.figure("dead letters", len(result.letters))
    evidence.figure("valid records before and after", result.valid)
    evidence.figure("of these archived", result.archived)
    evidence.figure("sink afterwards", result.state)
    evidence.artefact("dead-letters.json", {"letters": result.told()})
    silent = [kind for kind in POISONS if kind not in result.letters]
    assert not silent, f"no dead letter came of {', '.join(silent)}"
    assert result.archived == result.valid, f"{result.valid - result.archived} valid records are not in the archive"
    for kind, letter in result.letters.items():
        assert letter.exception, f"the dead letter of {kind} does not say why"
        assert (letter.topic, letter.partition, letter.offset) == result.places[kind], f"{kind}: its place is wrong"
    assert result.state == "RUNNING"


@pytest.mark.criterion("R3.5")
def test_every_change_is_archived_exactly_once_with_the_worker_and_a_broker_killed(
    pipeline: Pipeline, tables: dict[str, str], faults: Faults, tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.verifying import Verifier

    broker = next((name for name in pipeline.stack.components if name.startswith("kafka")), "kafka-1")
    faults.demand("connect", broker)
    killed: dict[str, float] = {}
    with Verifier(pipeline, tmp_path / "run", timeout_seconds=240) as verifier:
        with pipeline.workload(rate=500, seconds=40) as work:
            for component, after in (("connect", 1_500), (broker, 9_000), ("connect", 14_000)):
                _until(lambda after=after: work.progress().events_committed > after or not work.running)
                begin = time.monotonic()
                with faults.kill(component):
                    pass
                killed[f"{component} #{len(killed) + 1}"] = time.monotonic() - begin
            result = work.wait()
        report = verifier.events()
    _figures(report, evidence)
    evidence.figure("kills", ", ".join(f"{name} (ready after {seconds:.1f} s)" for name, seconds in killed.items()))
    evidence.figure("committed under load", result.events)
    evidence.figure("level", report.level.value)
    evidence.artefact("verification.json", report.to_json())
    _demand_settled(report)
    _demand_none(report, (*MISSING, *REPEATED))
    assert report.facts.get("changes", 0) >= result.events


def _figures(report: Report, evidence: Evidence) -> None:
    evidence.figure("changes compared", report.facts.get("changes", 0))
    evidence.figure("lost", sum(report[name].found for name in ("lost-change@source", "lost-change@sink")))
    evidence.figure("repeated", sum(report[name].found for name in ("duplicate-change", "duplicate-row")))
    evidence.figure("verdict of the comparison", report.verdict.value)


def _demand_settled(report: Report) -> None:
    stuck = report["stuck"]
    assert stuck.verdict == "pass", f"not all of it came through in time: {stuck.reason or stuck.claim}"


def _demand_none(report: Report, names: tuple[str, ...]) -> None:
    for name in names:
        found = report[name]
        if found.applies:
            told = found.witnesses[0].note if found.witnesses else found.reason or ""
            assert found.verdict == "pass", f"{found.id}: {found.found} found; {told}"


def _until(condition: Any, *, timeout_seconds: float = 120) -> None:
    from cdcpipe.errors import EvidenceError
    from cdcpipe.stack.component import wait_until

    wait_until(condition, what="the load to come that far", timeout_seconds=timeout_seconds, error=EvidenceError)
