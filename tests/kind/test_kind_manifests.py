"""deploy/kind as files: what Kubernetes would refuse, what would leak, what would not fit. Needs no cluster."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdcpipe.errors import UsageError
from cdcpipe.observe.cluster import write_files
from cdcpipe.settings import load_settings
from cdcpipe.stack.existing import endpoints_of
from cdcpipe.stack.kind.kube import quantity_bytes
from cdcpipe.stack.kind.monitoring import scraping
from cdcpipe.stack.kind.plan import (
    PORTS,
    KindPlan,
    secret_places,
    secrets_of,
    worker_config,
    write_worker_properties,
)
from cdcpipe.stack.local.kafka import Broker
from cdcpipe.stack.local.state import Credentials
from cdcpipe.stack.pipeline import sink

KIND = Path(__file__).parents[2] / "deploy" / "kind"
OVERLAYS = sorted(path.name for path in (KIND / "overlays").iterdir())
# Kubernetes itself on a one-node cluster, as measured when nothing else runs.
CLUSTER_BYTES = 440 << 20
# What its own pods request, kindnet among them.
CLUSTER_MILLICORES = 950


def _has_kubectl() -> bool:
    try:
        subprocess.run(["kubectl", "version", "--client"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_kubectl(), reason="needs kubectl, which builds the manifests")


@cache
def _objects(overlay: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KIND / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def _pods(overlay: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name, pod spec and replicas of every set."""
    for item in _objects(overlay):
        if item["kind"] in ("StatefulSet", "Deployment"):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"], item["spec"]["replicas"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_the_restricted_pod_security_standard_and_a_read_only_root(overlay: str) -> None:
    for name, spec, _ in _pods(overlay):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert pod["runAsUser"] > 0, name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert not any("hostPath" in volume for volume in spec["volumes"]), name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_probes_requests_and_a_memory_limit(overlay: str) -> None:
    for name, spec, _ in _pods(overlay):
        for container in spec["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= set(container), name
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
        assert spec["terminationGracePeriodSeconds"] >= 5, name


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "s3-aws"])
def test_all_memory_limits_and_the_cluster_fit_into_4_gb(overlay: str) -> None:
    limits = sum(
        replicas * quantity_bytes(container["resources"]["limits"]["memory"])
        for _, spec, replicas in _pods(overlay)
        for container in spec["containers"]
    )
    assert limits + CLUSTER_BYTES <= 4 << 30, f"{(limits + CLUSTER_BYTES) / (1 << 20):.0f} MiB"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_cpu_requests_fit_on_two_cores_beside_the_cluster(overlay: str) -> None:
    """A pod whose request doesn't fit waits for ever, however idle the node is."""
    asked = sum(
        replicas * int(container["resources"]["requests"]["cpu"].removesuffix("m"))
        for _, spec, replicas in _pods(overlay)
        for container in spec["containers"]
    )
    assert asked + CLUSTER_MILLICORES <= 2000, f"{asked + CLUSTER_MILLICORES}m"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_connect_waits_for_what_a_starting_task_would_fail_for_good_without(overlay: str) -> None:
    places = {item["metadata"]["name"]: item["spec"] for item in _objects(overlay) if item["kind"] == "Service"}
    pods = {name: spec for name, spec, _ in _pods(overlay)}
    (first,) = pods["connect"]["initContainers"]
    assert first["image"] == pods["connect"]["containers"][0]["image"]
    line = first["args"][0].splitlines()[0]
    awaited = dict(re.findall(r"(\w+)/(\d+)", line))
    assert set(awaited) == {"postgres", "registry"}
    for name, port in awaited.items():
        assert int(port) in [entry["port"] for entry in places[name]["ports"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_postgres_and_kafka_keep_their_data_on_claims_that_outlive_them(overlay: str) -> None:
    sets = {item["metadata"]["name"]: item["spec"] for item in _objects(overlay) if item["kind"] == "StatefulSet"}
    for name in ("postgres", "kafka"):
        assert [claim["metadata"]["name"] for claim in sets[name]["volumeClaimTemplates"]] == ["data"]
        kept = {"whenDeleted": "Retain", "whenScaled": "Retain"}
        assert sets[name]["persistentVolumeClaimRetentionPolicy"] == kept


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_a_manifest_and_none_comes_by_environment(overlay: str) -> None:
    for item in _objects(overlay):
        assert item["kind"] != "Secret"
        text = json.dumps(item)
        assert "secretKeyRef" not in text
        assert "secretRef" not in text
        if item["kind"] == "ConfigMap":
            content = "\n".join(item["data"].values())
            assert not re.search(r"(?im)^[^#\n]*(password|secret[._-]?(access[._-]?)?key)\s*=\s*\S", content)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_set_has_a_disruption_budget_and_is_selected_by_a_network_policy(overlay: str) -> None:
    objects = _objects(overlay)
    budgets = {item["metadata"]["name"] for item in objects if item["kind"] == "PodDisruptionBudget"}
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    nothing = [policy for policy in policies if policy["podSelector"] == {}]
    assert nothing
    assert sorted(nothing[0]["policyTypes"]) == ["Egress", "Ingress"]
    assert "ingress" not in nothing[0]
    for name, _, _ in _pods(overlay):
        # What watches, and what breaks on purpose, may go at any time.
        assert name in budgets or name in ("toxiproxy", "monitor", "prometheus", "alertmanager"), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_node_port_is_published_on_loopback_by_the_cluster(overlay: str) -> None:
    cluster = yaml.safe_load((KIND / "cluster.yaml").read_text(encoding="utf-8"))
    mappings = cluster["nodes"][0]["extraPortMappings"]
    assert {mapping["listenAddress"] for mapping in mappings} == {"127.0.0.1"}
    published = {mapping["containerPort"] for mapping in mappings}
    assert published == set(PORTS.values())
    assert all(mapping["hostPort"] == mapping["containerPort"] for mapping in mappings)
    used = {
        port["nodePort"]
        for item in _objects(overlay)
        if item["kind"] == "Service" and item["spec"].get("type") == "NodePort"
        for port in item["spec"]["ports"]
    }
    assert used <= published


def test_the_committed_worker_properties_are_what_the_pipeline_says(tmp_path: Path) -> None:
    for place in ("base/config", "components/brokers-3", "components/chaos"):
        (tmp_path / place).mkdir(parents=True)
    for path in write_worker_properties(tmp_path):
        committed = KIND / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), (
            f"{committed} is not what the pipeline's settings give now: run "
            "`python -c 'from cdcpipe.stack.kind.plan import *; write_worker_properties()'`"
        )


def test_the_committed_files_of_monitoring_are_what_the_code_says(tmp_path: Path) -> None:
    for path in write_files(tmp_path):
        committed = KIND / "components" / "monitoring" / path.name
        assert committed.read_text() == path.read_text(), (
            f"{committed} is not what it should be now: run "
            "`python -c 'from cdcpipe.observe.cluster import *; write_files()'`"
        )


def test_the_monitors_settings_are_read_as_those_of_a_pipeline_in_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = Credentials.new()
    text = secrets_of(KindPlan(brokers=3, chaos=True, monitoring=True), credentials)["monitor"]["cdcpipe.toml"]
    (tmp_path / "cdcpipe.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.endpoints is not None
    endpoints = endpoints_of(settings.endpoints)
    assert endpoints.postgres.host == "postgres"  # not toxiproxy: a link that is cut isn't the monitor's
    assert endpoints.connect_url == "http://connect:8083"
    assert endpoints.postgres.roles["witness"].password == credentials.roles["witness"].password
    assert set(settings.monitor.metrics) == {"kafka-1", "kafka-2", "kafka-3", "connect", "registry", "s3"}


def test_prometheus_scrapes_each_broker() -> None:
    one = (KIND / "components" / "monitoring" / "prometheus.yml").read_text()
    assert yaml.safe_load(scraping(one, 1)) == yaml.safe_load(one)
    three = scraping(one, 3)
    assert all(f"kafka-{node}.kafka-nodes:9404" in three for node in (1, 2, 3))


def test_a_monitor_in_the_cluster_is_refused_where_it_could_not_read_the_archive() -> None:
    with pytest.raises(UsageError, match="no right to read a bucket of AWS"):
        KindPlan(monitoring=True, bucket="lake", role_arn="arn:aws:iam::000000000000:role/sink")


@pytest.mark.parametrize(("place", "brokers"), [("base/config", 1), ("components/brokers-3", 3)])
def test_a_broker_here_is_configured_as_one_of_the_local_stack(place: str, brokers: int, tmp_path: Path) -> None:
    cluster = dict.fromkeys(range(1, brokers + 1), (9092, 9093))
    local = Broker(
        1,
        cluster,
        jars=tmp_path,
        version="",
        folder=tmp_path,
        log_folder=tmp_path,
        cluster_id="",
        heap_mb=1,
        aot=tmp_path,
    )._config()
    lines = (KIND / place / "server.properties").read_text().splitlines()
    here = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    # Addresses and folders, and who may be a voter, differ by their nature.
    own = {"node.id", "log.dirs", "listeners", "advertised.listeners", "listener.security.protocol.map"}
    own |= {"controller.quorum.voters"}
    assert {key: value for key, value in here.items() if key not in own} == {
        key: value for key, value in local.items() if key not in own
    }


def test_a_worker_reads_credentials_from_its_mounted_secret_only() -> None:
    config = worker_config(KindPlan()).to_config()
    assert config["config.providers"] == "directory"
    assert config["config.providers.directory.param.allowed.paths"] == "/etc/cdcpipe/secrets"


def test_a_pod_finds_its_servers_by_name_and_a_client_outside_by_loopback() -> None:
    credentials = Credentials.new()
    for plan in (KindPlan(), KindPlan(brokers=3), KindPlan(chaos=True)):
        inside, outside = plan.inside(credentials), plan.outside(credentials)
        assert "127.0.0.1" not in f"{inside.bootstrap_servers} {inside.postgres.host} {inside.s3.url}"
        assert all(address.startswith("127.0.0.1:") for address in outside.bootstrap_servers.split(","))
        assert inside.catalog is not None
        assert inside.catalog.postgres.host == inside.postgres.host


def test_with_a_role_the_sink_has_no_key_and_asks_for_encryption() -> None:
    plan = KindPlan(bucket="lake-of-ours", region="eu-central-1", role_arn="arn:aws:iam::000000000000:role/sink")
    config = sink(plan.inside(Credentials.new()), plan.settings, secret_places()).to_config()
    assert [key for key in config if "access-key" in key or key.endswith("s3.endpoint")] == []
    assert config["iceberg.catalog.s3.sse.type"] == "s3"
    assert config["iceberg.catalog.client.region"] == "eu-central-1"
    assert config["iceberg.catalog.warehouse"] == "s3://lake-of-ours/warehouse"
    assert set(secrets_of(plan, Credentials.new())["pipeline"]) == {"replication_password", "catalog_password"}


@pytest.mark.parametrize("path", sorted(KIND.rglob("*")), ids=lambda path: str(path.relative_to(KIND)))
def test_every_file_has_unix_line_ends(path: Path) -> None:
    if path.is_file():
        assert b"\r" not in path.read_bytes()
