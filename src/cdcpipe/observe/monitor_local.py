"""A monitor beside a local stack: the ports of its plan, and a Prometheus and an Alertmanager in its folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cdcpipe.errors import UsageError
from cdcpipe.observe.alerts import Alertmanager, Prometheus, Target
from cdcpipe.settings import MonitorSettings, Settings
from cdcpipe.stack.stack import Stack

__all__ = ["DEFAULT_LISTEN", "Names", "Surroundings", "connector_names", "prometheus_of", "surroundings"]

DEFAULT_LISTEN = "127.0.0.1:9464"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of where a monitor runs. `ports` and `folder` are those of an observed local stack, or empty."""

    listen: str
    metrics: Mapping[str, str]
    folders: Mapping[str, Path]
    ports: Mapping[str, int]
    folder: Path | None


def surroundings(stack: Stack, settings: MonitorSettings) -> Surroundings:
    """The surroundings of `stack`; its servers' metrics are known when its plan says that they are observed."""
    plan, folder = getattr(stack, "plan", None), getattr(stack, "folder", None)
    ports: dict[str, int] = dict(getattr(plan, "ports", {})) if getattr(plan, "observed", False) else {}
    metrics = {
        name.removesuffix("-metrics"): f"http://127.0.0.1:{port}/metrics"
        for name, port in ports.items()
        if name.endswith("-metrics")
    }
    if "registry-management" in ports:
        metrics["registry"] = f"http://127.0.0.1:{ports['registry-management']}/metrics"
    folders = {} if folder is None else {"stack": folder, "log": folder / "log"}
    listen = settings.listen or (f"127.0.0.1:{ports['monitor']}" if "monitor" in ports else DEFAULT_LISTEN)
    return Surroundings(listen, {**metrics, **settings.metrics}, folders, ports, folder)


class Names(TypedDict, total=False):
    """Arguments of a `Monitor`."""

    source: str
    sink: str


def connector_names(settings: Settings, target: str) -> Names:
    """`source` and `sink`, where they are called otherwise than ours."""
    if target != "existing" or settings.endpoints is None:
        return {}
    return {"source": settings.endpoints.source, "sink": settings.endpoints.sink}


def _targets(around: Surroundings) -> list[Target]:
    found = [Target("cdcpipe-monitor", around.listen.replace("0.0.0.0", "127.0.0.1"))]
    for component, url in around.metrics.items():
        address, _, path = url.partition("://")[2].partition("/")
        found.append(Target("cdcpipe-components", address, component, f"/{path}"))
    return found


@contextlib.contextmanager
def prometheus_of(around: Surroundings, settings: MonitorSettings) -> Iterator[tuple[Prometheus, Alertmanager]]:
    """Both run beside the stack until the block ends. Raises `MachineError` when a program is missing, `UsageError`
    when the stack is not observed, `ComponentFailed` when one doesn't start."""
    if around.folder is None or "prometheus" not in around.ports:
        raise UsageError(
            "`--with-prometheus` needs an observed local stack",
            hint="`cdcpipe up --observed`; for another pipeline, `cdcpipe monitor --write FOLDER` gives the rules to "
            "your own Prometheus",
        )
    log = around.folder / "log"
    alertmanager = Alertmanager(
        around.folder / "alertmanager", log, port=around.ports["alertmanager"], webhook_url=settings.webhook_url
    )
    prometheus = Prometheus(
        around.folder / "prometheus",
        log,
        port=around.ports["prometheus"],
        targets=_targets(around),
        scrape_seconds=settings.scrape_seconds,
        alertmanager=f"127.0.0.1:{alertmanager.port}",
    )
    both = (alertmanager, prometheus)
    try:
        for server in both:
            server.stop()  # one that a killed monitor left has the rules of then
            server.start()
        for server in both:
            server.await_ready(timeout_seconds=60)
        yield prometheus, alertmanager
    finally:
        for server in both:
            server.stop()
