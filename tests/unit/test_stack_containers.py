"""What `--target containers` would run, without an engine; and what it says when it can't have an image."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cdcpipe.connect.properties import write_properties
from cdcpipe.errors import MachineError
from cdcpipe.settings import ContainerSettings, load_settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.certificate import Certificate, self_signed
from cdcpipe.stack.containers import ContainerPlan, ContainerSpec, ContainerStack, specifications
from cdcpipe.stack.local.state import Credentials

PORTS = {"postgres": 25001, "kafka-1": 25002, "s3": 25003, "registry": 25004, "connect": 25005}


@pytest.fixture
def plan() -> ContainerPlan:
    return ContainerPlan(PORTS, Credentials.new())


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return self_signed("s3", names=["s3"])


@pytest.fixture
def specs(plan: ContainerPlan, certificate: Certificate) -> dict[str, ContainerSpec]:
    return specifications(plan, ContainerSettings(), plugins=Path("/cache/plugins"), certificate=certificate)


def test_clients_outside_use_ports_of_loopback_and_servers_each_others_names(plan: ContainerPlan) -> None:
    outside, inside = plan.outside, plan.inside
    assert outside.bootstrap_servers == "127.0.0.1:25002"
    assert inside.bootstrap_servers == "kafka-1:19092"
    assert (outside.s3.url, inside.s3.url) == ("http://127.0.0.1:25003", "https://s3:8334")
    assert (outside.postgres.port, inside.postgres.host, inside.postgres.port) == (25001, "postgres", 5432)
    assert inside.registry_url == "http://registry:8080/apis/ccompat/v7"
    assert inside.connect_url == outside.connect_url == "http://127.0.0.1:25005"
    assert inside.postgres.roles == outside.postgres.roles


def test_the_broker_advertises_what_each_side_can_reach(specs: dict[str, ContainerSpec]) -> None:
    advertised = dict(
        each.split("://") for each in specs["kafka-1"].environment["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    assert advertised == {"INSIDE": "kafka-1:19092", "OUTSIDE": "127.0.0.1:25002"}
    assert specs["kafka-1"].environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_worker_listens_to_its_network_and_reads_secrets_from_a_file(
    plan: ContainerPlan, specs: dict[str, ContainerSpec]
) -> None:
    connect = specs["connect"]
    properties = str(connect.files["/etc/cdcpipe/worker.properties"])
    assert "listeners=http\\://0.0.0.0\\:8083" in properties or "listeners=http://0.0.0.0:8083" in properties
    assert connect.files["/opt/plugins"] == Path("/cache/plugins")
    password = str(plan.credentials.roles["replication"].password)
    assert write_properties({"x": password}).strip().partition("=")[2] in str(
        connect.files["/etc/cdcpipe/secrets/pipeline.properties"]
    )
    assert password not in properties


def test_no_command_holds_a_credential(plan: ContainerPlan, specs: dict[str, ContainerSpec]) -> None:
    secrets = [str(role.password) for role in plan.credentials.roles.values()]
    secrets += [str(plan.credentials.s3_admin[1]), str(plan.credentials.s3_pipeline[1])]
    for spec in specs.values():
        assert not any(secret in word for secret in secrets for word in spec.command), spec.name
    identities = json.loads(str(specs["s3"].files["/etc/cdcpipe/s3.json"]))["identities"]
    assert [each["name"] for each in identities] == ["admin", "pipeline"]


def test_every_image_is_a_setting(plan: ContainerPlan, certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "cdcpipe.toml").write_text('[containers]\nkafka = "own/kafka:1"\n', encoding="utf-8")
    images = load_settings(file=tmp_path / "cdcpipe.toml").containers
    specs = specifications(plan, images, plugins=tmp_path, certificate=certificate)
    assert specs["kafka-1"].image == "own/kafka:1"
    assert specs["postgres"].image.startswith("postgres:")


def _engine() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "version"], capture_output=True, check=False, timeout=60)
    return asked.returncode == 0


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("testcontainers", reason="the extra `containers` is not installed")
    # Its helper that removes what a killed test left is an image of its own, which can't be pulled everywhere.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    images = ContainerSettings(postgres="cdcpipe.invalid/no-such-image:1")
    return ContainerStack(tmp_path / "stack", images, store=Store(load_settings().cache))


@pytest.mark.skipif(not _engine(), reason="no container engine answers on this machine")
def test_an_image_that_cannot_be_had_is_named_with_its_setting_and_nothing_is_left(
    stack: ContainerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContainerStack, "_plugins", lambda self: Path("/nowhere"))
    networks = subprocess.run(["docker", "network", "ls", "-q"], capture_output=True, text=True, check=True).stdout
    with pytest.raises(
        MachineError, match=r"`postgres` can't be had from image `cdcpipe\.invalid/no-such-image:1`"
    ) as caught:
        stack.up()
    assert "[containers]" in (caught.value.hint or "")
    after = subprocess.run(["docker", "network", "ls", "-q"], capture_output=True, text=True, check=True).stdout
    assert set(after.split()) <= set(networks.split())


def test_no_engine_is_said_as_that(stack: ContainerStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContainerStack, "_plugins", lambda self: Path("/nowhere"))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(MachineError, match="the container engine can't be used"):
        stack.up()
