"""The alerts about the flow, each fired in a real Prometheus by the thing that it is for, and told to a webhook.

One pipeline, one after the other: an archive that is locked, a source that was paused, a slot that lost its WAL.
Anomalies are told for ten minutes, so only the first finds a healthy pipeline.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg
import pytest
from tests.stack.observing import NEEDS_PROMETHEUS, Observed, observing

from cdcpipe.chaos.snapshot import deploy_source, remove_source
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.verify import Verdict
from cdcpipe.verify.live import state

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(900), *NEEDS_PROMETHEUS]

WAL_MAX = 48 << 20  # three segments


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    with observing(wal_retained_bytes_max=WAL_MAX, log_seconds_max=5, archive_seconds_max=30, verify_seconds=0) as seen:
        with superuser(seen, "postgres") as connection:
            connection.execute("CREATE TABLE filler (note text STORAGE EXTERNAL)")
        yield seen


@contextlib.contextmanager
def superuser(observed: Observed, database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    server = observed.stack.components["postgres"]
    assert isinstance(server, Postgres)
    with psycopg.connect(server.conninfo(database), autocommit=True) as connection:
        yield connection


def write_wal(observed: Observed, size: int) -> None:
    """So many bytes of WAL at least, of a database that nobody captures: the server has one WAL."""
    with superuser(observed, "postgres") as connection:
        for _ in range(size >> 20):
            connection.execute("INSERT INTO filler VALUES (repeat('x', 1 << 20))")


def await_status(observed: Observed, status: str, since: float, timeout_seconds: float, *alerts: str) -> None:
    for alert in alerts:
        observed.await_(
            lambda alert=alert: observed.hook.heard(status, since, alertname=alert),
            f"the pager told: {alert} is {status}; it has told {sorted(observed.hook.firing(since))}",
            timeout_seconds=timeout_seconds,
        )


def test_an_archive_that_stands_still_behind_a_running_connector_is_a_false_green(observed: Observed) -> None:
    """A session holds a lock on the catalog: the sink's commit waits, and Connect goes on saying RUNNING."""
    observed.await_healthy()
    begun = time.monotonic()
    with superuser(observed, "catalog") as connection, connection.transaction():
        # Readers pass: it is the sink that must not get through, not those who look at it.
        connection.execute("LOCK TABLE iceberg_tables IN EXCLUSIVE MODE")
        await_status(observed, "firing", begun, 420, "LagTooHigh", "FalseGreen")
        with ConnectClient(observed.stack.endpoints.connect_url, timeout_seconds=60) as client:
            states = client.status(SINK)
        assert states.failure is None
        assert any(each["name"] == "false-green" for each in observed.state()["anomalies"])
        assert not [alert for alert, _ in observed.hook.firing(begun) if alert in ("ComponentDown", "TaskFailed")]
    back = time.monotonic()
    await_flow(observed.stack.endpoints, archive=True, timeout_seconds=300)
    await_status(observed, "resolved", back, 120, "LagTooHigh", "FalseGreen")


def test_a_source_that_was_paused_is_late_slow_and_pins_wal_until_it_goes_on(observed: Observed) -> None:
    """Its target is 10,000 events a second, and it carries none while changes wait."""
    await_flow(observed.stack.endpoints, archive=True)
    alerts = ("LagTooHigh", "ThroughputBelowTarget", "WalPinned")
    begun = time.monotonic()
    with ConnectClient(observed.stack.endpoints.connect_url, timeout_seconds=60) as client:
        client.pause(SOURCE)
        try:
            client.wait_until_paused(SOURCE)
            write_wal(observed, 2 * WAL_MAX)
            await_status(observed, "firing", begun, 180, *alerts)
            assert observed.state()["health"] == "down"
        finally:
            back = time.monotonic()
            client.resume(SOURCE)
            client.wait_until_running(SOURCE, timeout_seconds=90)
    await_flow(observed.stack.endpoints, archive=True)
    with superuser(observed, "postgres") as connection:
        connection.execute("CHECKPOINT")  # the slot's WAL is let go at the next running-xacts record
    await_status(observed, "resolved", back, 180, *alerts)


def test_a_slot_that_lost_its_wal_is_told_and_the_runbook_resolves_it(observed: Observed) -> None:
    """`max_slot_wal_keep_size`, a paused source, and more WAL than that; then what SlotLost's page says to do."""
    await_flow(observed.stack.endpoints, archive=True)
    begun = time.monotonic()
    with ConnectClient(observed.stack.endpoints.connect_url, timeout_seconds=60) as client:
        client.pause(SOURCE)
        client.wait_until_paused(SOURCE)
        with superuser(observed, "postgres") as connection:
            connection.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
            connection.execute("SELECT pg_reload_conf()")
        write_wal(observed, 2 * WAL_MAX)
        with superuser(observed, "postgres") as connection:
            connection.execute("CHECKPOINT")
            lost = connection.execute(
                "SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", [observed.stack.settings.slot]
            ).fetchone()
        assert lost == ("lost",)
        await_status(observed, "firing", begun, 60, "SlotLost", "AnomalyFound")
    with superuser(observed, "postgres") as connection:
        connection.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        connection.execute("SELECT pg_reload_conf()")
    back = time.monotonic()
    remove_source(observed.stack)
    deploy_source(observed.stack)
    await_flow(observed.stack.endpoints, archive=True)
    await_status(observed, "resolved", back, 120, "SlotLost")
    report = state(observed.stack.endpoints)
    assert report.verdict is Verdict.PASS, report
