"""The Grafana dashboard, made of a list of panels. A test checks every metric in it against the catalogue.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["PANELS", "Panel", "Query", "dashboard", "dashboard_text"]

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. `width` is of 24; `unit` is Grafana's; from `bad_from` on a number is red."""

    title: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    unit: str = "short"
    width: int = 8
    description: str = ""
    bad_from: float | None = None


PANELS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "Does it keep its promise?",
        (
            Panel(
                "Components that don't answer",
                (Query("count(cdcpipe_component_up == 0) or vector(0)"),),
                "stat",
                width=4,
                bad_from=1,
            ),
            Panel(
                "Tasks FAILED",
                (Query('sum(cdcpipe_task_state{state="FAILED"}) or vector(0)'),),
                "stat",
                width=4,
                bad_from=1,
            ),
            Panel(
                "Into the log now", (Query('sum(rate(cdcpipe_events_total{hop="log"}[1m]))'),), "stat", "cps", width=4
            ),
            Panel(
                "Commit to archive",
                (Query('max(cdcpipe_lag_seconds{hop="commit_to_archive"})'),),
                "stat",
                "s",
                width=4,
                bad_from=60,
            ),
            Panel(
                "Verified through",
                (Query("time() - max(cdcpipe_verified_through_timestamp_seconds)"),),
                "stat",
                "s",
                width=4,
                description="Age of the newest moment up to which archive and tables are proven equal.",
                bad_from=1500,
            ),
            Panel("Dead letters", (Query("sum(cdcpipe_dead_letters_kept)"),), "stat", width=4, bad_from=1),
        ),
    ),
    (
        "Flow",
        (
            Panel(
                "Throughput against target",
                (
                    Query("sum by (hop) (rate(cdcpipe_events_total[1m]))", "{{hop}}"),
                    Query("max(cdcpipe_throughput_target_events_per_second)", "target"),
                ),
                unit="cps",
                width=12,
            ),
            Panel(
                "Lag in seconds",
                (
                    Query("max by (hop) (cdcpipe_lag_seconds)", "{{hop}}"),
                    Query("max by (hop) (cdcpipe_lag_target_seconds)", "{{hop}}, bound"),
                ),
                unit="s",
                width=12,
            ),
            Panel("Lag in events", (Query("max by (hop) (cdcpipe_lag_events)", "{{hop}}"),)),
            Panel("Lag in bytes", (Query("max by (hop) (cdcpipe_lag_bytes)", "{{hop}}"),), unit="bytes"),
            Panel(
                "Way of a probe row, 99 of 100",
                (
                    Query(
                        "histogram_quantile(0.99, sum by (hop, le) (rate(cdcpipe_probe_duration_seconds_bucket[5m])))",
                        "{{hop}}",
                    ),
                ),
                unit="s",
            ),
        ),
    ),
    (
        "PostgreSQL and Debezium",
        (
            Panel(
                "WAL kept by slots",
                (
                    Query("max by (slot) (cdcpipe_slot_retained_bytes)", "{{slot}}"),
                    Query("max(cdcpipe_wal_retained_limit_bytes)", "bound"),
                ),
                unit="bytes",
            ),
            Panel("WAL written", (Query("max(rate(cdcpipe_wal_written_bytes_total[1m]))", "WAL"),), unit="Bps"),
            Panel(
                "Changes that Debezium read",
                (Query("sum by (operation) (rate(debezium_events_total[1m]))", "{{operation}}"),),
                unit="cps",
            ),
            Panel("Behind its source", (Query("max(debezium_behind_source_seconds)", "Debezium"),), unit="s"),
            Panel(
                "Debezium's queue",
                (
                    Query("sum(debezium_queue_total_capacity - debezium_queue_remaining_capacity)", "waiting"),
                    Query("sum(debezium_queue_total_capacity)", "places"),
                ),
            ),
            Panel(
                "Connections",
                (
                    Query("max(cdcpipe_postgres_connections)", "open"),
                    Query("max(cdcpipe_postgres_connections_limit)", "bound"),
                ),
            ),
        ),
    ),
    (
        "Kafka and Connect",
        (
            Panel(
                "Into topics",
                (Query("sum by (topic) (rate(kafka_topic_messages_in_total[1m]))", "{{topic}}"),),
                unit="cps",
            ),
            Panel(
                "Requests in the broker, 99 of 100",
                (Query('max by (request) (kafka_request_duration_seconds{quantile="0.99"})', "{{request}}"),),
                unit="s",
            ),
            Panel(
                "Partitions in trouble",
                (
                    Query("sum(kafka_under_replicated_partitions)", "under-replicated"),
                    Query("sum(kafka_offline_partitions)", "offline"),
                    Query("sum(kafka_under_min_isr_partitions)", "below min ISR"),
                ),
            ),
            Panel(
                "Records of source and sink",
                (
                    Query("sum(rate(kafka_connect_source_records_write_total[1m]))", "source wrote"),
                    Query("sum(rate(kafka_connect_sink_records_send_total[1m]))", "sink was given"),
                ),
                unit="cps",
            ),
            Panel(
                "Errors of tasks",
                (
                    Query(
                        "sum by (connector) (rate(kafka_connect_task_record_errors_total[5m]))", "{{connector}} errors"
                    ),
                    Query("sum by (connector) (rate(kafka_connect_task_retries_total[5m]))", "{{connector}} retries"),
                ),
                unit="cps",
            ),
            Panel("Rebalances", (Query("sum(increase(kafka_connect_worker_rebalances_total[5m]))", "in 5 minutes"),)),
        ),
    ),
    (
        "Archive and proof",
        (
            Panel("Rows", (Query("sum by (topic) (cdcpipe_archive_rows)", "{{topic}}"),)),
            Panel("Files", (Query("sum by (topic) (cdcpipe_archive_files)", "{{topic}}"),)),
            Panel(
                "Anomalies",
                (Query("sum by (anomaly) (increase(cdcpipe_anomalies_total[10m]))", "{{anomaly}}"),),
                description="By their name in cdcpipe's taxonomy, in ten minutes.",
            ),
            Panel(
                "Verifications",
                (Query("sum by (verdict) (increase(cdcpipe_verifications_total[1h]))", "{{verdict}}"),),
            ),
            Panel(
                "Requests to S3",
                (Query("sum by (type) (rate(SeaweedFS_s3_request_total[1m]))", "{{type}}"),),
                unit="reqps",
            ),
            Panel(
                "Requests to the registry",
                (Query("sum by (status_code_group) (rate(rest_requests_seconds_count[1m]))", "{{status_code_group}}"),),
                unit="reqps",
            ),
        ),
    ),
    (
        "What it costs",
        (
            Panel(
                "Memory",
                (
                    Query("max by (component) (cdcpipe_component_memory_bytes)", "{{component}}"),
                    Query("max(cdcpipe_memory_limit_bytes)", "bound of all"),
                ),
                unit="bytes",
            ),
            Panel(
                "CPU",
                (Query("sum by (component) (rate(cdcpipe_component_cpu_seconds_total[1m]))", "{{component}}"),),
                description="Cores in use.",
            ),
            Panel(
                "Heap",
                (Query('sum by (component) (jvm_memory_used_bytes{area="heap"})', "{{component}}"),),
                unit="bytes",
            ),
            Panel(
                "Time in garbage collection",
                (Query("sum by (component) (rate(jvm_gc_collection_seconds_sum[1m]))", "{{component}}"),),
                unit="percentunit",
            ),
            Panel("Disk left", (Query("min by (folder) (cdcpipe_disk_free_bytes)", "{{folder}}"),), unit="bytes"),
            Panel(
                "Sources of the monitor that can't be asked",
                (Query("cdcpipe_monitor_source_up == 0", "{{source}}"),),
                description="Their metrics are absent, not zero.",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "cdcpipe: a change-data pipeline",
        "uid": "cdcpipe-pipeline",
        "tags": ["cdcpipe"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "annotations": {
            "list": [
                {
                    "name": "alerts",
                    "datasource": _SOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "expr": 'ALERTS{alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{component}}{{connector}}{{hop}}",
                }
            ]
        },
        "panels": list(_placed()),
    }


def dashboard_text() -> str:
    """The same as a file."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _placed() -> Iterator[dict[str, Any]]:
    top, number = 0, 0
    for title, panels in PANELS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
        }
        top, left, tallest = top + 1, 0, 0
        for panel in panels:
            height = 4 if panel.kind == "stat" else 8
            if left + panel.width > 24:
                top, left, tallest = top + tallest, 0, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": height})
            left, tallest = left + panel.width, max(tallest, height)
        top += tallest


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    elif panel.kind != "stat":
        steps = []
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                **({"thresholds": {"mode": "absolute", "steps": steps}} if steps else {}),
                **({"custom": {"lineWidth": 2, "fillOpacity": 8}} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"} if panel.kind == "stat" else {},
    }
