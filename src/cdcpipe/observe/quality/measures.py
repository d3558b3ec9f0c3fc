"""What is measured of a table and of a column, how each measure is compared, and how an anomaly in it is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["MEASURES", "Kind", "Measure", "measure"]

Kind = Literal["count", "rate", "level", "extreme", "length", "seconds"]
"""count     compared by its logarithm; strays at least as a random count does
rate      a share of rows, compared as it is; strays at least as a random share does
level     a quantile of a column's values, compared in units of the column's own spread
extreme   a column's lowest or highest value, the same, but an anomaly only far beyond all that was seen
length    characters, compared by logarithm
seconds   a time, compared by logarithm; only longer than usual is an anomaly
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure. `effect` is the least change that matters, however regular the history was: a ratio for counts,
    lengths and seconds, a difference for rates, spreads of the column for levels and extremes."""

    name: str
    kind: Kind
    effect: float
    what: str
    """Completes "... of `orders.amount`"."""
    of_table: bool = False
    floor: float = 0.0
    """The least that it strays, in the units of its comparison."""
    rising_only: bool = False

    @property
    def of_values(self) -> bool:
        """Whether it is one of the column's values, in their unit."""
        return self.kind in ("level", "extreme")

    def to_scale(self, value: float) -> float:
        """The value as it is compared."""
        if self.kind in ("count", "length", "seconds"):
            return math.log1p(max(0.0, value))
        return value

    def from_scale(self, value: float) -> float:
        """The other way."""
        if self.kind in ("count", "length", "seconds"):
            return math.expm1(min(value, 700.0))
        return value


MEASURES: Final[tuple[Measure, ...]] = (
    Measure("rows", "count", 1.6, "number of changes", of_table=True, floor=0.05),
    Measure("delete_rate", "rate", 0.10, "share of deletes", of_table=True, floor=0.01),
    Measure("late_rate", "rate", 0.05, "share of late changes", of_table=True, floor=0.005, rising_only=True),
    Measure("delay_seconds", "seconds", 5.0, "95th percentile of the delay into the log", of_table=True, floor=0.1),
    Measure("stale_seconds", "seconds", 3.0, "time without a change", of_table=True, floor=0.15),
    Measure("null_rate", "rate", 0.05, "share of nulls", floor=0.005),
    Measure("unique_rate", "rate", 0.15, "share of distinct values", floor=0.02),
    Measure("distinct", "count", 1.8, "number of distinct values", floor=0.08),
    Measure("true_rate", "rate", 0.15, "share of true", floor=0.01),
    Measure("zero_rate", "rate", 0.10, "share of zeros", floor=0.005),
    Measure("negative_rate", "rate", 0.05, "share of negative values", floor=0.005),
    Measure("p05", "level", 0.3, "5th percentile", floor=0.02),
    Measure("p50", "level", 0.3, "median", floor=0.02),
    Measure("p95", "level", 0.3, "95th percentile", floor=0.02),
    Measure("min", "extreme", 1.0, "lowest value", floor=0.05),
    Measure("max", "extreme", 1.0, "highest value", floor=0.05),
    Measure("length_mean", "length", 1.3, "mean length", floor=0.02),
    Measure("length_max", "length", 1.6, "greatest length", floor=0.05),
    Measure("blank_rate", "rate", 0.05, "share of blank texts", floor=0.005),
    Measure("odd_rate", "rate", 0.02, "share of texts with broken characters", floor=0.002, rising_only=True),
    Measure("non_ascii_rate", "rate", 0.10, "share of texts beyond ASCII", floor=0.01),
    Measure("number_rate", "rate", 0.10, "share of texts that are numbers", floor=0.005),
    Measure("date_rate", "rate", 0.10, "share of texts that are dates", floor=0.005),
)

_BY_NAME: Final = {each.name: each for each in MEASURES}


def measure(name: str) -> Measure:
    """The measure of that name. KeyError when there is none."""
    return _BY_NAME[name]
