"""What is usual, learned from profiles.

For each measure: its level, an effect for each hour of the day (of working days and weekends apart, where there is
enough history) and for each weekday, and how far it strays from them. All by medians and by the range of the middle
nine tenths of the residuals, so that a few bad spans teach nothing.

A measure that wanders, such as a serial key or a time, is compared with the span before instead of with its level: that
is chosen per measure, by which of the two strays less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cdcpipe.errors import EvidenceError
from cdcpipe.observe.quality.measures import MEASURES, Measure, measure

__all__ = ["Baseline", "Series", "TableBaseline", "learn"]

Floats = npt.NDArray[np.float64]

_SLOTS: Final = 48  # hours of working days, then hours of weekends
_SAMPLES_MIN: Final = 3
_LEVEL_DAYS: Final = 7
_MIDDLE: Final = 3.29  # the 5th and the 95th percentile of a normal distribution are so many deviations apart


@dataclass(frozen=True, slots=True)
class Series:
    """A measure's usual values, as it is compared: counts, lengths and times by their logarithm, rates as they are, and
    values of a column in units of its spread, by `asinh` where they are compared with a level: tails may be long.

    `mode` is `level`, or `step` for the difference from the span before. `scale` is how far it strays from what is
    expected, `low` and `high` how far it ever did, but for the half percent that did most. `spread` is how wide the
    column's values lie: 95th less 5th percentile.
    """

    column: str | None
    measure: str
    mode: Literal["level", "step"]
    center: float
    slots: tuple[float, ...]
    weekdays: tuple[float, ...]
    scale: float
    low: float
    high: float
    spread: float
    samples: int
    count: float

    def expected(self, at: datetime) -> float:
        """Level and season at a time."""
        slot = _slot(at.hour, at.weekday())
        return self.center + self.slots[slot] + self.weekdays[at.weekday()]

    def compared(self, value: float) -> float:
        """A value as it is compared."""
        kind = measure(self.measure)
        if not kind.of_values:
            return kind.to_scale(value)
        value = value / self.spread if self.spread > 0 else value
        return math.asinh(value) if self.mode == "level" else value

    def shown(self, compared: float) -> float:
        """The other way."""
        kind = measure(self.measure)
        if not kind.of_values:
            return kind.from_scale(compared)
        value = math.sinh(max(-700.0, min(700.0, compared))) if self.mode == "level" else compared
        return value * self.spread if self.spread > 0 else value


@dataclass(frozen=True, slots=True)
class TableBaseline:
    """All measures of a table. `types` are the types that a column was seen with."""

    spans: int
    first: str
    last: str
    types: Mapping[str, tuple[str, ...]]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual, for each table."""

    bucket_seconds: int
    learned_at: str
    tables: Mapping[str, TableBaseline] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON: it may be read, and kept under version control."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.new")
        staging.write_text(json.dumps({"schema": "cdcpipe.baseline/1", **asdict(self)}, indent=1), encoding="utf-8")
        staging.replace(path)

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read it. `EvidenceError` when there is none, or what is there is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("schema") != "cdcpipe.baseline/1":
                raise ValueError("another schema")
            tables = {name: _table_from_json(raw) for name, raw in content.pop("tables").items()}
            return cls(**content, tables=tables)
        except FileNotFoundError as error:
            raise EvidenceError(
                f"there is no baseline in `{path}`", hint="`cdcpipe quality learn` makes one"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"`{path}` is no baseline of this version: {error}") from error


def _table_from_json(raw: dict[str, Any]) -> TableBaseline:
    series = tuple(
        Series(**{**each, "slots": tuple(each["slots"]), "weekdays": tuple(each["weekdays"])}) for each in raw["series"]
    )
    types = {column: tuple(names) for column, names in raw["types"].items()}
    return TableBaseline(raw["spans"], raw["first"], raw["last"], types, series)


def _slot(hour: int, weekday: int) -> int:
    return hour + (24 if weekday >= 5 else 0)


def learn(profiles: pa.Table, *, bucket_seconds: int = 3600, until: datetime | None = None) -> Baseline:
    """Learn from `profiles` (shape `PROFILE`), of spans that begin before `until`."""
    frame = pl.DataFrame(pl.from_arrow(profiles))
    if until is not None:
        frame = frame.filter(pl.col("bucket") < until)
    tables = {
        str(name[0]): _learn_table(part.sort("bucket"), bucket_seconds)
        for name, part in frame.group_by("table", maintain_order=True)
    }
    return Baseline(bucket_seconds, datetime.now(UTC).isoformat(timespec="seconds"), tables)


def _learn_table(frame: pl.DataFrame, bucket_seconds: int) -> TableBaseline:
    types: dict[str, tuple[str, ...]] = {
        str(name[0]): tuple(sorted(part["type"].unique().to_list()))
        for name, part in frame.filter(pl.col("measure") == "type").group_by("column", maintain_order=True)
    }
    values = frame.filter(pl.col("measure") != "type")
    spreads = _spreads(values)
    series = tuple(_learn_series(values, spreads, bucket_seconds))
    spans = frame["bucket"].unique()
    begin, end = spans.min(), spans.max()
    assert isinstance(begin, datetime)
    assert isinstance(end, datetime)
    return TableBaseline(len(spans), begin.isoformat(), end.isoformat(), types, series)


