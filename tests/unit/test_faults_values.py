"""Faults are values: written and read back alike, refused with the names that there are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cdcpipe.errors import UsageError
from cdcpipe.faults import Fault, Kill, Pause, RestartStorm, fault_from_dict, kinds

_EXAMPLES: dict[str, Any] = {"component": "connect", "link": "connect-kafka", "topic": "cdc.public.orders"}


def _made(kind: type[Fault]) -> Iterator[Fault]:
    """One of `kind` with defaults only, and one with every field off its default."""
    needed = {
        each.name: _EXAMPLES[each.name] for each in dataclasses.fields(kind) if each.default is dataclasses.MISSING
    }
    yield kind(**needed)
    yield kind(**needed, seconds=3.5)


@pytest.mark.parametrize("kind", kinds())
def test_a_fault_is_read_back_as_it_was_written(kind: str) -> None:
    for fault in _made(kinds()[kind]):
        written = json.loads(json.dumps(fault.to_dict()))
        assert written["kind"] == kind
        assert fault_from_dict(written) == fault


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_says_what_it_does_and_what_it_provokes(kind: str) -> None:
    found = kinds()[kind]
    assert (found.__doc__ or "").strip()
    assert not (found.__doc__ or "").startswith(f"{found.__name__}("), "that is what dataclass writes by itself"
    assert found.provokes


def test_only_what_differs_from_the_default_is_written() -> None:
    assert Kill("connect").to_dict() == {"kind": "kill", "component": "connect"}
    assert RestartStorm("connect", times=2).to_dict() == {"kind": "restart-storm", "component": "connect", "times": 2}


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ({}, "no fault of kind `None`", "there are: "),
        ({"kind": "kil"}, "no fault of kind `kil`", "did you mean `kill`?"),
        ({"kind": "kill", "componant": "connect"}, "a fault of kind `kill` has no `componant`", "`component`"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(content: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        fault_from_dict(content)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"kind": "kill"}, "component: "),
        ({"kind": "kill", "component": 3}, "component: "),
        ({"kind": "pause", "component": "connect", "seconds": "long"}, "seconds: "),
    ],
)
def test_a_wrong_value_is_named_by_its_field(content: dict[str, Any], finding: str) -> None:
    with pytest.raises(UsageError) as caught:
        fault_from_dict(content)
    assert finding in (caught.value.detail or "")


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_a_duration_that_no_clock_can_measure_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds must be a number of at least 0"):
        Pause("connect", seconds=seconds)


def test_a_fault_says_in_one_line_what_it_is() -> None:
    assert str(Pause("leader of cdc.public.orders 1", seconds=20)) == "pause leader of cdc.public.orders 1 for 20 s"
