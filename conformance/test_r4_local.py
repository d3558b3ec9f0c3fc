"""R4, local development: where it runs, and what it takes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline


@pytest.mark.criterion("R4.1")
def test_the_pipeline_runs_on_docker_desktop_on_windows(pipeline: Pipeline, evidence: Evidence) -> None:
    info = _engine()
    if not info:
        evidence.inconclusive("the container engine can't be asked: `docker info` fails")
    evidence.figure("engine", f"{info.get('OperatingSystem')} {info.get('ServerVersion')}")
    evidence.figure("kernel", str(info.get("KernelVersion")))
    if info.get("OperatingSystem") != "Docker Desktop":
        evidence.not_applicable(f"this engine is {info.get('OperatingSystem')}, not Docker Desktop")
    if "microsoft" not in str(info.get("KernelVersion")).lower():
        evidence.not_applicable("this Docker Desktop runs on a system that is not Windows")
    evidence.figure("seconds for a row to the archive", round(pipeline.probe(archive=True), 1))


@pytest.mark.criterion("R4.4")
def test_the_archive_is_written_to_aws_itself(pipeline: Pipeline, evidence: Evidence) -> None:
    s3 = pipeline.endpoints.s3
    if s3.url is not None and not s3.url.rstrip("/").endswith(".amazonaws.com"):
        evidence.not_applicable(f"this pipeline writes to an S3 server of its own, {s3.url}")
    evidence.figure("bucket", s3.bucket)
    evidence.figure("region", s3.region)
    evidence.figure("seconds for a row to the archive", round(pipeline.probe(archive=True), 1))


@pytest.mark.criterion("R4.5")
def test_all_components_together_stay_below_four_gigabytes(pipeline: Pipeline, load: Load, evidence: Evidence) -> None:
    bound, peak = evidence.bound("memory_bytes"), load.peak_memory
    wanted = set(pipeline.stack.components)
    evidence.figure("peak of the sum", peak.get("all", 0) / 1e9, "GB")
    for name, size in peak.items():
        if name != "all":
            evidence.figure(name, size / 1e6, "MB")
    evidence.figure("at", load.work.achieved_rate, "events/s")
    if not wanted:
        evidence.inconclusive("this target doesn't tell how to measure its components: `memory` of each is needed")
    unmeasured = sorted(name for name in wanted if not peak.get(name))
    if unmeasured:
        evidence.inconclusive(f"the memory of {', '.join(unmeasured)} was not measured")
    assert peak["all"] <= bound, f"at its peak the pipeline took {peak['all'] / 1e9:.2f} GB"


@pytest.mark.criterion("R4.2")
def test_the_cluster_is_kind_and_its_node_runs_containerd(pipeline: Pipeline, evidence: Evidence) -> None:
    from cdcpipe.stack.kind import looking
    from cdcpipe.stack.kind.stack import KindStack

    stack = pipeline.stack
    assert isinstance(stack, KindStack)
    facts, images = looking.facts(stack), looking.own_images(stack)
    for what, text in facts.items():
        evidence.figure(what, text)
    evidence.figure("images of ours in the node's store", len(images))
    engine = _engine()
    status = dict(engine.get("DriverStatus") or [])
    evidence.figure("engine", f"{engine.get('OperatingSystem')} {engine.get('ServerVersion')}")
    evidence.figure("its own image store", status.get("driver-type") or engine.get("Driver") or "not told")
    assert facts["container runtime"].startswith("containerd://"), facts["container runtime"]
    assert facts["provider"].startswith("kind://"), f"the node is {facts['provider']}, not one of kind's"
    assert images >= {pod.spec.containers[0].image for pod in stack.kube.pods()}
    if engine.get("OperatingSystem") == "Docker Desktop":  # there the engine's store is a setting; elsewhere it has one
        assert "containerd" in str(status.get("driver-type")), "Docker Desktop does not use the containerd image store"
    evidence.figure("seconds for a row to the archive", round(pipeline.probe(archive=True), 1))


def _engine() -> dict[str, Any]:
    """What `docker info` says."""
    done = subprocess.run(
        ["docker", "info", "--format", "{{json .}}"], capture_output=True, text=True, check=False, timeout=60
    )
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return found


@pytest.mark.criterion("R4.3")
def test_data_is_still_there_after_the_pods_of_postgres_and_kafka_were_deleted(
    pipeline: Pipeline, evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import await_archived, await_records
    from cdcpipe.stack.kind import looking
    from cdcpipe.stack.kind.stack import KindStack

    stack = pipeline.stack
    assert isinstance(stack, KindStack)
    table = pipeline.table("kept", "id int PRIMARY KEY, note text NOT NULL")
    claims = looking.claims(stack)
    for name, phase in claims.items():
        evidence.figure(f"claim {name}", phase)
    kept = [name for name in stack.components if name == "postgres" or name.startswith("kafka-")]
    bound = {claim for claim, phase in claims.items() if phase == "Bound"}
    assert {f"data-{stack.components[name].pod}" for name in kept} <= bound
    pipeline.execute(f"INSERT INTO {table} SELECT n, 'before' FROM generate_series(1, 200) AS n")
    before = {(record.partition, record.offset) for record in await_records(pipeline, table, 200)}
    uids = {pod.metadata.name: pod.metadata.uid for pod in stack.kube.pods()}
    for name in kept:
        stack.components[name].delete()
    for name in kept:
        looking.await_other_pod(stack, stack.components[name].pod, uids[stack.components[name].pod])
    for component in stack.components.values():
        component.await_ready(timeout_seconds=240)
    pipeline.revive()
    pipeline.execute(f"INSERT INTO {table} VALUES (201, 'after')")
    after = {(record.partition, record.offset) for record in await_records(pipeline, table, 201)}
    with pipeline.sql() as connection:
        rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    evidence.figure("pods deleted", ", ".join(stack.components[name].pod for name in kept))
    evidence.figure("rows before and after", f"200, {rows[0] if rows else 0}")
    evidence.figure("records before and after", f"{len(before)}, {len(after)}")
    assert rows == (201,)
    assert before < after, f"{len(before - after)} records are gone"
    await_archived(pipeline, table, 201, timeout_seconds=120)
