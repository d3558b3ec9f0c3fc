"""`cdcpipe audit`: who read or changed what, and whether the trail was tampered with."""

from __future__ import annotations

import contextlib
import fnmatch
import signal
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option
from cdcpipe.errors import CdcpipeError, UsageError

if TYPE_CHECKING:
    from cdcpipe.observe.audit import Anchor, Collector, Entry, Trail


@click.group(
    epilog="""\b
Examples:
  cdcpipe audit show --since 1h
  cdcpipe audit show --actor 'shop*' --action 'ddl.*' --json
  cdcpipe audit verify
  cdcpipe audit verify --anchor 42:9f0c...     against a line that you noted elsewhere
  cdcpipe audit collect --follow               goes on, and hears the S3 access log
"""
)
def command() -> None:
    """Who read or changed what in PostgreSQL, Connect, the registry, S3 and by `cdcpipe`; chained, so that it shows."""


def _trail(stack_folder: Path | None) -> tuple[Trail, Path]:
    from cdcpipe.observe.audit import trail_of
    from cdcpipe.settings import load_settings

    settings = load_settings(stack=stack_folder)
    return trail_of(settings), settings.stack.absolute()


def _collector(trail: Trail, stack_folder: Path | None, target: str) -> Collector:
    """Of a pipeline that is there. Raises `StackNotRunning` when there is none."""
    from cdcpipe.observe.audit.collect import Collector, Places
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.targets import open_stack

    stack = open_stack(target, load_settings(stack=stack_folder))
    _ = stack.endpoints  # `StackNotRunning` before anything else
    return Collector(trail, Places.of(stack))


_target_option = click.option(
    "--target",
    type=click.Choice(["local", "kind"]),
    default="local",
    show_default=True,
    help="Whose servers are asked.",
)


def _collect(collector: Collector, *, quiet: bool = False) -> int:
    collected = collector.collect()
    for source, problem in collected.problems.items():
        click.echo(f"warning: `{source}` can't be read now: {problem}", err=True)
    if not quiet:
        for entry in collected.entries:
            click.echo(_text(entry))
    return len(collected.entries)


@command.command()
@stack_option
@_target_option
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C, and hear the S3 access log.")
@click.option("--every", "seconds", default=5.0, show_default=True, type=click.FloatRange(0.2), help="Seconds.")
def collect(stack_folder: Path | None, target: str, follow: bool, seconds: float) -> None:
    """Take what the servers noted since the last time. S3 access is heard only while `--follow` listens."""
    trail, _ = _trail(stack_folder)
    collector = _collector(trail, stack_folder, target)
    if not follow:
        with contextlib.closing(collector):
            click.echo(f"{_collect(collector)} taken", err=True)
        return
    # In the background of a script Ctrl-C is ignored, and a service is ended by SIGTERM: both end it in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(collector):
        heard = True
        while True:
            before, heard = heard, collector.hear()
            if before and not heard:
                click.echo("the S3 access log is not heard here: the stack has none, or another process does", err=True)
            _collect(collector)
            time.sleep(seconds)


@command.command()
@stack_option
@_target_option
@click.option("--since", metavar="TIME", help="An ISO time, or a span before now: 90s, 15m, 2h, 7d.")
@click.option("--until", metavar="TIME", help="The same.")
@click.option("--actor", metavar="PATTERN", help="Such as `shop`, `root@*`.")
@click.option("--action", metavar="PATTERN", help="Such as `ddl.*`, `object.read`, `session.*`.")
@click.option("--object", "object_", metavar="PATTERN", help="Such as `public.orders`, `s3://lake/*`.")
@click.option("--source", type=click.Choice(["trail", "cdcpipe", "postgres", "connect", "registry", "s3"]))
@click.option("-n", "--lines", default=200, show_default=True, type=click.IntRange(1), help="The newest so many.")
@click.option("--collect/--no-collect", "collects", default=True, help="Take what is new first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(
    stack_folder: Path | None,
    target: str,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    object_: str | None,
    source: str | None,
    lines: int,
    collects: bool,
    as_json: bool,
) -> None:
    """Show the trail, oldest first."""
    from collections import deque

    trail, stack = _trail(stack_folder)
    if collects:
        with contextlib.suppress(CdcpipeError):
            with contextlib.closing(_collector(trail, stack_folder, target)) as collector:
                _collect(collector, quiet=True)
    begin, end = _time(since, "--since"), _time(until, "--until")
    patterns = {"actor": actor, "action": action, "object": object_, "source": source}
    chosen = deque((each for each in trail.entries() if _wanted(each, begin, end, patterns)), maxlen=lines)
    if as_json:
        echo_json({"schema": "cdcpipe.audit/1", "stack": str(stack), "entries": [asdict(entry) for entry in chosen]})
        return
    for entry in chosen:
        click.echo(_text(entry))
    click.echo(f"{len(chosen)} entries", err=True)


