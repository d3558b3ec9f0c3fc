"""Monitors over samples: each sees its anomaly, at once, and nothing in a pipeline that does its work."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cdcpipe.verify import Verdict
from cdcpipe.verify.progress import Bounds, ObjectState, Sample, SlotState, Watch, Writer

BOUNDS = Bounds(wal_pin_bytes=1 << 30, wal_pin_seconds=60, stuck_seconds=30, false_green_seconds=10)
PLACE = ("shop.public.orders", 0)


def good_run(seed: int, samples: int = 120) -> list[Sample]:
    """A pipeline under load that idles, restarts, and is not seen at times; every server's answer may be missing."""
    rng = random.Random(seed)
    wal, stored, flushed, end, group = 1 << 30, 1 << 30, 1 << 30, 0, 0
    objects: dict[str, ObjectState] = {}
    out = []
    for at in range(samples):
        busy = rng.random() < 0.8
        wal += rng.randrange(1 << 22) if busy else 100
        stored = wal if busy and rng.random() < 0.9 else stored
        flushed = max(flushed, stored - rng.randrange(1 << 16))
        end += rng.randrange(5_000) if busy else 0
        group = end if rng.random() < 0.7 else group
        if rng.random() < 0.3:
            objects[f"{at}.parquet"] = ObjectState(f"e{at}", at)
        state = rng.choice(["RUNNING"] * 9 + ["RESTARTING"])
        slot = SlotState("s", True, "pgoutput", flushed, flushed - 4096, "reserved", None, wal - flushed)
        out.append(
            Sample(
                at=float(at),
                wal_lsn=wal,
                slot=slot if rng.random() < 0.95 else None,
                source_lsn=stored if rng.random() < 0.95 else None,
                group_offsets={PLACE: group} if rng.random() < 0.95 else None,
                end_offsets={PLACE: end},
                objects=dict(objects) if at % 5 == 0 else None,
                connectors={"source": state, "source/0": state},
                writers={"orders/0": (Writer(f"w{at // 40}", at // 40),)},
            )
        )
    return out


def failed(samples: list[Sample]) -> set[str]:
    return {each.name for each in Watch(bounds=BOUNDS).feed_all(samples).results() if each.verdict is Verdict.FAIL}


@pytest.mark.parametrize("seed", range(200))
def test_a_pipeline_that_works_raises_no_alarm(seed: int) -> None:
    assert failed(good_run(seed)) == set()


@pytest.mark.parametrize("seed", range(5))
class TestEachAnomalyIsSeenUnderItsName:
    def at(self, seed: int) -> tuple[list[Sample], int]:
        samples = good_run(seed)
        number = 20 + seed * 10
        full = samples[number]
        slot = SlotState("s", True, "pgoutput", full.wal_lsn, (full.wal_lsn or 0) - 4096, "reserved", None, 4096)
        assert full.end_offsets is not None
        group = {PLACE: full.end_offsets[PLACE]}
        samples[number] = replace(full, slot=slot, source_lsn=full.wal_lsn, group_offsets=group, objects=None)
        samples[number + 1] = replace(samples[number], at=float(number + 1))
        return samples, number

    def test_slot_confirmed_beyond_the_stored_offset(self, seed: int) -> None:
        samples, n = self.at(seed)
        slot = samples[n].slot
        assert slot is not None
        assert slot.confirmed_flush_lsn is not None
        before = max(each.source_lsn for each in samples[:n] if each.source_lsn is not None)
        samples[n] = replace(samples[n], source_lsn=max(before, slot.confirmed_flush_lsn - 1))
        if samples[n].source_lsn == slot.confirmed_flush_lsn:
            samples[n] = replace(samples[n], slot=replace(slot, confirmed_flush_lsn=slot.confirmed_flush_lsn + 1))
        assert "ack-ahead" in failed(samples[: n + 1])

    def test_sink_offset_that_goes_back(self, seed: int) -> None:
        samples, n = self.at(seed)
        assert samples[n].group_offsets is not None
        samples[n + 1] = replace(samples[n + 1], group_offsets={PLACE: 0})
        assert failed(samples[: n + 2]) == {"offset-regression"}

    def test_source_offset_that_goes_back(self, seed: int) -> None:
        samples, n = self.at(seed)
        samples[n + 1] = replace(samples[n + 1], source_lsn=1 << 29, slot=None)
        assert failed(samples[: n + 2]) == {"offset-regression"}

    def test_slot_that_is_gone(self, seed: int) -> None:
        samples, n = self.at(seed)
        samples[n + 1] = replace(samples[n + 1], slot=SlotState("s", exists=False))
        assert failed(samples[: n + 2]) == {"slot-loss"}

    def test_slot_that_was_made_again(self, seed: int) -> None:
        samples, n = self.at(seed)
        slot = samples[n].slot
        assert slot is not None
        samples[n + 1] = replace(samples[n + 1], slot=replace(slot, restart_lsn=5))
        assert failed(samples[: n + 2]) == {"slot-loss"}

    def test_slot_that_was_made_again_further_on_between_two_samples(self, seed: int) -> None:
        samples, n = self.at(seed)
        slot, wal = samples[n].slot, samples[n].wal_lsn
        assert slot is not None
        assert wal is not None
        again = replace(slot, restart_lsn=wal + 100, confirmed_flush_lsn=wal + 200)
        later = [replace(samples[n], at=float(n + step), slot=again, wal_lsn=wal + 300) for step in range(1, 4)]
        watch = Watch(bounds=BOUNDS).feed_all(samples[: n + 1] + later)
        lost = next(each for each in watch.results() if each.name == "slot-loss")
        assert (lost.verdict, lost.found) == (Verdict.FAIL, 1)

    def test_slot_that_holds_too_much_wal(self, seed: int) -> None:
        samples, n = self.at(seed)
        slot = samples[n].slot
        assert slot is not None
        samples[n] = replace(samples[n], slot=replace(slot, retained_bytes=2 << 30))
        assert failed(samples[: n + 1]) == {"wal-pin"}

    def test_slot_that_stands_while_wal_is_written(self, seed: int) -> None:
        samples, n = self.at(seed)
        slot, wal = samples[n].slot, samples[n].wal_lsn
        assert slot is not None
        assert wal is not None
        end = samples[n].end_offsets
        for step in range(1, 80):
            at = wal + step * (1 << 20)
            samples.insert(
                n + step,
                Sample(float(n + step), None, at, slot, at, end, end, connectors={"source": "FAILED"}),
            )
        assert failed(samples[: n + 79]) == {"wal-pin"}

    def test_object_that_changes(self, seed: int) -> None:
        samples, n = self.at(seed)
        samples[n] = replace(samples[n], objects={"x.parquet": ObjectState("a", 10)})
        samples[n + 1] = replace(samples[n + 1], objects={"x.parquet": ObjectState("b", 10)})
        assert failed(samples[: n + 2]) == {"late-mutation"}

    def test_two_writers_at_one_seat(self, seed: int) -> None:
        samples, n = self.at(seed)
        samples[n] = replace(samples[n], writers={"orders/0": (Writer("a", 9), Writer("b", 9))})
        assert failed(samples[: n + 1]) == {"zombie-writer"}

    def test_fenced_writer_that_comes_back(self, seed: int) -> None:
        samples, n = self.at(seed)
        samples[n] = replace(samples[n], writers={"orders/0": (Writer("new", 9),)})
        samples[n + 1] = replace(samples[n + 1], writers={"orders/0": (Writer("old", 8),)})
        assert failed(samples[: n + 2]) == {"zombie-writer"}

    def test_sink_that_stands_and_says_so(self, seed: int) -> None:
        samples, n = self.at(seed)
        ends = samples[n].end_offsets
        assert ends is not None
        end = ends[PLACE]
        standing = [
            replace(samples[n], at=float(n + step), group_offsets={PLACE: end}, end_offsets={PLACE: end + 1 + step})
            for step in range(60)
        ]
        failing = [replace(each, connectors={"sink": "FAILED"}) for each in standing]
        assert failed(samples[: n + 1] + failing) == {"stuck"}
        assert failed(samples[: n + 1] + standing) == {"stuck", "false-green"}
        watch = Watch(bounds=BOUNDS).feed_all(samples[: n + 1] + standing)
        assert watch.is_false_green
        last = standing[-1]
        watch.feed(replace(last, at=last.at + 1, group_offsets=last.end_offsets))
        assert not watch.is_false_green  # what it was once is told by its result

    def test_source_that_stands_and_says_running(self, seed: int) -> None:
        samples, n = self.at(seed)
        wal = samples[n].wal_lsn
        assert wal is not None
        standing = [
            replace(samples[n], at=float(n + step), wal_lsn=wal + step * 100_000, source_lsn=wal) for step in range(60)
        ]
        assert failed(samples[: n + 1] + standing) == {"stuck", "false-green"}

    def test_lost_slot_behind_a_green_connector(self, seed: int) -> None:
        samples, n = self.at(seed)
        gone = [replace(samples[n], at=float(n + step), slot=SlotState("s", exists=False)) for step in range(20)]
        gone = [replace(each, connectors={"source": "RUNNING"}) for each in gone]
        assert failed(samples[: n + 1] + gone) == {"slot-loss", "false-green"}


def test_without_samples_nothing_is_claimed() -> None:
    assert {each.verdict for each in Watch().results()} == {Verdict.INCONCLUSIVE}
    blind = Watch().feed_all([Sample(0.0), Sample(1.0)])
    assert {each.verdict for each in blind.results()} == {Verdict.INCONCLUSIVE}
