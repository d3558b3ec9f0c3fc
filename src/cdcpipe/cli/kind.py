"""`cdcpipe kind`: the pipeline on Kubernetes, on a cluster of this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from cdcpipe.cli._shared import echo_json, interactive, progress
from cdcpipe.errors import UsageError
from cdcpipe.events import Listener, ignore

if TYPE_CHECKING:
    from cdcpipe.stack.kind.stack import KindStack


@click.group(
    epilog="""\b
Examples:
  cdcpipe kind up                      cluster, images, pipeline: ready when a row has come through
  cdcpipe kind up --brokers 3          replication 3, min ISR 2
  cdcpipe kind up --monitoring         and Prometheus, Alertmanager, cdcpipe monitor
  cdcpipe kind status
  cdcpipe kind logs connect
  cdcpipe kind down                    remove the cluster and all its data
"""
)
def command() -> None:
    """The pipeline on Kubernetes: a kind cluster on this machine. Needs docker, kind and kubectl (docs/kind.md)."""


def _open(listener: Listener = ignore) -> KindStack:
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.kind import open_kind

    settings = load_settings()
    return open_kind(settings.stack, settings, listener=listener)


@command.command("up")
@click.option(
    "--brokers", type=click.Choice(["1", "3"]), default=None, help="Fixed when the cluster is new. Default 1."
)
@click.option("--chaos", is_flag=True, help="Put toxiproxy into the links, so that they can be cut.")
@click.option("--monitoring", is_flag=True, help="Prometheus with our alerts, Alertmanager, and `cdcpipe monitor`.")
@click.option("--bucket", help="A bucket of AWS instead of an S3 server in the cluster; needs --role-arn.")
@click.option("--region", default="us-east-1", show_default=True, help="Its region.")
@click.option("--role-arn", help="The IAM role that Connect's service account assumes (deploy/aws).")
@click.option("--json", "as_json", is_flag=True, help="Print the endpoints as one JSON object.")
def up(
    brokers: str | None,
    chaos: bool,
    monitoring: bool,
    bucket: str | None,
    region: str,
    role_arn: str | None,
    as_json: bool,
) -> None:
    """Bring cluster and pipeline up; what is up already is left alone.

    When a pod doesn't become ready, the error says which, why, and how its log ends. Nothing is undone: look, then
    run it again.
    """
    from cdcpipe.stack.kind.plan import KindPlan

    if (bucket is None) != (role_arn is None):
        raise UsageError("`--bucket` and `--role-arn` go together", hint="deploy/aws makes both")
    given = brokers is not None or chaos or monitoring or bucket is not None
    plan = KindPlan(
        brokers=int(brokers or 1),
        chaos=chaos,
        monitoring=monitoring,
        bucket=bucket or "lake",
        region=region,
        role_arn=role_arn,
    )
    stack = _open(progress(quiet=as_json))
    stack.up(plan if given else None)
    where = addresses(stack)
    if as_json:
        echo_json({"schema": "cdcpipe.kind.up/1", "context": stack.cluster.context, "endpoints": where})
        return
    for name, address in where.items():
        click.echo(f"{name:<12} {address}")
    click.echo("\nnext: `cdcpipe kind status`, `cdcpipe kind logs connect`, `cdcpipe kind down`", err=True)


def addresses(stack: KindStack) -> dict[str, str]:
    """Where each server is, without credentials."""
    from cdcpipe.stack.kind.plan import PORTS

    endpoints = stack.endpoints
    postgres, s3 = endpoints.postgres, endpoints.s3
    return {
        "context": stack.cluster.context,
        "postgres": f"postgresql://{postgres.roles['owner'].name}@{postgres.host}:{postgres.port}/{postgres.database}",
        "kafka": endpoints.bootstrap_servers,
        "connect": endpoints.connect_url,
        "registry": endpoints.registry_url,
        "s3": f"{s3.url or 'AWS ' + s3.region} (bucket {s3.bucket})",
        **({"prometheus": f"http://127.0.0.1:{PORTS['prometheus']}"} if stack.plan.monitoring else {}),
    }


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show pods, components, connectors, and the memory of the whole node. Exit 2 when something isn't ready."""
    from cdcpipe.stack.status import pipeline_status

    stack = _open()
    plan = stack.plan  # first: without a pipeline there is nothing to show
    components = [
        {"name": name, "state": item.state().value, "memory_bytes": item.memory_bytes(), "version": item.version}
        for name, item in stack.components.items()
    ]
    pods = stack.pods_text()
    ready = all(item["state"] == "ready" for item in components) and all(text == "ready" for text in pods.values())
    connectors = pipeline_status(stack.endpoints, stack.settings).connectors if ready else ()
    healthy = ready and bool(connectors) and all(connector.running for connector in connectors)
    content = {
        "schema": "cdcpipe.kind.status/1",
        "context": stack.cluster.context,
        "healthy": healthy,
        "brokers": plan.brokers,
        "pods": pods,
        "components": components,
        "connectors": {connector.name: connector.state for connector in connectors},
        "endpoints": addresses(stack),
        "node_memory_bytes": stack.node_memory_bytes(),
    }
    if as_json:
        echo_json(content)
    else:
        _show(content)
    if not healthy:
        click.get_current_context().exit(2)


