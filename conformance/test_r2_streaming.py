"""R2, streaming: rate, latency and order under the required load, and what partitions give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline

HELD = 0.99
"""Share of the rate that counts as held: the schedule's last second is seldom whole."""
DRAIN_SECONDS_MAX = 30
"""How long after the load its last row may be archived. A sink that lags by a quarter needs longer for 30 s of load."""


@pytest.mark.criterion("R2.1")
def test_the_required_rate_is_held_from_commit_to_archive(load: Load, evidence: Evidence) -> None:
    required, work = evidence.bound("events_per_second"), load.work
    archived, records = sum(each.archived for each in load.report.accounts), load.settled_records
    evidence.figure("offered", load.offered, "events/s")
    evidence.figure("committed", work.achieved_rate, "events/s")
    evidence.figure("out of Kafka", load.log_rate, "events/s")
    evidence.figure("for", work.seconds, "s")
    evidence.figure("events", work.events)
    evidence.figure("last change in Kafka after", round(load.log_seconds, 1), "s")
    evidence.figure("all archived after", round(load.settle_seconds, 1), "s")
    evidence.figure("rows archived", archived)
    evidence.artefact("samples.csv", _samples(load))
    if load.offered < required:
        evidence.inconclusive(f"{load.offered:,.0f} events/s were offered, {required:,.0f} are required")
    assert work.achieved_rate >= HELD * required, f"PostgreSQL took {work.achieved_rate:,.0f} events/s"
    assert load.log_rate >= 0.95 * required, (
        f"{load.log_rate:,.0f} events/s came out of Kafka while they were committed"
    )
    assert load.settled.cut.reached, f"not all was archived: {load.settled.cut.waiting_for}"
    assert load.settle_seconds <= DRAIN_SECONDS_MAX, f"the archive was {load.settle_seconds:.0f} s behind the load"
    assert archived == records, f"{records - archived} records of this time are not in the archive"


def _samples(load: Load) -> str:
    lines = ["second,target,committed,out of Kafka,p50 ms,p99 ms,archived"]
    lines += [
        f"{each.at},{each.target},{each.committed},{each.log},{each.p50_ms},{each.p99_ms},{each.archived}"
        for each in load.samples
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.criterion("R2.2")
def test_latency_stays_within_its_bound_under_load(load: Load, evidence: Evidence) -> None:
    bound = evidence.bound("latency_p99_ms")
    p99 = load.latency_ms(0.99)
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        evidence.figure(name, load.latency_ms(q) or "not measured", "ms")
    evidence.figure("samples", len(load.latencies_ms))
    evidence.figure("at", load.offered, "events/s offered")
    if p99 is None or len(load.latencies_ms) < 100:
        evidence.inconclusive(f"only {len(load.latencies_ms)} latencies were measured")
    if load.offered < evidence.bound("events_per_second"):
        evidence.inconclusive(f"the load was {load.offered:,.0f} events/s, less than the required rate")
    assert p99 <= bound, f"p99 from commit to consumer is {p99:,.0f} ms, its bound {bound:,.0f} ms"


@pytest.mark.criterion("R2.3")
def test_actual_and_target_throughput_are_told_as_a_metric(load: Load, evidence: Evidence) -> None:
    scrapes = load.scrapes
    if len(scrapes) < 3:
        evidence.inconclusive(f"the monitor was scraped {len(scrapes)} times during the load")
    first, last = scrapes[0], scrapes[-1]
    target = last.value("cdcpipe_throughput_target_events_per_second")
    assert target is not None, "no target throughput is exposed"
    rates = {}
    for hop in ("commit", "log"):
        totals = [each.value("cdcpipe_events_total", hop=hop) for each in (first, last)]
        assert None not in totals, f"no throughput of hop `{hop}` is exposed"
        rates[hop] = ((totals[1] or 0) - (totals[0] or 0)) / (last.at - first.at)
    evidence.figure("target, as a metric", target, "events/s")
    evidence.figure("committed, as a metric", rates["commit"], "events/s")
    evidence.figure("in Kafka, as a metric", rates["log"], "events/s")
    evidence.figure("committed, as the workload counts", load.work.achieved_rate, "events/s")
    evidence.figure("scrapes", len(scrapes))
    evidence.artefact("metrics.txt", last.text)
    assert target == load.offered
    for hop, rate in rates.items():
        # A counter is as old as its last sample, and the commit one counts rolled back rows too.
        assert rate == pytest.approx(load.work.achieved_rate, rel=0.25), f"hop `{hop}` tells {rate:,.0f} events/s"


@pytest.mark.criterion("R2.4")
def test_one_consumer_a_partition_carries_more_than_one_for_all(
    pipeline: Pipeline, load: Load, evidence: Evidence
) -> None:
    from cdcpipe.conformance.scaling import measure

    required = evidence.bound("partition_speed_up")
    topics: dict[str, dict[int, int]] = {pipeline.topic_of(table): {} for table in pipeline.shop.tables}
    for each in load.log.manifest.partitions:
        if each.topic in topics:
            topics[each.topic][each.partition] = each.records
    topic, partitions = max(topics.items(), key=lambda item: sum(item[1].values()))
    count = min(9_000, sum(partitions.values()))
    if count < 1_000:
        evidence.inconclusive(f"the fullest topic holds {count} records: too few to measure a rate")
    one = measure(pipeline.endpoints, topic, members=1, records=count)
    many = measure(pipeline.endpoints, topic, members=3, records=count)
    evidence.figure("partitions", len(partitions))
    evidence.figure("records by partition", ", ".join(f"{count:,}" for _, count in sorted(partitions.items())))
    evidence.figure("one consumer", one.rate, "records/s")
    evidence.figure(f"{many.working} consumers", many.rate, "records/s")
    evidence.figure("speed-up", round(many.rate / one.rate, 2))
    smallest, mean = min(partitions.values()), sum(partitions.values()) / len(partitions)
    assert len(partitions) > 1, f"{topic} has one partition: it can't carry more than one consumer does"
    assert smallest >= 0.5 * mean, "the records are not spread over the partitions"
    assert many.rate >= required * one.rate, f"three consumers carry {many.rate / one.rate:.2f} times as much as one"


@pytest.mark.criterion("R2.5")
def test_order_holds_within_each_key_and_each_partition(load: Load, evidence: Evidence) -> None:
    checks = [each for each in load.report.results if each.group == "order"]
    judged = [each for each in checks if each.applies]
    evidence.figure("checks of order", len(judged))
    evidence.figure("changes looked at", max((each.looked_at for each in judged), default=0))
    evidence.figure("out of order", sum(each.found for each in judged if each.is_cause))
    evidence.artefact("verification.json", load.report.to_json())
    if not judged or not any(each.looked_at for each in judged):
        evidence.inconclusive("no change was looked at")
    for each in judged:
        assert not each.is_cause, f"{each.id}: {each.found} found; {each.witnesses[0].note if each.witnesses else ''}"
    unsure = [each.id for each in judged if each.verdict == "inconclusive"]
    if unsure:
        evidence.inconclusive(f"{', '.join(unsure)} could not be judged")
