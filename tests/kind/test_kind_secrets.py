"""Credentials are in Secrets and in mounted files, and nowhere else: each generated value is looked for everywhere."""

from __future__ import annotations

import base64
import json
import subprocess

import httpx2
import pytest
from confluent_kafka import Consumer, TopicPartition

from cdcpipe.stack.kind.stack import KindStack

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


def _values(stack: KindStack) -> set[str]:
    """Every credential that was generated."""
    secret = stack.kube.secret("cdcpipe-credentials")
    assert secret is not None
    content = json.loads(secret["credentials.json"])
    keys = {content["s3_admin"][1], content["s3_pipeline"][1]}
    return keys | {password for _, password in content["roles"].values()}


def _leaks(stack: KindStack, text: str) -> list[str]:
    """Which credentials stand in `text`, plain or as base64."""
    values = _values(stack)
    encoded = {base64.b64encode(value.encode()).decode().rstrip("=") for value in values}
    return sorted(value[:4] + "***" for value in values | encoded if value in text)


def _kubectl(stack: KindStack, *arguments: str) -> str:
    return stack.cluster.kubectl("--namespace", "cdcpipe", *arguments, what="asking the cluster")


def test_there_are_eight_credentials_and_the_search_finds_them_where_they_are(kind_stack: KindStack) -> None:
    assert len(_values(kind_stack)) == 8
    assert len(_leaks(kind_stack, _kubectl(kind_stack, "get", "secrets", "-o", "json"))) >= 6
    mounted = kind_stack.kube.exec("connect-0", "cat /etc/cdcpipe/secrets/*")
    assert len(_leaks(kind_stack, mounted)) == 3


@pytest.mark.parametrize(
    "kinds", ["configmaps", "pods,statefulsets,deployments,controllerrevisions", "services,events,serviceaccounts"]
)
def test_no_credential_stands_in_an_object_of_the_cluster(kind_stack: KindStack, kinds: str) -> None:
    text = _kubectl(kind_stack, "get", kinds, "-o", "json")
    assert len(text) > 500
    assert _leaks(kind_stack, text) == []


def test_no_credential_is_in_an_environment_or_an_argument_of_any_process(kind_stack: KindStack) -> None:
    for component in kind_stack.components.values():
        text = kind_stack.kube.exec(component.pod, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        assert "PATH=" in text
        assert _leaks(kind_stack, text) == [], component.name


def test_no_credential_is_in_a_connector_config_or_in_connects_own_topics(kind_stack: KindStack) -> None:
    endpoints = kind_stack.endpoints
    answer = httpx2.get(f"{endpoints.connect_url}/connectors?expand=info&expand=status", timeout=20, trust_env=False)
    assert "${directory:/etc/cdcpipe/secrets:" in answer.text
    assert _leaks(kind_stack, answer.text) == []
    consumer = Consumer({"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "scan", "log_level": 0})
    try:
        consumer.assign([TopicPartition("cdc.connect-configs", 0, 0)])
        records = consumer.consume(10_000, timeout=10)
        text = "\n".join((record.value() or b"").decode("utf-8", "replace") for record in records)
    finally:
        consumer.close()
    assert "connector.class" in text
    assert _leaks(kind_stack, text) == []


def test_no_credential_is_in_a_log(kind_stack: KindStack) -> None:
    for component in kind_stack.components.values():
        text = "\n".join(component.log_tail(100_000))
        assert text, component.name
        assert _leaks(kind_stack, text) == [], component.name


def test_no_credential_is_in_an_image(kind_stack: KindStack) -> None:
    for image in kind_stack.build():
        done = subprocess.run(
            ["docker", "image", "inspect", image.name], capture_output=True, text=True, check=True, timeout=60
        )
        assert _leaks(kind_stack, done.stdout) == []
        # No credential existed when it was built, and what pods mount isn't part of it.
        files = subprocess.run(
            ["docker", "run", "--rm", "--entrypoint", "/bin/sh", image.name, "-c", "ls /etc/cdcpipe 2>/dev/null; env"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert "secrets" not in files.stdout
