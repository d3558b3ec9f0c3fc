"""Data quality has teeth and doesn't bite: damage is found under its name, and clean histories raise no alarm."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.quality.rows import DAMAGE, Damage, Rows, clean

from cdcpipe.observe.quality import Anomaly, Judgement, check, learn, profile
from cdcpipe.settings import QualitySettings

TABLE = "public.orders"
SEEDS = range(5)


def profiled(rows: Rows, begin: datetime | None = None) -> pa.Table:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("history", rows.table())
        return profile(connection, "history", table=TABLE, begin=begin, end=rows.end)


def judged(rows: Rows, hours: int) -> Judgement:
    """The last hours of a history, judged by all that came before."""
    begin = rows.end - timedelta(hours=hours)
    profiles = profiled(rows)
    (judgement,) = check(profiles, learn(profiles, until=begin), QualitySettings(), begin=begin)
    assert judgement.verdict != "inconclusive", judgement.reason
    assert judgement.judged > hours * 50, "hardly anything was looked at"
    return judgement


@functools.cache
def learned(seed: int) -> tuple[Rows, pa.Table, object]:
    """A history but for its last hour: rows, profiles, baseline."""
    rows = clean(seed)
    profiles = profiled(rows)
    before = profiles.filter(pc.less(profiles["bucket"], pa.scalar(rows.end - timedelta(hours=1))))
    return rows, before, learn(before)


def found(damage: Damage, seed: int) -> tuple[list[Anomaly], tuple[Anomaly, ...]]:
    """What was found where the damage is, and everything that was found."""
    rows, before, baseline = learned(seed)
    last = damage.inflict(rows.since(1), np.random.default_rng(seed))
    begin = rows.end - timedelta(hours=1)
    profiles = pa.concat_tables([before, profiled(last, begin)])
    (judgement,) = check(profiles, baseline, QualitySettings(), begin=begin)  # type: ignore[arg-type]
    hits = [each for each in judgement.anomalies if each.column == damage.column and each.measure in damage.measures]
    return hits, judgement.anomalies


def alarms(seeds: range) -> list[str]:
    """Sentences of all alarms on the last day of clean histories."""
    return [f"seed {seed}: {each.sentence}" for seed in seeds for each in judged(clean(seed), 24).anomalies]


def test_clean_histories_raise_no_alarm() -> None:
    assert alarms(range(100, 112)) == []


@pytest.mark.slow
def test_a_hundred_clean_histories_raise_one_alarm_at_most() -> None:
    raised = alarms(range(100))
    assert len(raised) <= 1, "\n".join(raised)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.name)
def test_damage_is_found_where_it_is(damage: Damage) -> None:
    missed = []
    for seed in SEEDS:
        hits, everything = found(damage, seed)
        if not hits:
            missed.append((seed, [each.sentence for each in everything[:3]]))
        for hit in hits:
            assert hit.score >= QualitySettings().score_max
            assert TABLE in hit.sentence
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_hour_without_damage_passes(seed: int) -> None:
    """Else the damage would not be what was found."""
    rows, before, baseline = learned(seed)
    begin = rows.end - timedelta(hours=1)
    profiles = pa.concat_tables([before, profiled(rows.since(1), begin)])
    (judgement,) = check(profiles, baseline, QualitySettings(), begin=begin)  # type: ignore[arg-type]
    assert judgement.anomalies == ()


def test_a_few_bad_hours_in_the_history_teach_nothing() -> None:
    """One hour in fifty of what was learned has a burst of nulls: the next burst is an anomaly all the same."""
    rng = np.random.default_rng(1)
    rows = clean(1)
    hours = (rows.columns["cdcpipe_committed_at"] - rows.columns["cdcpipe_committed_at"].min()) // 3_600_000_000
    bad = np.isin(hours, rng.choice(np.unique(hours), 10, replace=False)) | (hours == hours.max())
    phones = rows.columns["phone"].copy()
    phones[bad & (rng.random(len(rows)) < 0.5)] = None
    spoiled = Rows({**rows.columns, "phone": phones}, rows.hours)
    anomalies = judged(spoiled, 1).anomalies
    assert ("phone", "null_rate") in {(each.column, each.measure) for each in anomalies}
