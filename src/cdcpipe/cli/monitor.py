"""`cdcpipe monitor`."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcpipe.cli._shared import any_target_option, stack_option

if TYPE_CHECKING:
    from cdcpipe.observe.audit import Collector
    from cdcpipe.observe.monitor_local import Names
    from cdcpipe.settings import MonitorSettings, Settings
    from cdcpipe.stack.stack import Stack


@click.command(
    epilog="""\b
Examples:
  cdcpipe up --observed                     every server of the local stack exposes metrics
  cdcpipe monitor                           page and metrics of it, until Ctrl-C
  cdcpipe monitor --with-prometheus         and a Prometheus with our alerts, and an Alertmanager
  cdcpipe monitor --restart-tasks           and start failed tasks again, with growing pauses
  cdcpipe monitor --audit                   and the audit trail of it, the S3 access log too
  cdcpipe monitor --once                    ask once, print the metrics, end
  cdcpipe monitor --target existing --listen 0.0.0.0:9464
  cdcpipe monitor --write deploy/prometheus rules, scrape config and dashboard for your own Prometheus

\b
As a container's entry point, by environment: CDCPIPE_MONITOR__LISTEN=0.0.0.0:9464, CDCPIPE_ENDPOINTS__...
"""
)
@stack_option
@any_target_option
@click.option("--listen", metavar="HOST:PORT", help="Where page and metrics are. Default: the stack's own port.")
@click.option("--with-prometheus", is_flag=True, help="Run Prometheus and Alertmanager beside the local stack.")
@click.option("--webhook", metavar="URL", help="With --with-prometheus: where notifications go.")
@click.option("--restart-tasks", is_flag=True, help="Start failed tasks again: at once, then with growing pauses.")
@click.option("--audit", is_flag=True, help="Collect the audit trail too, as `cdcpipe audit collect --follow` does.")
@click.option("--once", is_flag=True, help="Ask every source once, print the metrics, end.")
@click.option(
    "--write",
    "write",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write rules, scrape config and Grafana dashboard into this folder, and end.",
)
@click.option(
    "--write-docs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the page of all metrics to this file, and end.",
)
def command(
    stack_folder: Path | None,
    target: str,
    listen: str | None,
    with_prometheus: bool,
    webhook: str | None,
    restart_tasks: bool,
    audit: bool,
    once: bool,
    write: Path | None,
    write_docs: Path | None,
) -> None:
    """Ask a running pipeline how it is, without end: metrics for Prometheus, a page for people."""
    if write_docs is not None:
        from cdcpipe.observe.metrics import to_markdown

        write_docs.write_text(to_markdown(), encoding="utf-8")
        return
    if write is not None:
        _write(write)
        return
    from cdcpipe.observe.monitor_local import connector_names
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.targets import open_stack

    settings = load_settings(stack=stack_folder)
    given: dict[str, Any] = {
        "listen": listen,
        "webhook_url": webhook,
        "restart_tasks": restart_tasks or None,
        "audit": audit or None,
    }
    monitor = settings.monitor.model_copy(update={key: value for key, value in given.items() if value is not None})
    stack = open_stack(target, settings)
    _ = stack.endpoints  # `StackNotRunning` before anything else
    names = connector_names(settings, target)
    if once:
        _once(stack, monitor, names)
    else:
        collector = _collector(stack, settings) if monitor.audit else None
        _watch(stack, monitor, names, collector, with_prometheus=with_prometheus)


def _collector(stack: Stack, settings: Settings) -> Collector:
    from cdcpipe.observe.audit import trail_of
    from cdcpipe.observe.audit.collect import Collector, Places

    return Collector(trail_of(settings), Places.of(stack))


def _once(stack: Stack, settings: MonitorSettings, names: Names) -> None:
    from cdcpipe.errors import StackError
    from cdcpipe.observe.monitor import Monitor
    from cdcpipe.observe.monitor_local import surroundings
    from cdcpipe.stack.component import wait_until

    around = surroundings(stack, settings)
    settings = settings.model_copy(update={"verify_seconds": 0})
    with Monitor(stack, settings, metrics=around.metrics, folders=around.folders, **names) as monitor:
        wait_until(lambda: monitor.ready, what="every source asked once", timeout_seconds=60, error=StackError)
        click.echo(monitor.exporter.text().decode(), nl=False)


def _watch(
    stack: Stack,
    settings: MonitorSettings,
    names: Names,
    audit: Collector | None,
    *,
    with_prometheus: bool,
) -> None:
    from cdcpipe.observe.monitor import Monitor
    from cdcpipe.observe.monitor_local import prometheus_of, surroundings
    from cdcpipe.observe.monitor_log import lean_memory, log_to_stderr
    from cdcpipe.observe.web import WebServer

    lean_memory()
    around = surroundings(stack, settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as opened:
        if with_prometheus:
            prometheus, alertmanager = opened.enter_context(prometheus_of(around, settings))
            settings = settings.model_copy(
                update={"prometheus_url": prometheus.url, "alertmanager_url": alertmanager.url}
            )
        monitor = Monitor(stack, settings, metrics=around.metrics, folders=around.folders, audit=audit, **names)
        opened.enter_context(log_to_stderr(monitor.exporter))
        web = opened.enter_context(WebServer(monitor, around.listen))
        opened.enter_context(monitor)
        click.echo(f"page          {web.url}/")
        click.echo(f"metrics       {web.url}/metrics")
        if with_prometheus:
            click.echo(f"prometheus    {settings.prometheus_url}/")
            click.echo(f"alertmanager  {settings.alertmanager_url}/")
        click.echo("watching; Ctrl-C ends it", err=True)
        stop.wait()
        click.echo("ending", err=True)


def _write(folder: Path) -> None:
    from cdcpipe.observe.alerts import Target, prometheus_config, rules_text
    from cdcpipe.observe.dashboard import dashboard_text

    folder.mkdir(parents=True, exist_ok=True)
    targets = [Target("cdcpipe-monitor", "cdcpipe-monitor:9464")]
    files = {
        "cdcpipe.rules.yml": rules_text(),
        "prometheus.example.yml": prometheus_config(targets, scrape_seconds=15, alertmanager="alertmanager:9093"),
        "cdcpipe.dashboard.json": dashboard_text(),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(str(folder / name))
