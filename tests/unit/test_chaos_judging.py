"""What a crash of PostgreSQL excuses, and whose crash it was."""

from __future__ import annotations

import pytest

from cdcpipe.chaos.judging import _expected
from cdcpipe.chaos.recovery import FaultOutcome
from cdcpipe.faults.fault import FaultRecord, Trace
from cdcpipe.verify import Verdict
from cdcpipe.verify.verdict import CheckResult, Witness

BACK = "slot s: confirmed_flush_lsn went from 0/2 to 0/1"
GONE = "slot s is gone"


def slot_loss(*notes: str) -> CheckResult:
    witnesses = tuple(Witness(note) for note in notes)
    return CheckResult(
        name="slot-loss",
        group="progress",
        claim="",
        not_proven="",
        verdict=Verdict.FAIL,
        found=len(notes),
        looked_at=9,
        witnesses=witnesses,
    )


def outcome(kind: str, target: str, trace: Trace, *, injected: float | None = 2.0) -> FaultOutcome:
    record = FaultRecord(kind, target, {}, trace, set_up=1.0, injected=injected)
    return FaultOutcome("s1", "committed >= 1", kind, record)


@pytest.mark.parametrize(
    "fault",
    [
        outcome("kill", "postgres", {}),
        outcome("half-open", "connect-postgres", {"servers": ["postgres"]}),
        outcome("half-open", "connect-catalog", {"servers": ["postgres"]}),
    ],
    ids=lambda each: each.record.target,
)
def test_a_slot_may_go_back_where_postgresql_was_killed_and_nothing_more(fault: FaultOutcome) -> None:
    alone = _expected(slot_loss(BACK), (fault,))
    assert (alone.verdict, alone.found, alone.allowed) == (Verdict.PASS, 0, 1)
    both = _expected(slot_loss(BACK, GONE), (fault,))
    assert (both.verdict, [each.note for each in both.witnesses]) == (Verdict.FAIL, [GONE])


@pytest.mark.parametrize(
    "fault",
    [
        outcome("half-open", "connect-kafka", {"servers": ["kafka-1"]}),
        outcome("cut", "connect-catalog", {"toxics": []}),
        outcome("half-open", "connect-catalog", {"servers": ["postgres"]}, injected=None),
    ],
    ids=["another server", "no crash", "not injected"],
)
def test_where_it_was_not_killed_no_slot_goes_back(fault: FaultOutcome) -> None:
    assert _expected(slot_loss(BACK), (fault,)).verdict is Verdict.FAIL
