"""Seeded histories of a table that is like a shop's, and kinds of damage that may befall it.

A history has weeks of rows with the seasons of days and weeks, growth, rare values, gaps in the night and now and then
a slow hour: what is usual somewhere, and no reason for an alarm. It is made by numpy alone and knows nothing of
the code that judges it.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["DAMAGE", "Damage", "Rows", "clean"]

BEGIN = datetime(2026, 10, 5, tzinfo=UTC)  # a Monday
_BEGIN_US = int(BEGIN.timestamp()) * 1_000_000

_WORDS = np.array(
    [
        *("please", "ring", "twice", "leave", "at", "the", "door", "gift", "wrap", "fragile", "call", "before"),
        *("delivery", "second", "floor", "neighbour", "behind", "gate", "no", "rush", "urgent", "weekend", "only"),
        *("Grüße", "München", "café", "naïve", "Łódź"),
    ]
)
_COUNTRIES = np.array(["DE", "FR", "PL", "CZ", "DK", "SE", "ES", "IT", "PT", "IE", "AT", "FI"])
_STATES = np.array(["new", "paid", "packed", "sent", "returned"])


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of equal length. `hours` is how many the history spans."""

    columns: dict[str, npt.NDArray[Any]]
    hours: int

    def __len__(self) -> int:
        return len(self.columns["cdcpipe_op"])

    def take(self, which: npt.NDArray[Any]) -> Rows:
        return Rows({name: values[which] for name, values in self.columns.items()}, self.hours)

    def since(self, hours: float) -> Rows:
        """The rows of the last `hours`."""
        return self.take(self.columns["cdcpipe_committed_at"] >= self.end_us - hours * 3_600_000_000)

    @property
    def end_us(self) -> int:
        return _BEGIN_US + self.hours * 3_600_000_000

    @property
    def end(self) -> datetime:
        return BEGIN + timedelta(hours=self.hours)

    def table(self) -> pa.Table:
        times = ("cdcpipe_committed_at", "cdcpipe_arrived_at", "created_at")
        arrays = {}
        for name, values in self.columns.items():
            if name in times:
                arrays[name] = pa.array(values.astype(np.int64)).cast(pa.timestamp("us", "UTC"))
            elif values.dtype == object:
                arrays[name] = pa.array(values.tolist(), pa.string())
            else:
                arrays[name] = pa.array(values)
        return pa.table(arrays)


