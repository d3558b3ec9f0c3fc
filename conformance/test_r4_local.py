"""R4, local development: where it runs, and what it takes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline


@pytest.mark.criterion("R4.1")
def test_the_pipeline_runs_on_docker_desktop_on_windows(pipeline: Pipeline, evidence: Evidence) -> None:
    done = subprocess.run(
        ["docker", "info", "--format", "{{json .}}"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        evidence.inconclusive(f"the container engine can't be asked: {done.stderr.strip()[-200:]}")
    info = json.loads(done.stdout)
    evidence.figure("engine", f"{info.get('OperatingSystem')} {info.get('ServerVersion')}")
    evidence.figure("kernel", str(info.get("KernelVersion")))
    if info.get("OperatingSystem") != "Docker Desktop":
        evidence.inconclusive(f"this engine is {info.get('OperatingSystem')}, not Docker Desktop")
    if "microsoft" not in str(info.get("KernelVersion")).lower():
        evidence.inconclusive("this Docker Desktop runs on a system that is not Windows")
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
    assert facts["container runtime"].startswith("containerd://"), facts["container runtime"]
    assert facts["provider"].startswith("kind://"), f"the node is {facts['provider']}, not one of kind's"
    assert images >= {pod.spec.containers[0].image for pod in stack.kube.pods()}
    evidence.figure("seconds for a row to the archive", round(pipeline.probe(archive=True), 1))


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


@pytest.mark.criterion("R4.2")
def test_the_cluster_is_kind_and_images_lie_in_containerds_store(pipeline: Pipeline, evidence: Evidence) -> None:
    from cdcpipe.stack.kind.stack import KindStack

    stack = pipeline.stack
    if not isinstance(stack, KindStack):
        evidence.inconclusive("this is no kind stack of ours")
    node = stack.kube.node()
    done = subprocess.run(
        ["docker", "info", "--format", "{{json .DriverStatus}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    store = dict(json.loads(done.stdout or "[]") or []).get("driver-type", "the engine's own")
    evidence.figure("node", f"{node.metadata.name}, Kubernetes {node.status.node_info.kubelet_version}")
    evidence.figure("container runtime", str(node.status.node_info.container_runtime_version))
    evidence.figure("provider", str(node.spec.provider_id))
    evidence.figure("image store of the engine", str(store))
    assert str(node.spec.provider_id).startswith("kind://"), f"the node is of {node.spec.provider_id}"
    assert str(node.status.node_info.container_runtime_version).startswith("containerd://")
    if "containerd" not in str(store):
        evidence.inconclusive(f"the engine keeps images in {store} store, not in containerd's")


@pytest.mark.criterion("R4.3")
def test_postgresql_and_kafka_keep_their_data_when_their_pods_are_deleted(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import await_records, records
    from cdcpipe.errors import ComponentFailed
    from cdcpipe.stack.component import wait_until
    from cdcpipe.stack.kind.stack import KindStack

    stack, table = pipeline.stack, tables["traced"]
    if not isinstance(stack, KindStack):
        evidence.inconclusive("this is no kind stack of ours")
    pods = {"postgres": "postgres-0", "kafka-1": "kafka-1"}
    names = {each.metadata.name for each in stack.kube.pods()}
    pods = {name: pod if pod in names else f"{pod}-0" for name, pod in pods.items()}
    claims = {}
    for name, pod in pods.items():
        found = stack.kube.pod(pod)
        volumes = [] if found is None else found.spec.volumes
        claims[name] = [each.persistent_volume_claim.claim_name for each in volumes if each.persistent_volume_claim]
    pipeline.execute(f"INSERT INTO {table} SELECT i, 'kept' FROM generate_series(2001, 2020) i")
    before = len(await_records(pipeline, table, 20))
    for name, pod in pods.items():
        stack.kube.delete_pod(pod, force=True)
        wait_until(
            lambda name=name: stack.components[name].readiness().ready,  # type: ignore[misc]
            what=f"`{name}` ready in a new pod",
            timeout_seconds=180,
            interval_seconds=1,
            error=lambda text, name=name: ComponentFailed(name, text),  # type: ignore[misc]
        )
    with pipeline.sql() as connection:
        rows = (connection.execute(f"SELECT count(*) FROM {table} WHERE id > 2000").fetchone() or [0])[0]
    pipeline.revive()
    after = len(records(pipeline, table))
    evidence.figure("claims", ", ".join(claim for each in claims.values() for claim in each) or "none")
    evidence.figure("rows in PostgreSQL before and after", f"20, {rows}")
    evidence.figure("records in Kafka before and after", f"{before}, {after}")
    assert all(claims.values()), f"no volume claim: {[name for name, each in claims.items() if not each]}"
    assert rows == 20
    assert after >= before
