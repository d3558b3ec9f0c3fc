"""Every metric there is, by name: what `cdcpipe monitor` exports, and what the servers say of themselves.

Names follow Prometheus' conventions: base units as suffix, `_total` for counters, `_timestamp_seconds` for moments.
This list is the only place where a metric of ours is declared; the exporter refuses any other. `docs/metrics.md` is
made of it, alerts and dashboards are checked against it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal

import yaml

from cdcpipe.stack import jmx

__all__ = ["HOPS", "METRICS", "Metric", "catalogue", "jmx_metrics", "names_in", "to_markdown"]

Kind = Literal["gauge", "counter", "histogram"]

HOPS: Final = ("commit_to_log", "log_to_archive", "commit_to_archive")
"""The ways of a change that have a lag: into the log, from there into the archive, and both together."""

BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram of probe rows, in seconds: the sink commits every few seconds."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of series. `source` is the part of the monitor, or the server, that it comes from."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    source: str

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names that a scrape shows and a query uses."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


def _gauge(source: str, name: str, labels: str, help_: str) -> Metric:
    return Metric(f"cdcpipe_{name}", "gauge", tuple(labels.split()), help_, source)


def _counter(source: str, name: str, labels: str, help_: str) -> Metric:
    return Metric(f"cdcpipe_{name}_total", "counter", tuple(labels.split()), help_, source)


METRICS: Final[tuple[Metric, ...]] = (
    # The monitor itself.
    _gauge("monitor", "build_info", "version", "1, with the version of cdcpipe."),
    _gauge("monitor", "monitor_start_timestamp_seconds", "", "When the monitor was started."),
    _gauge("monitor", "monitor_source_up", "source", "1 while the source can be asked; its metrics are absent at 0."),
    _gauge("monitor", "monitor_source_duration_seconds", "source", "How long the source took when it was asked last."),
    _counter("monitor", "monitor_source_failures", "source", "How often the source stopped answering."),
    # Components.
    _gauge("components", "component_up", "component", "1 while the component answers on its own protocol."),
    _gauge("processes", "component_memory_bytes", "component", "Proportional set size of all its processes."),
    _counter("processes", "component_cpu_seconds", "component", "User and system time of its processes."),
    _gauge("settings", "memory_limit_bytes", "", "What the whole pipeline may take (`monitor.memory_limit_bytes`)."),
    _gauge("disk", "disk_free_bytes", "folder", "Room left where data and logs lie."),
    _gauge("disk", "disk_size_bytes", "folder", "Size of the disk there."),
    # Connect.
    _gauge("connect", "connector_state", "connector state", "1 for the state that the connector is in, else 0."),
    _gauge("connect", "task_state", "connector task state", "1 for the state that the task is in, else 0."),
    _counter(
        "connect",
        "connector_restarts",
        "connector",
        "Restarts of what had failed of the connector, by the monitor (`monitor.restart_tasks`).",
    ),
    _gauge(
        "connect",
        "schema_registration_refused",
        "connector",
        "1 while a task of the connector is FAILED because the registry refused its schema.",
    ),
    _gauge(
        "pipeline",
        "false_green",
        "",
        "1 while Connect says RUNNING for everything and the pipeline stands still, or its slot is gone or invalid.",
    ),
    # Throughput.
    _counter(
        "postgres, kafka, archive",
        "events",
        "hop",
        "Events that came through: hop `commit` counts row changes of captured tables as PostgreSQL's statistics do "
        "(rolled back ones too, up to a second late), `log` offsets of the change topics (transaction markers too), "
        "`archive` rows in the tables' newest snapshots.",
    ),
    _gauge(
        "settings",
        "throughput_target_events_per_second",
        "",
        "What the pipeline should be able to carry (`monitor.target_rate`).",
    ),
    # Lag.
    _gauge(
        "probe",
        "lag_seconds",
        "hop",
        "How late a change is: the way of the newest probe row that arrived, or the age of an older one that has not.",
    ),
    _gauge(
        "probe, pipeline",
        "lag_events",
        "hop",
        "Events on the way: `commit_to_log` row changes committed within the lag's seconds, `log_to_archive` offsets "
        "that the sink's group has not committed.",
    ),
    _gauge(
        "pipeline, jmx",
        "lag_bytes",
        "hop",
        "Bytes on the way: `commit_to_log` WAL behind the source's durable offset, `log_to_archive` the lag in events "
        "at the topics' mean record size (needs the brokers' JMX).",
    ),
    _gauge("settings", "lag_target_seconds", "hop", "How late a change may be (`monitor.log_seconds_max`, …)."),
    Metric(
        "cdcpipe_probe_duration_seconds",
        "histogram",
        ("hop",),
        "Way of each probe row: a row of the watermark table that the monitor commits every few seconds.",
        "probe",
    ),
    _gauge("probe", "probes_pending", "hop", "Probe rows that have not arrived yet."),
    # PostgreSQL.
    _gauge("postgres", "slot_retained_bytes", "slot", "WAL that the slot keeps on disk."),
    _gauge("postgres", "slot_lag_bytes", "slot", "WAL that the slot's reader has not confirmed."),
    _gauge("postgres", "slot_active", "slot", "1 while somebody reads the slot."),
    _gauge("postgres", "slot_invalid", "slot", "1 when the slot has lost its WAL: it can't be read any more."),
    _gauge("settings", "wal_retained_limit_bytes", "", "WAL that a slot may keep (`monitor.wal_retained_bytes_max`)."),
    _counter("postgres", "wal_written_bytes", "", "WAL written since the cluster was made."),
    _gauge("postgres", "postgres_connections", "", "Connections that are open."),
    _gauge("postgres", "postgres_connections_limit", "", "`max_connections`."),
    # The log.
    _counter("kafka", "dead_letters", "topic", "Records that the dead-letter topic has ever had."),
    _gauge("kafka", "dead_letters_kept", "topic", "Records that the dead-letter topic has now."),
    # The archive.
    _gauge("archive", "archive_rows", "topic", "Rows in the newest snapshot of the topic's table."),
    _gauge("archive", "archive_bytes", "topic", "Bytes of its data files."),
    _gauge("archive", "archive_files", "topic", "Data files."),
    _gauge("archive", "archive_last_commit_timestamp_seconds", "topic", "When the newest snapshot was committed."),
    # Verification.
    _gauge(
        "verify",
        "verified_through_timestamp_seconds",
        "",
        "Archive and tables are proven equal for everything committed up to this time.",
    ),
    _gauge("verify", "verification_last_timestamp_seconds", "", "When the last verification ended."),
    _gauge("verify", "verification_duration_seconds", "", "How long the last verification took."),
    _gauge("settings", "verification_interval_seconds", "", "Pause between verifications; 0 when they are off."),
    _gauge("verify", "verification_verdict", "verdict", "1 for the last verification's verdict, else 0."),
    _counter("verify", "verifications", "verdict", "Verifications by verdict; `error` when one could not be made."),
    _counter("pipeline, verify", "anomalies", "anomaly", "Anomalies found, by their name in the taxonomy."),
    # What ends one day.
    _gauge(
        "postgres", "credential_expiry_timestamp_seconds", "credential", "When a role's password ends (VALID UNTIL)."
    ),
    _gauge("components", "certificate_expiry_timestamp_seconds", "endpoint", "When a server's TLS certificate ends."),
    # Alerts.
    _gauge("alerts", "alerts_firing", "severity", "Alerts that fire now, as Prometheus says."),
)

SERVERS: Final[tuple[Metric, ...]] = (
    Metric("rest_requests_seconds_count", "counter", ("method", "path", "status_code_group"), "Requests.", "registry"),
    Metric("rest_requests_seconds_sum", "counter", ("method", "path", "status_code_group"), "Their time.", "registry"),
    Metric("SeaweedFS_s3_request_total", "counter", ("bucket", "code", "type"), "Requests.", "s3"),
    Metric("SeaweedFS_s3_request_seconds_sum", "counter", ("bucket", "type"), "Time that requests took.", "s3"),
    Metric("SeaweedFS_s3_request_seconds_count", "counter", ("bucket", "type"), "Requests with a time.", "s3"),
    Metric("up", "gauge", ("instance", "job"), "1 while the target can be scraped.", "prometheus"),
    Metric("jvm_memory_used_bytes", "gauge", ("area",), "Memory of the JVM in use, by area.", "kafka, connect"),
    Metric("jvm_memory_max_bytes", "gauge", ("area",), "Bound of the area.", "kafka, connect"),
    Metric("jvm_gc_collection_seconds_sum", "counter", ("gc",), "Time in garbage collections.", "kafka, connect"),
    Metric("process_cpu_seconds_total", "counter", (), "CPU time of the process.", "kafka, connect"),
    Metric("process_resident_memory_bytes", "gauge", (), "Resident memory of the process.", "kafka, connect"),
)
"""What servers expose by themselves, as far as alerts and dashboards use it."""

_GROUP = re.compile(r"\(([^()]*)\)")


def jmx_metrics(server: Literal["kafka", "connect"]) -> tuple[Metric, ...]:
    """What the rules of `cdcpipe.stack.jmx` make of a server's beans, each name written out."""
    rules: dict[str, Any] = yaml.safe_load((resources.files(jmx) / f"{server}.yml").read_text(encoding="utf-8"))
    found: dict[str, Metric] = {}
    for rule in rules["rules"]:
        kind: Kind = "counter" if rule["type"] == "COUNTER" else "gauge"
        for name in _expanded(rule["name"], rule["pattern"]):
            found[name] = Metric(name, kind, tuple(rule.get("labels", {})), rule["help"], server)
    return tuple(found.values())


