"""The checks on Spark: the same expressions, on the same ledgers, with the same verdicts as on DuckDB.

`make test-spark` installs Spark and runs this; without it the tests are skipped by name, as Spark is 430 MB and wants a
Java of its own (17 or 21).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from tests.quality.damage import DAMAGES
from tests.quality.histories import History, history
from tests.quality.test_verify_teeth import damaged

from cdcpipe.verify import Verdict, events
from cdcpipe.verify.evidence import Evidence
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.spark import SparkEngine

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytest.importorskip("pyspark", reason="Spark is not installed: `make test-spark` does it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_ONE_EACH = [pytest.param(name, each[0], id=name) for name, each in DAMAGES.items()]


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    from pyspark.sql import SparkSession

    made = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.sql.codegen.wholeStage", "false")  # to compile takes longer than these small ledgers
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.session.timeZone", "Europe/Zurich")  # no verdict may depend on it
        .config("spark.driver.memory", "2g")
        .getOrCreate()
    )
    yield made
    made.stop()


def on_spark(session: SparkSession, evidence: tuple[Evidence, ...]) -> Report:
    with SparkEngine(session) as engine:
        return events(*evidence, engine=engine)


def same(ours: Report, theirs: Report) -> None:
    assert theirs.verdict is ours.verdict
    for mine, other in zip(ours.results, theirs.results, strict=True):
        assert (other.id, other.verdict, other.found, other.allowed) == (
            mine.id,
            mine.verdict,
            mine.found,
            mine.allowed,
        )
        assert other.reason == mine.reason
    assert theirs.facts == ours.facts
    assert theirs.accounts == ours.accounts
    assert theirs.verified_through == ours.verified_through


@pytest.mark.parametrize("seed", [1, 2])
def test_an_undamaged_history_passes_on_spark(session: SparkSession, seed: int) -> None:
    evidence = history(seed).evidence()
    theirs = on_spark(session, evidence)
    assert theirs.verdict is Verdict.PASS, theirs.sentence()
    same(events(*evidence), theirs)


@pytest.mark.parametrize(("anomaly", "damage"), _ONE_EACH)
def test_each_anomaly_is_found_on_spark_as_on_duckdb(
    session: SparkSession, anomaly: str, damage: Callable[[History], set[str]]
) -> None:
    evidence = damaged(100, damage)[0].evidence()
    theirs = on_spark(session, evidence)
    assert theirs[anomaly].verdict is Verdict.FAIL
    same(events(*evidence), theirs)


def test_ledgers_in_parquet_files_are_read_by_sparks_own_reader(session: SparkSession, tmp_path: Path) -> None:
    evidence = history(3).evidence()
    from_files = []
    for each in evidence:
        pq.write_table(each.changes, tmp_path / f"{each.kind}.parquet")
        from_files.append(Evidence(each.kind, (tmp_path / f"{each.kind}.parquet",), each.side, each.manifest))
    same(events(*evidence), on_spark(session, tuple(from_files)))
