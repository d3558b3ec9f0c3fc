"""Profiles against figures that were counted by hand, and what the judge says when it can't judge."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cdcpipe.errors import ConfigError, EvidenceError
from cdcpipe.observe.quality import Baseline, History, check, expect, learn, profile
from cdcpipe.observe.quality.expectations import load_expectations
from cdcpipe.settings import QualityLimits, QualitySettings, QualityTable

BEGIN = datetime(2026, 11, 2, tzinfo=UTC)

ROWS = """
SELECT * FROM (VALUES
    (TIMESTAMPTZ '2026-11-02 10:00:00+00', TIMESTAMPTZ '2026-11-02 10:00:01+00', 'c', 1::BIGINT, 10.0, 'café', true),
    (TIMESTAMPTZ '2026-11-02 10:20:00+00', TIMESTAMPTZ '2026-11-02 10:20:01+00', 'c', 2, -5.0, NULL, false),
    (TIMESTAMPTZ '2026-11-02 10:30:00+00', TIMESTAMPTZ '2026-11-02 10:40:00+00', 'u', 2, 0.0, '12.50', NULL),
    (TIMESTAMPTZ '2026-11-02 10:45:00+00', TIMESTAMPTZ '2026-11-02 10:45:01+00', 'c', 3, 30.0, 'cafÃ©', true),
    (TIMESTAMPTZ '2026-11-02 10:50:00+00', TIMESTAMPTZ '2026-11-02 10:50:01+00', 'd', NULL, NULL, NULL, NULL),
    (TIMESTAMPTZ '2026-11-02 12:59:00+00', TIMESTAMPTZ '2026-11-02 12:59:01+00', 'c', 4, 7.0, '2026-01-31', false)
) AS t(cdcpipe_committed_at, cdcpipe_arrived_at, cdcpipe_op, id, amount, note, flag)
"""


def profile_of(sql: str = ROWS, **options: object) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE TABLE rows AS {sql}")
        return profile(connection, "rows", table="public.t", **options)  # type: ignore[arg-type]


def figures(table: pa.Table, hour: int) -> dict[tuple[str | None, str], float]:
    return {
        (row["column"], row["measure"]): row["value"]
        for row in table.to_pylist()
        if row["bucket"] == BEGIN + timedelta(hours=hour) and row["value"] is not None
    }


def test_a_profile_has_the_figures_that_one_counts_by_hand() -> None:
    found = figures(profile_of(), 10)
    expected = {
        (None, "rows"): 5,
        (None, "delete_rate"): 0.2,
        (None, "late_rate"): 0.2,  # one of five came 600 s late
        (None, "stale_seconds"): 600,
        ("note", "null_rate"): 0.25,  # of the four that are not deleted
        ("note", "length_max"): 5,
        ("note", "odd_rate"): 1 / 3,
        ("note", "non_ascii_rate"): 2 / 3,
        ("note", "number_rate"): 1 / 3,
        ("note", "date_rate"): 0,
        ("amount", "min"): -5,
        ("amount", "max"): 30,
        ("amount", "zero_rate"): 0.25,
        ("amount", "negative_rate"): 0.25,
        ("flag", "true_rate"): 2 / 3,
        ("id", "distinct"): 3,
        ("id", "unique_rate"): 0.75,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_an_hour_without_a_row_has_a_profile_too() -> None:
    table = profile_of()
    assert figures(table, 11) == {(None, "rows"): 0, (None, "stale_seconds"): 3600}
    assert figures(table, 12)[None, "rows"] == 1
    wider = profile_of(begin=BEGIN + timedelta(hours=8), end=BEGIN + timedelta(hours=15))
    counts = [figures(wider, hour)[None, "rows"] for hour in range(8, 15)]
    assert counts == [0, 0, 5, 0, 1, 0, 0]
    empty = profile_of(f"{ROWS} WHERE false", begin=BEGIN, end=BEGIN + timedelta(hours=2))
    assert [figures(empty, hour)[None, "rows"] for hour in (0, 1)] == [0, 0]


def test_columns_of_any_type_and_name_have_a_profile() -> None:
    table = profile_of(
        "SELECT TIMESTAMPTZ '2026-11-02 10:00:00+00' AS cdcpipe_committed_at, cdcpipe_committed_at AS "
        "cdcpipe_arrived_at, 'c' AS cdcpipe_op, [1, 2] AS list, {'scale': 1, 'value': 'x'::BLOB} AS struct, "
        "'x'::BLOB AS bytes, 'nan'::DOUBLE AS nan, 1e300 AS large, DATE '2026-01-01' AS day, 1::HUGEINT AS huge, "
        '\'o\'\'k\' AS "it\'s ""quoted""", gen_random_uuid() AS uuid'
    )
    types = {row["column"]: row["type"] for row in table.to_pylist() if row["measure"] == "type"}
    assert set(types) == {"list", "struct", "bytes", "nan", "large", "day", "huge", 'it\'s "quoted"', "uuid"}
    found = figures(table, 10)
    assert found['it\'s "quoted"', "length_max"] == 3
    assert all(math.isfinite(value) for value in found.values())
    assert found["day", "p50"] == datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def weeks(value: float = 0.1, *, days: int = 14, last: float | None = None) -> pa.Table:
    """Profiles of a column whose share of nulls is `value`, but for the last hour."""
    rows = [
        {"table": "public.t", "bucket": BEGIN + timedelta(hours=hour), "column": "note", "measure": "null_rate",
         "value": last if last is not None and hour == days * 24 - 1 else value + 0.001 * (hour % 5), "count": 500}
        for hour in range(days * 24)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, profile_of().schema)