def _show(content: dict[str, object]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    components, pods, connectors = content["components"], content["pods"], content["connectors"]
    assert isinstance(components, list)
    assert isinstance(pods, dict)
    assert isinstance(connectors, dict)
    table = Table("component", "version", "state", "memory", box=None, pad_edge=False)
    for row in components:
        table.add_row(row["name"], row["version"], row["state"], f"{row['memory_bytes'] / 1e6:,.0f} MB")
    table.add_row("the node", "", "", f"{int(str(content['node_memory_bytes'])) / 1e6:,.0f} MB")
    console.print(table)
    for name, text in pods.items():
        if text != "ready":
            console.print(f"pod {name}: {text}", highlight=False)
    for name, state in connectors.items():
        console.print(f"{name:<16} {state}", highlight=False)
    if not content["healthy"]:
        console.print(
            "not healthy: bring it up with `cdcpipe kind up`, or see `cdcpipe kind logs NAME`", highlight=False
        )


@command.command("logs")
@click.argument("component", required=False)
@click.option("-n", "--lines", default=40, show_default=True, type=click.IntRange(1), help="How many lines.")
@click.option("--errors", is_flag=True, help="Only lines that warn or fail.")
def logs(component: str | None, lines: int, errors: bool) -> None:
    """Print the log of COMPONENT (postgres, kafka-1, s3, registry, connect), or of all."""
    stack = _open()
    known = stack.components
    if component is not None and component not in known:
        raise UsageError(f"no component is called `{component}`", hint=f"there are: {', '.join(known)}")
    for name in [component] if component else list(known):
        tail = known[name].log_tail(100_000 if errors else lines)
        if errors:
            tail = [line for line in tail if any(word in line for word in ("WARN", "ERROR", "FATAL", "PANIC"))][-lines:]
        if component is None:
            click.echo(f"== {name}")
        for line in tail:
            click.echo(line)


@command.command("build")
@click.option("--force", is_flag=True, help="Build anew what is there already.")
@click.option("--monitoring", is_flag=True, help="The monitor's too, and pull Prometheus' and Alertmanager's.")
@click.option("--base", default=None, metavar="IMAGE", help="Another base than debian:bookworm-slim.")
def build(force: bool, monitoring: bool, base: str | None) -> None:
    """Build the images out of the locked artefacts, and load them when there is a cluster."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.artefacts import Store
    from cdcpipe.stack.kind.images import BASE, Images

    settings, listener = load_settings(), progress()
    store = Store(settings.cache, mirror=settings.maven_mirror, listener=listener)
    images = Images(store, base=base or BASE, monitoring=monitoring, listener=listener).build(force=force)
    for image in images:
        click.echo(image.name)
    cluster = _open(listener).cluster
    if base is None and cluster.exists() and cluster.running():
        _say_loaded(cluster.load([image.name for image in images]))


@command.command("load")
def load() -> None:
    """Load the images into the cluster's node: those that it lacks."""
    _say_loaded(_open(progress()).load())


def _say_loaded(names: list[str]) -> None:
    for name in names:
        click.echo(f"loaded {name}", err=True)
    if not names:
        click.echo("the node has all images", err=True)


@command.command("down")
@click.option("--keep-data", is_flag=True, help="Only stop the node; `kind up` goes on where it stopped.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def down(keep_data: bool, yes: bool) -> None:
    """Remove the cluster and all its data; nothing of it is left but the images in the engine."""
    stack = _open(progress())
    if not stack.exists:
        click.echo(f"nothing to remove: there is no cluster `{stack.cluster.name}`", err=True)
        return
    work: Callable[[], None] = stack.stop if keep_data else stack.remove
    if not keep_data and not yes and interactive():
        click.confirm(f"remove the cluster `{stack.cluster.name}` with all its data?", abort=True, err=True)
    work()
    click.echo(f"{'stopped' if keep_data else 'removed'}: {stack.cluster.name}", err=True)
