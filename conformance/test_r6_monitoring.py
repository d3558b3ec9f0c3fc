"""R6, monitoring: what the pipeline says of itself is there, is true, and wakes somebody when it must."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.faulting import Faults
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.conformance.watching import Watching

WANTED = {
    "throughput": ("cdcpipe_events_total", "cdcpipe_throughput_target_events_per_second"),
    "latency": ("cdcpipe_lag_seconds", "cdcpipe_probe_duration_seconds_bucket", "cdcpipe_lag_events"),
    "errors": ("cdcpipe_task_state", "cdcpipe_connector_state", "cdcpipe_dead_letters_total"),
}


@pytest.mark.criterion("R6.1")
def test_throughput_latency_and_errors_can_be_scraped_and_are_true(
    pipeline: Pipeline, load: Load, watching: Watching, evidence: Evidence
) -> None:
    from cdcpipe.errors import EvidenceError
    from cdcpipe.stack.catalog import open_catalog
    from cdcpipe.stack.component import wait_until

    topics = [pipeline.topic_of(table) for table in pipeline.shop.tables]
    catalog = open_catalog(pipeline.endpoints)

    def archived() -> dict[str, float]:
        found = {}
        for topic in filter(catalog.table_exists, topics):
            snapshot = catalog.load_table(topic).current_snapshot()
            assert snapshot is not None
            assert snapshot.summary is not None
            found[topic] = float(snapshot.summary["total-records"] or 0)
        return found

    def agrees() -> bool:
        told = watching.scrape().values("cdcpipe_archive_rows")
        return all(told.get((topic,)) == count for topic, count in archived().items())

    try:
        wait_until(agrees, what="the metrics to say what is archived", timeout_seconds=30, error=EvidenceError)
        true = True
    except EvidenceError:
        true = False
    scrape = watching.scrape()
    missing = {word: [name for name in names if name not in scrape.names] for word, names in WANTED.items()}
    lag = scrape.value("cdcpipe_lag_seconds", hop="commit_to_archive")
    evidence.figure("series", len(scrape.samples))
    rows = scrape.values("cdcpipe_archive_rows")
    evidence.figure("rows archived, as a metric", sum(rows.get((topic,), 0) for topic in topics))
    evidence.figure("rows archived, as the catalog says", sum(archived().values()))
    evidence.figure("lag to the archive, as a metric", lag if lag is not None else "none", "s")
    evidence.figure("scrapes under load", len(load.scrapes))
    evidence.artefact("metrics.txt", scrape.text)
    for word, names in missing.items():
        assert names == [], f"no metric of {word}: {', '.join(names)} can't be scraped"
    assert true, "the rows that the metrics tell are not those of the archive"
    assert lag is not None
    assert 0 < lag < 300
    # A clock of our own: what was seen while the load ran must have grown with it.
    assert len(load.scrapes) >= 2, "it could not be scraped while the load ran"
    first, last = (each.value("cdcpipe_events_total", hop="log") or 0 for each in (load.scrapes[0], load.scrapes[-1]))
    assert last > first


@pytest.mark.criterion("R6.2")
def test_an_alert_fires_when_a_component_is_killed_and_clears_when_it_is_back(
    pipeline: Pipeline, watching: Watching, faults: Faults, evidence: Evidence
) -> None:
    from cdcpipe.conformance.watching import AlertNotSeen

    bound, component = evidence.bound("alert_seconds"), "registry"
    faults.demand(component)
    alert = ("ComponentDown", component)
    with watching.prometheus() as prometheus:
        before = prometheus.firing()
        try:
            with faults.kill(component):
                fired = prometheus.await_firing(alert, firing=True, timeout_seconds=bound)
            begin = time.monotonic()
            prometheus.await_firing(alert, firing=False, timeout_seconds=bound)
            cleared = time.monotonic() - begin
        except AlertNotSeen as error:
            evidence.figure("component killed", component)
            pytest.fail(error.message)
    evidence.figure("component killed", component)
    evidence.figure("alert after", round(fired, 1), "s")
    evidence.figure("cleared after its return", round(cleared, 1), "s")
    evidence.figure("Prometheus", prometheus.version)
    assert alert not in before, "the alert fired before anything was killed"


@pytest.mark.criterion("R6.3")
def test_every_components_log_can_be_read_and_a_failure_stands_in_it(pipeline: Pipeline, evidence: Evidence) -> None:
    from cdcpipe.errors import EvidenceError, PostgresError
    from cdcpipe.stack.component import wait_until

    components = pipeline.stack.components
    if not components:
        evidence.inconclusive("this target doesn't tell how to read its logs: `log` of each component is needed")
    mark = f"missing_{pipeline.token}"
    with pytest.raises(PostgresError):
        pipeline.execute(f"SELECT * FROM {mark}")
    lines = {name: component.log_tail(2_000) for name, component in components.items()}

    def noted() -> bool:
        lines["postgres"] = components["postgres"].log_tail(2_000) if "postgres" in components else []
        return any(mark in line for line in lines["postgres"])

    try:
        wait_until(noted, what="the failed statement in PostgreSQL's log", timeout_seconds=20, error=EvidenceError)
        found = True
    except EvidenceError:
        found = False
    evidence.figure("components", len(lines))
    for name, text in lines.items():
        evidence.figure(f"lines of {name}", len(text))
        evidence.artefact(f"{name}.log", "\n".join(text))
    silent = [name for name, text in lines.items() if not text]
    assert silent == [], f"{', '.join(silent)} left no log"
    assert found, "a statement that failed does not stand in PostgreSQL's log"


@pytest.mark.criterion("R6.4")
def test_memory_and_cpu_of_each_component_are_metrics_and_true(
    pipeline: Pipeline, load: Load, watching: Watching, evidence: Evidence
) -> None:
    from cdcpipe.errors import EvidenceError
    from cdcpipe.stack.component import wait_until

    components = pipeline.stack.components
    if not components:
        evidence.inconclusive("this target doesn't tell how to measure its components: `memory` of each is needed")

    def complete() -> bool:
        scrape = watching.scrape()
        wanted = {(name,) for name in components}
        return all(
            wanted <= set(scrape.values(f"cdcpipe_component_{name}")) for name in ("memory_bytes", "cpu_seconds_total")
        )

    try:
        wait_until(complete, what="memory and CPU of each component", timeout_seconds=45, error=EvidenceError)
    except EvidenceError as error:
        evidence.figure("components", len(components))
        pytest.fail(f"not among the metrics: {error.message}")
    scrape, measured = watching.scrape(), pipeline.stack.memory_bytes()
    memory = {name: scrape.value("cdcpipe_component_memory_bytes", component=name) or 0 for name in components}
    seconds = {name: scrape.value("cdcpipe_component_cpu_seconds_total", component=name) or 0 for name in components}
    for name in components:
        evidence.figure(name, f"{memory[name] / 1e6:,.0f} MB, {seconds[name]:,.1f} s of CPU")
    evidence.figure("sum, as a metric", sum(memory.values()) / 1e9, "GB")
    evidence.figure("sum, as the operating system says", sum(measured.values()) / 1e9, "GB")
    # Not every kind of component can tell its CPU: `Component` doesn't ask for it.
    used = {name: getattr(component, "cpu_seconds", lambda: 0.0)() for name, component in components.items()}
    unmeasured = sorted(name for name in components if not measured.get(name) or not used[name])
    if unmeasured:
        evidence.inconclusive(f"memory and CPU of {', '.join(unmeasured)} can't be measured on this target")
    for name in components:
        assert memory[name] == pytest.approx(measured[name], rel=0.4), f"the memory of {name} is told wrongly"
        assert seconds[name] > 0, f"{name} is told to have used no CPU at all"


@pytest.mark.criterion("R6.5")
def test_an_anomaly_of_data_quality_is_reported_and_good_data_is_not(
    pipeline: Pipeline, tables: dict[str, str], tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import archived_rows, await_archived
    from cdcpipe.observe.quality import History, check_archive
    from cdcpipe.observe.quality.run import archived_tables
    from cdcpipe.settings import QualitySettings

    table = tables["quality"]
    file = tmp_path / "expectations.py"
    file.write_text(
        "import pandera.ibis as pa\n\n\n"
        "class Quality(pa.DataFrameModel):\n"
        "    amount: int = pa.Field(ge=0, nullable=True)\n\n"
        f"    class Config:\n        name = {table!r}\n\n\n"
        "EXPECTATIONS = [Quality]\n",
        encoding="utf-8",
    )
    others = [each for each in archived_tables(pipeline.endpoints, QualitySettings(ignore_tables=())) if each != table]
    settings = QualitySettings(expectations=file, bucket_seconds=10, ignore_tables=tuple(others))
    history = History(tmp_path / "quality")
    pipeline.execute(f"INSERT INTO {table} SELECT i, i * 3, 'good' FROM generate_series(1, 50) i")
    await_archived(pipeline, table, 50)
    good = check_archive(pipeline.endpoints, history, settings)
    pipeline.execute(f"INSERT INTO {table} VALUES (51, -7, 'planted'); UPDATE {table} SET amount = -1 WHERE id = 3")
    await_archived(pipeline, table, 52)
    bad = check_archive(pipeline.endpoints, history, settings)
    evidence.figure("rows", len(archived_rows(pipeline, table)))
    evidence.figure("anomalies planted", 2)
    evidence.figure("reported without one", len(good.unmet))
    evidence.figure("reported", "; ".join(each.sentence for each in bad.unmet) or "nothing")
    if any(table in problem for problem in (*good.problems, *bad.problems)):
        evidence.inconclusive("; ".join((*good.problems, *bad.problems)))
    assert good.unmet == (), f"good data was reported: {good.unmet[0].sentence if good.unmet else ''}"
    assert [(each.table, each.column) for each in bad.unmet] == [(table, "amount")], "the anomaly was not reported"
    assert bad.verdict == "fail"
