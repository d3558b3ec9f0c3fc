"""A real pipeline, seen by a real Prometheus, told about by a real Alertmanager, shown in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psycopg
import pytest
from tests.stack.observing import NEEDS_PROMETHEUS, TRAIL, Observed, observing

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import StackError
from cdcpipe.observe.audit import Collector, Trail, verify
from cdcpipe.observe.audit.collect import Places
from cdcpipe.observe.metrics import catalogue
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK
from cdcpipe.stack.local.process import processes_below

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

pytestmark = [pytest.mark.stack, *NEEDS_PROMETHEUS]


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    with observing(audit=True, restart_tasks=True) as seen:
        yield seen


# The local stack has no TLS; a unit test has.
NOT_HERE = {"cdcpipe_certificate_expiry_timestamp_seconds"}


def test_every_metric_in_the_catalogue_is_scraped_by_a_real_prometheus(observed: Observed) -> None:
    wanted = set(catalogue()) - NOT_HERE

    def missing() -> set[str]:
        url = f"{observed.prometheus}/api/v1/label/__name__/values"
        answer = httpx2.get(url, timeout=10, trust_env=False)
        return wanted - set(answer.json()["data"])

    try:
        observed.await_(lambda: not missing(), "all metrics scraped", timeout_seconds=300)
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
    observed.await_(lambda: value('cdcpipe_verifications_total{verdict="pass"}') >= 1, "a verification", 300)
    assert time.time() - value("cdcpipe_verified_through_timestamp_seconds") < 300


def test_the_monitor_keeps_the_audit_trail_and_others_may_collect_meanwhile(observed: Observed) -> None:
    """What is done to PostgreSQL and S3 is in the trail once, though two processes collect into it."""
    trail = Trail(observed.stack.folder / TRAIL)
    with contextlib.closing(Collector(trail, Places.of_local(observed.stack))) as other:
        assert not other.hear(), "the monitor hears the S3 access log"
        for number in range(5):
            with psycopg.connect(observed.stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
                connection.execute(f"CREATE TABLE audited_{number} (id int)".encode())
                connection.execute(f"DROP TABLE audited_{number}".encode())
            other.collect()

    def applied() -> list[str]:
        found = [each for each in trail.entries() if each.action == "ddl.applied"]
        return [f"{each.detail['command']} {each.object}" for each in found if "audited_" in each.object]

    wanted = [f"{verb} TABLE public.audited_{number}" for number in range(5) for verb in ("CREATE", "DROP")]
    observed.await_(lambda: applied() == wanted, lambda: f"each once, and not {applied()}")
    observed.await_(
        lambda: any(
            (each.source, each.action, each.actor) == ("s3", "object.written", "pipeline") for each in trail.entries()
        ),
        "what the sink writes, in the trail",
    )
    assert verify(trail.folder).intact


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: chromium)")
def test_the_page_is_drawn_in_a_browser(observed: Observed, tmp_path: Path) -> None:
    observed.await_healthy()
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
    observed.await_(lambda: all(each["up"] for each in observed.state()["components"]), "every component up", 120)
    await_flow(observed.stack.endpoints, archive=True)
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


@pytest.mark.slow
def test_metrics_that_disappear_are_told_by_name_and_the_rest_goes_on(observed: Observed) -> None:
    """A connector that was stopped takes its beans along: Connect's agent answers, and says less."""
    observed.await_(lambda: observed.state()["sources"]["jmx_connect"], "every metric of Connect", 120)
    begun = time.monotonic()
    with ConnectClient(observed.stack.endpoints.connect_url, timeout_seconds=60) as client:
        client.stop(SINK)
        try:
            observed.await_(
                lambda: observed.hook.heard("firing", begun, alertname="MonitorSourceDown", source="jmx_connect"),
                "the pager told",
                150,
            )
            said = observed.lines.read_text(encoding="utf-8")
            assert "connect no longer tells kafka_connect_sink_put_seconds" in said
            await_flow(observed.stack.endpoints, archive=False)
            assert all(each["up"] for each in observed.state()["components"])
        finally:
            back = time.monotonic()
            client.resume(SINK)
            client.wait_until_running(SINK, timeout_seconds=90)
    await_flow(observed.stack.endpoints, archive=True)
    observed.await_(
        lambda: observed.hook.heard("resolved", back, alertname="MonitorSourceDown", source="jmx_connect"),
        "the pager told its end",
        90,
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
