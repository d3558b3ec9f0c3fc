"""What a kind stack shows of itself: facts of its cluster, claims, and every place where a credential could stand."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx2
from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdcpipe.errors import ConnectUnavailable, KafkaError, StackError
from cdcpipe.stack.component import wait_until

if TYPE_CHECKING:
    from cdcpipe.stack.kind.stack import KindStack

__all__ = ["await_other_pod", "claims", "credentials", "facts", "leaks", "own_images", "places"]


def facts(stack: KindStack) -> dict[str, str]:
    """Kubernetes, container runtime and provider of the node, as the node says it."""
    node = stack.kube.node()
    info = node.status.node_info
    return {
        "kubernetes": str(info.kubelet_version),
        "container runtime": str(info.container_runtime_version),
        "provider": str(node.spec.provider_id),
        "system of the node": str(info.os_image),
    }


def own_images(stack: KindStack) -> set[str]:
    """Names of our images in the node's containerd."""
    return {name for name in stack.cluster.loaded() if name.startswith("cdcpipe/")}


def claims(stack: KindStack) -> dict[str, str]:
    """Claim of a volume -> its phase, such as `Bound`."""
    text = stack.cluster.kubectl("--namespace", "cdcpipe", "get", "pvc", "-o", "json", what="asking for claims")
    return {item["metadata"]["name"]: item["status"]["phase"] for item in json.loads(text)["items"]}


def await_other_pod(stack: KindStack, name: str, uid: str, *, timeout_seconds: float = 120) -> None:
    """Wait until the pod `name` is another one than that of `uid`. Raises `StackError`."""

    def replaced() -> bool:
        pod = stack.kube.pod(name)
        return pod is not None and pod.metadata.uid != uid

    wait_until(
        replaced, what=f"another pod `{name}`", timeout_seconds=timeout_seconds, interval_seconds=0.5, error=StackError
    )


def credentials(stack: KindStack) -> set[str]:
    """Every secret value that was generated for the stack."""
    secret = stack.kube.secret("cdcpipe-credentials")
    if secret is None:
        raise StackError("the cluster has no credentials")
    content = json.loads(secret["credentials.json"])
    keys = {content["s3_admin"][1], content["s3_pipeline"][1]}
    return keys | {password for _, password in content["roles"].values()}


def leaks(values: set[str], text: str) -> int:
    """How many of `values` stand in `text`, plain or as base64."""
    return sum(value in text or base64.b64encode(value.encode()).decode().rstrip("=") in text for value in values)


def places(stack: KindStack) -> Iterator[tuple[str, str]]:
    """Everywhere but Secrets and their mounts: a place, and all that stands there."""
    for kinds in ("configmaps", "pods", "statefulsets,deployments,controllerrevisions", "services,events"):
        text = stack.cluster.kubectl("--namespace", "cdcpipe", "get", kinds, "-o", "json", what=f"asking for {kinds}")
        yield kinds, text
    for name, component in stack.components.items():
        script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'"
        yield f"environment and arguments of {name}", stack.kube.exec(component.pod, script)
        yield f"log of {name}", "\n".join(component.log_tail(100_000))
    yield "connector configs", _connectors(stack)
    yield "Connect's config topic", _config_topic(stack)


def _connectors(stack: KindStack) -> str:
    url = f"{stack.endpoints.connect_url}/connectors?expand=info&expand=status"
    try:
        return httpx2.get(url, timeout=20, trust_env=False).text
    except httpx2.HTTPError as error:
        raise ConnectUnavailable(f"the connectors can't be read: {error}") from error


def _config_topic(stack: KindStack) -> str:
    topic = stack.endpoints.connect_config_topic
    consumer = Consumer(
        {"bootstrap.servers": stack.endpoints.bootstrap_servers, "group.id": "cdcpipe-scan", "log_level": 0}
    )
    try:
        end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[1]
        consumer.assign([TopicPartition(topic, 0, 0)])
        lines: list[str] = []
        while consumer.position([TopicPartition(topic, 0)])[0].offset < end:
            found = consumer.consume(1000, timeout=10)
            if not found:
                raise KafkaError(f"`{topic}` was not read to its end")
            for record in found:
                value = record.value()
                lines.append(value.decode("utf-8", "replace") if isinstance(value, bytes) else "")
        return "\n".join(lines)
    except KafkaException as error:
        raise KafkaError(f"`{topic}` can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
