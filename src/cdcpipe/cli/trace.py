"""`cdcpipe trace`: the way of a change, with times and places."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option

if TYPE_CHECKING:
    from cdcpipe.observe.trace import Change, ObjectTrace, Trace


@click.command(
    epilog="""\b
Examples:
  cdcpipe trace public.orders:42                       every change of a row
  cdcpipe trace public.order_items:order_id=42,line=1
  cdcpipe trace 812                                    every change of a transaction
  cdcpipe trace s3://lake/warehouse/.../x.parquet      what an object holds
Exit code 3 when nothing of it was found.
"""
)
@click.argument("subject", metavar="KEY|TXID|OBJECT")
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(subject: str, stack_folder: Path | None, as_json: bool) -> None:
    """Show the way of a change: commit in PostgreSQL, record in Kafka, row in an object, snapshot of the archive."""
    from cdcpipe.observe.trace import trace

    found = trace(open_stack(stack_folder).endpoints, subject)
    if as_json:
        echo_json({"schema": "cdcpipe.trace/1", **asdict(found)})
    else:
        _show(found)
    if not found.found:
        click.get_current_context().exit(3)


def _show(found: Trace) -> None:
    click.echo(f"{found.kind} {found.subject}")
    if found.transaction:
        click.echo("  " + ", ".join(f"{name} {value}" for name, value in found.transaction.items()))
    for change in found.changes:
        _show_change(change)
    if found.object is not None:
        _show_object(found.object)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    looked = found.looked_at
    if looked:
        click.echo(
            f"read {looked['objects_read']} objects and {looked['log_records']} records; "
            f"{looked['objects_passed']} objects could not hold it",
            err=True,
        )


def _show_change(change: Change) -> None:
    names = {"c": "insert", "u": "update", "d": "delete", "r": "snapshot read", "t": "truncate", "m": "message"}
    key = ", ".join(f"{name}={value}" for name, value in change.key.items())
    click.echo(f"\n{names.get(change.op, change.op)} {change.table} {key}")
    order = "" if change.seq is None else f" (change {change.seq} of it)"
    click.echo(f"  committed  {_at(change.committed_at)}  transaction {change.xid}{order}, LSN {change.lsn}")
    click.echo(f"  captured   {_at(change.captured_at)}{_later(change.captured_at, change)}")
    place = f"{change.topic}/{change.partition}:{change.offset}"
    click.echo(f"  in the log {_at(change.produced_at)}{_later(change.produced_at, change)}  {place}")
    if change.object is not None:
        place = f"{change.object} row {change.row}"
        click.echo(f"  archived   {_at(change.archived_at)}{_later(change.archived_at, change)}  {place}")
        click.echo(f"             snapshot {change.snapshot}")
    else:
        click.echo(f"  archived   {'refused: it is a dead letter' if change.state == 'dead letter' else 'not yet'}")


def _show_object(held: ObjectTrace) -> None:
    click.echo(f"  table      {held.table}, {held.rows} rows, {held.bytes} bytes")
    operations = ", ".join(f"{count} {op}" for op, count in held.operations.items())
    click.echo(f"  changes    {operations}; {held.transactions} transactions, {held.first_xid} to {held.last_xid}")
    click.echo(f"  LSN        {held.first_lsn} to {held.last_lsn}")
    click.echo(f"  committed  {_at(held.committed[0])} to {_at(held.committed[1])}")
    click.echo(f"  in the log {_at(held.produced[0])} to {_at(held.produced[1])}")
    for each in held.ranges:
        click.echo(f"             {each.topic}/{each.partition}: {each.first} to {each.last}, {each.records} records")
    click.echo(f"  written    {_at(held.written_at)}")
    click.echo(
        f"  archived   {_at(held.archived_at)}  snapshot {held.snapshot}{'' if held.current else ', not current'}"
    )


def _at(at: datetime | None) -> str:
    return "?" if at is None else f"{at:%Y-%m-%d %H:%M:%S.%f}"[:23] + "Z"


def _later(at: datetime | None, change: Change) -> str:
    if at is None or change.committed_at is None:
        return ""
    return f"  +{(at - change.committed_at).total_seconds():.3f} s"
