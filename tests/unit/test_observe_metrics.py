"""The catalogue of metrics: what is declared is what is exported, documented and well named."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.metrics import METRICS, catalogue, jmx_metrics, names_in, to_markdown

ROOT = Path(__file__).parents[2]
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH (Debian: prometheus)")


def full_exporter() -> Exporter:
    """One with a value for every metric."""
    exporter = Exporter()
    for metric in METRICS:
        labels = {label: f"a-{label}" for label in metric.labels}
        if metric.kind == "histogram":
            exporter.observe(metric.name, 0.3, **labels)
        else:
            exporter.set(metric.name, 1, **labels)
    return exporter


def test_the_page_of_all_metrics_is_current() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == to_markdown(), (
        "run `cdcpipe monitor --write-docs docs/metrics.md`"
    )


@needs_promtool
def test_prometheus_own_linter_finds_nothing_to_say_about_our_names() -> None:
    text = full_exporter().text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_every_declared_metric_is_in_a_scrape_and_no_other_is() -> None:
    lines = full_exporter().text().decode().splitlines()
    shown = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
    assert shown == {name for metric in METRICS for name in metric.sample_names}


def test_a_metric_that_is_not_declared_or_has_other_labels_is_refused() -> None:
    exporter = Exporter()
    with pytest.raises(KeyError):
        exporter.set("cdcpipe_unheard_of", 1)
    with pytest.raises(AssertionError):
        exporter.set("cdcpipe_component_up", 1, server="kafka-1")


def test_what_is_forgotten_is_absent_from_the_next_scrape() -> None:
    exporter = Exporter()
    exporter.set("cdcpipe_component_up", 1, component="kafka-1")
    exporter.set("cdcpipe_memory_limit_bytes", 5)
    exporter.forget(["cdcpipe_component_up"])
    text = exporter.text().decode()
    assert "cdcpipe_component_up" not in text
    assert "cdcpipe_memory_limit_bytes 5.0" in text


def test_a_family_that_is_replaced_loses_the_series_that_are_gone() -> None:
    exporter = Exporter()
    exporter.replace("cdcpipe_slot_retained_bytes", {"a": 1, "b": 2})
    exporter.replace("cdcpipe_slot_retained_bytes", {"b": 3})
    assert exporter.family("cdcpipe_slot_retained_bytes") == {("b",): 3.0}


def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it() -> None:
    exporter = Exporter()
    for value in (0.05, 0.2, 7.0, 1000.0):
        exporter.observe("cdcpipe_probe_duration_seconds", value, hop="commit_to_log")
    text = exporter.text().decode()
    counts = {
        line.split('le="')[1].split('"')[0]: float(line.split()[-1]) for line in text.splitlines() if 'le="' in line
    }
    assert (counts["0.05"], counts["0.25"], counts["5.0"], counts["10.0"], counts["300.0"]) == (1, 2, 2, 3, 3)
    assert counts["+Inf"] == 4
    assert 'cdcpipe_probe_duration_seconds_sum{hop="commit_to_log"} 1007.25' in text


def test_names_written_as_alternatives_are_written_out() -> None:
    connect = {metric.name for metric in jmx_metrics("connect")}
    assert {"kafka_connect_source_records_poll_total", "kafka_connect_source_records_write_total"} <= connect
    assert not [name for name in connect if "$" in name or "-" in name]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ('rate(a_total{job="b", c!~"d.*"}[5m]) > 3', {"a_total"}),
        ("sum by (hop) (a) / on (hop) group_left (x) b_seconds offset 5m", {"a", "b_seconds"}),
        ("histogram_quantile(0.9, sum by (le) (rate(a_bucket[1m]))) unless on (z) c", {"a_bucket", "c"}),
        ("time() - max(a_timestamp_seconds) or vector(0)", {"a_timestamp_seconds"}),
    ],
)
def test_the_metrics_of_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


def test_no_two_metrics_share_a_name() -> None:
    names = [name for metric in METRICS for name in metric.sample_names]
    assert len(names) == len(set(names))
    assert set(names) <= set(catalogue())
