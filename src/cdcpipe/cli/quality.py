"""`cdcpipe quality`: does the data still look like itself?"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option
from cdcpipe.errors import UsageError

if TYPE_CHECKING:
    from cdcpipe.observe.quality import History, QualityReport
    from cdcpipe.settings import QualitySettings


@click.group(
    epilog="""\b
Examples:
  cdcpipe quality profile          profile each hour that is closed, table by table
  cdcpipe quality learn            learn from all profiles what is usual
  cdcpipe quality check            judge the newest hour; exit 1 for an anomaly, 3 without enough history
  cdcpipe quality check --since 2026-11-24T00:00 --json
Limits stand in `cdcpipe.toml` under [quality], expectations in `expectations.py` beside it: see docs/quality.md.
"""
)
def command() -> None:
    """Profiles, a baseline learned from them, anomalies with a score and a sentence, and expectations."""


def _history(stack_folder: Path | None) -> tuple[History, QualitySettings]:
    from cdcpipe.observe.quality import History, quality_folder
    from cdcpipe.settings import load_settings

    settings = load_settings(stack=stack_folder)
    return History(quality_folder(settings.stack.absolute(), settings.quality.folder)), settings.quality


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"`{option} {text}` is no time", hint="such as `2026-11-24T10:00`, in UTC") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


@command.command()
@stack_option
@click.option("--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this table; may be repeated.")
@click.option("--since", metavar="TIME", help="Profile again from this time on.")
def profile(stack_folder: Path | None, tables: tuple[str, ...], since: str | None) -> None:
    """Profile every closed span that is not profiled yet."""
    from cdcpipe.observe.quality import profile_archive

    history, settings = _history(stack_folder)
    counts = profile_archive(
        open_stack(stack_folder).endpoints, history, settings, tables=tables or None, begin=_time(since, "--since")
    )
    for table, spans in counts.items():
        click.echo(f"{table}  {spans} spans")
    click.echo(f"profiles are in `{history.folder}`", err=True)


@command.command()
@stack_option
@click.option("--until", metavar="TIME", help="Learn only from spans before this time.")
def learn(stack_folder: Path | None, until: str | None) -> None:
    """Learn from the profiles what is usual."""
    from cdcpipe.observe.quality import learn_archive

    history, settings = _history(stack_folder)
    baseline = learn_archive(history, settings, until=_time(until, "--until"))
    for name, table in baseline.tables.items():
        short = "" if table.spans >= settings.history_min else f", {settings.history_min} are needed to judge"
        click.echo(f"{name}  {table.spans} spans, {len(table.series)} measures{short}")
    click.echo(f"the baseline is `{history.baseline}`", err=True)


@command.command()
@stack_option
@click.option("--since", metavar="TIME", help="Judge all spans from this time on; default: each table's newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(stack_folder: Path | None, since: str | None, as_json: bool) -> None:
    """Judge the newest span of each table. Exit 1 for an anomaly, 3 when there was too little to compare with."""
    from cdcpipe.observe.quality import check_archive

    history, settings = _history(stack_folder)
    report = check_archive(open_stack(stack_folder).endpoints, history, settings, begin=_time(since, "--since"))
    if as_json:
        echo_json({"schema": "cdcpipe.quality/1", "verdict": report.verdict, **asdict(report)})
    else:
        _show(report)
    click.get_current_context().exit({"pass": 0, "fail": 1}.get(report.verdict, 3))


def _show(report: QualityReport) -> None:
    for judgement in report.judgements:
        said = judgement.reason or f"{judgement.judged} values, {len(judgement.anomalies)} anomalies"
        click.echo(f"{judgement.verdict:<13} {judgement.table}  {said}")
        for anomaly in judgement.anomalies:
            click.echo(f"  {anomaly.sentence}")
    for unmet in report.unmet:
        click.echo(f"fail          {unmet.sentence}")
    for problem in report.problems:
        click.echo(f"inconclusive  {problem}")
    click.echo(f"verdict: {report.verdict}", err=True)
