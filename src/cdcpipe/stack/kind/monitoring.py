"""What watches a kind stack (deploy/kind/components/monitoring): the files that follow from elsewhere, and the settings
of `cdcpipe monitor` in its pod."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cdcpipe.stack import jmx
from cdcpipe.stack.describe import settings_toml, toml_table
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.kind.tools import deploy_folder

__all__ = ["LISTEN", "monitor_settings", "write_files"]

LISTEN = 9464
_ALERTMANAGER = "alertmanager:9093"
_SCRAPE_SECONDS = 5


def _metrics(brokers: int) -> dict[str, str]:
    """Component -> address of its metrics, inside of the cluster."""
    agents = {f"kafka-{node}": f"kafka-{node}.kafka-nodes:9404" for node in range(1, brokers + 1)}
    return {**agents, "connect": "connect-metrics:9404", "registry": "registry-metrics:9000", "s3": "s3-metrics:9327"}


def monitor_settings(inside: Endpoints, slot: str, brokers: int) -> str:
    """`cdcpipe.toml` of the monitor in the cluster, credentials included."""
    own = {
        "listen": f"0.0.0.0:{LISTEN}",
        "prometheus_url": "http://prometheus:9090",
        "alertmanager_url": f"http://{_ALERTMANAGER}",
    }
    metrics = {name: f"http://{address}/metrics" for name, address in _metrics(brokers).items()}
    return "\n".join([settings_toml(inside, slot), toml_table("monitor", own), toml_table("monitor.metrics", metrics)])


def write_files(folder: Path | None = None, *, brokers: int = 1) -> list[Path]:
    """Write what the component takes from elsewhere: our alerts, what is scraped, what the agents tell. Into the
    component itself unless `folder` is given."""
    from cdcpipe.observe.alerts import Target, alertmanager_config, prometheus_config, rules_text

    targets = [Target("cdcpipe-monitor", f"monitor:{LISTEN}")]
    targets += [Target("cdcpipe-components", address, name) for name, address in _metrics(brokers).items()]
    config = prometheus_config(targets, scrape_seconds=_SCRAPE_SECONDS, alertmanager=_ALERTMANAGER)
    files = {
        "prometheus.yml": config,
        "cdcpipe.rules.yml": rules_text(),
        "alertmanager.yml": alertmanager_config(None),
        "jmx-kafka.yml": (resources.files(jmx) / "kafka.yml").read_text(encoding="utf-8"),
        "jmx-connect.yml": (resources.files(jmx) / "connect.yml").read_text(encoding="utf-8"),
    }
    home = folder or deploy_folder("kind", "components", "monitoring")
    for name, text in files.items():
        (home / name).write_text(text, encoding="utf-8", newline="\n")
    return [home / name for name in files]
