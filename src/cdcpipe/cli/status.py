"""`cdcpipe status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, open_stack, stack_option
from cdcpipe.errors import CdcpipeError

if TYPE_CHECKING:
    from cdcpipe.stack.local.stack import LocalStack


def addresses(stack: LocalStack) -> dict[str, str]:
    """Where each server is, without credentials."""
    endpoints = stack.endpoints
    postgres = endpoints.postgres
    return {
        "postgres": f"postgresql://{postgres.roles['owner'].name}@{postgres.host}:{postgres.port}/{postgres.database}",
        "kafka": endpoints.bootstrap_servers,
        "connect": endpoints.connect_url,
        "registry": endpoints.registry_url,
        "s3": f"{endpoints.s3.url} (bucket {endpoints.s3.bucket})",
    }


@click.command(
    epilog="""\b
Examples:
  cdcpipe status
  cdcpipe status --json | jq .lag
"""
)
@stack_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(stack_folder: Path | None, as_json: bool) -> None:
    """Show components, endpoints, connectors, lag and memory. Exit 2 when something that should run doesn't."""
    from cdcpipe.stack.status import pipeline_status

    stack = open_stack(stack_folder)
    components = [
        {
            "name": name,
            "version": component.version,
            "state": component.state().value,
            "pid": process.pid if (process := component.find()) else None,
            "memory_bytes": component.memory_bytes(),
        }
        for name, component in stack.components.items()
    ]
    up = all(component["state"] == "ready" for component in components)
    pipeline, problem = None, None
    if up:
        try:
            pipeline = pipeline_status(stack.endpoints, stack.settings)
        except CdcpipeError as error:
            problem = error.message
    healthy = up and pipeline is not None and pipeline.healthy
    content: dict[str, object] = {
        "schema": "cdcpipe.status/1",
        "stack": str(stack.folder),
        "healthy": healthy,
        "components": components,
        "endpoints": addresses(stack),
        "connectors": [] if pipeline is None else [vars_of(item) for item in pipeline.connectors],
        "lag": None if pipeline is None else vars_of(pipeline.lag),
        "memory_bytes": sum(int(str(component["memory_bytes"])) for component in components),
    }
    if as_json:
        echo_json(content)
    else:
        _show(content, problem)
    if not healthy:
        click.get_current_context().exit(2)


def vars_of(item: object) -> dict[str, object]:
    """The fields of a slotted dataclass."""
    from dataclasses import asdict

    return asdict(item)  # type: ignore[call-overload, no-any-return]


def _show(content: dict[str, object], problem: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    components, connectors, lag = content["components"], content["connectors"], content["lag"]
    assert isinstance(components, list)
    assert isinstance(connectors, list)
    table = Table("component", "version", "state", "pid", "memory", box=None, pad_edge=False)
    for row in components:
        memory = f"{row['memory_bytes'] / 1e6:,.0f} MB" if row["memory_bytes"] else "-"
        table.add_row(row["name"], row["version"], row["state"], str(row["pid"] or "-"), memory)
    table.add_row("in all", "", "", "", f"{int(str(content['memory_bytes'])) / 1e6:,.0f} MB")
    console.print(table)
    console.print()
    assert isinstance(content["endpoints"], dict)
    for name, address in content["endpoints"].items():
        console.print(f"{name:<12} {address}", highlight=False)
    console.print()
    for connector in connectors:
        tasks = ", ".join(f"task {task['id']} {task['state']}" for task in connector["tasks"])
        console.print(f"{connector['name']:<16} {connector['state']}  {tasks}", highlight=False)
    if isinstance(lag, dict):
        console.print(
            f"{'lag':<16} source {lag['source_bytes'] / 1e3:,.0f} kB of WAL, sink {lag['sink_events']:,} events; "
            f"WAL retained {lag['retained_bytes'] / 1e6:,.1f} MB",
            highlight=False,
        )
    if problem:
        console.print(f"the pipeline can't be asked: {problem}", highlight=False)
    elif not content["healthy"]:
        console.print("not healthy: bring it up with `cdcpipe up`, or see `cdcpipe logs NAME`", highlight=False)
