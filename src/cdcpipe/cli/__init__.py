"""The command line: one file a command, each importing its module inside the function.

One guard at the top (`main`) turns errors into exit codes, so that an uncaught exception can't look like
"anomalies found": 0 pass, 1 anomalies, 2 usage or environment, 3 inconclusive, 70 our own error,
130 interrupted. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from cdcpipe.errors import CdcpipeError

EXIT_PASS, EXIT_ANOMALIES, EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_INTERNAL, EXIT_INTERRUPTED = 0, 1, 2, 3, 70, 130

# verb -> (module under cdcpipe.cli, one line for `cdcpipe --help`). A command's module is loaded when it
# is called, and its attribute `command` is the click command.
_COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Run the whole pipeline on this machine and judge it, event by event."),
    "up": ("up", "Bring the pipeline up, or resume it with its data."),
    "down": ("down", "Stop it; --purge removes its data."),
    "status": ("status", "Components, endpoints, connectors, lag, memory."),
    "monitor": ("monitor", "Watch a running pipeline: metrics for Prometheus, alerts, a page for people."),
    "top": ("top", "The same in the terminal, live."),
    "logs": ("logs", "The log of a component."),
    "psql": ("psql", "A prompt on the source database."),
    "chaos": ("chaos", "Break the pipeline on purpose, by a seed, and prove what became of every change."),
    "verify": ("verify", "Prove that every change arrived, or that the archive equals the tables now."),
    "gate": ("gate", "Judge a pipeline by the 35 criteria of R1-R7, with evidence."),
    "config": ("config", "Judge, write, explain and compare connector, worker and topic configs."),
    "schema": ("schema", "What a migration does to the pipeline, before it is run."),
    "dlq": ("dlq", "Dead letters: what couldn't be decoded, why, and how to send it on."),
    "kind": ("kind", "The same pipeline on Kubernetes: a kind cluster on this machine."),
    "trace": ("trace", "The way of a change, with times and places: commit, record, row, snapshot."),
    "lineage": ("lineage", "OpenLineage events of both connectors and of each commit, to a file or an endpoint."),
    "quality": ("quality", "Does the data still look like itself? Profiles, a learned baseline, expectations."),
    "audit": ("audit", "Who read or changed what, and whether that record was tampered with."),
    "doctor": ("doctor", "What this machine lacks, and how to get it."),
    "artefacts": ("artefacts", "The locked jars and archives of the local stack."),
    "completion": ("completion", "Completion for bash, zsh or fish."),
}


class _LazyGroup(click.Group):
    """A group whose help needs no command's module, so that `cdcpipe --help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"cdcpipe.cli.{_COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; one that may change something is noted in the audit trail, before and after."""
        from cdcpipe.observe.audit.verbs import reads_only

        words = [*ctx._protected_args, *ctx.args]
        if reads_only(words):
            return super().invoke(ctx)
        from cdcpipe.observe.audit.commands import recorded

        with recorded(words):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 pass, 1 anomalies found, 2 usage or environment, 3 inconclusive, 70 internal error, "
    "130 interrupted.",
)
@click.version_option(package_name="cdcpipe")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Run a real change-data pipeline, break it on purpose, and prove that nothing was lost."""


def report_error(error: CdcpipeError) -> None:
    """Write `error` to stderr the way every command does: message, details, hint last."""
    click.echo(f"error: {error.message}", err=True)
    if error.detail:
        click.echo("\n".join(f"  {line}" for line in error.detail.splitlines()), err=True)
    if error.hint:
        for line in error.hint.splitlines():
            click.echo(f"hint: {line}", err=True)


def main() -> None:
    """Entry point of the console script."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = cli.main(standalone_mode=False)
    except CdcpipeError as error:
        if debug:
            raise
        report_error(error)
        code = error.exit_code
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_PASS
    except Exception as error:
        if debug:
            raise
        click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
        click.echo("hint: this is a bug in cdcpipe; run again with `--debug` and report the traceback", err=True)
        code = EXIT_INTERNAL
    sys.exit(code if isinstance(code, int) else EXIT_PASS)
