"""`cdcpipe chaos`: run, replay, shrink, report, kinds."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcpipe.cli._shared import echo_json, pairs, progress

if TYPE_CHECKING:
    from cdcpipe.chaos import ChaosPlan, ChaosResult

_PATH = click.Path(path_type=Path)


@click.group(
    epilog="""\b
Examples:
  cdcpipe chaos run --seed 7 --minutes 4            faults drawn from the seed, a report at the end
  cdcpipe chaos run --faults kill --faults pause --brokers 3
  cdcpipe chaos run --scenario worker_kill
  cdcpipe chaos replay runs/latest                  the same plan again
  cdcpipe chaos shrink runs/latest                  a smaller schedule that still fails

\b
Exit codes: 0 pass, 1 anomalies, 2 usage or environment, 3 inconclusive, 130 interrupted (all is healed).
"""
)
def command() -> None:
    """Break the real pipeline on purpose, and prove what became of every change."""


@command.command("run")
@click.option("--seed", type=int, default=7, show_default=True, help="What schedule and load are drawn from.")
@click.option("--minutes", type=float, default=2, show_default=True, help="How long the load lasts.")
@click.option("--rate", type=float, default=3000, show_default=True, help="Events a second.")
@click.option("--faults", "faults", multiple=True, metavar="KIND", help="Draw only these (see `chaos kinds`).")
@click.option("--scenario", metavar="NAME", help="A schedule written by hand (see `chaos kinds`).")
@click.option("--schedule", "schedule", type=_PATH, help="A schedule in a JSON file.")
@click.option("--brokers", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Kafka brokers.")
@click.option("--load", "load", default="shop", show_default=True, help="shop, copy, small-copy or tiny.")
@click.option("--proxied", is_flag=True, help="Route connections through proxies, so that they can be cut.")
@click.option("--with", "versions", multiple=True, metavar="PART=VERSION", help="Another version, e.g. debezium=…")
@click.option("--bug", metavar="NAME", help="Put in a known bug, to see it found.")
@click.option("--target", default="local", show_default=True, help="local, kind, or the folder of a stack that is up.")
@click.option("--keep", is_flag=True, help="Leave the stack up.")
@click.option("--plan-only", is_flag=True, help="Print the plan as JSON, and run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(scenario: str | None, plan_only: bool, target: str, keep: bool, as_json: bool, **options: Any) -> None:
    """Run a load under faults, heal, drain, verify event by event, report."""
    plan = _plan(scenario, options)
    plan.check()
    if plan_only:
        click.echo(plan.dumps(), nl=False)
        return
    _execute(plan, target=target, keep=keep, as_json=as_json)


def _plan(scenario: str | None, options: dict[str, Any]) -> ChaosPlan:
    from cdcpipe.chaos import ChaosPlan
    from cdcpipe.chaos.scenarios import scenario_plan
    from cdcpipe.faults.schedule import Schedule

    values = {
        "seed": options["seed"],
        "seconds": options["minutes"] * 60,
        "rate": options["rate"],
        "brokers": int(options["brokers"]),
        "load": options["load"],
        "proxied": options["proxied"],
        "versions": pairs(options["versions"], "--with"),
        "bug": options["bug"],
    }
    source = click.get_current_context().get_parameter_source
    if scenario is not None:
        chosen = {"minutes": "seconds", "rate": "rate", "versions": "versions", "bug": "bug"}
        typed = [name for name in chosen if source(name) is click.core.ParameterSource.COMMANDLINE]
        changes = {chosen[name]: values[chosen[name]] for name in typed}
        return scenario_plan(scenario, seed=options["seed"], **changes)
    if options["schedule"] is not None:
        path: Path = options["schedule"]
        try:
            schedule = Schedule.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise click.UsageError(f"`{path}` can't be read: {error.strerror}") from error
        return ChaosPlan(name=path.stem, schedule=schedule, **values)
    return ChaosPlan.drawn(kinds=options["faults"] or None, **values)


@command.command("replay")
@click.argument("what", type=click.Path(path_type=Path, exists=True))
@click.option("--target", default="local", show_default=True, help="local, kind, or the folder of a stack that is up.")
@click.option("--with", "versions", multiple=True, metavar="PART=VERSION", help="With another version of a part.")
@click.option("--keep", is_flag=True, help="Leave the stack up.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(what: Path, target: str, versions: tuple[str, ...], keep: bool, as_json: bool) -> None:
    """Run the plan of an old run (its folder), or a plan in a file, again."""
    from cdcpipe.chaos.plan import load_plan

    plan = load_plan(what)
    plan = replace(plan, versions={**plan.versions, **pairs(versions, "--with")})
    _execute(plan, target=target, keep=keep, as_json=as_json)


@command.command("shrink")
@click.argument("what", type=click.Path(path_type=Path, exists=True))
@click.option("--runs", type=click.IntRange(min=1), default=12, show_default=True, help="At most so many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def shrink(what: Path, runs: int, as_json: bool) -> None:
    """Find a smaller schedule that still fails in the same way. Leaves it beside the plan as `plan.shrunk.json`."""
    from cdcpipe.chaos.plan import load_plan
    from cdcpipe.chaos.shrink import shrink_run
    from cdcpipe.settings import load_settings

    plan = load_plan(what)
    _heal_when_ended()
    found = shrink_run(plan, load_settings(), runs=runs, listener=progress(quiet=as_json))
    file = (what if what.is_dir() else what.parent) / "plan.shrunk.json"
    file.write_text(found.plan.dumps(), encoding="utf-8")
    if as_json:
        echo_json({"plan": str(file), **found.to_json()})
    else:
        click.echo(found.sentence())
        for step in found.plan.schedule.steps:
            click.echo(f"  {step}")
        click.echo(f"again: cdcpipe chaos replay {file}")
    click.get_current_context().exit(1 if found.anomalies else 3)


@command.command("report")
@click.argument("run_folder", metavar="FOLDER", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def report(run_folder: Path, as_json: bool) -> None:
    """Render the reports of an old run again, by this release."""
    from cdcpipe.chaos.report import render_folder

    result = render_folder(run_folder.resolve())
    _show(result, as_json=as_json)


@command.command("kinds")
def kinds_() -> None:
    """The faults, their fields, what a trigger may be, the menu that schedules are drawn from, and the scenarios."""
    from dataclasses import fields

    from cdcpipe.chaos.bugs import BUGS
    from cdcpipe.chaos.scenarios import SCENARIOS
    from cdcpipe.faults import kinds
    from cdcpipe.faults.schedule import MEASURES, MOMENTS

    _list("faults (kind: fields)", {n: ", ".join(f.name for f in fields(k)) for n, k in kinds().items()})
    _list("triggers (measure)", MEASURES)
    _list("moments", MOMENTS)
    _list("scenarios", {name: each.claim for name, each in SCENARIOS.items()})
    _list("known bugs", {name: each.what for name, each in BUGS.items()})


def _list(title: str, rows: Any) -> None:
    click.echo(f"{title}:")
    wide = max((len(name) for name in rows), default=0)
    for name, text in rows.items():
        click.echo(f"  {name:<{wide}}  {text}")


def _execute(plan: ChaosPlan, *, target: str, keep: bool, as_json: bool) -> None:
    from cdcpipe.chaos import run_chaos
    from cdcpipe.chaos.target import TARGETS
    from cdcpipe.cli._shared import open_stack
    from cdcpipe.settings import load_settings

    listener = progress(quiet=as_json)
    _heal_when_ended()
    if target not in TARGETS and not Path(target).is_dir():
        raise click.UsageError(
            f"`--target {target}`: neither one of {', '.join(TARGETS)} nor the folder of a local stack that is up"
        )
    settings = load_settings()
    if target in TARGETS:
        result = run_chaos(plan, settings, target=target, keep=keep, listener=listener)
    else:
        result = run_chaos(plan, settings, stack=open_stack(Path(target), listener), listener=listener)
    _show(result, as_json=as_json)


def _heal_when_ended() -> None:
    """`timeout` and CI send SIGTERM: what is broken is healed then, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _show(result: ChaosResult, *, as_json: bool) -> None:
    if as_json:
        echo_json(result.to_json())
    else:
        from cdcpipe.report.terminal import print_report

        print_report(result.report)
        _summary(result)
    if result.verdict.exit_code:
        click.echo(f"again: {result.replay}", err=True)
    click.get_current_context().exit(result.verdict.exit_code)


def _summary(result: ChaosResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("fault", "when", "flow back", "archive on"):
        table.add_column(name, justify="right" if name in ("flow back", "archive on") else "left")
    for each in result.outcomes:
        recovery = each.recovery
        felt = ("", "") if recovery is None else (_seconds(recovery.flows), _seconds(recovery.archive))
        text = f"{each.step} {each.fault}" + (f" ({each.skipped or each.note})" if each.skipped or each.note else "")
        table.add_row(text, each.when, *felt)
    console.print(table)
    for intervention in result.interventions:
        console.print(f"intervention: {intervention}", style="yellow")
    console.print(result.sentence())
    click.echo(f"report  {os.path.relpath(result.run / 'report.html', Path.cwd())}")


def _seconds(value: float | None) -> str:
    return "never" if value is None else "not felt" if value == 0 else f"{value:.1f} s"
