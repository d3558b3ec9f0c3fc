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
