"""A run for a person: an HTML page that opens offline, Markdown for a ticket, JUnit for CI. Verdict first."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdcpipe.chaos.recovery import FaultOutcome
from cdcpipe.chaos.result import ChaosResult
from cdcpipe.report.charts import Band, Mark, line
from cdcpipe.report.html import page_of
from cdcpipe.report.junit import render_report as render_junit
from cdcpipe.report.page import Mood, Page, Section, Table, Tile, render
from cdcpipe.report.wording import facts_of
from cdcpipe.verify.verdict import Verdict

__all__ = ["markdown", "page", "write_reports"]

_FLOWS_GOAL, _ARCHIVE_GOAL = 15.0, 30.0


def write_reports(result: ChaosResult) -> None:
    """Write `report.html`, `report.md` and `junit.xml` into the run's folder."""
    (result.run / "report.html").write_text(render(page(result)), encoding="utf-8")
    (result.run / "report.md").write_text(markdown(result), encoding="utf-8")
    (result.run / "junit.xml").write_text(_junit(result), encoding="utf-8")


# --- HTML -----------------------------------------------------------------------


def page(result: ChaosResult) -> Page:
    """The page: verdict, tiles, timeline, recovery by fault, anomalies; then all that stands behind them."""
    verified = page_of(result.report)
    plan = result.plan
    sections = [_timeline(result), _recovery(result)]
    if result.anomalies:
        sections.append(_anomalies(result))
    if result.interventions:
        rows = [[each] for each in result.interventions]
        intro = "The pipeline did not come back by itself: this is what an operator would have had to do."
        sections.append(Section("Interventions", intro, tables=[Table(["what"], rows)], anchor="interventions"))
    sections += [_moments(result), _resources(result), *verified.sections]
    return Page(
        title=f"cdcpipe chaos: {plan.name}, seed {plan.seed}",
        sentence=result.sentence(),
        verdict=result.verdict.value,
        subtitle=f"{plan.load} load at {plan.rate:,.0f} events/s for {plan.seconds:g} s · {plan.brokers} "
        f"broker{'s' if plan.brokers > 1 else ''} · level {plan.level} · {result.made_at:%Y-%m-%d %H:%M:%S} UTC · "
        f"again: {result.replay}",
        tiles=_tiles(result),
        sections=sections,
        facts=_facts(result),
    )


def _tiles(result: ChaosResult) -> list[Tile]:
    outcomes = result.outcomes
    done = sum(each.took_effect for each in outcomes)
    skipped = sum(each.skipped is not None for each in outcomes)
    rate = result.rate_during_faults
    return [
        Tile(
            "anomalies",
            str(len(result.anomalies)),
            ", ".join(result.anomalies[:3]) or "none",
            "fail" if result.anomalies else "pass",
        ),
        Tile("faults", f"{done} of {len(outcomes)}", f"{skipped} skipped" if skipped else "took effect"),
        _recovery_tile("flow back within", result, "flows", result.flows_seconds_max, _FLOWS_GOAL),
        _recovery_tile("archive on within", result, "archive", result.archive_seconds_max, _ARCHIVE_GOAL),
        Tile("events", f"{result.load.get('events', 0):,}", f"{result.load.get('achieved_rate', 0):,.0f}/s"),
        Tile("rate during faults", "not measured" if rate is None else f"{rate:,.0f}/s", "committed"),
        Tile("verified in", f"{result.verify_seconds:.0f} s", "three ledgers, after the drain"),
        Tile(
            "interventions",
            str(len(result.interventions)),
            "by an operator",
            "fail" if result.interventions else "pass",
        ),
    ]


def _recovery_tile(label: str, result: ChaosResult, name: str, worst: float | None, goal: float) -> Tile:
    known = [each.recovery for each in result.outcomes if each.recovery is not None]
    if not known:
        return Tile(label, "not measured", "no fault was felt")
    lost = sum(getattr(each, name) is None for each in known)
    if lost:
        return Tile(label, "never", f"after {lost} of {len(known)} faults", "fail")
    assert worst is not None
    mood: Mood = "pass" if worst <= goal else "plain"
    return Tile(label, f"{worst:.1f} s", "the worst fault, from its begin", mood)


def _samples(result: ChaosResult) -> list[dict[str, Any]]:
    path = result.run / "samples.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(text) for text in file if text.endswith("\n")]


def _probes(result: ChaosResult) -> list[tuple[float, float]]:
    import pyarrow.parquet as pq

    path = result.run / "probes.parquet"
    if not path.exists():
        return []
    rows = pq.read_table(path).to_pylist()
    return [(row["sent"], row["seen"] - row["sent"]) for row in rows]


