"""A verification as one self-contained HTML page."""

from __future__ import annotations

from typing import Any

from cdcpipe.report.charts import Coverage, Mark, coverage, line, number
from cdcpipe.report.page import Mood, Page, Section, Table, Tile, fragment, render
from cdcpipe.report.wording import GROUPS, compare_images, facts_of, mood_of, word_of
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

__all__ = ["page_of", "render_report", "sections_of"]


def render_report(report: Report, *, title: str = "cdcpipe verify") -> str:
    """The page as text."""
    return render(page_of(report, title=title))


def page_of(report: Report, *, title: str = "cdcpipe verify") -> Page:
    """The page, to be added to."""
    judged = sum(each.applies for each in report.results)
    passed = sum(each.applies and each.verdict is Verdict.PASS for each in report.results)
    anomalies: Mood = "fail" if report.anomalies else "pass"
    tiles = [
        Tile("checks passed", f"{passed} of {judged}", f"{len(report.results) - judged} do not apply"),
        Tile("anomalies", str(len(report.anomalies)), ", ".join(report.anomalies[:3]), anomalies),
        *(Tile(f"{each.kind} ledger", number(each.changes), "changes") for each in report.ledgers),
        Tile("not there yet", number(report.unsettled), "beyond the watermark"),
    ]
    through = report.verified_through
    if through is not None and through.committed_at is not None:
        tiles.append(Tile("verified through", through.committed_at.strftime("%H:%M:%S"), f"transaction {through.xid}"))
    subtitle = f"level {report.level.value} · {report.mode}"
    if report.made_at is not None:
        subtitle += f" · {report.made_at:%Y-%m-%d %H:%M:%S} UTC"
    return Page(
        title=title,
        sentence=report.sentence(),
        verdict=report.verdict.value,
        subtitle=subtitle,
        tiles=tiles,
        sections=sections_of(report),
        facts=[("schema", "cdcpipe.verify/1"), ("judged in", f"{report.seconds:.1f} s")],
    )


def sections_of(report: Report) -> list[Section]:
    """The sections of a verification, for this page or another's."""
    sections = [_checks(report)]
    if any(each.rates for each in report.ledgers):
        sections.append(_rates(report))
    if report.accounts:
        sections.append(_accounts(report))
    if report.ledgers:
        sections.append(_ledgers(report))
    if report.notes:
        rows = [[note] for note in report.notes]
        sections.append(Section("What limits the verdict", tables=[Table(["note"], rows)], anchor="limits"))
    return sections


def _checks(report: Report) -> Section:
    groups = []
    for group, title in GROUPS.items():
        own = [each for each in report.results if each.group == group]
        if own:
            own.sort(key=lambda each: (not each.is_cause, each.verdict is not Verdict.FAIL, not each.applies))
            groups.append((title, [_result(each) for each in own]))
    intro = (
        "Each claim could be proven false. A failed claim that another anomaly explains is marked as its consequence. "
        "Open one to see what it looked at and its witnesses."
    )
    return Section("Checks", intro, html=fragment("checks.html.j2", groups=groups), anchor="checks")


def _result(result: CheckResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "word": word_of(result),
        "mood": mood_of(result),
        "claim": result.claim,
        "not_proven": result.not_proven,
        "reason": result.reason,
        "found": number(result.found) if result.found else "",
        "looked_at": number(result.looked_at),
        "counts": [(name, number(value)) for name, value in result.counts.items()],
        "open": result.is_cause,
        "witnesses": [_witness(each) for each in result.witnesses],
    }


def _witness(witness: Witness) -> dict[str, Any]:
    return {
        "note": witness.note,
        "cause": witness.cause,
        "fault": witness.fault,
        "pairs": facts_of(witness),
        "columns": compare_images(witness),
    }


def _rates(report: Report) -> Section:
    marks = []
    for result in report.failed:
        if result.is_cause:
            times = [each.committed_at for each in result.witnesses if each.committed_at is not None]
            marks += [Mark(at.timestamp(), result.id) for at in times[:10]]
    series = {each.kind: each.rates for each in report.ledgers if each.rates}
    chart = line(series, title="changes per second, by commit time", x_time=True, marks=marks)
    return Section(
        "Over time",
        "Changes by the time at which PostgreSQL committed them. Ledgers that hold the same lie on one line. "
        "Dashed: witnesses of anomalies.",
        [chart],
        anchor="time",
    )


def _accounts(report: Report) -> Section:
    rows = [
        Coverage(
            f"{each.topic}/{each.partition}",
            each.first,
            each.last + 1,
            [(begin, end, f"offsets {begin} to {end - 1} are missing") for begin, end in each.holes],
        )
        for each in report.accounts
    ]
    figures = ["offsets", "changes", "archived", "dead letters", "filtered", "tombstones", "undecoded", "missing"]
    table = Table(
        ["partition", *figures],
        [
            [
                f"{each.topic}/{each.partition}",
                f"{each.first:,}–{each.last:,}",
                *(f"{value:,}" for value in (each.changes, each.archived, each.dead_lettered, each.filtered)),
                *(f"{value:,}" for value in (each.tombstones, each.undecoded)),
                f"{sum(end - begin for begin, end in each.holes):,}",
            ]
            for each in report.accounts
        ],
        figures=figures,
        caption="consumed = archived + dead letters + filtered",
    )
    return Section(
        "Coverage of offsets",
        "From the first to the last record of each partition; red is what neither archive nor dead letter queue holds. "
        "Gaps in the numbering are legal (transaction markers) and not shown.",
        [coverage(rows, title="offsets by partition")],
        [table],
        anchor="coverage",
    )


def _ledgers(report: Report) -> Section:
    tables = dict.fromkeys(name for each in report.ledgers for name in each.tables)
    kinds = [each.kind for each in report.ledgers]
    operations = {"c": "created", "u": "updated", "d": "deleted", "r": "read", "t": "truncated", "m": "messages"}
    rows = []
    for name in sorted(tables):
        cells = [name]
        for each in report.ledgers:
            ops = each.tables.get(name, {})
            parts = [f"{ops[op]:,} {word}" for op, word in operations.items() if ops.get(op)]
            cells.append(", ".join(parts) or "none")
        rows.append(cells)
    return Section(
        "Ledgers",
        "What each ledger holds, by table.",
        tables=[Table(["table", *kinds], rows)],
        anchor="ledgers",
    )
