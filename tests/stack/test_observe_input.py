"""The monitor on a stack that exposes no metrics, with servers that go away, and as whole commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from cdcpipe.errors import StackError
from cdcpipe.observe.monitor import Monitor
from cdcpipe.observe.monitor_services import ServiceChecks
from cdcpipe.settings import MonitorSettings
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_TABLE
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.verify.progress import Bounds, Watch
from cdcpipe.verify.sampling import Sampler
from cdcpipe.verify.settle import settle

pytestmark = pytest.mark.stack

FAST = MonitorSettings(every_seconds=1, probe_seconds=1, verify_seconds=0)


def until(condition: Callable[[], object], what: str, timeout_seconds: float = 60) -> None:
    wait_until(condition, what=what, timeout_seconds=timeout_seconds, interval_seconds=0.2, error=StackError)


def test_a_component_without_jmx_is_told_and_everything_else_is_known(stack: LocalStack) -> None:
    with Monitor(stack, FAST) as monitor:
        value = monitor.exporter.value
        until(lambda: monitor.ready, "every source asked once")
        until(lambda: value("cdcpipe_lag_seconds", hop="commit_to_archive"), "a probe row in the archive")
        until(lambda: value("cdcpipe_events_total", hop="archive"), "rows of the archive")
        state = monitor.state()
        assert value("cdcpipe_monitor_source_up", source="jmx_kafka_1") == 0
        assert value("cdcpipe_monitor_source_up", source="jmx_connect") == 0
        assert any("kafka-1 exposes no metrics" in line["sentence"] for line in state["lines"])
        assert value("cdcpipe_lag_bytes", hop="log_to_archive") is None
        assert value("cdcpipe_lag_bytes", hop="commit_to_log") is not None
        assert state["health"] == "healthy", state["sentence"]
        unknown = {name for name, up in state["sources"].items() if not up}
        assert unknown == {"jmx_kafka_1", "jmx_connect"}


def test_a_server_that_is_stopped_counts_as_down_and_its_metrics_are_absent_until_it_goes_on(stack: LocalStack) -> None:
    """A stopped PostgreSQL keeps its port and every connection, and answers on none."""
    postgres = stack.components["postgres"]
    with Monitor(stack, FAST) as monitor:
        value, family = monitor.exporter.value, monitor.exporter.family
        until(lambda: value("cdcpipe_component_up", component="postgres") == 1, "PostgreSQL up")
        until(lambda: family("cdcpipe_slot_retained_bytes"), "slots")
        postgres.pause()
        try:
            until(lambda: value("cdcpipe_component_up", component="postgres") == 0, "PostgreSQL down")
            assert value("cdcpipe_component_up", component="s3") == 1
            until(lambda: not family("cdcpipe_slot_retained_bytes"), "the slots' figures gone")
            until(lambda: value("cdcpipe_monitor_source_up", source="postgres") == 0, "the source down")
            assert monitor.state()["health"] == "down"
        finally:
            postgres.resume()
        until(lambda: value("cdcpipe_component_up", component="postgres") == 1, "PostgreSQL up again")
        until(lambda: family("cdcpipe_slot_retained_bytes"), "the slots' figures again")


@pytest.mark.slow
def test_an_idle_exactly_once_pipeline_is_not_called_stuck(stack: LocalStack) -> None:
    """The sink's position stops before the marker that ends each transaction: one offset behind, for ever."""
    endpoints = stack.endpoints
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS observe_idle (id int PRIMARY KEY)")
        connection.execute("INSERT INTO observe_idle VALUES (1) ON CONFLICT DO NOTHING")
    assert settle(endpoints, timeout_seconds=120).cut.reached
    watch = Watch(bounds=Bounds(stuck_seconds=1.5, false_green_seconds=1))
    behind: set[int] = set()
    with Sampler(endpoints, source=SOURCE, sink=SINK, slot=stack.settings.slot) as sampler:
        for number, sample in enumerate(sampler.every(0.5)):
            assert sample.end_offsets is not None
            assert sample.group_offsets is not None
            # Heartbeats go on: their topic, and the source's offset, move every few seconds only.
            idle = {place: at for place, at in sample.group_offsets.items() if WATERMARK_TABLE not in place[0]}
            assert any("observe_idle" in topic for topic, _ in idle)
            behind = {sample.end_offsets[place] - at for place, at in idle.items()}
            assert watch.feed(replace(sample, group_offsets=idle, wal_lsn=None)) == ()
            if number == 12:
                break
    assert behind <= {0}


def test_a_question_that_hangs_does_not_hold_up_the_end(stack: LocalStack) -> None:
    checks, postgres = ServiceChecks(stack.endpoints), stack.components["postgres"]
    assert checks.ask()["postgres"]
    postgres.pause()
    try:
        assert not checks.ask()["postgres"]
        assert not checks.ask()["postgres"]
        checks.close()
        until(
            lambda: not [each for each in threading.enumerate() if each.name.startswith("monitor-ask")],
            "the threads at their end",
            timeout_seconds=10,
        )
    finally:
        postgres.resume()


def test_dead_letters_and_a_password_that_ends_are_seen(stack: LocalStack) -> None:
    endpoints = stack.endpoints
    producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    server = stack.components["postgres"]
    assert isinstance(server, Postgres)
    with Monitor(stack, FAST) as monitor:
        value = monitor.exporter.value
        topic = endpoints.dead_letter_topic
        until(lambda: value("cdcpipe_dead_letters_total", topic=topic) is not None, "the dead-letter topic")
        before = value("cdcpipe_dead_letters_total", topic=topic) or 0
        producer.produce(topic, key=b"test_observe", value=b"not a change")
        producer.flush(30)
        until(lambda: value("cdcpipe_dead_letters_total", topic=topic) == before + 1, "one letter more")
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            connection.execute("CREATE ROLE test_observe_ends LOGIN VALID UNTIL '2031-02-03 04:05:06+00'")
            try:
                until(
                    lambda: (
                        value("cdcpipe_credential_expiry_timestamp_seconds", credential="postgres/test_observe_ends")
                        == 1927857906.0
                    ),
                    "the password's end",
                )
            finally:
                connection.execute("DROP ROLE test_observe_ends")


def test_asked_once_the_command_prints_metrics_and_ends(stack: LocalStack, tmp_path: Path) -> None:
    environment = {**os.environ, "CDCPIPE_STACK": str(stack.folder), "CDCPIPE_MONITOR__TARGET_RATE": "1234"}
    done = subprocess.run(
        [sys.executable, "-m", "cdcpipe", "monitor", "--once"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "cdcpipe_throughput_target_events_per_second 1234.0" in done.stdout
    assert 'cdcpipe_component_up{component="kafka-1"} 1.0' in done.stdout


def test_top_asks_the_pipeline_itself_when_no_monitor_runs(stack: LocalStack, tmp_path: Path) -> None:
    environment = {**os.environ, "CDCPIPE_STACK": str(stack.folder), "CDCPIPE_MONITOR__LISTEN": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-m", "cdcpipe", "top", "--once", "--json"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "no monitor runs" in done.stderr
    assert {each["name"] for each in json.loads(done.stdout)["components"]} == set(stack.components)


def test_prometheus_beside_a_stack_that_is_not_observed_is_a_usage_error(stack: LocalStack) -> None:
    environment = {**os.environ, "CDCPIPE_STACK": str(stack.folder)}
    done = subprocess.run(
        [sys.executable, "-m", "cdcpipe", "monitor", "--with-prometheus"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "needs an observed local stack" in done.stderr
    assert "cdcpipe up --observed" in done.stderr