def _timeline(result: ChaosResult) -> Section:
    samples = _samples(result)
    begin = result.begun or (samples[0]["at"] if samples else 0.0)

    def points(name: str, scale: float = 1.0) -> list[tuple[float, float]]:
        found = [(each["at"] - begin, each[name] * scale) for each in samples if each.get(name) is not None]
        return [(x, y) for x, y in found if x >= 0]

    bands = [
        Band(span[0] - begin, span[1] - begin, each.step) for each in result.outcomes if (span := each.span) is not None
    ]
    marks = _marks(result, begin)
    last = max([1.0, *(each["at"] - begin for each in samples)])
    shared: dict[str, Any] = {"bands": bands, "marks": marks, "width": 1000, "x_range": (0.0, last)}
    rates = line(
        {"due": points("target"), "committed": points("committed"), "into the log": points("logged_rate")},
        title="events per second",
        height=260,
        y_max=4 * result.plan.rate,
        **shared,
    )
    probes = [(at - begin, seconds) for at, seconds in _probes(result) if at >= begin]
    latency = line({"probe": probes}, title="commit to log, by the probe's commit time", unit="s", height=190, **shared)
    behind = line(
        {
            "committed": points("committed_total"),
            "in the log": points("logged"),
            "archived": points("archived"),
        },
        title="how far each hop is: events",
        height=220,
        **shared,
    )
    lags = line(
        {"slot behind the WAL": points("slot_bytes", 1e-6)},
        title="WAL held for the source",
        unit="MB",
        height=160,
        **shared,
    )
    legend = "; ".join(f"{each.step} {each.fault}" for each in result.outcomes if each.span is not None)
    intro = (
        "Seconds since the load began. Shaded: from the injection of a fault until its target was well again. "
        f"{'Dashed: witnesses of anomalies. ' if marks else ''}{legend}."
    )
    return Section("Timeline", intro, charts=[rates, latency, behind, lags], anchor="timeline")


def _marks(result: ChaosResult, begin: float) -> list[Mark]:
    marks = []
    for check in result.report.failed:
        if check.is_cause:
            times = sorted(
                {round(w.committed_at.timestamp(), 1) for w in check.witnesses if w.committed_at is not None}
            )
            marks += [Mark(at - begin, check.id) for at in times[:10]]
    return marks


def _seconds(value: float | None, *, none: str = "never") -> str:
    if value is None:
        return none
    return "not felt" if value == 0 else f"{value:.1f} s"


def _recovery(result: ChaosResult) -> Section:
    columns = ["fault", "when", "lasted", "flow back", "after the cure", "caught up", "archive on", "after cure"]
    rows = []
    for each in result.outcomes:
        head = [f"{each.step} {each.fault}", each.when]
        recovery, span = each.recovery, each.span
        if recovery is None or span is None or each.record is None:
            rows.append([*head, f"skipped: {each.skipped}" if each.skipped else f"not done: {each.note}", *[""] * 5])
            continue
        rows.append(
            [
                *head,
                f"{span[1] - span[0]:.1f} s",
                _seconds(recovery.flows) + (" (down before)" if recovery.already else ""),
                _seconds(recovery.flows_after_heal),
                _seconds(recovery.caught_up),
                _seconds(recovery.archive),
                _seconds(recovery.archive_after_heal),
            ]
        )
    intro = (
        "From the injection of each fault: until the probe, a row committed each half second, came out of the log "
        "again; until it did so within 2 s of its commit; until the archive's tables were committed to again. "
        "`After the cure` counts from the moment at which the fault was taken back. `Down before`: the flow stood "
        "still already when the fault began."
    )
    return Section("Time to recover", intro, tables=[Table(columns, rows, figures=columns[2:])], anchor="recovery")


def _anomalies(result: ChaosResult) -> Section:
    tables = []
    for check in result.report.failed:
        if not check.is_cause:
            continue
        rows = [
            [each.note, "; ".join(f"{name} {value}" for name, value in facts_of(each)), each.fault or ""]
            for each in check.witnesses[:10]
        ]
        caption = f"{check.id}: {check.found - check.explained:,} found. {check.claim}"
        tables.append(Table(["witness", "where", "fault active then"], rows, caption=caption))
    intro = "What was refuted and is no consequence of something else, with the most telling witnesses."
    return Section("Anomalies", intro, tables=tables, anchor="anomalies")


def _moments(result: ChaosResult) -> Section:
    names = ("set_up", "injected", "effective", "recovering", "recovered", "cleaned")
    rows = []
    for each in result.outcomes:
        record = each.record
        cells = [
            "" if record is None or (at := getattr(record, name)) is None else f"{at - result.begun:.2f}"
            for name in names
        ]
        trace = "" if record is None else ", ".join(f"{k}={v}" for k, v in record.trace.items())[:160]
        rows.append([f"{each.step} {each.fault}", *cells, each.note or each.skipped or trace])
    columns = ["fault", *(name.replace("_", " ") for name in names), "what exactly"]
    intro = "The six moments of each fault, in seconds since the load began. Both waits only observe."
    table = Table(columns, rows, figures=columns[1:-1])
    return Section("Faults", intro, tables=[table], anchor="faults")


