"""`cdcpipe down`."""

from __future__ import annotations

from pathlib import Path

import click

from cdcpipe.cli._shared import heal_faults, interactive, open_stack, stack_option


@click.command(
    epilog="""\b
Examples:
  cdcpipe down             stop; `cdcpipe up` goes on where it stopped
  cdcpipe down --purge     stop, and remove data, logs and credentials
"""
)
@stack_option
@click.option("--purge", is_flag=True, help="Remove the stack's data, logs and credentials too.")
@click.option("--yes", is_flag=True, help="Don't ask before a purge.")
def command(stack_folder: Path | None, purge: bool, yes: bool) -> None:
    """Stop every component in order. Data stays unless it is purged."""
    stack = open_stack(stack_folder, must_exist=False)
    if not stack.exists and not stack.folder.exists():
        click.echo(f"nothing to stop: there is no stack in `{stack.folder}`", err=True)
        return
    if purge and not yes and interactive():
        click.confirm(f"remove all data in {stack.folder}?", abort=True, err=True)
    stack.down()
    heal_faults(stack)
    if purge:
        stack.down(purge=True)
    click.echo(f"stopped{' and removed' if purge else ''}: {stack.folder}", err=True)
