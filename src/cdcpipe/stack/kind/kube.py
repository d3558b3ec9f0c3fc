"""The Kubernetes API, by its official client, for one namespace: pods, logs, events, Secrets, and commands in pods."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from cdcpipe.errors import MissingExtra, StackError, StackNotRunning

__all__ = ["Kube", "Trouble"]

NAMESPACE = "cdcpipe"
_LABEL = "app.kubernetes.io/name"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A pod that isn't ready: why, as Kubernetes and its container say it."""

    pod: str
    reason: str
    events: tuple[str, ...]
    log: tuple[str, ...]

    def text(self) -> str:
        """Lines for a person."""
        lines = [f"pod `{self.pod}`: {self.reason}"]
        lines += [f"  event: {event}" for event in self.events]
        lines += [f"  log: {line}" for line in self.log]
        return "\n".join(lines)


class Kube:
    """The namespace of the stack on the cluster of `context`."""

    def __init__(self, context: str, namespace: str = NAMESPACE) -> None:
        self.context = context
        self.namespace = namespace
        self._exec_lock = threading.Lock()

    @cached_property
    def _api(self) -> Any:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise MissingExtra("kind", "a pipeline on Kubernetes") from error
        try:
            return client.CoreV1Api(config.new_client_from_config(context=self.context))
        except (config.ConfigException, OSError) as error:
            raise StackNotRunning(
                f"there is no context `{self.context}` in the kubeconfig",
                hint="bring the cluster up with `cdcpipe kind up`",
            ) from error

    @cached_property
    def _apps(self) -> Any:
        from kubernetes import client

        return client.AppsV1Api(self._api.api_client)

    def close(self) -> None:
        """Close its connections."""
        if "_api" in self.__dict__:
            self._api.api_client.rest_client.pool_manager.clear()
            self._api.api_client.close()
        for name in ("_api", "_apps", "_stream_api"):
            self.__dict__.pop(name, None)

    def _call(self, what: str, call: Any, *arguments: Any, **options: Any) -> Any:
        """Call the API; None for what isn't there. Raises `StackError`."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(*arguments, **options, _request_timeout=(5, 60))
        except ApiException as error:
            if error.status == 404:
                return None
            body = str(error.body or error.reason)
            raise StackError(f"{what}: the API server answers {error.status}", detail=body[-1000:]) from error
        except HTTPError as error:
            raise StackError(
                f"{what}: the API server doesn't answer", detail=str(error)[-500:], hint="`cdcpipe kind up` starts it"
            ) from error

    # Objects ---------------------------------------------------------------------------------------

    def apply_secret(self, name: str, data: Mapping[str, str]) -> None:
        """Make the Secret, or give it this content."""
        body = {
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "cdcpipe"}},
            "type": "Opaque",
            "data": {key: _encoded(value) for key, value in data.items()},
        }
        if self.secret(name) is None:
            self._call(f"making Secret `{name}`", self._api.create_namespaced_secret, self.namespace, body)
        else:
            self._call(f"changing Secret `{name}`", self._api.replace_namespaced_secret, name, self.namespace, body)

    def secret(self, name: str) -> dict[str, str] | None:
        """Its content, None when there is none. Bytes that are no text come as surrogates, and go back as bytes."""
        found = self._call(f"reading Secret `{name}`", self._api.read_namespaced_secret, name, self.namespace)
        if found is None:
            return None
        return {key: base64.b64decode(value).decode(errors="surrogateescape") for key, value in found.data.items()}

    def config_map(self, name: str) -> dict[str, str] | None:
        """Its content, None when there is none."""
        found = self._call(f"reading ConfigMap `{name}`", self._api.read_namespaced_config_map, name, self.namespace)
        return None if found is None else dict(found.data or {})

    def pods(self, component: str | None = None) -> list[Any]:
        """The pods of a component, or of all."""
        selector = _LABEL if component is None else f"{_LABEL}={component}"
        found = self._call("listing pods", self._api.list_namespaced_pod, self.namespace, label_selector=selector)
        return list(found.items)

    def pod(self, name: str) -> Any | None:
        """The pod, None when there is none."""
        return self._call(f"reading pod `{name}`", self._api.read_namespaced_pod, name, self.namespace)

    def delete_pod(self, name: str, *, force: bool = False) -> None:
        """Delete a pod, orderly; with `force` at once, without waiting for what its containers do."""
        options = {"grace_period_seconds": 0} if force else {}
        self._call(f"deleting pod `{name}`", self._api.delete_namespaced_pod, name, self.namespace, **options)

    def sets(self) -> list[Any]:
        """The StatefulSets and Deployments of the stack."""
        stateful = self._call("listing StatefulSets", self._apps.list_namespaced_stateful_set, self.namespace)
        deployed = self._call("listing Deployments", self._apps.list_namespaced_deployment, self.namespace)
        return [*stateful.items, *deployed.items]

    def rolled_out(self) -> tuple[list[str], list[str]]:
        """Names of the sets that are ready in their newest version, and of those that aren't."""
        ready: list[str] = []
        waiting: list[str] = []
        for item in self.sets():
            status, wanted = item.status, item.spec.replicas
            current = status.observed_generation == item.metadata.generation
            updated = (status.updated_replicas or 0) >= wanted
            is_ready = current and updated and (status.ready_replicas or 0) >= wanted
            (ready if is_ready else waiting).append(item.metadata.name)
        return ready, waiting

    def outgoing(self) -> set[str]:
        """Names of pods that are being deleted or are of another version than their StatefulSet's newest."""
        # A set that the controller hasn't looked at since it was changed doesn't know its newest version yet.
        newest = {
            item.metadata.name: item.status.update_revision
            if item.status.observed_generation == item.metadata.generation
            else None
            for item in self.sets()
            if hasattr(item.status, "update_revision")
        }
        found = set()
        for pod in self.pods():
            owner = next(
                (each.name for each in pod.metadata.owner_references or [] if each.kind == "StatefulSet"), None
            )
            revision = (pod.metadata.labels or {}).get("controller-revision-hash")
            replaced = owner in newest and revision != newest[owner]
            if replaced or pod.metadata.deletion_timestamp is not None:
                found.add(pod.metadata.name)
        return found

    # Inside a pod ----------------------------------------------------------------------------------

    def exec(self, pod: str, script: str) -> str:
        """Run a shell script in the pod's first container and give what it printed. Raises `StackError`."""
        with self._exec_lock:  # `stream` changes its client while it runs
            return self._exec(pod, script)

    def _exec(self, pod: str, script: str) -> str:
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream
        from websocket import WebSocketException

        answer = None
        try:
            answer = stream(
                self._stream_api.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                command=["/bin/sh", "-c", script],
                stderr=True,
                stdin=False,
                stdout=True,
                tty=False,
                _preload_content=False,
            )
            answer.run_forever(timeout=60)
            out, err = answer.read_stdout(), answer.read_stderr()
            code = answer.returncode
        # TypeError and the like: the stream ended without a status, since the container ended first.
        except (ApiException, WebSocketException, OSError, ValueError, TypeError, KeyError) as error:
            raise StackError(f"a command can't be run in pod `{pod}`", detail=str(error)[-500:]) from error
        finally:
            if answer is not None:
                answer.sock.shutdown()  # its `close` would wait for the server's goodbye
        if code != 0:
            raise StackError(f"a command in pod `{pod}` ended with exit code {code}", detail=(err or out)[-500:])
        return str(out)

    @cached_property
    def _stream_api(self) -> Any:
        # One of its own: `stream` turns its client's requests into web sockets.
        from kubernetes import client, config

        return client.CoreV1Api(config.new_client_from_config(context=self.context))

    def log(self, pod: str, lines: int, **options: Any) -> list[str]:
        """The last lines of the pod's first container; empty when there are none.

        Of the one before it with `previous`, of another with `container`.
        """
        try:
            found = self._log(pod, tail_lines=lines, **options)
        except StackError:  # not started yet, or there was no container before
            return []
        return [line for line in found if line.strip()]

    def log_since(self, pod: str, after: str) -> list[tuple[str, str]]:
        """Lines of the pod's first container, and of the one before it, that came after `after`: each with the
        kubelet's time of it (RFC 3339, nanoseconds), by which they are ordered. All that it keeps without `after`.

        Raises `StackError`; a pod that is gone took its log along.
        """
        options: dict[str, Any] = {"timestamps": True}
        if after:
            age = datetime.now(UTC) - datetime.fromisoformat(after)
            # By this machine's clock, which may be another than the node's.
            options["since_seconds"] = max(1, int(age.total_seconds()) + 5)
        found: list[tuple[str, str]] = []
        for previous in (True, False):
            try:
                lines = self._log(pod, previous=previous, **options)
            except StackError:
                if previous:  # there was no container before
                    continue
                raise
            for line in lines:
                at, _, said = line.partition(" ")
                if at > after:
                    found.append((at, said))
        return found

    def _log(self, pod: str, **options: Any) -> list[str]:
        answer = self._call(
            f"reading the log of pod `{pod}`",
            self._api.read_namespaced_pod_log,
            pod,
            self.namespace,
            _preload_content=False,
            **options,
        )
        return [] if answer is None else answer.data.decode("utf-8", "replace").splitlines()

    def namespace_uid(self) -> str:
        """What tells this namespace from one of its name on another cluster."""
        found = self._call("reading the namespace", self._api.read_namespace, self.namespace)
        if found is None:
            raise StackNotRunning("there is no pipeline on this cluster", hint="bring it up with `cdcpipe kind up`")
        return str(found.metadata.uid)

    def node(self) -> Any:
        """The node; there is one."""
        return self._call("listing nodes", self._api.list_node).items[0]

    def node_summary(self) -> dict[str, Any]:
        """The kubelet's own figures of the node and its pods (`/stats/summary`)."""
        name = self.node().metadata.name
        text = self._call(
            "asking the kubelet",
            self._api.connect_get_node_proxy_with_path,
            name,
            "stats/summary",
            _preload_content=False,
        )
        return dict(json.loads(text.data))

    # What is wrong ---------------------------------------------------------------------------------

    def troubles(self, log_lines: int = 12) -> list[Trouble]:
        """Each pod that isn't ready, with its events and the end of its log."""
        return [self._trouble(pod, log_lines) for pod in self.pods() if not is_ready(pod)]

    def _trouble(self, pod: Any, log_lines: int) -> Trouble:
        name = pod.metadata.name
        events = self._call(
            "listing events",
            self._api.list_namespaced_event,
            self.namespace,
            field_selector=f"involvedObject.name={name},type!=Normal",
        )
        told = [f"{event.reason}: {event.message}" for event in (events.items if events else [])][-4:]
        restarts = sum(status.restart_count for status in pod.status.container_statuses or [])
        if (first := _awaited(pod)) is not None:
            log = self.log(name, log_lines, container=first)
        else:
            log = self.log(name, log_lines) or (self.log(name, log_lines, previous=True) if restarts else [])
        return Trouble(name, why_not_ready(pod), tuple(told), tuple(log))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogateescape")).decode()