def _expanded(name: str, pattern: str) -> Iterator[str]:
    """The names that `$1`, `$2` … give: a group that a name uses must list its alternatives."""
    groups = [text.split("|") for text in _GROUP.findall(pattern)]
    used = sorted({int(number) for number in re.findall(r"\$(\d)", name)})
    for choice in itertools.product(*(groups[number - 1] for number in used)):
        made = name
        for number, text in zip(used, choice, strict=True):
            made = made.replace(f"${number}", text)
        yield re.sub(r"[^a-zA-Z0-9_:]", "_", made).lower()


def catalogue() -> dict[str, Metric]:
    """Sample name -> its metric, for all that can be scraped from an observed pipeline."""
    every = (*METRICS, *jmx_metrics("kafka"), *jmx_metrics("connect"), *SERVERS)
    return {name: metric for metric in every for name in metric.sample_names}


_STRINGS = re.compile(r'"[^"]*"')
_SELECTORS = re.compile(r"\{[^}]*\}|\[[^\]]*\]")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORDS = re.compile(r"(?<![a-zA-Z0-9_:])[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])")
_KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan", "group_left", "group_right", "by", "on"})


def names_in(expression: str) -> set[str]:
    """The metric names in a PromQL expression.

    >>> sorted(names_in('sum by (hop) (rate(a_total{x="b"}[1m])) > on (hop) c_seconds'))
    ['a_total', 'c_seconds']
    """
    bare = _GROUPING.sub(" ", _SELECTORS.sub(" ", _STRINGS.sub(" ", expression)))
    return {word for word in _WORDS.findall(bare) if word.lower() not in _KEYWORDS}


def to_markdown() -> str:
    """`docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Made of `cdcpipe.observe.metrics` by `cdcpipe monitor --write-docs docs/metrics.md`; a test proves that it is",
        "current. Units are in the names. What can't be asked is absent, never old: see `cdcpipe_monitor_source_up`.",
        "",
        "## What `cdcpipe monitor` exports",
        "",
        *_table(METRICS),
        "",
        "## What Kafka tells by the JMX exporter",
        "",
        "Rules: `src/cdcpipe/stack/jmx/kafka.yml`.",
        "",
        *_table(jmx_metrics("kafka")),
        "",
        "## What Connect tells by the JMX exporter",
        "",
        "Rules: `src/cdcpipe/stack/jmx/connect.yml`.",
        "",
        *_table(jmx_metrics("connect")),
        "",
        "## What servers tell by themselves, as far as alerts and dashboards use it",
        "",
        *_table(SERVERS),
        "",
    ]
    return "\n".join(lines)


def _table(metrics: tuple[Metric, ...]) -> Iterator[str]:
    yield "| metric | type | labels | what it is | from |"
    yield "| --- | --- | --- | --- | --- |"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} | {metric.source} |"
