"""Which measures of a span are further from what is usual than they ever are.

A measure is an anomaly when both hold: its distance is many times what it strays (the score), counting that few
rows stray more; and the change is large enough to matter (`Measure.effect`), however regular the history was, and
beyond what the history ever had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl
import pyarrow as pa

from cdcpipe.observe.quality.baseline import Baseline, Series, TableBaseline
from cdcpipe.observe.quality.measures import measure
from cdcpipe.settings import QualityLimits, QualitySettings, QualityTable

__all__ = ["Anomaly", "Judgement", "check"]

_ROWS_MIN = 10
"""Rows that a column's measure must have been taken of."""
_MARGIN = 0.25
"""How far beyond all that was seen a measure must be, as a share of the range of what was seen."""
_REACH = 12.0
"""What was seen further away than so many times the scale was an anomaly itself, and excuses no other."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A measure that is not like itself. `expected` and the bounds are null where there is no number to expect."""

    table: str
    column: str | None
    measure: str
    at: datetime
    value: float | str
    expected: float | str | None
    low: float | None
    high: float | None
    score: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out for one table. `verdict` is `inconclusive` where there was nothing to compare, and `reason` why."""

    table: str
    verdict: str
    reason: str
    judged: int
    anomalies: tuple[Anomaly, ...] = field(default=())


def check(
    profiles: pa.Table,
    baseline: Baseline,
    settings: QualitySettings | None = None,
    *,
    begin: datetime | None = None,
) -> tuple[Judgement, ...]:
    """Judge the spans of `profiles` that begin at `begin` or later (default: each table's last), table by table.

    Spans before `begin` are looked at only for what wanders: the value before.
    """
    settings = settings or QualitySettings()
    frame = pl.DataFrame(pl.from_arrow(profiles)).sort("bucket")
    found = []
    for (name,), part in frame.group_by("table", maintain_order=True):
        if name in settings.ignore_tables:
            continue
        last = part["bucket"].max()
        assert isinstance(last, datetime)
        found.append(_check_table(str(name), part, baseline, settings, begin if begin is not None else last))
    return tuple(found)


def _check_table(
    table: str, frame: pl.DataFrame, baseline: Baseline, settings: QualitySettings, begin: datetime
) -> Judgement:
    known = baseline.tables.get(table)
    limits = settings.tables.get(table, QualityTable())
    if known is None:
        return Judgement(table, "inconclusive", "nothing was learned of this table", 0, ())
    if known.spans < settings.history_min:
        reason = f"{known.spans} spans were learned, and {settings.history_min} are needed"
        return Judgement(table, "inconclusive", reason, 0, ())
    judged = frame.filter((pl.col("bucket") >= begin) & (pl.col("measure") != "type"))
    if not judged.height:
        return Judgement(table, "inconclusive", f"there is no profile from {begin.isoformat()} on", 0, ())
    series = {(each.column, each.measure): each for each in known.series}
    before = _before(frame, series)
    anomalies = list(_types(table, frame, known, limits, begin))
    for row in judged.iter_rows(named=True):
        anomalies.extend(_judge(table, row, series, before, baseline, settings, limits))
    anomalies.sort(key=lambda each: -each.score)
    return Judgement(table, "fail" if anomalies else "pass", "", judged.height, tuple(anomalies))


Before = Mapping[tuple[str | None, str, datetime], tuple[float, datetime]]


def _before(frame: pl.DataFrame, series: Mapping[tuple[str | None, str], Series]) -> Before:
    """For measures that are compared with the span before: its value and time."""
    wandering = {key for key, each in series.items() if each.mode == "step"}
    last: dict[tuple[str | None, str], tuple[float, datetime]] = {}
    found: dict[tuple[str | None, str, datetime], tuple[float, datetime]] = {}
    for column, name, bucket, value in frame.select("column", "measure", "bucket", "value").iter_rows():
        key = (column, name)
        if key in wandering and value is not None:
            if key in last:
                found[column, name, bucket] = last[key]
            last[key] = (value, bucket)
    return found


def _limits_of(limits: QualityTable, column: str | None) -> Sequence[QualityLimits]:
    """The most special first."""
    own = limits.columns.get(column) if column is not None else None
    return [own, limits] if own is not None else [limits]


def _judge(
    table: str,
    row: Mapping[str, object],
    series: Mapping[tuple[str | None, str], Series],
    before: Before,
    baseline: Baseline,
    settings: QualitySettings,
    limits: QualityTable,
) -> Iterator[Anomaly]:
    column, name, at = row["column"], str(row["measure"]), row["bucket"]
    assert column is None or isinstance(column, str)
    assert isinstance(at, datetime)
    value, count = float(str(row["value"])), int(str(row["count"]))
    chosen = _limits_of(limits, column)
    if any(name in each.ignore for each in chosen):
        return
    bounded = next((each.bounds[name] for each in chosen if name in each.bounds), None)
    if bounded is not None:
        yield from _out_of_bounds(table, column, name, at, value, bounded)
    usual = series.get((column, name))
    if usual is None or (column is not None and count < _ROWS_MIN):
        return
    score_max = next((each.score_max for each in chosen if each.score_max is not None), settings.score_max)
    distance = _distance(usual, value, count, at, before, baseline.bucket_seconds)
    if distance is None or distance.score < score_max or not distance.matters:
        return
    if measure(name).rising_only and not distance.above:
        return
    low, high = usual.shown(distance.low), usual.shown(distance.high)
    expected = usual.shown(distance.expected)
    what = f"{measure(name).what} of `{table}{'' if column is None else f'.{column}'}`"
    sentence = (
        f"{what} was {value:.6g} in the span from {at:%Y-%m-%d %H:%M} UTC; usual then is {expected:.6g}, "
        f"between {low:.6g} and {high:.6g} (score {distance.score:.1f})"
    )
    yield Anomaly(table, column, name, at, value, expected, low, high, round(distance.score, 2), sentence)


@dataclass(frozen=True, slots=True)
class _Distance:
    score: float
    matters: bool
    above: bool
    expected: float
    low: float
    high: float


def _distance(usual: Series, value: float, count: int, at: datetime, before: Before, seconds: int) -> _Distance | None:
    kind = measure(usual.measure)
    now = usual.compared(value)
    expected = usual.expected(at)
    spans = 1.0
    if usual.mode == "step":
        known = before.get((usual.column, usual.measure, at))
        if known is None:
            return None
        spans = max(1.0, (at - known[1]).total_seconds() / seconds)
        expected = usual.compared(known[0]) + expected * spans
    scale = math.hypot(usual.scale * math.sqrt(spans), _sampling(usual, expected, count), _floor(usual))
    off = now - expected
    share = 1.0 if kind.kind == "extreme" or usual.mode == "step" else _MARGIN
    low, high = max(usual.low * spans, -_REACH * scale), min(usual.high * spans, _REACH * scale)
    margin = share * max(high - low, _floor(usual))
    beyond = not low - margin <= off <= high + margin
    matters = beyond and abs(off) >= _effect(usual)
    return _Distance(abs(off) / scale, matters, off > 0, expected, expected - 3 * scale, expected + 3 * scale)


def _effect(usual: Series) -> float:
    kind = measure(usual.measure)
    match kind.kind:
        case "count" | "length" | "seconds":
            return math.log(kind.effect)
        case "extreme":
            return 0.0
        case "level" if usual.spread <= 0:
            return 0.0
        case _:
            return kind.effect


def _floor(usual: Series) -> float:
    kind = measure(usual.measure)
    if kind.of_values and usual.spread <= 0:
        return 1e-9 + abs(usual.center) * 1e-6  # of a column that has one value, any other is an anomaly
    return kind.floor


def _sampling(usual: Series, expected: float, count: int) -> float:
    """How far the measure strays because it was taken of `count` rows only."""
    kind, rows = measure(usual.measure), max(1, count)
    fewer = max(0.0, math.log(max(1.0, usual.count) / rows))
    match kind.kind:
        case "rate":
            share = min(1.0, max(0.0, expected))
            return math.sqrt((share * (1 - share) + 1 / rows) / rows)
        case "level":
            return (1.5 if usual.measure == "p50" else 4.0) / 3.3 / math.sqrt(rows) if usual.spread > 0 else 0.0
        case "count" if usual.measure == "rows":
            # What it strays at the usual count is in its scale; where fewer are expected, it strays more.
            here, usually = (1 / (1 + math.expm1(min(50.0, max(0.0, each)))) for each in (expected, usual.center))
            return math.sqrt(max(0.0, here - usually))
        case "count":
            return 0.04 + 0.5 * fewer  # HyperLogLog errs by that much, and fewer rows have fewer values
        case "length":
            return 0.5 / math.sqrt(rows) + 0.1 * fewer
        case "seconds":
            return 3 / math.sqrt(rows)
        case _:
            return 0.3 * fewer


def _out_of_bounds(
    table: str, column: str | None, name: str, at: datetime, value: float, bounds: tuple[float | None, float | None]
) -> Iterator[Anomaly]:
    low, high = bounds
    if (low is not None and value < low) or (high is not None and value > high):
        what = f"{measure(name).what} of `{table}{'' if column is None else f'.{column}'}`"
        text = f"{what} was {value:.6g} in the span from {at:%Y-%m-%d %H:%M} UTC; its bounds in the settings are "
        text += f"{'-' if low is None else f'{low:g}'} to {'-' if high is None else f'{high:g}'}"
        yield Anomaly(table, column, name, at, value, None, low, high, math.inf, text)


def _types(
    table: str, frame: pl.DataFrame, known: TableBaseline, limits: QualityTable, begin: datetime
) -> Iterator[Anomaly]:
    """Columns that have another type than ever before, or are gone. One that is new is no anomaly."""
    rows = frame.filter((pl.col("measure") == "type") & (pl.col("bucket") >= begin))
    if not rows.height:
        return
    at = rows["bucket"].max()
    assert isinstance(at, datetime)
    now = dict(zip(rows["column"].to_list(), rows["type"].to_list(), strict=True))
    for column, types in known.types.items():
        if any("type" in each.ignore for each in _limits_of(limits, column)):
            continue
        here, usual = now.get(column), " or ".join(types)
        if here is None:
            text = f"`{table}.{column}` is gone from the rows of {at:%Y-%m-%d %H:%M} UTC; it was {usual}"
            yield Anomaly(table, column, "type", at, "gone", usual, None, None, math.inf, text)
        elif here not in types:
            text = f"`{table}.{column}` is {here} from {at:%Y-%m-%d %H:%M} UTC on; it was {usual}"
            yield Anomaly(table, column, "type", at, here, usual, None, None, math.inf, text)
