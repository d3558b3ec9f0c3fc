"""`cdcpipe logs`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cdcpipe.cli._shared import open_stack, stack_option
from cdcpipe.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  cdcpipe logs                    the last lines of every component
  cdcpipe logs connect -n 200
  cdcpipe logs connect --follow
  cdcpipe logs connect --errors   WARN, ERROR and worse only
"""
)
@click.argument("component", required=False)
@stack_option
@click.option("-n", "--lines", default=40, show_default=True, type=click.IntRange(1), help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--errors", is_flag=True, help="Only lines that warn or fail.")
def command(component: str | None, stack_folder: Path | None, lines: int, follow: bool, errors: bool) -> None:
    """Print the log of COMPONENT (postgres, kafka-1, s3, registry, connect), or of all."""
    stack = open_stack(stack_folder)
    if component is not None and component not in stack.components:
        raise UsageError(f"no component is called `{component}`", hint=f"there are: {', '.join(stack.components)}")
    if follow and component is None:
        raise UsageError("`--follow` needs a component", hint="for example `cdcpipe logs connect --follow`")
    for name in [component] if component else list(stack.components):
        tail = stack.components[name].log_tail(100_000 if errors else lines)
        if errors:
            tail = [line for line in tail if any(word in line for word in ("WARN", "ERROR", "FATAL", "PANIC"))][-lines:]
        if component is None:
            click.echo(f"== {name}")
        for line in tail:
            click.echo(line)
    if follow and component is not None:
        _follow(stack.components[component].log_files()[-1])


def _follow(path: Path) -> None:
    with path.open("r", encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            line = file.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(0.2)