def _spreads(values: pl.DataFrame) -> dict[str | None, float]:
    """Column -> the usual width of its values. Of one whose values hardly ever differ, the whole width."""
    names = ["p05", "p95", "min", "max"]
    ends = values.filter(pl.col("measure").is_in(names)).pivot("measure", index=["column", "bucket"], values="value")
    if not set(names) <= set(ends.columns):
        return {}
    middle, whole = (pl.col("p95") - pl.col("p05")).median(), (pl.col("max") - pl.col("min")).median()
    wide = ends.group_by("column").agg(pl.when(middle > 0).then(middle).otherwise(whole).alias("spread"))
    return dict(zip(wide["column"].to_list(), wide["spread"].to_list(), strict=True))


def _learn_series(values: pl.DataFrame, spreads: Mapping[str | None, float], seconds: int) -> Iterator[Series]:
    known = {each.name for each in MEASURES}
    unique = _usual(values, "unique_rate")
    for (column, name), part in values.group_by(["column", "measure"], maintain_order=True):
        if name not in known or part.height < _SAMPLES_MIN:
            continue
        # Of a column that is nearly a key, the number of values is the number of rows; of others, the share is noise.
        nearly_key = unique.get(column, 0.0) > 0.5
        if (name == "distinct" and nearly_key) or (name == "unique_rate" and not nearly_key):
            continue
        yield _fit(
            None if column is None else str(column),
            measure(str(name)),
            part["value"].to_numpy(),
            part["bucket"].dt.epoch("s").to_numpy().astype(np.int64),
            float(spreads.get(column) or 0.0),
            float(np.median(part["count"].to_numpy())),
            seconds,
        )


def _usual(values: pl.DataFrame, name: str) -> dict[Any, float]:
    part = values.filter(pl.col("measure") == name).group_by("column").agg(pl.col("value").median())
    return dict(zip(part["column"].to_list(), part["value"].to_list(), strict=True))


def _fit(
    column: str | None,
    kind: Measure,
    values: Floats,
    times: npt.NDArray[np.int64],
    spread: float,
    count: float,
    seconds: int,
) -> Series:
    mode: Literal["level", "step"] = "level"
    if kind.of_values:
        plain = values / spread if spread > 0 else values
        steps = np.diff(plain) / np.maximum(1, np.diff(times) // seconds)
        chosen = _Season.fit(steps, times[1:], seconds)
        if chosen.scale < 0.5 * _Season.fit(plain, times, seconds).scale:
            mode = "step"
        else:
            chosen = _Season.fit(np.arcsinh(plain), times, seconds)
    elif kind.kind == "rate":
        chosen = _Season.fit(values, times, seconds)
    else:
        chosen = _Season.fit(np.log1p(np.maximum(values, 0.0)), times, seconds)
    return Series(
        column,
        kind.name,
        mode,
        chosen.center,
        tuple(round(each, 9) for each in chosen.slots.tolist()),
        tuple(round(each, 9) for each in chosen.weekdays.tolist()),
        chosen.scale,
        chosen.low,
        chosen.high,
        spread,
        len(values),
        count,
    )


@dataclass(frozen=True, slots=True)
class _Season:
    center: float
    slots: Floats
    weekdays: Floats
    scale: float
    low: float
    high: float

    @classmethod
    def fit(cls, values: Floats, times: npt.NDArray[np.int64], seconds: int) -> _Season:
        """Medians of hours and weekdays in turn, until they say nothing more; then the range of what is left."""
        hours, weekdays = (times // 3600) % 24, (times // 86_400 + 3) % 7  # 1970-01-01 was a Thursday
        slots = hours + np.where(weekdays >= 5, 24, 0)
        days = (times[-1] - times[0]) / 86_400 if len(times) else 0.0
        slot_effects, day_effects = np.zeros(_SLOTS), np.zeros(7)
        left = values - np.median(values)
        for _ in range(3):
            if seconds <= 3600 and days >= 2:
                left = _remove(left, slots, slot_effects, hours)
            if seconds <= 86_400 and days >= 14:
                left = _remove(left, weekdays, day_effects)
        recent = left[times >= times[-1] - _LEVEL_DAYS * 86_400]
        drift = float(np.median(recent))
        low, high = np.quantile(left, [0.05, 0.95])
        mad = 1.4826 * float(np.median(np.abs(left - np.median(left))))
        scale = max(mad, float(high - low) / _MIDDLE)
        ends = np.sort(left - drift)
        trimmed = ends[len(ends) // 200 + 1 : -(len(ends) // 200 + 1)] if len(ends) >= 50 else ends
        center = float(np.median(values)) + drift
        return cls(center, slot_effects, day_effects, scale, float(trimmed[0]), float(trimmed[-1]))


def _remove(
    left: Floats, groups: npt.NDArray[np.int64], effects: Floats, fallback: npt.NDArray[np.int64] | None = None
) -> Floats:
    """`left` without the median of each group, which is added to `effects`.

    A group with too few samples gets the effect of its fallback group, an hour of all days; or none.
    """
    size = len(effects)
    medians, counts = _medians(left, groups, size)
    coarse = np.zeros(size) if fallback is None else np.resize(_medians(left, fallback, 24)[0], size)
    removed = np.where(counts > _SAMPLES_MIN, medians, coarse)
    effects += removed
    return left - removed[groups]


def _medians(values: Floats, groups: npt.NDArray[np.int64], size: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The median and the count of each group; 0 for one that is empty."""
    order = np.lexsort((values, groups))
    ordered = np.append(values[order], 0.0)
    counts = np.bincount(groups, minlength=size)
    starts = np.cumsum(counts) - counts
    middle = (ordered[starts + np.maximum(0, counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    return np.where(counts > 0, middle, 0.0), counts
