"""Times to recover, read off hand-made arrivals."""

from __future__ import annotations

from typing import Any

import pytest

from cdcpipe.chaos.probe import Arrival
from cdcpipe.chaos.recovery import Recovery, recovery_of
from cdcpipe.faults.fault import FaultRecord

BEGIN = 1000.0


def steady(first: float, last: float, *, late: float = 0.1) -> list[Arrival]:
    """A probe each half second from `first` to `last`, each `late` seconds in coming."""
    count = int((last - first) / 0.5) + 1
    return [Arrival(n, first + 0.5 * n, first + 0.5 * n + late) for n in range(count)]


def record(**moments: float) -> FaultRecord:
    values: dict[str, Any] = {"set_up": BEGIN, "injected": BEGIN, "recovering": BEGIN} | moments
    return FaultRecord("kill", "connect", {}, **values)


def felt(arrivals: list[Arrival], commits: list[float], *, until: float = 1100.0, **moments: float) -> Recovery:
    found = recovery_of(record(**moments), until=until, arrivals=arrivals, commits=commits, commit_seconds=5)
    assert found is not None
    return found


def test_what_was_not_interrupted_took_no_time() -> None:
    found = felt(steady(980, 1100), [985 + 5.0 * n for n in range(24)])
    assert (found.flows, found.archive, found.caught_up) == (0, 0, 0)


def test_the_longest_pause_after_the_injection_is_the_interruption() -> None:
    during = [Arrival(100 + n, 1000.5 + 0.5 * n, 1012.0 + 0.01 * n) for n in range(23)]
    arrivals = [*steady(980, 1000), *during, *steady(1012.5, 1100)]
    found = felt(arrivals, [985, 990, 995, 1021, 1026, 1031, *(1036 + 5.0 * n for n in range(13))], recovering=1004)
    assert found.flows == pytest.approx(12)
    assert found.flows_after_heal == pytest.approx(8)
    assert found.caught_up == pytest.approx(12.19, abs=0.1)
    assert found.archive == pytest.approx(21)
    assert found.archive_after_heal == pytest.approx(17)


def test_what_never_came_back_has_no_time() -> None:
    found = felt(steady(980, 1000), [990, 995])
    assert found == Recovery(None, None, None, None, None)


def test_a_pause_that_begins_after_the_next_fault_is_not_this_one() -> None:
    arrivals = [*steady(980, 1030), *steady(1060, 1100)]
    assert felt(arrivals, [], until=1020).flows == 0
    assert felt(arrivals, [], until=1050).flows == pytest.approx(60.1)


def test_a_pause_that_the_next_fault_makes_is_not_this_one_though_it_began_with_an_arrival_before() -> None:
    own = [*steady(980, 1000), *steady(1008, 1020)]
    found = felt([*own, *(Arrival(n, 1020.0, 1034.0) for n in range(3)), *steady(1034.5, 1100)], [], until=1020.3)
    assert found.flows == pytest.approx(8.1)
    assert found.caught_up == 0


def test_a_pause_before_the_fault_is_not_its_doing() -> None:
    arrivals = [*steady(950, 960), *steady(990, 1100)]
    assert felt(arrivals, []).flows == 0


def test_a_fault_that_begins_while_the_flow_stands_still_says_so() -> None:
    arrivals = [*steady(980, 996), *steady(1004, 1100)]
    assert felt(arrivals, []).already
    assert not felt(steady(980, 1100), []).already


def test_a_fault_that_was_never_injected_has_no_recovery() -> None:
    nothing = FaultRecord("kill", "connect", {})
    assert recovery_of(nothing, until=1100, arrivals=[], commits=[], commit_seconds=5) is None
