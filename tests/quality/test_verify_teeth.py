"""The teeth of `cdcpipe.verify`: planted damage is found under its right name, and good runs raise no alarm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.quality.damage import DAMAGES, Impossible
from tests.quality.damage.handoff import row_that_the_snapshot_read_too_late, snapshot_row_older_than_the_stream
from tests.quality.histories import History, history

from cdcpipe.verify import Level, Verdict, events
from cdcpipe.verify.judge import CHECKS

# By what no ledger row can be damaged: the cut, the schemas; see the tests of those.
ELSEWHERE = {"stuck", "illegal-evolution", "unreadable-hour", "schema-flap"}

_EVERY = [pytest.param(name, each, id=f"{name}-{each.__name__}") for name, all_ in DAMAGES.items() for each in all_]


def drawn(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Seeds by Hypothesis: new ones each run, the failing one shrunk and kept. One run judges in 0.1 to 0.5 s."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )


def damaged(number: int, damage: Callable[[History], set[str]]) -> tuple[History, set[str]]:
    """The first history from `number` on that can be damaged so."""
    for offset in range(60):
        made = history(number + offset)
        try:
            return made, damage(made)
        except Impossible:
            continue
    raise AssertionError(f"no history from {number} on can be damaged by {damage.__name__}")


def test_every_anomaly_that_ledgers_show_has_a_damage() -> None:
    assert {check.name for check in CHECKS} == set(DAMAGES)


@pytest.mark.slow
@pytest.mark.parametrize(("anomaly", "damage"), _EVERY)
@drawn(5)
@given(number=st.integers(0, 1_000_000))
def test_damage_is_found_under_its_right_name(anomaly: str, damage: Callable[[History], set[str]], number: int) -> None:
    made, wanted = damaged(number, damage)
    report = events(*made.evidence(), figures=False)
    consequences = {name.strip("()") for name in wanted if name.startswith("(")}
    assert set(report.anomalies) == wanted - {f"({name})" for name in consequences}, report.sentence()
    assert consequences <= set(report.consequences)
    assert report.verdict is Verdict.FAIL
    assert report[anomaly].witnesses


@pytest.mark.slow
@drawn(200)
@given(number=st.integers(0, 1_000_000))
def test_good_histories_raise_no_alarm(number: int) -> None:
    report = events(*history(number).evidence(), figures=False)
    assert not report.failed, (number, [(each.id, each.witnesses) for each in report.failed])
    assert report.verdict is Verdict.PASS, report.sentence()


@pytest.mark.slow
@drawn(5)
@given(number=st.integers(0, 1_000_000))
def test_repetitions_are_allowed_by_the_levels_that_allow_them(number: int) -> None:
    for anomaly in ("duplicate-change", "duplicate-row", "overlapping-object"):
        made, _ = damaged(number, DAMAGES[anomaly][0])
        for level in (Level.AT_LEAST_ONCE, Level.EFFECTIVELY_ONCE):
            report = events(*made.evidence(), level=level, figures=False)
            assert report.verdict is Verdict.PASS, (level, report.sentence())
            assert report[anomaly].allowed > 0


@pytest.mark.slow
@drawn(5)
@given(number=st.integers(0, 1_000_000))
def test_effectively_once_does_not_allow_a_repetition_that_differs(number: int) -> None:
    made, _ = damaged(number, DAMAGES["duplicate-row"][0])
    made.archive[-1]["after"] = bytes(16)
    evidence = made.evidence()
    assert events(*evidence, level="effectively_once", figures=False).anomalies == ("duplicate-row@sink",)
    assert events(*evidence, level="at_least_once", figures=False).verdict is Verdict.PASS


@pytest.mark.slow
@drawn(5)
@given(number=st.integers(0, 1_000_000))
def test_no_level_allows_a_loss(number: int) -> None:
    made, wanted = damaged(number, DAMAGES["lost-change"][0])
    for level in Level:
        assert set(events(*made.evidence(), level=level, figures=False).anomalies) == wanted


@pytest.mark.slow
@drawn(5)
@given(number=st.integers(0, 1_000_000))
def test_a_row_that_a_declared_snapshot_reads_late_is_no_overlap(number: int) -> None:
    """One that was interrupted and begins anew reads so (Debezium 3.7.0): all that it read is streamed again."""
    made, _ = damaged(number, row_that_the_snapshot_read_too_late)
    assert events(*made.evidence(), figures=False, resnapshots=True).verdict is Verdict.PASS
    lost, wanted = damaged(number, snapshot_row_older_than_the_stream)
    assert set(events(*lost.evidence(), figures=False, resnapshots=True).anomalies) == wanted
