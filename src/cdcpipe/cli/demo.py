"""`cdcpipe demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, progress

if TYPE_CHECKING:
    from cdcpipe.demo import DemoResult


@click.command(
    epilog="""\b
Examples:
  cdcpipe demo                                   about two minutes
  cdcpipe demo --rate 10000 --seconds 60         the rate that is required
  cdcpipe demo --brokers 3 --keep                leave the stack up afterwards
  cdcpipe demo --json > result.json
"""
)
@click.option("--rate", type=float, default=1000, show_default=True, help="Events a second.")
@click.option("--seconds", type=float, default=20, show_default=True, help="How long to write.")
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Kafka brokers.")
@click.option("--seed", type=int, default=7, show_default=True, help="What the load's values are drawn from.")
@click.option(
    "--warm-up", type=float, help="Seconds of load before it is measured. Default: 0 below 3,000 events/s, else 60."
)
@click.option("--keep", is_flag=True, help="Leave the stack up.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    rate: float, seconds: float, brokers: str, seed: int, warm_up: float | None, keep: bool, as_json: bool
) -> None:
    """Run the whole pipeline on this machine and judge it.

    Brings up PostgreSQL, Debezium, Kafka, the registry, the Iceberg sink and an S3 server as real processes, writes
    a shop's changes, compares every change in the WAL with the log and the archive, leaves a report, goes down.
    """
    from cdcpipe.demo import DemoSettings, run_demo
    from cdcpipe.report.terminal import print_report
    from cdcpipe.settings import load_settings

    settings = load_settings()
    plan = DemoSettings(rate=rate, seconds=seconds, brokers=int(brokers), seed=seed, warm_up=warm_up, keep=keep)
    result, report = run_demo(plan, settings, listener=progress(quiet=as_json))
    if as_json:
        echo_json(result.to_json())
    else:
        print_report(report)
        _summary(result)
        if keep:
            folder = settings.stack.with_name(f"{settings.stack.name}-demo")
            click.echo(f"the stack is up: `cdcpipe status --stack {folder}`; end it with `down --purge`", err=True)
    click.get_current_context().exit({"pass": 0, "fail": 1}.get(result.verdict, 3))


def _summary(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    latency = result.latency_ms
    shown = (
        "not measured"
        if latency.p50 is None
        else f"p50 {latency.p50:,.0f}, p95 {latency.p95:,.0f}, p99 {latency.p99:,.0f} ms"
    )
    memory = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in result.peak_rss_bytes.items() if name != "all")
    phases = ", ".join(f"{phase.phase} {phase.seconds:.0f}" for phase in result.phases)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("events", f"{result.events:,} committed, {result.achieved_rate:,.0f}/s of {result.rate:,.0f}/s")
    table.add_row("latency", f"commit to Kafka {shown}")
    table.add_row("archive", f"{result.archive_rows:,} rows in {sum(result.files_by_hour.values()):,} Parquet files")
    table.add_row("compared", f"{result.compared:,} changes, in WAL, log and archive")
    table.add_row("differences", f"{result.missing} missing, {result.duplicates} repeated, {result.altered} altered")
    table.add_row("memory", f"{result.peak_rss_bytes.get('all', 0) / 1e6:,.0f} MB at its peak ({memory})")
    table.add_row("seconds", phases)
    if result.unexpected_errors:
        table.add_row("log errors", f"{len(result.unexpected_errors)}, the first: {result.unexpected_errors[0]}")
    table.add_row("report", os.path.relpath(result.run / "report.html", Path.cwd()))
    console.print(table)
