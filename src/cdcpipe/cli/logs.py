"""`cdcpipe logs`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cdcpipe.cli._shared import open_stack, stack_option
from cdcpipe.errors import UsageError

if TYPE_CHECKING:
    from cdcpipe.observe.logs import Follower, Line
    from cdcpipe.stack.local.stack import LocalStack

_COLOURS: Final = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


@click.command(
    epilog="""\b
Examples:
  cdcpipe logs                    the last lines of every component, merged by time
  cdcpipe logs -f                 all of them, and what comes, until Ctrl-C
  cdcpipe logs connect -n 200
  cdcpipe logs --errors           WARN, ERROR and worse only
  cdcpipe logs -f --json | jq -r 'select(.component == "connect") | .text'
"""
)
@click.argument("component", required=False)
@stack_option
@click.option("-n", "--lines", default=40, show_default=True, type=click.IntRange(1), help="How many records.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new records until Ctrl-C.")
@click.option("--errors", is_flag=True, help="Only records that warn or fail.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a record: at, component, level, text.")
def command(
    component: str | None, stack_folder: Path | None, lines: int, follow: bool, errors: bool, as_json: bool
) -> None:
    """Print the log of COMPONENT (postgres, kafka-1, s3, registry, connect, cdcpipe), or all of them merged by time."""
    from cdcpipe.observe.logs import merged

    followers = _followers(open_stack(stack_folder), component)
    for each in followers:
        each.skip_to(20_000 if errors else lines)
    names = [each.component for each in followers]
    past = [line for line in merged(followers, follow=False) if not errors or line.bad]
    _show(past[-lines:], names, as_json)
    if follow:
        with contextlib.suppress(BrokenPipeError):
            _show((line for line in merged(followers, follow=True) if not errors or line.bad), names, as_json)


def _followers(stack: LocalStack, component: str | None) -> list[Follower]:
    from cdcpipe.observe.logs import OWN, OWN_FILE, Follower

    known = [*stack.components, OWN]
    if component is not None and component not in known:
        raise UsageError(f"no component is called `{component}`", hint=f"there are: {', '.join(known)}")

    def files(name: str) -> Sequence[Path]:
        folder = stack.folder / "log"
        if name == OWN:
            return [folder / OWN_FILE]
        own = [path for path in stack.components[name].log_files() if path.suffix != ".out"]
        return [path for path in (folder / f"{name}.out", *own) if path.exists()]

    def follower(name: str) -> Follower:
        return Follower(name, lambda: files(name))

    return [follower(name) for name in ([component] if component else known)]


def _show(lines: Iterable[Line], names: list[str], as_json: bool) -> None:
    import json

    width = max(map(len, names))
    colours: Iterator[str] = itertools.cycle(_COLOURS)
    colour = {name: next(colours) for name in names}
    for line in lines:
        if as_json:
            at = None if line.at is None else line.at.isoformat(timespec="milliseconds")
            click.echo(json.dumps({"at": at, "component": line.component, "level": line.level, "text": line.text}))
            continue
        prefix = click.style(f"{line.component:<{width}} |", fg=colour[line.component])
        for text in line.text.splitlines():
            click.echo(f"{prefix} {click.style(text, bold=True) if line.bad else text}")
