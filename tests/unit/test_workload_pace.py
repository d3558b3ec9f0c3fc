"""The schedule doesn't depend on what the server does, and latencies are what they were said to be."""

from __future__ import annotations

import math
import random
from typing import cast

import pytest

from cdcpipe.errors import UsageError
from cdcpipe.workload.pace import Latencies, Pace, check_load, transaction_events_mean


def test_the_events_due_by_any_moment_are_the_rate_times_that_moment() -> None:
    pace, rng, due, given = Pace(250.0, 20.0), random.Random(1), 0.0, 0
    while (moment := pace.due) is not None:
        assert moment == pytest.approx(given / 250.0)
        assert moment > due or given == 0
        due, events = moment, rng.randint(1, 60)
        given += events
        pace.take(events)
    assert 250 * 20 <= given < 250 * 20 + 60


def test_a_transaction_without_events_comes_between_two_others_and_moves_neither() -> None:
    pace = Pace(10.0, 5.0)
    pace.take(5)
    assert pace.due == pytest.approx(0.5)
    assert pace.aside == pytest.approx(0.25)
    assert pace.due == pytest.approx(0.5)


def test_the_schedule_ends_and_stays_ended() -> None:
    pace = Pace(10.0, 1.0, phase=0.3)
    assert pace.due == pytest.approx(0.3)
    pace.take(7)
    assert pace.due is None


def test_transactions_are_small_at_low_rates_and_large_at_high_ones() -> None:
    assert transaction_events_mean(25) == 4
    assert transaction_events_mean(2500) == 100
    assert transaction_events_mean(250_000) == 1000


def test_percentiles_are_those_of_the_values_within_two_percent() -> None:
    rng = random.Random(2)
    values = sorted(rng.lognormvariate(-5, 1.5) for _ in range(10_000))
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = values[math.ceil(share * len(values)) - 1]
        assert exact <= latencies.percentile(share) * (1 + 1e-9)
        assert latencies.percentile(share) <= exact * 1.0201


def test_merged_latencies_are_those_of_all() -> None:
    first, second = Latencies(), Latencies()
    first.add(0.001)
    second.add(0.1)
    second.add(0.1)
    merged = Latencies.merged([first, second])
    assert merged.percentile(0.3) == pytest.approx(0.001, rel=0.03)
    assert merged.percentile(0.5) == pytest.approx(0.1, rel=0.03)
    assert first.percentile(1.0) == pytest.approx(0.001, rel=0.03)


def test_no_latencies_have_no_percentile() -> None:
    assert math.isnan(Latencies().percentile(0.5))


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1_000_001, True, None, "100"])
def test_a_rate_that_can_not_be_held_is_refused(rate: object) -> None:
    with pytest.raises(UsageError, match=r"`rate` is .*: it must be a number of events per second, above 0"):
        check_load(cast(float, rate), 1, 1)


@pytest.mark.parametrize("seconds", [0, -5, math.nan, math.inf, 1e9, False, "10"])
def test_a_duration_that_makes_no_sense_is_refused(seconds: object) -> None:
    with pytest.raises(UsageError, match=r"`seconds` is .*: it must be a number above 0"):
        check_load(1, cast(float, seconds), 1)


@pytest.mark.parametrize("connections", [0, -1, 65, 2.0, True, None])
def test_a_number_of_connections_that_makes_no_sense_is_refused(connections: object) -> None:
    with pytest.raises(UsageError, match=r"`connections` is .*: it must be a whole number from 1 to 64"):
        check_load(1, 1, cast(int, connections))


@pytest.mark.parametrize(("rate", "seconds", "connections"), [(0.5, 0.1, 1), (1_000_000, 86_400, 64), (10_000, 60, 4)])
def test_loads_within_the_bounds_are_taken(rate: float, seconds: float, connections: int) -> None:
    check_load(rate, seconds, connections)