def _resources(result: ChaosResult) -> Section:
    samples = _samples(result)
    names = [name for name in result.peak_memory if name != "all"]
    series = {
        name: [(s["at"] - result.begun, s["memory"].get(name, 0) / 1e6) for s in samples if s.get("memory")]
        for name in names
    }
    chart = line(series, title="memory by component", unit="MB")
    changes = _state_changes(samples, result.begun)
    table = Table(
        ["at", "component", "state"], changes[:40], caption="changes of state, asked each 4 s", figures=["at"]
    )
    return Section("Resources and states", charts=[chart], tables=[table], anchor="resources")


def _state_changes(samples: Sequence[dict[str, Any]], begun: float) -> list[list[str]]:
    last: dict[str, str] = {}
    rows = []
    for sample in samples:
        states = {**(sample.get("states") or {}), **(sample.get("connectors") or {})}
        for name, state in states.items():
            if last.get(name, state) != state:
                rows.append([f"{sample['at'] - begun:.0f} s", name, state])
            last[name] = state
    return rows


def _facts(result: ChaosResult) -> list[tuple[str, str]]:
    return [
        ("again", result.replay),
        ("run", str(result.run)),
        ("plan", str(result.run / "plan.json")),
        *((name, version) for name, version in result.versions.items()),
        *((f"phase {name}", f"{seconds:.1f} s") for name, seconds in result.phases.items()),
    ]


# --- Markdown and JUnit ----------------------------------------------------------


def markdown(result: ChaosResult) -> str:
    """The same in short, for a ticket or a job's summary."""
    plan = result.plan
    out = [
        f"# chaos {plan.name}: {result.verdict.value}",
        "",
        result.sentence(),
        "",
        f"{plan.load} load, {plan.rate:,.0f} events/s for {plan.seconds:g} s, {plan.brokers} broker(s), "
        f"seed {plan.seed}.",
        "",
        "| fault | when | flow back | after the cure | archive on | after the cure |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(each) for each in result.outcomes),
        "",
    ]
    for check in result.report.failed:
        if check.is_cause:
            out += [f"## {check.id} ({check.found - check.explained:,})", "", check.claim, ""]
            for each in check.witnesses[:5]:
                facts = ", ".join(f"{name} {value}" for name, value in facts_of(each))
                out.append(f"- {each.note}: {facts}; fault active then: {each.fault or 'unknown'}")
            out.append("")
    out += [f"- intervention: {each}" for each in result.interventions]
    out += ["", f"Again: `{result.replay}`", ""]
    return "\n".join(out)


def _row(each: FaultOutcome) -> str:
    name = f"{each.step} {each.fault}"
    recovery = each.recovery
    if recovery is None:
        return f"| {name} | {each.when} | {each.skipped or each.note or ''} | | | |"
    cells = (recovery.flows, recovery.flows_after_heal, recovery.archive, recovery.archive_after_heal)
    return f"| {name} | {each.when} | {' | '.join(_seconds(value) for value in cells)} |"


def _junit(result: ChaosResult) -> str:
    """The verification's test cases, and one more a fault: an error where it did not do what it should."""
    suite = f"cdcpipe.chaos.{result.plan.name}"
    root = ET.fromstring(render_junit(result.report, suite=suite).encode())
    cases = ET.SubElement(root, "testsuite", name=f"{suite}.faults", tests=str(len(result.outcomes)))
    for each in result.outcomes:
        span = each.span
        seconds = 0.0 if span is None else span[1] - span[0]
        case = ET.SubElement(
            cases, "testcase", classname=f"{suite}.faults", name=f"{each.step} {each.fault}", time=f"{seconds:.3f}"
        )
        if each.skipped is not None:
            ET.SubElement(case, "skipped", message=each.skipped)
        elif not each.took_effect or (each.record is not None and each.record.error):
            ET.SubElement(case, "error", type="fault", message=each.note or "it took no effect")
    properties = ET.SubElement(cases, "properties")
    ET.SubElement(properties, "property", name="replay", value=result.replay)
    ET.SubElement(properties, "property", name="seed", value=str(result.plan.seed))
    ET.SubElement(properties, "property", name="verdict", value=Verdict(result.verdict).value)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def render_folder(run: Path) -> ChaosResult:
    """Render an old run's reports again, by this release."""
    from cdcpipe.chaos.result import load_result

    result = load_result(run)
    write_reports(result)
    return result