def clean(seed: int, *, days: int = 21) -> Rows:
    """A history without damage."""
    rng = np.random.default_rng(seed)
    hours = days * 24 + 14  # the last hour ends at 14:00
    hour = np.arange(hours)
    peak, base = rng.uniform(9, 20), rng.uniform(30, 140)
    day = 1 + rng.uniform(0.2, 0.85) * np.cos((hour % 24 - peak) / 24 * 2 * np.pi)
    weekend = np.where((hour // 24) % 7 >= 5, rng.uniform(0.4, 1.3), 1.0)
    growth = np.exp(hour / 24 * rng.uniform(-0.004, 0.008))
    noise = np.exp(rng.normal(0, rng.uniform(0.03, 0.18), hours))
    slow = np.where(rng.random(hours) < 0.004, rng.uniform(0.5, 0.8, hours), 1.0)
    counts = rng.poisson(base * day * weekend * growth * noise * slow)
    at = np.repeat(hour, counts) * 3_600_000_000 + rng.integers(0, 3_600_000_000, counts.sum())
    at.sort()
    return Rows(_columns(rng, at + _BEGIN_US, day_share=np.repeat(hour % 24, counts)), hours)


def _columns(
    rng: np.random.Generator, at: npt.NDArray[np.int64], day_share: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]]:
    size = len(at)
    delay = rng.exponential(rng.uniform(0.1, 1.5), size) + np.where(
        rng.random(size) < 0.001, rng.uniform(0, 60, size), 0
    )
    lag = rng.exponential(rng.uniform(5, 600), size)
    # Baskets are a little larger in the evening: a season of values, not only of volume.
    evening = 1 + 0.15 * ((day_share >= 18) & (day_share < 22))
    amount = np.round(rng.lognormal(rng.uniform(2.5, 4), rng.uniform(0.4, 0.9), size) * evening, 2)
    discount = np.where(rng.random(size) < rng.uniform(0.6, 0.9), 0.0, np.round(rng.uniform(1, 20, size), 2))
    notes = _texts(rng, size)
    notes[rng.random(size) < rng.uniform(0.05, 0.6)] = None
    states = rng.choice(_STATES, size, p=_shares(rng, len(_STATES)))
    countries = rng.choice(_COUNTRIES, size, p=_shares(rng, len(_COUNTRIES)))
    start = int(rng.integers(1, 1_000_000))
    return {
        "cdcpipe_committed_at": at,
        "cdcpipe_arrived_at": at + (delay * 1e6).astype(np.int64),
        "cdcpipe_op": rng.choice(np.array(["c", "u", "d"], object), size, p=[0.72, 0.25, 0.03]),
        "id": np.arange(start, start + size, dtype=np.int64),
        "customer": (rng.zipf(1.6, size) % 5000).astype(np.int64),
        "amount": amount,
        "discount": discount,
        "quantity": 1 + rng.poisson(rng.uniform(0.5, 3), size).astype(np.int32),
        "state": states.astype(object),
        "country": countries.astype(object),
        "note": notes,
        "phone": np.array([str(each) for each in rng.integers(10**8, 10**10, size)], object),
        "gift": rng.random(size) < rng.uniform(0.02, 0.5),
        "created_at": at - (lag * 1e6).astype(np.int64),
    }


def _texts(rng: np.random.Generator, size: int) -> npt.NDArray[Any]:
    pool = [" ".join(rng.choice(_WORDS, rng.integers(2, 9))) for _ in range(400)]
    return np.array(pool, object)[rng.integers(0, len(pool), size)]


def _shares(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = rng.dirichlet(np.full(size, 3.0)) + 0.01
    return np.asarray(shares / shares.sum())


@dataclass(frozen=True, slots=True)
class Damage:
    """A kind of damage to the rows of the last hour, and where it must be seen: column and measures, any of them."""

    name: str
    column: str | None
    measures: frozenset[str]
    inflict: Callable[[Rows, np.random.Generator], Rows]


def _with(rows: Rows, **columns: npt.NDArray[Any]) -> Rows:
    return Rows({**rows.columns, **columns}, rows.hours)


def _some(rows: Rows, rng: np.random.Generator, share: float) -> npt.NDArray[np.bool_]:
    return rng.random(len(rows)) < share


def _volume_drop(rows: Rows, rng: np.random.Generator) -> Rows:
    return rows.take(_some(rows, rng, 0.15))


def _volume_spike(rows: Rows, rng: np.random.Generator) -> Rows:
    more = rows.take(np.repeat(np.arange(len(rows)), 8))
    fresh = rows.columns["id"].max() + np.arange(len(more), dtype=np.int64)
    return _with(more, id=fresh)


def _null_burst(rows: Rows, rng: np.random.Generator) -> Rows:
    phones = rows.columns["phone"].copy()
    phones[_some(rows, rng, 0.3)] = None
    return _with(rows, phone=phones)


def _constant(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, country=np.full(len(rows), "DE", object))


def _range_shift(rows: Rows, rng: np.random.Generator) -> Rows:
    amount = rows.columns["amount"]
    return _with(rows, amount=amount + 2 * (np.quantile(amount, 0.95) - np.quantile(amount, 0.05)))


def _unit_change(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, amount=rows.columns["amount"] * 100)


def _truncated(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, note=np.array([each if each is None else each[:8] for each in rows.columns["note"]], object))


def _duplicates(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, id=rows.columns["id"] // 3)


def _stale(rows: Rows, rng: np.random.Generator) -> Rows:
    """Nothing comes in the last 50 minutes, as if the source had stopped."""
    return rows.take(rows.columns["cdcpipe_committed_at"] < rows.end_us - 50 * 60_000_000)


def _silent(rows: Rows, rng: np.random.Generator) -> Rows:
    """Nothing at all."""
    return rows.take(np.zeros(len(rows), bool))


def _digits_to_words(rows: Rows, rng: np.random.Generator) -> Rows:
    """Numbers that were texts become texts that are none, in a part of the rows."""
    phones = rows.columns["phone"].copy()
    hit = _some(rows, rng, 0.35)
    phones[hit] = [f"+{each[:2]} {each[2:5]}-{each[5:]}" for each in phones[hit]]
    return _with(rows, phone=phones)


def _type_drift(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, quantity=np.array([str(each) for each in rows.columns["quantity"]], object))


def _mojibake(rows: Rows, rng: np.random.Generator) -> Rows:
    notes = np.array(
        [each if each is None else f"{each} Grüße".encode().decode("latin-1") for each in rows.columns["note"]], object
    )
    return _with(rows, note=np.where(_some(rows, rng, 0.4), notes, rows.columns["note"]))


def _late(rows: Rows, rng: np.random.Generator) -> Rows:
    arrived = rows.columns["cdcpipe_arrived_at"] + np.where(_some(rows, rng, 0.4), 20 * 60_000_000, 0)
    return _with(rows, cdcpipe_arrived_at=arrived)


def _negative(rows: Rows, rng: np.random.Generator) -> Rows:
    amount = rows.columns["amount"]
    return _with(rows, amount=np.where(_some(rows, rng, 0.3), -amount, amount))


def _wild(rows: Rows, rng: np.random.Generator) -> Rows:
    """Two rows hold a number that a missing decimal point would make."""
    amount = rows.columns["amount"].copy()
    amount[rng.choice(len(amount), 2, replace=False)] = 10.0**12
    return _with(rows, amount=amount)


def _zeros(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, amount=np.where(_some(rows, rng, 0.4), 0.0, rows.columns["amount"]))


def _blank(rows: Rows, rng: np.random.Generator) -> Rows:
    return _with(rows, country=np.where(_some(rows, rng, 0.4), "", rows.columns["country"]))


def _gone(rows: Rows, rng: np.random.Generator) -> Rows:
    return Rows({name: values for name, values in rows.columns.items() if name != "gift"}, rows.hours)


def _garbled(rows: Rows, rng: np.random.Generator) -> Rows:
    letters = np.array(list(string.ascii_uppercase))
    return _with(rows, state=np.array(["".join(rng.choice(letters, 6)) for _ in range(len(rows))], object))


def _kind(name: str, column: str | None, measures: str, inflict: Callable[[Rows, np.random.Generator], Rows]) -> Damage:
    return Damage(name, column, frozenset(measures.split()), inflict)


DAMAGE: tuple[Damage, ...] = (
    _kind("volume-drop", None, "rows", _volume_drop),
    _kind("volume-spike", None, "rows", _volume_spike),
    _kind("null-burst", "phone", "null_rate", _null_burst),
    _kind("constant-column", "country", "distinct", _constant),
    _kind("range-shift", "amount", "p05 p50 p95", _range_shift),
    _kind("unit-change", "amount", "p05 p50 p95 max", _unit_change),
    _kind("truncated-text", "note", "length_mean length_max", _truncated),
    _kind("duplicate-keys", "id", "unique_rate", _duplicates),
    _kind("stale-feed", None, "stale_seconds rows", _stale),
    _kind("silent-feed", None, "rows", _silent),
    _kind("type-drift", "quantity", "type", _type_drift),
    _kind("format-drift", "phone", "number_rate", _digits_to_words),
    _kind("encoding", "note", "odd_rate", _mojibake),
    _kind("late-data", None, "late_rate delay_seconds", _late),
    _kind("negative-values", "amount", "negative_rate", _negative),
    _kind("wild-values", "amount", "max", _wild),
    _kind("zeros", "amount", "zero_rate", _zeros),
    _kind("blank-text", "country", "blank_rate", _blank),
    _kind("column-gone", "gift", "type", _gone),
    _kind("garbled-values", "state", "distinct", _garbled),
)
