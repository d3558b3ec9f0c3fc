"""A real pipeline, seen by a real Prometheus, told about by a real Alertmanager, shown in a real browser."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from cdcpipe.errors import StackError
from cdcpipe.observe.metrics import catalogue
from cdcpipe.settings import load_settings
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.workload import Shop, Workload

ARTEFACTS = Path(__file__).parents[2] / "runs" / "tests"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
]

pytestmark = [
    pytest.mark.stack,
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

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.told += [{"at": time.monotonic(), "alert": alert} for alert in body["alerts"]]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


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

    def await_(self, condition: Any, what: str, timeout_seconds: float = 60) -> None:
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


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    """An observed stack under a little load, and `cdcpipe monitor --with-prometheus` beside it."""
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-observed-", dir="/var/tmp"))
    folder.chmod(0o755)
    is_mounted = mounted(folder / "log")
    settings = load_settings()
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror)
    lines = folder / "monitor.err"
    environment = {
        **os.environ,
        "CDCPIPE_STACK": str(folder),
        "CDCPIPE_MONITOR__SCRAPE_SECONDS": "2",
        "CDCPIPE_MONITOR__EVERY_SECONDS": "2",
        "CDCPIPE_MONITOR__PROBE_SECONDS": "2",
        "CDCPIPE_MONITOR__VERIFY_SECONDS": "20",
    }
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


# The local stack has no TLS; a unit test has.
NOT_HERE = {"cdcpipe_certificate_expiry_timestamp_seconds"}


def test_every_metric_in_the_catalogue_is_scraped_by_a_real_prometheus(observed: Observed) -> None:
    wanted = set(catalogue()) - NOT_HERE

    def missing() -> set[str]:
        url = f"{observed.prometheus}/api/v1/label/__name__/values"
        answer = httpx2.get(url, timeout=10, trust_env=False)
        return wanted - set(answer.json()["data"])

    try:
        observed.await_(lambda: not missing(), "all metrics scraped", timeout_seconds=120)
    except StackError as error:
        raise AssertionError(f"never scraped: {sorted(missing())}; {error.detail}") from error


def test_every_target_is_up_and_has_few_series(observed: Observed) -> None:
    observed.await_(
        lambda: len(observed.query("up == 1")) == 5, "five targets up: monitor, Kafka, Connect, S3, registry"
    )
    samples = {
        row["metric"]["component"]: float(row["value"][1])
        for row in observed.query('scrape_samples_scraped{component!=""}')
    }
    assert set(samples) == {"kafka-1", "connect", "s3", "registry"}
    assert samples["kafka-1"] < 400
    assert samples["connect"] < 200


def test_the_metrics_agree_with_what_the_pipeline_did(observed: Observed) -> None:
    """2,400 row changes of a shop, besides those of making it: seen at the commit, in the log and in the archive."""

    def value(expression: str) -> float:
        return float(observed.query(expression)[0]["value"][1])

    # Heartbeats and probe rows go on; of the shop nothing is left.
    observed.await_(lambda: value('cdcpipe_lag_events{hop="log_to_archive"}') < 100, "everything archived")
    for hop in ("commit", "log", "archive"):
        observed.await_(lambda hop=hop: value(f'cdcpipe_events_total{{hop="{hop}"}}') >= 2400, f"2,400 events at {hop}")
    # Debezium's own count of the changes, and ours of PostgreSQL's: the same but for the snapshot and rolled back ones.
    assert value("sum(debezium_events_total)") <= value('cdcpipe_events_total{hop="log"}') + 50
    for hop in ("commit_to_log", "log_to_archive", "commit_to_archive"):
        assert 0 < value(f'cdcpipe_lag_seconds{{hop="{hop}"}}') < 60, hop
    observed.await_(lambda: value('cdcpipe_verifications_total{verdict="pass"}') >= 1, "a verification", 180)
    assert time.time() - value("cdcpipe_verified_through_timestamp_seconds") < 300


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: chromium)")
def test_the_page_is_drawn_in_a_browser(observed: Observed, tmp_path: Path) -> None:
    observed.await_(lambda: observed.state()["health"] == "healthy", "a healthy pipeline", 90)
    browser = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=3000",
        "--window-size=1240,1080",
    ]
    dumped = subprocess.run(
        [*browser, "--enable-logging=stderr", "--dump-dom", observed.page],
        capture_output=True,
        text=True,
        check=True,
        timeout=90,
    )
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    page = dumped.stdout
    assert 'data-drawn="yes"' in page
    for name in ("PostgreSQL", "Debezium", "Kafka", "Iceberg sink", "Archive", "Registry"):
        assert f'class="node up" data-name="{name}"' in page, name
    assert "● healthy" in page
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    shot = ARTEFACTS / "monitor-page.png"
    subprocess.run([*browser, f"--screenshot={shot}", observed.page], capture_output=True, check=True, timeout=90)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 50_000  # an empty page is a tenth of that


def test_top_shows_what_the_running_monitor_knows(observed: Observed) -> None:
    environment = {**os.environ, "CDCPIPE_STACK": str(observed.stack.folder), "COLUMNS": "120"}
    command = [sys.executable, "-m", "cdcpipe", "top", "--once"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert shown.stderr == ""
    for text in ("healthy", "into Kafka", "kafka-1", "cdcpipe-source", "slot cdcpipe_source", "dead letters"):
        assert text in shown.stdout, shown.stdout
    found = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(found.stdout)["schema"] == "cdcpipe.monitor/1"


# Who else can't serve while a component is away: the registry's store and the catalog lie in PostgreSQL.
DEPENDENT = {"postgres": {"registry"}, "kafka-1": {"connect"}}


@pytest.mark.parametrize(
    "name",
    [
        "s3",
        pytest.param("registry", marks=pytest.mark.slow),
        pytest.param("connect", marks=pytest.mark.slow),
        pytest.param("kafka-1", marks=pytest.mark.slow),
        pytest.param("postgres", marks=pytest.mark.slow),
    ],
)
def test_a_component_that_is_killed_raises_its_alert_and_its_return_resolves_it(observed: Observed, name: str) -> None:
    observed.await_(lambda: observed.state()["health"] == "healthy", "a healthy pipeline", 120)
    killed = time.monotonic()
    observed.stack.components[name].kill()
    observed.await_(
        lambda: observed.hook.heard("firing", killed, alertname="ComponentDown", component=name),
        f"the pager told that {name} is down",
        timeout_seconds=30,
    )
    fired = observed.hook.firing(killed)
    assert {component for alert, component in fired if alert == "ComponentDown"} - DEPENDENT.get(name, set()) == {name}
    assert not [alert for alert, _ in fired if alert in ("AnomalyFound", "FalseGreen", "VerificationFailing")]
    back = time.monotonic()
    observed.stack.up()
    observed.await_(
        lambda: observed.hook.heard("resolved", back, alertname="ComponentDown", component=name),
        f"the pager told that {name} is back",
        timeout_seconds=60,
    )


@pytest.mark.slow
def test_a_schema_that_the_registry_refuses_is_told_and_its_repair_resolves_it(observed: Observed) -> None:
    """A required column without a default: whoever reads old rows with the new schema has nothing to put there."""
    endpoints = observed.stack.endpoints
    topic = f"{endpoints.topic_prefix}.public.observe_refused"
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE observe_refused (id int PRIMARY KEY)")
        connection.execute("INSERT INTO observe_refused VALUES (1)")
        await_flow(endpoints, archive=False)
        begun = time.monotonic()
        connection.execute("DELETE FROM observe_refused")
        connection.execute("ALTER TABLE observe_refused ADD COLUMN needed int NOT NULL")
        connection.execute("INSERT INTO observe_refused VALUES (2, 2)")
    for alert in ("SchemaRegistrationRefused", "TaskFailed"):
        observed.await_(
            lambda alert=alert: observed.hook.heard("firing", begun, alertname=alert, connector="cdcpipe-source"),
            f"the pager told {alert}",
            90,
        )
    repaired = time.monotonic()
    answer = httpx2.put(
        f"{endpoints.registry_url}/config/{topic}-value", json={"compatibility": "NONE"}, timeout=20, trust_env=False
    )
    assert answer.is_success, answer.text
    observed.stack.up()
    observed.await_(
        lambda: observed.hook.heard("resolved", repaired, alertname="SchemaRegistrationRefused"), "the pager told", 90
    )


def test_a_full_disk_for_logs_stops_nothing_and_is_told(observed: Observed) -> None:
    log = observed.stack.folder / "log"
    if not log.is_mount():
        pytest.skip("a disk of its own for the logs needs the right to mount")
    filler, begun = log / "filler", time.monotonic()
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
            file.flush()
    try:
        assert shutil.disk_usage(log).free < 65536
        await_flow(observed.stack.endpoints, archive=True)
        observed.await_(
            lambda: observed.hook.heard("firing", begun, alertname="DiskNearlyFull", folder="log"), "the pager told", 60
        )
        assert all(each["up"] for each in observed.state()["components"])
    finally:
        filler.unlink()
    await_flow(observed.stack.endpoints, archive=True)


def test_without_prometheus_and_alertmanager_the_pipeline_goes_on_and_the_operator_is_told(observed: Observed) -> None:
    names = frozenset({"prometheus", "prometheus-alertmanager", "alertmanager"})
    for process in processes_below(observed.stack.folder, names):
        process.kill()

    def told() -> bool:
        sources = observed.state()["sources"]
        return not sources["prometheus"] and not sources["alertmanager"]

    observed.await_(told, "both sources down")
    said = observed.lines.read_text(encoding="utf-8")
    assert "prometheus can't be asked" in said
    assert "alertmanager can't be asked" in said
    await_flow(observed.stack.endpoints, archive=True)
    state = observed.state()
    assert state["alerts"] is None
    assert state["sources"]["pipeline"]
    assert state["sources"]["probe"]
