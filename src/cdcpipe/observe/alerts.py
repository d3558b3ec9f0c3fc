"""Alert rules, and the real Prometheus and Alertmanager that evaluate and send them.

Both are programs of their own, found on PATH: Debian's packages `prometheus` and `prometheus-alertmanager`, or
upstream's binaries. Here they run beside a stack, in its folder, for as long as a monitor runs; elsewhere
`cdcpipe monitor --write FOLDER` gives the same rules to a Prometheus that is there already.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from cdcpipe.errors import MachineError
from cdcpipe.stack.component import Readiness
from cdcpipe.stack.local.process import LocalProcess

__all__ = ["Alertmanager", "Prometheus", "Target", "load_rules", "prometheus_config", "rules_text"]

RULES_FILE: Final = "cdcpipe.rules.yml"
# Go returns memory later than it could; these two hold little, and collecting more often costs next to nothing.
_GO = {"GOGC": "40", "GOMAXPROCS": "1"}
# What servers tell by themselves and nothing here looks at: five of six series that they expose.
_UNUSED = (
    "go_.*|netty_.*|storage_method_.*|(SeaweedFS|rest_requests|http_).*_(bucket|max)|SeaweedFS_(filerStore|volume).*"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to scrape: `job` is `cdcpipe-monitor` or `cdcpipe-components`; `address` is `host:port`.

    The monitor has no component: its metrics have that label themselves.
    """

    job: str
    address: str
    component: str | None = None
    path: str = "/metrics"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all its series."""
        return {"job": self.job} | ({} if self.component is None else {"component": self.component})


def rules_text() -> str:
    """The rule file, as it is given to Prometheus."""
    return (resources.files("cdcpipe.observe") / "prometheus" / "rules.yml").read_text(encoding="utf-8")


def load_rules() -> list[dict[str, Any]]:
    """Every rule that alerts: `alert`, `expr`, `labels`, `annotations`."""
    groups = yaml.safe_load(rules_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def prometheus_config(targets: Sequence[Target], *, scrape_seconds: float, alertmanager: str | None) -> str:
    """`prometheus.yml`; the rules lie beside it. `alertmanager` is `host:port`."""
    every = f"{round(scrape_seconds * 1000)}ms"
    jobs: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        jobs.setdefault((target.job, target.path), []).append(target)
    scrapes = []
    for index, ((job, path), members) in enumerate(jobs.items()):
        scrapes.append(
            {
                # A job's name must be unique, so those with another path get the one that counts by a label.
                "job_name": job if all(path == "/metrics" for _ in members) else f"{job}-{index}",
                "metrics_path": path,
                "static_configs": [{"targets": [each.address], "labels": each.labels} for each in members],
                "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": _UNUSED, "action": "drop"}],
            }
        )
    config: dict[str, Any] = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [RULES_FILE],
        "scrape_configs": scrapes,
    }
    if alertmanager is not None:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return yaml.safe_dump(config, sort_keys=False)


def alertmanager_config(webhook_url: str | None) -> str:
    """`alertmanager.yml`: everything to one webhook, at once; warnings are silent while a component is down."""
    receiver: dict[str, Any] = {"name": "operator"}
    if webhook_url is not None:
        receiver["webhook_configs"] = [{"url": webhook_url, "send_resolved": True}]
    config = {
        "route": {
            "receiver": "operator",
            "group_by": ["alertname", "component", "connector"],
            "group_wait": "1s",
            "group_interval": "2s",
            "repeat_interval": "4h",
        },
        "inhibit_rules": [
            {"source_matchers": ['alertname="ComponentDown"'], "target_matchers": ['severity="warning"']}
        ],
        "receivers": [receiver],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _program(names: Sequence[str], package: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise MachineError(
        f"`{names[0]}` is not on PATH",
        hint=f"apt-get install --no-install-recommends {package}, or put the binary of prometheus.io/download on PATH",
    )


def _version_of(program: str) -> str:
    import subprocess

    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=20)
    words = (done.stdout + done.stderr).split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""


class _GoServer(LocalProcess):
    """A Go program with an HTTP port and `/-/ready`."""

    def __init__(self, name: str, executable: str, folder: Path, log_folder: Path, *, port: int) -> None:
        super().__init__(name, _version_of(executable), folder, log_folder)
        self.program = Path(executable).name
        self.port = port
        self._executable = executable

    @property
    def url(self) -> str:
        """Root of its page and API."""
        return f"http://127.0.0.1:{self.port}"

    def env(self) -> Mapping[str, str]:
        return _GO

    def readiness(self) -> Readiness:
        try:
            answer = httpx2.get(f"{self.url}/-/ready", timeout=2, trust_env=False)
        except httpx2.HTTPError as error:
            return Readiness(False, f"{self.url} doesn't answer: {type(error).__name__}")
        return Readiness(answer.status_code == 200, f"{self.url} answers {answer.status_code}")


class Prometheus(_GoServer):
    """A Prometheus that scrapes `targets` and evaluates our rules."""

    def __init__(
        self,
        folder: Path,
        log_folder: Path,
        *,
        port: int,
        targets: Sequence[Target],
        scrape_seconds: float,
        alertmanager: str | None,
    ) -> None:
        executable = _program(["prometheus"], "prometheus")
        super().__init__("prometheus", executable, folder, log_folder, port=port)
        self._config = prometheus_config(targets, scrape_seconds=scrape_seconds, alertmanager=alertmanager)

    def prepare(self) -> None:
        (self.folder / "prometheus.yml").write_text(self._config, encoding="utf-8")
        (self.folder / RULES_FILE).write_text(rules_text(), encoding="utf-8")

    def argv(self) -> Sequence[str]:
        return [
            self._executable,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=7d",
            "--storage.tsdb.retention.size=1GB",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]


class Alertmanager(_GoServer):
    """An Alertmanager that tells everything to `webhook_url`, or shows it on its page only."""

    def __init__(self, folder: Path, log_folder: Path, *, port: int, webhook_url: str | None) -> None:
        executable = _program(["prometheus-alertmanager", "alertmanager"], "prometheus-alertmanager")
        super().__init__("alertmanager", executable, folder, log_folder, port=port)
        self._config = alertmanager_config(webhook_url)

    def prepare(self) -> None:
        config = self.folder / "alertmanager.yml"
        config.touch(mode=0o600)  # a webhook's address often holds a token
        config.write_text(self._config, encoding="utf-8")

    def argv(self) -> Sequence[str]:
        return [
            self._executable,
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",  # alone: no gossip, no port for it
            "--log.level=warn",
        ]
