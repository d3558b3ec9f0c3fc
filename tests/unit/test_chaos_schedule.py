"""Schedules: the same seed gives the same bytes; what can't be run is refused with place and reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from cdcpipe.errors import UsageError
from cdcpipe.faults import Kill, Pause, RollingRestart
from cdcpipe.faults.menu import Shape, brokers_down, menu
from cdcpipe.faults.schedule import Schedule, Step, Trigger, draw

LOAD: dict[str, Any] = {"events": 720_000, "seconds": 240}


def problems(content: dict[str, Any] | Schedule, *, brokers: int = 1) -> str:
    """All that is said about a schedule that is refused."""

    def judged() -> None:
        schedule = content if isinstance(content, Schedule) else Schedule.from_json(content)
        schedule.check(**LOAD, brokers=brokers)

    with pytest.raises(UsageError) as caught:
        judged()
    return f"{caught.value.message}\n{caught.value.detail or ''}"


def raw(**step: Any) -> dict[str, Any]:
    base = {"id": "s1", "when": {"measure": "committed", "value": 1}, "fault": {"kind": "kill", "component": "connect"}}
    return {"schema": "cdcpipe.schedule/1", "seed": None, "steps": [base | step]}


@pytest.mark.parametrize("shape", [Shape(1), Shape(3), Shape(1, proxied=True)])
def test_the_same_seed_and_shape_give_the_same_bytes(shape: Shape) -> None:
    texts = [draw(seed, shape, **LOAD).dumps() for seed in (1, 2, 3) for _ in range(2)]
    assert texts[0::2] == texts[1::2]
    assert len(set(texts)) == 3


def test_drawn_schedules_can_be_run_and_have_faults_of_many_kinds() -> None:
    seen = set()
    for seed in range(60):
        schedule = draw(seed, Shape(3), **LOAD, together=0.5)
        schedule.check(**LOAD, brokers=3)
        assert 2 <= len(schedule.steps) <= 12
        seen |= {step.fault.kind for step in schedule.steps}
    assert {"kill", "pause", "stop", "restart-storm", "rolling-restart"} <= seen


def test_a_drawn_schedule_never_takes_two_brokers_down_at_once() -> None:
    for seed in range(80):
        schedule = draw(seed, Shape(3), **LOAD, every_seconds=8, together=0.9)
        spans = schedule.expected(**LOAD)
        down = [(spans[step.id], brokers_down(step.fault)) for step in schedule.steps if brokers_down(step.fault)]
        for n, ((begin, end), names) in enumerate(down):
            for (first, last), others in down[:n]:
                assert names == others or end <= first or last <= begin


def test_only_wanted_faults_are_drawn() -> None:
    schedule = draw(5, Shape(3), **LOAD, kinds=["pause"])
    assert {step.fault.kind for step in schedule.steps} == {"pause"}
    with pytest.raises(UsageError, match="not on the menu"):
        menu(Shape(1), ["kil"])


def test_a_schedule_survives_its_json() -> None:
    schedule = Schedule.of(
        (Trigger("committed", 1000, moment="upload"), Kill("connect", seconds=2.5)),
        (Trigger("after", 3, step="s1"), Pause("kafka-1", seconds=20)),
    )
    assert Schedule.loads(schedule.dumps()) == schedule
    assert Schedule.loads(schedule.dumps()).dumps() == schedule.dumps()


def test_each_thing_that_is_wrong_is_told_with_its_place() -> None:
    content = raw(id="", when={"measure": "comitted", "value": -1, "at": 3}, fault={"kind": "kil"}, frequency=2)
    text = problems(content)
    for place in ("steps[0].id", "steps[0].when.value", "steps[0].when.at", "steps[0].fault", "steps[0].frequency"):
        assert f"$.{place}:" in text
    assert "did you mean `kill`" in text


@pytest.mark.parametrize(
    ("step", "place", "reason"),
    [
        ({"when": {"measure": "comitted", "value": 1}}, "$.steps[0].when.measure", "did you mean `committed`"),
        ({"when": {"measure": "committed", "value": 1e9}}, "$.steps[0].when.value", "never reached"),
        ({"when": {"measure": "seconds", "value": 999}}, "$.steps[0].when.value", "never reached"),
        ({"when": {"measure": "after", "value": 1, "step": "s9"}}, "$.steps[0].when.step", "no earlier step"),
        ({"when": {"measure": "committed", "moment": "lunch"}}, "$.steps[0].when.moment", "there is no `lunch`"),
        ({"fault": {"kind": "kill", "component": "connect", "seconds": 7200}}, "$.steps[0].fault.seconds", "an hour"),
        ({"fault": {"kind": "kill", "component": "connect", "seconds": -1}}, "$.steps[0].fault", "at least 0"),
    ],
)
def test_a_step_that_can_never_run_is_refused(step: dict[str, Any], place: str, reason: str) -> None:
    text = problems(raw(**step))
    assert place in text
    assert reason in text


def test_ids_are_unique() -> None:
    step = Step("s1", Trigger("committed", 1), Kill("connect"))
    assert "$.steps[1].id" in problems(Schedule((step, step)))


def test_more_brokers_down_than_the_cluster_survives_is_refused_unless_asked_for() -> None:
    steps = (
        (Trigger("committed", 1000), Kill("kafka-1", seconds=5)),
        (Trigger("committed", 1500), Pause("leader of cdc.public.orders 0", seconds=5)),
    )
    assert "survive one" in problems(Schedule.of(*steps), brokers=3)
    assert "survive one" in problems(Schedule.of((Trigger("committed", 1), Kill("every broker"))), brokers=3)
    Schedule.of(*steps, overload=True).check(**LOAD, brokers=3)
    Schedule.of((Trigger("committed", 1), RollingRestart())).check(**LOAD, brokers=3)
    Schedule.of(steps[0], (Trigger("committed", 300_000), Kill("kafka-2"))).check(**LOAD, brokers=3)


def test_without_a_step_what_followed_it_begins_in_its_place() -> None:
    schedule = Schedule.of(
        (Trigger("committed", 1000), Kill("connect")),
        (Trigger("after", 5, step="s1"), Kill("kafka-1")),
        (Trigger("after", 7, step="s2"), Kill("postgres")),
    )
    left = schedule.without(["s1", "s2"])
    assert [str(step.trigger) for step in left.steps] == ["committed >= 1,000"]
    left.check(**LOAD, brokers=1)


@dataclass
class _Bare:
    """A stack whose servers nobody can manage, and one that has two."""

    components: dict[str, object]


def test_a_component_that_is_not_there_is_refused_and_a_target_that_cannot_says_why() -> None:
    stack: Any = _Bare({"connect": object(), "kafka-1": object()})
    wrong = Schedule.of((Trigger("committed", 1), Kill("conect")))
    with pytest.raises(UsageError, match=r"steps\[0\].fault: this stack has no component `conect`"):
        wrong.check_stack(stack)
    unmanaged: Any = _Bare({})
    reasons = Schedule.of((Trigger("committed", 1), Kill("connect"))).check_stack(unmanaged)
    assert list(reasons) == ["s1"]
    assert "can't manage" in reasons["s1"]


def test_text_that_is_no_schedule_is_refused() -> None:
    for text in ("", "[]", "{}", '{"schema": "other", "steps": []}', json.dumps(raw() | {"steps": 3})):
        with pytest.raises(UsageError):
            Schedule.loads(text)