def is_ready(pod: Any) -> bool:
    """Whether Kubernetes says so, and it isn't going away."""
    if pod.metadata.deletion_timestamp is not None:
        return False
    return any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or [])


def statuses(pod: Any) -> list[Any]:
    """Of its containers, the init containers first."""
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def _awaited(pod: Any) -> str | None:
    """The init container that runs."""
    running = (item.name for item in pod.status.init_container_statuses or [] if item.state.running is not None)
    return next(running, None)


def why_not_ready(pod: Any) -> str:
    """One sentence: what its container waits for, how it ended, or why no node takes it."""
    if (first := _awaited(pod)) is not None:
        return f"its init container `{first}` has not ended"
    for status in statuses(pod):
        waiting, last = status.state.waiting, status.last_state.terminated
        ended = ""
        if last is not None:
            ended = f"; ended {status.restart_count}x, last with exit code {last.exit_code} ({last.reason})"
        if waiting is not None:
            return f"{waiting.reason}{': ' + waiting.message if waiting.message else ''}{ended}"
        if status.state.terminated is not None and not status.ready:
            return f"ended with exit code {status.state.terminated.exit_code} ({status.state.terminated.reason})"
        if not status.ready:
            return f"runs, but its readiness probe fails{ended}"
    for item in pod.status.conditions or []:
        if item.status == "False" and item.message:
            return f"{item.reason}: {item.message}"
    return str(pod.status.phase)


def quantity_bytes(text: str) -> int:
    """`512Mi` -> bytes."""
    units: Sequence[tuple[str, int]] = (
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 10**3),
        ("M", 10**6),
        ("G", 10**9),
    )
    for unit, factor in units:
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)