def _wanted(entry: Entry, begin: datetime | None, end: datetime | None, patterns: dict[str, str | None]) -> bool:
    at, until = datetime.fromisoformat(entry.at), datetime.fromisoformat(entry.until or entry.at)
    if (begin is not None and until < begin) or (end is not None and at > end):
        return False
    return all(
        pattern is None or fnmatch.fnmatchcase(str(getattr(entry, name)), pattern) for name, pattern in patterns.items()
    )


def _time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text[-1:] in units and text[:-1].replace(".", "", 1).isdecimal():
        return datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * units[text[-1]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"`{option} {text}` is no time", hint="`2026-11-24T10:00:00`, or `15m` before now") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _text(entry: Entry) -> str:
    times = f" x{entry.times}" if entry.times > 1 else ""
    outcome = "" if entry.outcome == "ok" else f" [{entry.outcome}]"
    pairs = (f"{key}={value}" for key, value in entry.detail.items() if value not in (None, "", {}))
    detail = " ".join(" ".join(pairs).split())
    line = f"{entry.at[:23]}Z {entry.source:<8} {entry.actor:<20} {entry.action:<20} {entry.object}{outcome}{times}"
    return f"{line}  {detail[:160]}".rstrip()


@command.command()
@stack_option
@click.option("--anchor", "given", metavar="N:HASH", help="The number and hash of an entry that you noted elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(stack_folder: Path | None, given: str | None, as_json: bool) -> None:
    """Walk the chain. Exit 1 at the first entry that doesn't fit, 3 when there is nothing to look at."""
    from cdcpipe.observe.audit import verify as walk
    from cdcpipe.observe.audit.anchors import parse_anchor

    trail, _ = _trail(stack_folder)
    anchors, asked = _known_anchors(trail, stack_folder)
    if given is not None:
        anchors.append(parse_anchor(given))
        asked.append("the one given")
    found = walk(trail.folder, anchors)
    broken = found.first_break
    if as_json:
        head = None if found.head is None else f"{found.head[0]}:{found.head[1]}"
        echo_json(
            {
                "schema": "cdcpipe.audit-verify/1",
                "intact": found.intact,
                "entries": found.entries,
                "head": head,
                "anchored": found.anchored,
                "anchors": asked,
                "first_break": None if broken is None else asdict(broken),
            }
        )
    elif broken is not None:
        where = f"{broken.segment}:{broken.line}: " if broken.segment else ""
        click.echo(f"tampered with: {where}{broken.reason}")
    elif found.head is None:
        click.echo(f"there is no audit trail in `{trail.folder}`")
    else:
        click.echo(f"intact: {found.entries} entries, anchored through {found.anchored} ({', '.join(asked)})")
        click.echo(f"anchor to note elsewhere: {found.head[0]}:{found.head[1]}")
    click.get_current_context().exit(1 if broken is not None else 3 if found.head is None else 0)


def _known_anchors(trail: Trail, stack_folder: Path | None) -> tuple[list[Anchor], list[str]]:
    """Anchors of the user's state folder and, where it answers, of the source database; and which were asked."""
    from cdcpipe.observe.audit import FileAnchors, PostgresAnchors
    from cdcpipe.observe.audit.anchors import Witness

    anchors, asked = FileAnchors(trail.folder).read(), ["the user's state folder"]
    stack = open_stack(stack_folder, must_exist=False)
    if stack.exists:
        try:
            first = next(trail.entries(), None)
            if first is not None:
                with Witness(stack.endpoints.postgres) as witness:
                    anchors.extend(PostgresAnchors(witness, first.object).read())
                asked.append("PostgreSQL")
        except CdcpipeError as error:
            click.echo(f"warning: {error.message}", err=True)
    return anchors, asked