def test_a_table_without_history_is_not_judged_and_that_is_no_pass() -> None:
    profiles = weeks(days=1)
    (unknown,) = check(profiles, Baseline(3600, "now"), QualitySettings())
    assert unknown.verdict == "inconclusive"
    assert "nothing was learned" in unknown.reason
    (short,) = check(profiles, learn(profiles), QualitySettings(history_min=100))
    assert short.verdict == "inconclusive"
    assert "24 spans were learned, and 100 are needed" in short.reason
    (late,) = check(profiles, learn(profiles), QualitySettings(), begin=BEGIN + timedelta(days=9))
    assert late.verdict == "inconclusive"


def test_limits_of_the_settings_are_laxer_and_stricter_than_what_was_learned() -> None:
    profiles = weeks(last=0.4)
    baseline = learn(profiles, until=BEGIN + timedelta(days=13))
    (plain,) = check(profiles, baseline, QualitySettings())
    assert [(each.column, each.measure) for each in plain.anomalies] == [("note", "null_rate")]
    assert "0.4" in plain.anomalies[0].sentence
    assert plain.anomalies[0].expected == pytest.approx(0.102, abs=0.003)

    def limited(limits: QualityLimits) -> QualitySettings:
        return QualitySettings(tables={"public.t": QualityTable(columns={"note": limits})})

    (ignored,) = check(profiles, baseline, limited(QualityLimits(ignore=("null_rate",))))
    assert ignored.verdict == "pass"
    (lax,) = check(profiles, baseline, limited(QualityLimits(score_max=1000)))
    assert lax.verdict == "pass"
    clean = weeks()
    (strict,) = check(clean, learn(clean), limited(QualityLimits(bounds={"null_rate": (None, 0.05)})))
    assert [each.measure for each in strict.anomalies] == ["null_rate"]
    assert "bounds in the settings" in strict.anomalies[0].sentence


def test_a_baseline_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    baseline = learn(weeks())
    baseline.save(tmp_path / "b.json")
    assert Baseline.load(tmp_path / "b.json") == baseline
    with pytest.raises(EvidenceError, match="there is no baseline"):
        Baseline.load(tmp_path / "none.json")
    (tmp_path / "b.json").write_text('{"schema": "cdcpipe.baseline/0"}')
    with pytest.raises(EvidenceError, match="no baseline of this version"):
        Baseline.load(tmp_path / "b.json")


def test_a_span_that_is_profiled_again_replaces_the_first(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add(weeks(days=2))
    assert history.last("public.t") == BEGIN + timedelta(hours=47)
    history.add(weeks(0.7, days=1))
    rows = history.load().to_pylist()
    assert len(rows) == 48
    assert [rows[0]["value"], rows[47]["value"]] == pytest.approx([0.7, 0.102])
    assert history.tables() == ["public.t"]


EXPECTATIONS = """
import pandera.ibis as pa

class Rows(pa.DataFrameModel):
    id: int = pa.Field(ge=1, le=3, nullable=True)
    flag: bool = pa.Field(nullable=True)
    note: str = pa.Field(nullable=False)

    class Config:
        name = "public.t"

EXPECTATIONS = [Rows]
"""


def test_expectations_by_hand_are_held_against_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "expectations.py"
    assert load_expectations(path) == {}
    path.write_text(EXPECTATIONS)
    (schema,) = load_expectations(path).values()
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE rows AS {ROWS}")
        unmet = expect(connection, "rows", "public.t", schema)
        assert {(each.column, each.check) for each in unmet} >= {
            ("id", "less_than_or_equal_to(3)"),
            ("note", "not_nullable"),
        }
        assert all(each.column != "flag" for each in unmet)
        assert all("`public.t." in each.sentence for each in unmet)
        good = connection.sql("SELECT * FROM rows WHERE id < 4 AND note IS NOT NULL AND id <> 2 OR cdcpipe_op = 'd'")
        good.create("good")
        assert expect(connection, "good", "public.t", schema) == ()


def test_a_file_of_expectations_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "expectations.py"
    for text, says in (
        ("x = 1", "no list `EXPECTATIONS`"),
        ("1 / 0", "ZeroDivisionError"),
        (EXPECTATIONS.replace("public.t", "orders"), "`schema.table`"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_expectations(path)
        assert says in f"{caught.value.message} {caught.value.hint}"
