"""Delta debugging finds what is needed, and no more than it was allowed to try."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.shrink import minimize
from cdcpipe.faults.menu import Shape
from cdcpipe.faults.schedule import Schedule, draw

ITEMS = [f"s{n}" for n in range(1, 13)]


@given(st.sets(st.sampled_from(ITEMS)))
def test_exactly_the_steps_that_are_needed_are_left(needed: set[str]) -> None:
    left, _ = minimize(ITEMS, lambda part: needed <= set(part), tries=1000)
    assert set(left) == needed


@given(st.sets(st.sampled_from(ITEMS), min_size=1), st.integers(0, 12))
def test_no_more_is_tried_than_allowed_and_what_is_left_still_fails(needed: set[str], tries: int) -> None:
    asked: list[Sequence[str]] = []

    def fails(part: Sequence[str]) -> bool:
        asked.append(part)
        return needed <= set(part)

    left, calls = minimize(ITEMS, fails, tries=tries)
    assert calls == len(asked) <= tries
    assert needed <= set(left)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(-(2**31), 2**31),
    shape=st.builds(Shape, st.sampled_from([1, 3]), st.booleans()),
    seconds=st.integers(20, 600),
    rate=st.integers(1, 10_000),
    every=st.floats(10, 120),
    together=st.floats(0, 1),
)
def test_every_drawn_schedule_can_be_run_and_survives_its_json(
    seed: int, shape: Shape, seconds: int, rate: int, every: float, together: float
) -> None:
    events = rate * seconds
    schedule = draw(seed, shape, events=events, seconds=seconds, every_seconds=every, together=together)
    schedule.check(events=events, seconds=seconds, brokers=shape.brokers)
    assert Schedule.loads(schedule.dumps()) == schedule
    plan = ChaosPlan(seed=seed, seconds=seconds, rate=rate, brokers=shape.brokers, schedule=schedule)
    assert ChaosPlan.from_json(plan.to_json()) == plan
