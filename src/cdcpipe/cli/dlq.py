"""`cdcpipe dlq`: dead letters, why they are there, and how to send them on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option
from cdcpipe.errors import UsageError

if TYPE_CHECKING:
    from cdcpipe.schemas.deadletters import DeadLetter
    from cdcpipe.schemas.registry import Registry
    from cdcpipe.stack.endpoints import Endpoints

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def command() -> None:
    """Dead letters: what a sink couldn't decode, why, and how to send it on."""


def _reasons(registry: Registry, letters: tuple[DeadLetter, ...]) -> dict[str, str]:
    from cdcpipe.schemas.deadletters import diagnose

    known: dict[str, list[int]] = {}
    texts: dict[int, str] = {}

    def schema(schema_id: int) -> str:
        if schema_id not in texts:
            texts[schema_id] = registry.schema(schema_id)
        return texts[schema_id]

    def ids(letter: DeadLetter) -> list[int]:
        part = "key" if letter.stage == "KEY_CONVERTER" else "value"
        subject = f"{letter.topic}-{part}"
        if subject not in known:
            known[subject] = [version.id for version in registry.versions(subject)]
        return known[subject]

    return {str(letter.place): diagnose(letter, schema, subject_ids=ids(letter)) for letter in letters}


def _read(endpoints: Endpoints) -> tuple[DeadLetter, ...]:
    from cdcpipe.schemas.deadletters import read

    return read(endpoints.bootstrap_servers, endpoints.dead_letter_topic)


def _row(letter: DeadLetter, reason: str) -> dict[str, object]:
    return {
        "place": str(letter.place),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "stage": letter.stage,
        "reason": reason,
        "bytes": None if letter.value is None else len(letter.value),
        "replayed": letter.replayed,
        "timestamp_ms": letter.timestamp_ms,
    }


def _with_registry(endpoints: Endpoints, work: Callable[[Registry], dict[str, str]]) -> dict[str, str]:
    from cdcpipe.schemas.registry import Registry

    with Registry(endpoints.registry_url) as registry:
        return work(registry)


@command.command("list")
@stack_option
@_json_option
@click.option("--all", "everything", is_flag=True, help="Those that were replayed too.")
def list_(stack_folder: Path | None, as_json: bool, everything: bool) -> None:
    """List the dead letters with their origin and the reason, in words."""
    endpoints = open_stack(stack_folder).endpoints
    letters = tuple(letter for letter in _read(endpoints) if everything or not letter.replayed)
    reasons = _with_registry(endpoints, lambda registry: _reasons(registry, letters))
    rows = [_row(letter, reasons[str(letter.place)]) for letter in letters]
    if as_json:
        echo_json({"topic": endpoints.dead_letter_topic, "letters": rows})
        return
    for row in rows:
        mark = " (replayed)" if row["replayed"] else ""
        click.echo(f"{row['place']}  from {row['topic']}/{row['partition']}:{row['offset']}  {row['reason']}{mark}")
    counts = Counter(letter.topic or "?" for letter in letters)
    total = ", ".join(f"{topic}: {count}" for topic, count in sorted(counts.items()))
    click.echo(f"{len(letters)} dead letters" + (f" ({total})" if total else ""), err=True)


@command.command()
@click.argument("place")
@stack_option
@click.option("--value", "out", type=click.File("wb"), help="Write the value's bytes to this file.")
def show(place: str, stack_folder: Path | None, out: IO[bytes] | None) -> None:
    """Show the dead letter at PLACE (partition:offset): headers, reason, first bytes."""
    endpoints = open_stack(stack_folder).endpoints
    letter = _find(_read(endpoints), place)
    reason = _with_registry(endpoints, lambda registry: _reasons(registry, (letter,)))[place]
    click.echo(f"{place}  from {letter.topic}/{letter.partition}:{letter.offset}")
    click.echo(f"reason     {reason}")
    click.echo(f"connector  {letter.connector}, {letter.stage.lower()}")
    click.echo(f"exception  {letter.exception}: {letter.message}")
    click.echo(f"replayed   {'yes' if letter.replayed else 'no'}")
    for word, content in (("key", letter.key), ("value", letter.value)):
        shown = "null" if content is None else f"{len(content)} bytes: {content[:48].hex(' ')}"
        click.echo(f"{word:<10} {shown}{' ...' if content is not None and len(content) > 48 else ''}")
    if out is not None:
        out.write(letter.value or b"")


def _find(letters: tuple[DeadLetter, ...], text: str) -> DeadLetter:
    from cdcpipe.schemas.deadletters import Place

    place = Place.parse(text)
    for letter in letters:
        if letter.place == place:
            return letter
    raise UsageError(f"there is no dead letter at {place}", hint="`cdcpipe dlq list --all` shows the places")


@command.command(
    epilog="""\b
Examples:
  cdcpipe dlq replay 0:12 0:13          # once the missing schema is registered
  cdcpipe dlq replay 0:12 --value fixed.bin
  cdcpipe dlq replay --all"""
)
@click.argument("places", nargs=-1)
@stack_option
@click.option("--all", "everything", is_flag=True, help="Every dead letter that wasn't replayed yet.")
@click.option(
    "--value", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Repaired bytes, for one place."
)
def replay(places: tuple[str, ...], stack_folder: Path | None, everything: bool, value: Path | None) -> None:
    """Send dead letters to the topics they came from, each exactly once, in one transaction."""
    from cdcpipe.schemas import deadletters

    if bool(places) == everything:
        raise click.UsageError("give places, or --all")
    if value is not None and len(places) != 1:
        raise click.UsageError("--value repairs one place")
    endpoints = open_stack(stack_folder).endpoints
    letters = _read(endpoints)
    chosen = letters if everything else tuple(_find(letters, place) for place in places)
    repaired = {chosen[0].place: value.read_bytes()} if value is not None else None
    sent = deadletters.replay(endpoints.bootstrap_servers, endpoints.dead_letter_topic, chosen, repaired=repaired)
    for place in sent:
        click.echo(str(place))
    left = len(chosen) - len(sent)
    click.echo(f"{len(sent)} sent" + (f", {left} were replayed before" if left else ""), err=True)
