"""`cdcpipe up`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cdcpipe.cli._shared import echo_json, heal_faults, open_stack, pairs, progress, stack_option


@click.command(
    epilog="""\b
Examples:
  cdcpipe up                                    everything on free ports, in .cdcpipe
  cdcpipe up --brokers 3                        three brokers: replication 3, min ISR 2
  cdcpipe up --port postgres=5432 --port s3=9000
  cdcpipe up --with debezium=3.6.0.Final        another version of a part
  cdcpipe up --proxied                          a proxy in every link, so that faults can break them
  cdcpipe up --observed                         every server exposes metrics; then `cdcpipe monitor`
"""
)
@stack_option
@click.option("--brokers", type=click.IntRange(1, 3), help="1 or 3; fixed when the stack is new.")
@click.option("--port", "ports", multiple=True, metavar="NAME=N", help="Fix a port (postgres, kafka-1, connect, ...).")
@click.option("--with", "versions", multiple=True, metavar="PART=VERSION", help="Run another version of a part.")
@click.option("--observed/--unobserved", default=None, help="Let every server expose metrics; the stack keeps it.")
@click.option("--proxied/--direct", default=None, help="Put a proxy into every link; the stack keeps it.")
@click.option("--converter", type=click.Choice(("confluent", "apicurio")), help="Whose Avro converter; fixed when new.")
@click.option("--json", "as_json", is_flag=True, help="Print the endpoints as one JSON object.")
def command(
    stack_folder: Path | None,
    brokers: int | None,
    ports: tuple[str, ...],
    versions: tuple[str, ...],
    observed: bool | None,
    proxied: bool | None,
    converter: Literal["confluent", "apicurio"] | None,
    as_json: bool,
) -> None:
    """Bring the pipeline up on this machine, and show where it is.

    Starts what isn't running, resumes a stopped stack with its data, and ends when a probe row has come through.
    """
    fixed = {}
    for name, text in pairs(ports, "--port").items():
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise click.UsageError(f"`--port {name}={text}`: a port is a number from 1 to 65535")
        fixed[name] = int(text)
    stack = open_stack(stack_folder, progress(quiet=as_json), must_exist=False)
    heal_faults(stack)
    stack.up(
        brokers=brokers,
        ports=fixed,
        versions=pairs(versions, "--with"),
        observed=observed,
        proxied=proxied,
        converter=converter,
    )
    heal_faults(stack)  # what lay in the data of servers that did not run
    from cdcpipe.cli.status import addresses

    where = addresses(stack)
    if as_json:
        echo_json({"schema": "cdcpipe.up/1", "stack": str(stack.folder), "endpoints": where})
        return
    for name, address in where.items():
        click.echo(f"{name:<12} {address}")
    click.echo("\nnext: `cdcpipe status`, `cdcpipe psql`, `cdcpipe logs connect`, `cdcpipe down`", err=True)
