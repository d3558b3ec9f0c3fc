"""`cdcpipe verify`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option

if TYPE_CHECKING:
    from cdcpipe.stack.endpoints import Endpoints
    from cdcpipe.verify.outcome import Report

F = TypeVar("F", bound=Callable[..., Any])

_LEVELS = click.Choice(["at_least_once", "effectively_once", "exactly_once"])


def output_options(function: F) -> F:
    """`--json`, `--html`, `--junit`, `--verbose`."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="A line for each check, and all witnesses' consequences."),
        click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file."),
        click.option(
            "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one HTML page to this file."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ):
        function = option(function)
    return function


def level_option(function: F) -> F:
    """`--level`."""
    return click.option(
        "--level", type=_LEVELS, default="exactly_once", show_default=True, help="Which repetitions are allowed."
    )(function)


def target_option(function: F) -> F:
    """`--target`."""
    return click.option(
        "--target",
        type=click.Choice(["local", "existing"]),
        help="Which pipeline. Default: the one that [endpoints] of cdcpipe.toml describes, if any, and no --stack.",
    )(function)


def _pipeline(target: str | None, folder: Path | None) -> tuple[Endpoints, str, str]:
    """Endpoints of the pipeline, and the names of its source and sink."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.endpoints import SINK, SOURCE
    from cdcpipe.stack.targets import open_stack as open_target

    settings = load_settings()
    if target is None:
        target = "existing" if settings.endpoints is not None and folder is None else "local"
    if target == "local" or settings.endpoints is None:
        if target == "existing":
            open_target("existing", settings)  # says what is missing
        return open_stack(folder).endpoints, SOURCE, SINK
    stack = open_target("existing", settings)
    return stack.endpoints, settings.endpoints.source, settings.endpoints.sink


def tell(text: str) -> None:
    """What is being waited for, on stderr."""
    click.echo(f"{text} …", err=True)


def finish(report: Report, *, as_json: bool, html: Path | None, junit: Path | None, verbose: bool, again: str) -> None:
    """Show the report in every way that was asked for, and leave with its exit code."""
    if html is not None:
        from cdcpipe.report.html import render_report

        html.write_text(render_report(report), encoding="utf-8")
    if junit is not None:
        from cdcpipe.report.junit import render_report as render_junit

        junit.write_text(render_junit(report), encoding="utf-8")
    if as_json:
        echo_json(report.to_json())
    else:
        from cdcpipe.report.terminal import print_report

        print_report(report, verbose=verbose)
    if report.verdict.exit_code:
        click.echo(f"again: {again}", err=True)
    click.get_current_context().exit(report.verdict.exit_code)


@click.group(
    epilog="""\b
Examples:
  cdcpipe verify state                      is the archive equal to the database, right now?
  cdcpipe verify state --table public.orders --watch
  cdcpipe verify events --seconds 60        every change of the next minute, in WAL, log and archive
  cdcpipe verify run runs/latest --html report.html

