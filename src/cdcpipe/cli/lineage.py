"""`cdcpipe lineage`: OpenLineage events, to a file or an HTTP endpoint."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import click

from cdcpipe.cli._shared import open_stack, stack_option
from cdcpipe.errors import CdcpipeError


@click.group(
    epilog="""\b
Examples:
  cdcpipe lineage emit                                          to .cdcpipe.lineage/events.jsonl
  cdcpipe lineage emit --to http://marquez:5000/api/v1/lineage --follow
  cdcpipe lineage check .cdcpipe.lineage/events.jsonl
"""
)
def command() -> None:
    """Tell which data sets the pipeline reads and writes, and what each commit added, as OpenLineage events."""


@command.command()
@stack_option
@click.option("--to", metavar="FILE|URL", help="Default: events.jsonl in a folder beside the stack's.")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--every", "seconds", default=15.0, show_default=True, type=click.FloatRange(1), help="Seconds.")
def emit(stack_folder: Path | None, to: str | None, follow: bool, seconds: float) -> None:
    """Send what was not sent yet: runs of both connectors, snapshots of the archive, data sets that changed."""
    from cdcpipe.observe.lineage import Emitter, read_facts, target_of

    stack = open_stack(stack_folder)
    folder = stack.folder.with_name(f"{stack.folder.name}.lineage")
    emitter = Emitter(target_of(to or str(folder / "events.jsonl")), folder / "told.json")
    click.echo(f"{emitter.emit(read_facts(stack.endpoints))} events sent", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            time.sleep(seconds)
            try:
                count = emitter.emit(read_facts(stack.endpoints))
            except CdcpipeError as error:  # a server is away: what it would have told is told later
                click.echo(f"warning: {error.message}", err=True)
                continue
            if count:
                click.echo(f"{count} events sent", err=True)


@command.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def check(file: Path) -> None:
    """Check events in FILE, a line each, against OpenLineage's schema. Exit 1 when one is wrong."""
    from cdcpipe.observe.lineage import problems

    wrong = count = 0
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        count += 1
        try:
            found = problems(json.loads(line))
        except ValueError as error:
            found = [f"$: it is no JSON: {error}"]
        wrong += bool(found)
        for problem in found:
            click.echo(f"{file}:{number}: {problem}")
    click.echo(f"{count} events, {wrong} wrong", err=True)
    click.get_current_context().exit(1 if wrong else 0 if count else 3)
