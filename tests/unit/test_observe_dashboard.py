"""The Grafana dashboard, and the files that are given to a Prometheus of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cdcpipe.observe.alerts import rules_text
from cdcpipe.observe.dashboard import dashboard, dashboard_text
from cdcpipe.observe.metrics import catalogue, names_in

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def test_every_metric_on_the_dashboard_exists() -> None:
    known = set(catalogue())
    unknown = {
        panel["title"]: sorted(names_in(target["expr"]) - known)
        for panel in panels()
        for target in panel["targets"]
        if names_in(target["expr"]) - known
    }
    assert unknown == {}
    assert sum(bool(names_in(target["expr"])) for panel in panels() for target in panel["targets"]) > 40


def test_a_counter_is_only_shown_as_a_rate_or_an_increase() -> None:
    counters = {name for name, metric in catalogue().items() if metric.kind == "counter"}
    bare = [
        target["expr"]
        for panel in panels()
        for target in panel["targets"]
        if names_in(target["expr"]) & counters and "rate(" not in target["expr"] and "increase(" not in target["expr"]
    ]
    assert bare == []


def test_no_panel_lies_on_another_or_over_the_edge() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


def test_ids_are_unique_and_every_query_has_its_source() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    assert all(target["datasource"]["uid"] == "${datasource}" for panel in panels() for target in panel["targets"])


def test_the_files_for_a_prometheus_of_ones_own_are_current() -> None:
    hint = "run `cdcpipe monitor --write deploy/prometheus`"
    assert (DEPLOY / "cdcpipe.rules.yml").read_text(encoding="utf-8") == rules_text(), hint
    assert (DEPLOY / "cdcpipe.dashboard.json").read_text(encoding="utf-8") == dashboard_text(), hint
    assert json.loads(dashboard_text())["uid"] == "cdcpipe-pipeline"
