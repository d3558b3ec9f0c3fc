"""The files of deploy/kind/components/monitoring that follow from elsewhere: our alerts, what Prometheus scrapes, what
the agents tell. Written anew when one of those changes; a test holds them to it.

    python -c "from cdcpipe.observe.cluster import write_files; write_files()"
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cdcpipe.observe.alerts import Target, alertmanager_config, prometheus_config, rules_text
from cdcpipe.stack import jmx
from cdcpipe.stack.kind.monitoring import ALERTMANAGER, LISTEN, metrics_addresses
from cdcpipe.stack.kind.tools import deploy_folder

__all__ = ["write_files"]

_SCRAPE_SECONDS = 5


def write_files(folder: Path | None = None) -> list[Path]:
    """Write them into `folder`, by default the component's own."""
    targets = [Target("cdcpipe-monitor", f"monitor:{LISTEN}")]
    targets += [Target("cdcpipe-components", address, name) for name, address in metrics_addresses(1).items()]
    config = prometheus_config(targets, scrape_seconds=_SCRAPE_SECONDS, alertmanager=ALERTMANAGER)
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
