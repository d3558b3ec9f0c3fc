"""A real pipeline with a real monitor, Prometheus and Alertmanager beside it, and a webhook that is told."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from tests.serving import Quiet, served

from cdcpipe.errors import StackError
from cdcpipe.settings import load_settings
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.workload import Shop, Workload

__all__ = ["NEEDS_PROMETHEUS", "TRAIL", "Observed", "Webhook", "observing"]

TRAIL = "trail"

NEEDS_PROMETHEUS = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on PATH (Debian: prometheus)"),
    pytest.mark.skipif(
        shutil.which("prometheus-alertmanager") is None and shutil.which("alertmanager") is None,
        reason="no alertmanager on PATH (Debian: prometheus-alertmanager)",
    ),
]


@dataclass
class Webhook:
    """An operator's pager: keeps every notification that Alertmanager sends."""

    url: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)

    def heard(self, status: str, since: float, **labels: str) -> bool:
        """Whether an alert with these labels has got that status since then."""
        return any(
            alert["status"] == status and labels.items() <= alert["labels"].items()
            for at, alert in ((each["at"], each["alert"]) for each in list(self.told))
            if at >= since
        )

    def firing(self, since: float) -> set[tuple[str, str]]:
        """Alert and component of what fired since then."""
        return {
            (each["alert"]["labels"]["alertname"], each["alert"]["labels"].get("component", ""))
            for each in list(self.told)
            if each["at"] >= since and each["alert"]["status"] == "firing"
        }


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    hook = Webhook()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.told += [{"at": time.monotonic(), "alert": alert} for alert in body["alerts"]]
            self.answer(200)

    with served(Handler) as url:
        hook.url = f"{url}/"
        yield hook


@dataclass
class Observed:
    """A stack with its monitor, Prometheus and Alertmanager."""

    stack: LocalStack
    hook: Webhook
    page: str
    prometheus: str
    lines: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx2.get(
            f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=10, trust_env=False
        )
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx2.get(f"{self.page}api/state", timeout=10, trust_env=False).json()
        return found

    def await_healthy(self, timeout_seconds: float = 240) -> None:
        """Everything answers, nothing is late and no alert fires: what a test that breaks something begins with."""

        def what() -> str:
            return f"a healthy pipeline; it says: {self.state()['sentence']}"

        self.await_(lambda: self.state()["health"] == "healthy", what, timeout_seconds)

    def await_(self, condition: Any, what: Callable[[], str] | str, timeout_seconds: float = 60) -> None:
        def asked() -> bool:
            with contextlib.suppress(httpx2.HTTPError, KeyError):
                return bool(condition())
            return False

        def failed(text: str) -> StackError:
            return StackError(text, detail=self.lines.read_text(encoding="utf-8")[-3000:])

        wait_until(asked, what=what, timeout_seconds=timeout_seconds, interval_seconds=0.5, error=failed)


def mounted(folder: Path) -> bool:
    """Make `folder` a small disk of its own; False where that isn't allowed."""
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "cdcpipe-test", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


@contextlib.contextmanager
def observing(**settings_of_monitor: object) -> Iterator[Observed]:
    """An observed stack under a little load, and `cdcpipe monitor --with-prometheus` beside it.

    `settings_of_monitor` are those of `[monitor]`, on top of short intervals.
    """
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-observed-", dir="/var/tmp"))
    folder.chmod(0o755)
    is_mounted = mounted(folder / "log")
    settings = load_settings()
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror)
    lines = folder / "monitor.err"
    given = {"scrape_seconds": 2, "every_seconds": 2, "probe_seconds": 2, "verify_seconds": 20, **settings_of_monitor}
    environment = {**os.environ, "CDCPIPE_STACK": str(folder), "CDCPIPE_AUDIT": str(folder / TRAIL)}
    environment |= {f"CDCPIPE_MONITOR__{name.upper()}": str(value) for name, value in given.items()}
    try:
        stack.up(observed=True, tables=Shop.TABLES)
        admin = stack.components["postgres"]
        assert isinstance(admin, Postgres)
        with psycopg.connect(admin.conninfo(), autocommit=True) as connection:
            connection.execute("ALTER ROLE shop VALID UNTIL '2099-01-01'")
        shop = Shop(seed=8)
        shop.create(stack.endpoints.postgres)
        with (
            webhook() as hook,
            lines.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "cdcpipe", "monitor", "--with-prometheus", "--webhook", hook.url],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as monitor,
        ):
            try:
                where = _addresses(monitor, lines)
                seen = Observed(stack, hook, where["page"], where["prometheus"].rstrip("/"), lines)
                with Workload(stack.endpoints.postgres, shop, rate=300, seconds=8, connections=1) as load:
                    load.wait()
                yield seen
            finally:
                monitor.send_signal(signal.SIGTERM)
                code = monitor.wait(60)
        assert code == 0, lines.read_text(encoding="utf-8")
        assert processes_below(folder, frozenset({"prometheus", "prometheus-alertmanager", "alertmanager"})) == []
    finally:
        stack.down()
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder / "log")], check=True)
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


def _addresses(monitor: subprocess.Popen[str], lines: Path) -> dict[str, str]:
    assert monitor.stdout is not None
    found: dict[str, str] = {}
    while not {"page", "metrics", "prometheus", "alertmanager"} <= set(found):
        line = monitor.stdout.readline()
        if not line:
            raise StackError("the monitor ended", detail=lines.read_text(encoding="utf-8"))
        name, _, url = line.partition(" ")
        found[name] = url.strip()
    return found
