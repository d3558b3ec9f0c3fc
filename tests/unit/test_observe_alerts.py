"""The alert rules, evaluated by Prometheus' own promtool: each fires on what it is for, and is quiet otherwise."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdcpipe.observe.alerts import Target, alertmanager_config, load_rules, prometheus_config, rules_text
from cdcpipe.observe.metrics import catalogue, names_in

ROOT = Path(__file__).parents[2]
RULES = {rule["alert"]: rule for rule in load_rules()}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH (Debian: prometheus)")
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool (Debian: prometheus-alertmanager) not on PATH"
)


@dataclass(frozen=True)
class Case:
    """Series over time, the moment to look, and what stands in the alert. `quiet` are healthy series."""

    alert: str
    series: dict[str, str]
    at: str
    labels: dict[str, str]
    summary: str
    quiet: dict[str, str]
    step: str = "2s"
    extra: dict[str, str] = field(default_factory=dict)


DAY = 86_400
CASES = [
    Case(
        "ComponentDown",
        {'cdcpipe_component_up{component="kafka-1"}': "1x5 0x30"},
        "24s",
        {"component": "kafka-1"},
        "kafka-1 does not answer",
        # A single missed answer is no alarm.
        {'cdcpipe_component_up{component="kafka-1"}': "1x5 0 0 1x30"},
    ),
    Case(
        "MonitorDown",
        {'up{job="cdcpipe-monitor", instance="m:1"}': "1x5 0x30"},
        "24s",
        {"job": "cdcpipe-monitor", "instance": "m:1"},
        "the monitor at m:1 can't be scraped",
        {'up{job="cdcpipe-monitor", instance="m:1"}': "1x40"},
    ),
    Case(
        "MonitorSourceDown",
        {'cdcpipe_monitor_source_up{source="kafka"}': "0x60"},
        "70s",
        {"source": "kafka"},
        "the monitor can't ask kafka",
        {'cdcpipe_monitor_source_up{source="kafka"}': "0x20 1x40"},
    ),
    Case(
        "MetricsMissing",
        {'up{job="cdcpipe-components", instance="k:1", component="kafka-1"}': "0x60"},
        "70s",
        {"job": "cdcpipe-components", "instance": "k:1", "component": "kafka-1"},
        "kafka-1 exposes no metrics",
        {'up{job="cdcpipe-components", instance="k:1", component="kafka-1"}': "1x60"},
    ),
    Case(
        "LagUnknown",
        {'up{job="cdcpipe-monitor", instance="m"}': "1x90"},
        "130s",
        {"job": "cdcpipe-monitor", "instance": "m"},
        "nobody knows how late changes are",
        {
            'up{job="cdcpipe-monitor", instance="m"}': "1x90",
            'cdcpipe_lag_seconds{hop="commit_to_log", instance="m"}': "0.2x90",
        },
    ),
    Case(
        "ConnectorFailed",
        {'cdcpipe_connector_state{connector="sink", state="FAILED"}': "1x30"},
        "12s",
        {"connector": "sink", "state": "FAILED"},
        "connector sink is FAILED",
        {
            'cdcpipe_connector_state{connector="sink", state="FAILED"}': "0x30",
            'cdcpipe_connector_state{connector="sink", state="RUNNING"}': "1x30",
        },
    ),
    Case(
        "TaskFailed",
        {'cdcpipe_task_state{connector="source", task="0", state="FAILED"}': "1x30"},
        "12s",
        {"connector": "source", "task": "0", "state": "FAILED"},
        "task 0 of source is FAILED",
        {
            'cdcpipe_task_state{connector="source", task="0", state="FAILED"}': "0x30",
            'cdcpipe_task_state{connector="source", task="0", state="RUNNING"}': "1x30",
        },
    ),
    Case(
        "TaskRestarting",
        {'cdcpipe_connector_restarts_total{connector="sink"}': "0x30 1x30 2x30 3x200"},
        "300s",
        {"connector": "sink"},
        "sink was restarted 3 times in 15 minutes",
        {'cdcpipe_connector_restarts_total{connector="sink"}': "0x30 1x30 2x200"},
    ),
    Case(
        "SchemaRegistrationRefused",
        {'cdcpipe_schema_registration_refused{connector="source"}': "0 1x9"},
        "2s",
        {"connector": "source"},
        "the registry refused a schema of source",
        {'cdcpipe_schema_registration_refused{connector="source"}': "0x9"},
    ),
    Case(
        "FalseGreen",
        {"cdcpipe_false_green": "0 1x9"},
        "2s",
        {},
        "Connect says RUNNING while the pipeline stands still or its slot is lost",
        {"cdcpipe_false_green": "0x9", 'cdcpipe_anomalies_total{anomaly="false-green"}': "0x4 3x5"},
    ),
    Case(
        "TransactionHanging",
        {'kafka_late_transaction_partitions{component="kafka-1"}': "0 14x9"},
        "2s",
        {"component": "kafka-1"},
        "14 partitions of kafka-1 have a transaction that nobody ends",
        {'kafka_late_transaction_partitions{component="kafka-1"}': "0x9"},
    ),
    Case(
        "LagTooHigh",
        {
            'cdcpipe_lag_seconds{hop="commit_to_log", instance="m"}': "90x60",
            'cdcpipe_lag_target_seconds{hop="commit_to_log", instance="m"}': "5x60",
        },
        "40s",
        {"hop": "commit_to_log", "instance": "m"},
        "changes take 1m 30s on commit_to_log",
        {
            'cdcpipe_lag_seconds{hop="commit_to_log", instance="m"}': "4.9x60",
            'cdcpipe_lag_target_seconds{hop="commit_to_log", instance="m"}': "5x60",
            # Nobody gave a bound for this one.
            'cdcpipe_lag_seconds{hop="log_to_archive", instance="m"}': "90x60",
        },
    ),
    Case(
        "ThroughputBelowTarget",
        {
            'cdcpipe_events_total{hop="log", instance="m"}': "0+2000x150",
            'cdcpipe_throughput_target_events_per_second{instance="m"}': "10000x150",
            'cdcpipe_lag_seconds{hop="commit_to_log", instance="m"}': "90x150",
            'cdcpipe_lag_target_seconds{hop="commit_to_log", instance="m"}': "5x150",
        },
        "200s",
        {"hop": "log", "instance": "m"},
        "1k events/s reach the log: less than the target, with work waiting",
        {  # as slow, and nothing waits: the database is quiet
            'cdcpipe_events_total{hop="log", instance="m"}': "0+2000x150",
            'cdcpipe_throughput_target_events_per_second{instance="m"}': "10000x150",
            'cdcpipe_lag_seconds{hop="commit_to_log", instance="m"}': "0.2x150",
            'cdcpipe_lag_target_seconds{hop="commit_to_log", instance="m"}': "5x150",
        },
    ),
    Case(
        "WalPinned",
        {
            'cdcpipe_slot_retained_bytes{slot="s", instance="m"}': "2147483648x40",
            'cdcpipe_wal_retained_limit_bytes{instance="m"}': "1073741824x40",
        },
        "40s",
        {"slot": "s", "instance": "m"},
        "slot s keeps 2GiB of WAL",
        {
            'cdcpipe_slot_retained_bytes{slot="s", instance="m"}': "1073741824x40",
            'cdcpipe_wal_retained_limit_bytes{instance="m"}': "1073741824x40",
        },
    ),
    Case(
        "SlotLost",
        {'cdcpipe_slot_invalid{slot="s"}': "0 1x9"},
        "2s",
        {"slot": "s"},
        "slot s has lost its WAL",
        {'cdcpipe_slot_invalid{slot="s"}': "0x9"},
    ),
    Case(
        "DeadLetters",
        {'cdcpipe_dead_letters_kept{topic="cdc.dead-letters"}': "0 3x9"},
        "2s",
        {"topic": "cdc.dead-letters"},
        "3 records in cdc.dead-letters",
        {
            'cdcpipe_dead_letters_kept{topic="cdc.dead-letters"}': "0x9",
            'cdcpipe_dead_letters_total{topic="cdc.dead-letters"}': "3x9",
        },
    ),
    Case(
        "VerificationFailing",
        {'cdcpipe_verification_verdict{verdict="fail"}': "0 1x9"},
        "2s",
        {"verdict": "fail"},
        "the archive is not equal to the tables",
        {
            'cdcpipe_verification_verdict{verdict="fail"}': "0x9",
            'cdcpipe_verification_verdict{verdict="pass"}': "1x9",
            'cdcpipe_verification_verdict{verdict="inconclusive"}': "1x9",
        },
    ),
    Case(
        "VerificationStale",
        {
            'cdcpipe_verified_through_timestamp_seconds{instance="m"}': "0x100",
            'cdcpipe_verification_interval_seconds{instance="m"}': "300x100",
        },
        "1600s",
        {"instance": "m"},
        "nothing newer than 26m 40s is verified",
        {
            'cdcpipe_verified_through_timestamp_seconds{instance="m"}': "0+20x100",
            'cdcpipe_verification_interval_seconds{instance="m"}': "300x100",
            'cdcpipe_verified_through_timestamp_seconds{instance="off"}': "0x100",
            'cdcpipe_verification_interval_seconds{instance="off"}': "0x100",
        },
        step="20s",
    ),
    Case(
        "VerificationNever",
        {
            'cdcpipe_monitor_start_timestamp_seconds{instance="m"}': "0x100",
            'cdcpipe_verification_interval_seconds{instance="m"}': "300x100",
        },
        "1600s",
        {"instance": "m"},
        "no verification has passed since the monitor started 26m 40s ago",
        {
            'cdcpipe_monitor_start_timestamp_seconds{instance="m"}': "0x100",
            'cdcpipe_verification_interval_seconds{instance="m"}': "300x100",
            'cdcpipe_verified_through_timestamp_seconds{instance="m"}': "0+20x100",
            'cdcpipe_monitor_start_timestamp_seconds{instance="off"}': "0x100",
            'cdcpipe_verification_interval_seconds{instance="off"}': "0x100",
            'cdcpipe_monitor_start_timestamp_seconds{instance="young"}': "300x100",
            'cdcpipe_verification_interval_seconds{instance="young"}': "300x100",
        },
        step="20s",
    ),
    Case(
        "AnomalyFound",
        {'cdcpipe_anomalies_total{anomaly="slot-loss"}': "0x5 2x30"},
        "20s",
        {"anomaly": "slot-loss"},
        "slot-loss was found",
        {
            'cdcpipe_anomalies_total{anomaly="slot-loss"}': "2x40",
            'cdcpipe_anomalies_total{anomaly="false-green"}': "0x5 2x30",  # it has an alert of its own
        },
    ),
    Case(
        "MemoryNearLimit",
        {
            'cdcpipe_component_memory_bytes{component="a", instance="m"}': "2147483648x40",
            'cdcpipe_component_memory_bytes{component="b", instance="m"}': "2147483648x40",
            'cdcpipe_memory_limit_bytes{instance="m"}': "4294967296x40",
        },
        "40s",
        {"instance": "m"},
        "the components take 4GiB of memory",
        {
            'cdcpipe_component_memory_bytes{component="a", instance="m"}': "2147483648x40",
            'cdcpipe_component_memory_bytes{component="b", instance="m"}': "1000000000x40",
            'cdcpipe_memory_limit_bytes{instance="m"}': "4294967296x40",
        },
    ),
    Case(
        "HeapNearLimit",
        {
            'jvm_memory_used_bytes{area="heap", component="connect"}': "99x200",
            'jvm_memory_max_bytes{area="heap", component="connect"}': "100x200",
        },
        "320s",
        {"area": "heap", "component": "connect"},
        "the heap of connect stays nearly full",
        {
            # Full, collected, full again: that is what a heap does.
            'jvm_memory_used_bytes{area="heap", component="connect"}': "99x80 40x5 99x80",
            'jvm_memory_max_bytes{area="heap", component="connect"}': "100x200",
        },
    ),
    Case(
        "DiskNearlyFull",
        {'cdcpipe_disk_free_bytes{folder="log"}': "1048576x30", 'cdcpipe_disk_size_bytes{folder="log"}': "1e9x30"},
        "12s",
        {"folder": "log"},
        "1MiB left on the disk of log",
        {
            'cdcpipe_disk_free_bytes{folder="log"}': "2147483648x30",
            'cdcpipe_disk_size_bytes{folder="log"}': "1e12x30",
            'cdcpipe_disk_free_bytes{folder="small"}': "500000000x30",
            'cdcpipe_disk_size_bytes{folder="small"}': "1e9x30",
        },
    ),
    Case(
        "CertificateExpiring",
        {'cdcpipe_certificate_expiry_timestamp_seconds{endpoint="s3"}': f"{DAY}x9"},
        "0s",
        {"endpoint": "s3"},
        "the certificate of s3 ends in 1d 0h 0m 0s",
        {'cdcpipe_certificate_expiry_timestamp_seconds{endpoint="s3"}': f"{15 * DAY}x9"},
    ),
    Case(
        "CredentialExpiring",
        {'cdcpipe_credential_expiry_timestamp_seconds{credential="postgres/shop"}': f"{DAY}x9"},
        "0s",
        {"credential": "postgres/shop"},
        "postgres/shop ends in 1d 0h 0m 0s",
        {'cdcpipe_credential_expiry_timestamp_seconds{credential="postgres/shop"}': f"{15 * DAY}x9"},
    ),
]


def promtool(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yml").write_text(rules_text(), encoding="utf-8")
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "2s", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def unit_test(case: Case, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    rule = RULES[case.alert]
    notes = rule["annotations"]
    description = notes["description"]
    for name, value in case.labels.items():
        description = description.replace(f"{{{{ $labels.{name} }}}}", value)
    expected = {
        "exp_labels": {**case.labels, "severity": rule["labels"]["severity"]},
        "exp_annotations": {**notes, "summary": case.summary, "description": description},
    }
    return {
        "name": case.alert,
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": [expected] if fires else []}],
    }


@needs_promtool
def test_each_alert_fires_on_what_it_is_for_and_is_quiet_otherwise(tmp_path: Path) -> None:
    tests = [unit_test(case, case.series, fires=True) for case in CASES]
    tests += [unit_test(case, case.quiet, fires=False) for case in CASES]
    done = promtool(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_test_of_the_rules_can_fail(tmp_path: Path) -> None:
    """A component that is up, and an alert that is expected all the same."""
    case = CASES[0]
    assert promtool(tmp_path, [unit_test(case, case.quiet, fires=True)]).returncode != 0


def test_every_alert_has_such_a_test() -> None:
    assert {case.alert for case in CASES} == set(RULES)


@pytest.mark.parametrize("name", sorted(RULES))
def test_an_alert_says_how_bad_it_is_what_it_is_and_where_its_page_is(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} <= set(rule["annotations"])
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text(encoding="utf-8")
    for heading in ("## What it means", "## How to look", "## What to do"):
        assert len(page.partition(heading)[2].strip().split("\n\n")[0]) > 40, heading


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {Path(rule["annotations"]["runbook_url"]).stem for rule in RULES.values()}


def test_every_metric_in_an_alert_exists() -> None:
    unknown = {name: names_in(rule["expr"]) - set(catalogue()) for name, rule in RULES.items()}
    assert {name: found for name, found in unknown.items() if found} == {}


@needs_promtool
def test_the_configuration_that_prometheus_is_given_is_valid(tmp_path: Path) -> None:
    targets = [
        Target("cdcpipe-monitor", "127.0.0.1:1"),
        Target("cdcpipe-components", "127.0.0.1:2", "kafka-1"),
        Target("cdcpipe-components", "127.0.0.1:3", "registry", "/q/metrics"),
    ]
    text = prometheus_config(targets, scrape_seconds=2.5, alertmanager="127.0.0.1:4")
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    (tmp_path / "cdcpipe.rules.yml").write_text(rules_text(), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_amtool
@pytest.mark.parametrize("webhook", [None, "http://127.0.0.1:1/hook?token=secret"])
def test_the_configuration_that_alertmanager_is_given_is_valid(tmp_path: Path, webhook: str | None) -> None:
    (tmp_path / "alertmanager.yml").write_text(alertmanager_config(webhook), encoding="utf-8")
    done = subprocess.run(
        ["amtool", "check-config", str(tmp_path / "alertmanager.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
