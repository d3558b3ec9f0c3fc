"""The demo's page: the verification's, with what was measured before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cdcpipe.demo.result import DemoResult
from cdcpipe.report.charts import columns, line, number
from cdcpipe.report.html import page_of
from cdcpipe.report.page import Mood, Section, Table, Tile, render
from cdcpipe.verify.outcome import Report

__all__ = ["write_page"]


def write_page(result: DemoResult, report: Report, path: Path) -> None:
    """Write the page to `path`: one file that opens offline."""
    page = page_of(report, title=f"cdcpipe demo: {result.rate:,.0f} events/s for {result.seconds:g} s")
    sections = [_load(result), _resources(result), _archive(result), _phases(result), *page.sections]
    page = replace(page, tiles=_tiles(result), sections=sections, facts=_facts(result))
    path.write_text(render(page), encoding="utf-8")


def _tiles(result: DemoResult) -> list[Tile]:
    latency = result.latency_ms
    held = result.achieved_rate >= 0.99 * result.rate
    whole: Mood = "fail" if result.missing or result.duplicates or result.altered else "pass"
    return [
        Tile("events committed", f"{result.events:,}"),
        Tile("rate held", f"{result.achieved_rate:,.0f}/s", f"of {result.rate:,.0f}/s", "pass" if held else "fail"),
        Tile("commit to Kafka, p99", _ms(latency.p99), f"p50 {_ms(latency.p50)}, {latency.samples:,} samples"),
        Tile("changes compared", f"{result.compared:,}", "in WAL, log and archive, from before the load on"),
        Tile("missing, repeated, altered", f"{result.missing} · {result.duplicates} · {result.altered}", mood=whole),
        Tile("peak memory", f"{result.peak_rss_bytes.get('all', 0) / 1e9:.2f} GB", "all components, PSS"),
    ]


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.0f} ms"


def _load(result: DemoResult) -> Section:
    samples = result.samples
    rates = line(
        {
            "target": [(s.at, s.target) for s in samples],
            "committed": [(s.at, s.committed) for s in samples],
            "out of Kafka": [(s.at, s.log) for s in samples],
        },
        title="events per second",
    )
    latency = line(
        {
            "p50": [(s.at, s.p50_ms) for s in samples if s.p50_ms is not None],
            "p99": [(s.at, s.p99_ms) for s in samples if s.p99_ms is not None],
        },
        title="commit to read_committed consumer",
        unit=" ms",
    )
    archived = line(
        {
            "committed": _running(result),
            "archived": [(s.at, float(s.archived)) for s in samples if s.archived is not None],
        },
        title="changes of the load, committed and archived",
    )
    intro = "Latency is from PostgreSQL's commit time to the moment a read_committed consumer has the record."
    if result.warm_up_seconds:
        intro += f" {result.warm_up_seconds:g} s of warm-up at half the rate came before; they are verified, not shown."
    return Section("Load", intro, charts=[rates, latency, archived], anchor="load")


def _running(result: DemoResult) -> list[tuple[float, float]]:
    total, before, points = 0.0, 0.0, []
    for sample in result.samples:
        total += sample.committed * (sample.at - before)
        before = sample.at
        points.append((sample.at, total))
    return points


def _resources(result: DemoResult) -> Section:
    names = [name for name in result.peak_rss_bytes if name != "all"]
    memory = line(
        {name: [(s.at, s.memory[name] / 1e6) for s in result.samples if s.memory is not None] for name in names},
        title="memory by component",
        unit=" MB",
    )
    rows = [
        [
            name,
            f"{result.peak_rss_bytes[name] / 1e6:,.0f} MB",
            f"{result.cpu_seconds.get(name, 0.0):,.1f} s",
            f"{result.cpu_seconds.get(name, 0.0) / max(1.0, result.seconds):.2f}",
        ]
        for name in names
    ]
    rows.append(["in all", f"{result.peak_rss_bytes.get('all', 0) / 1e6:,.0f} MB", "", ""])
    table = Table(["component", "peak memory", "CPU", "cores"], rows, figures=["peak memory", "CPU", "cores"])
    intro = "Memory is the proportional set size; the last row is the peak of the sum. CPU is that of the load phase."
    return Section("Resources", intro, charts=[memory], tables=[table], anchor="resources")


def _archive(result: DemoResult) -> Section:
    operations = (("c", "created"), ("u", "updated"), ("d", "deleted"), ("t", "truncated"))
    rows = [
        [table, *(f"{ops.get(op, 0):,}" for op, _ in operations), f"{sum(ops.values()):,}"]
        for table, ops in sorted(result.rows_by_table.items())
    ]
    names = [name for _, name in operations]
    caption = "committed changes of the load, by table"
    tables = Table(["table", *names, "in all"], rows, figures=[*names, "in all"], caption=caption)
    hours = Table(
        ["hour (UTC)", "files", "size"],
        [[h or "?", f"{n:,}", f"{number(result.bytes_by_hour[h])}B"] for h, n in result.files_by_hour.items()],
        figures=["files", "size"],
        caption="Parquet files by hour",
    )
    chart = columns({h or "?": {"files": float(n)} for h, n in result.files_by_hour.items()}, title="files by hour")
    return Section("Archive", charts=[chart], tables=[tables, hours], anchor="archive")


def _phases(result: DemoResult) -> Section:
    rows = [[phase.phase, f"{phase.seconds:.1f} s"] for phase in result.phases]
    return Section("Phases", tables=[Table(["phase", "took"], rows, figures=["took"])], anchor="phases")


def _facts(result: DemoResult) -> list[tuple[str, str]]:
    command = f"cdcpipe demo --rate {result.rate:g} --seconds {result.seconds:g} --brokers {result.brokers}"
    return [
        ("again", f"{command} --seed {result.seed}"),
        ("run", str(result.run)),
        *((name, version) for name, version in result.versions.items()),
        ("log errors", str(len(result.unexpected_errors))),
    ]
