"""`cdcpipe completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  eval "$(cdcpipe completion bash)"
  cdcpipe completion zsh > ~/.zfunc/_cdcpipe
  cdcpipe completion fish > ~/.config/fish/completions/cdcpipe.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL."""
    from cdcpipe.cli import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "cdcpipe", "_CDCPIPE_COMPLETE").source())