\b
Exit codes: 0 pass, 1 anomalies, 2 usage or environment, 3 inconclusive.
"""
)
def command() -> None:
    """Prove that what PostgreSQL committed arrived, once, in order, unaltered; or show where it died."""


@command.command("events")
@stack_option
@target_option
@click.option("--seconds", type=click.FloatRange(min=0), default=30, show_default=True, help="How long to witness.")
@click.option("--timeout", type=click.FloatRange(min=1), default=120, show_default=True, help="Bound of each wait, s.")
@click.option(
    "--run", "run", type=click.Path(path_type=Path, file_okay=False), help="Leave the ledgers in this folder."
)
@level_option
@output_options
def events(
    stack_folder: Path | None,
    target: str | None,
    seconds: float,
    timeout: float,
    run: Path | None,
    level: str,
    as_json: bool,
    html: Path | None,
    junit: Path | None,
    verbose: bool,
) -> None:
    """Witness the running pipeline and compare the WAL, the log and the archive, change by change."""
    from cdcpipe import verify
    from cdcpipe.settings import load_settings

    endpoints, source, sink = _pipeline(target, stack_folder)
    folder = run or load_settings(stack=stack_folder).runs / "verify" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    report = verify.events_of(
        endpoints,
        seconds=seconds,
        folder=folder,
        tell=tell,
        timeout_seconds=timeout,
        level=level,
        source=source,
        sink=sink,
    )
    again = f"cdcpipe verify run {folder} --level {level}"
    finish(report, as_json=as_json, html=html, junit=junit, verbose=verbose, again=again)


@command.command("state")
@stack_option
@target_option
@click.option("--table", "tables", multiple=True, metavar="SCHEMA.TABLE", help="Only this table; more than once.")
@click.option("--timeout", type=click.FloatRange(min=1), default=120, show_default=True, help="Bound of the wait, s.")
@click.option(
    "--watch", is_flag=True, help="Go on, a cut after the other, until interrupted; keeps `verified through`."
)
@click.option("--every", type=click.FloatRange(min=0), default=30, show_default=True, help="With --watch: pause, s.")
@click.option("--times", type=click.IntRange(min=1), help="With --watch: stop after so many cuts.")
@output_options
def state(
    stack_folder: Path | None,
    target: str | None,
    tables: tuple[str, ...],
    timeout: float,
    watch: bool,
    every: float,
    times: int | None,
    as_json: bool,
    html: Path | None,
    junit: Path | None,
    verbose: bool,
) -> None:
    """Compare the archive with the tables at one moment, while writers go on."""
    from cdcpipe import verify

    endpoints, source, sink = _pipeline(target, stack_folder)

    def once() -> Report:
        quiet = watch or as_json
        return verify.state(
            endpoints,
            tables=tables or None,
            tell=(lambda _: None) if quiet else tell,
            timeout_seconds=timeout,
            source=source,
            sink=sink,
        )

    report = _watch(once, every, times, as_json=as_json) if watch else once()
    again = " ".join(["cdcpipe verify state", *(f"--table {table}" for table in tables)])
    if watch and as_json:
        click.get_current_context().exit(report.verdict.exit_code)
    finish(report, as_json=as_json, html=html, junit=junit, verbose=verbose, again=again)


def _watch(once: Callable[[], Report], every: float, times: int | None, *, as_json: bool) -> Report:
    """A line a cut, on stdout; gives the worst report when it ends (after `times`, or interrupted)."""
    import json

    from cdcpipe.verify import Verdict, verified_through

    pause = threading.Event()
    order = {Verdict.PASS: 0, Verdict.INCONCLUSIVE: 1, Verdict.FAIL: 2}
    worst: Report | None = None

    def cuts() -> Any:
        count = 0
        while times is None or count < times:
            count += 1
            yield once()
            if times is None or count < times:
                pause.wait(every)

    try:
        for report, through in verified_through(cuts()):
            worst = report if worst is None or order[report.verdict] > order[worst.verdict] else worst
            at = "nothing yet" if through is None or through.committed_at is None else through.committed_at.isoformat()
            rows = report.facts.get("rows", 0)
            if as_json:
                gauge = {"verified_through": None if through is None else through.to_json()}
                click.echo(json.dumps({**gauge, "verdict": report.verdict.value, "rows": rows, "at": time.time()}))
            else:
                click.echo(f"{report.verdict.value:12}  verified through {at}  {rows:,} rows in {report.seconds:.1f} s")
    except KeyboardInterrupt:
        if worst is None:
            raise
    assert worst is not None
    return worst


@command.command("run")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@level_option
@click.option("--resnapshots", is_flag=True, help="Tables were read again on purpose, or a snapshot was interrupted.")
@output_options
def run_(
    run: Path,
    level: str,
    resnapshots: bool,
    as_json: bool,
    html: Path | None,
    junit: Path | None,
    verbose: bool,
) -> None:
    """Judge the ledgers of an old run again, by the checks of this release."""
    from cdcpipe import verify

    report = verify.judge_run(run, level=level, resnapshots=resnapshots)
    again = f"cdcpipe verify run {run} --level {level}{' --resnapshots' if resnapshots else ''}"
    finish(report, as_json=as_json, html=html, junit=junit, verbose=verbose, again=again)
