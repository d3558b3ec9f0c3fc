"""What watches a kind stack (deploy/kind/components/monitoring): where its metrics are, and the settings of
`cdcpipe monitor` in its pod. The rest of that component's files is written by `cdcpipe.observe.cluster`."""

from __future__ import annotations

from typing import Any

import yaml

from cdcpipe.stack.describe import settings_toml, toml_table
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["ALERTMANAGER", "LISTEN", "metrics_addresses", "monitor_settings", "scraping"]

LISTEN = 9464
ALERTMANAGER = "alertmanager:9093"


def metrics_addresses(brokers: int) -> dict[str, str]:
    """Component -> address of its metrics, inside of the cluster."""
    agents = {f"kafka-{node}": f"kafka-{node}.kafka-nodes:9404" for node in range(1, brokers + 1)}
    return {**agents, "connect": "connect-metrics:9404", "registry": "registry-metrics:9000", "s3": "s3-metrics:9327"}


def monitor_settings(inside: Endpoints, slot: str, brokers: int) -> str:
    """`cdcpipe.toml` of the monitor in the cluster, credentials included."""
    own = {
        "listen": f"0.0.0.0:{LISTEN}",
        "restart_tasks": True,
        "prometheus_url": "http://prometheus:9090",
        "alertmanager_url": f"http://{ALERTMANAGER}",
    }
    metrics = {name: f"http://{address}/metrics" for name, address in metrics_addresses(brokers).items()}
    return "\n".join([settings_toml(inside, slot), toml_table("monitor", own), toml_table("monitor.metrics", metrics)])


def scraping(config: str, brokers: int) -> str:
    """`prometheus.yml` of the component, which knows one broker, for `brokers`."""
    content: dict[str, Any] = yaml.safe_load(config)
    wanted = metrics_addresses(brokers)
    for job in content["scrape_configs"]:
        known = {each["labels"].get("component"): each for each in job["static_configs"]}
        if "kafka-1" in known:
            labels = known["kafka-1"]["labels"]
            job["static_configs"] = [
                {"targets": [address], "labels": labels | {"component": name}} for name, address in wanted.items()
            ]
    return yaml.safe_dump(content, sort_keys=False)
