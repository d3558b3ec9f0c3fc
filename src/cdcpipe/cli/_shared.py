"""What several commands share: the stack they work on, and how they say things."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdcpipe.errors import StackNotRunning
from cdcpipe.events import Downloading, Event, Listener, ignore

if TYPE_CHECKING:
    from cdcpipe.stack.local.stack import LocalStack

__all__ = [
    "any_target_option",
    "echo_json",
    "heal_faults",
    "interactive",
    "open_stack",
    "pairs",
    "progress",
    "stack_option",
]

F = TypeVar("F", bound=Callable[..., Any])


def stack_option(function: F) -> F:
    """`--stack FOLDER`."""
    return click.option(
        "--stack",
        "stack_folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of the stack (CDCPIPE_STACK; default .cdcpipe).",
    )(function)


def any_target_option(function: F) -> F:
    """`--target`, of commands that work on every kind of pipeline."""
    return click.option(
        "--target",
        type=click.Choice(["local", "containers", "kind", "existing"]),
        default="local",
        show_default=True,
        help="Which pipeline.",
    )(function)


def open_stack(folder: Path | None, listener: Listener = ignore, *, must_exist: bool = True) -> LocalStack:
    """The local stack that the command works on. Raises `StackNotRunning` when there is none and there must be."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.local.stack import LocalStack

    settings = load_settings(stack=folder)
    stack = LocalStack(settings.stack, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    if must_exist and not stack.exists:
        raise StackNotRunning(f"there is no stack in `{stack.folder}`", hint="bring one up with `cdcpipe up`")
    return stack


def heal_faults(stack: LocalStack) -> None:
    """Put right what a run that was killed while it broke `stack` has left: mounts, frozen processes, cut links."""
    if not (stack.folder / "faults.jsonl").exists():
        return
    from cdcpipe.faults import Journal, heal

    for record in heal(stack, Journal.of_folder(stack.folder)):
        text = f"could not be healed: {record.error}" if record.error else "healed"
        click.echo(f"left by an interrupted run, `{record.kind} {record.target}`: {text}", err=True)


def pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    """`NAME=VALUE` options as a dict; a wrong one is a usage error."""
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"`{option} {text}` is not NAME=VALUE")
        found[name] = value
    return found


def echo_json(content: Mapping[str, object]) -> None:
    """One JSON object on stdout, and nothing else."""
    click.echo(json.dumps(content, indent=2, default=str))


def interactive() -> bool:
    """Whether somebody looks at stderr who can be shown a moving line."""
    return sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


def progress(*, quiet: bool = False) -> Listener:
    """A listener that tells a person on stderr how far the work is: one moving line on a terminal, else lines."""
    from cdcpipe.observe.logs import listener

    return listener(ignore if quiet else _Teller(interactive()))


class _Teller:
    """Events as text. Percentages come every few seconds where lines can't be taken back."""

    def __init__(self, moving: bool) -> None:
        self._moving = moving
        self._open = False
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        from cdcpipe import events

        match event:
            case events.PhaseStarted(title=title):
                self._line(f"{title} ...") if not self._moving else self._status(f"{title} ...")
            case events.PhaseFinished(phase=phase, seconds=seconds, ok=ok):
                self._line(f"{'✓' if ok else '✗'} {phase} ({seconds:.1f} s)")
            case events.ComponentReady(component=component, seconds=seconds):
                self._line(f"  {component} ready ({seconds:.1f} s)")
            case events.ComponentStarting(component=component):
                self._status(f"  starting {component}")
            case events.Notice(text=text, warning=warning):
                self._line(f"{'warning: ' if warning else ''}{text}")
            case Downloading():
                self._download(event)
            case events.Progress(phase=phase, done=done, total=total, figures=figures):
                shown = " ".join(f"{name} {value:,.0f}" for name, value in figures.items())
                self._sometimes(f"  {phase} {done:,.0f}/{total:,.0f}  {shown}")

    def _download(self, event: Downloading) -> None:
        share = event.done_bytes / max(1, event.total_bytes)
        text = f"  {share:4.0%} of {event.total_bytes / 1e6:.0f} MB"
        if self._moving:
            bar = "━" * int(share * 30)
            self._status(f"  {bar:<30} {text.strip()}  {event.file[:40]}")
        else:
            self._sometimes(text)

    def _sometimes(self, text: str) -> None:
        if self._moving:
            self._status(text)
        elif time.monotonic() - self._last >= 5:
            self._last = time.monotonic()
            self._line(text)

    def _status(self, text: str) -> None:
        if self._moving:
            click.echo(f"\r\x1b[K{text[: click.get_current_context().max_content_width or 110]}", err=True, nl=False)
            self._open = True

    def _line(self, text: str) -> None:
        if self._open:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._open = False
        click.echo(text, err=True)
