"""Kafka Connect's REST API. https://kafka.apache.org/documentation/#connect_rest

A 409 means that the cluster is rebalancing: the same request is tried again until it goes through or the
client's timeout is over. Every other refusal is a `ConnectError` that carries Connect's own message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, cast
from urllib.parse import quote

import httpx2
from pydantic import JsonValue, TypeAdapter, ValidationError

from cdcpipe.errors import ConnectError, ConnectUnavailable

__all__ = [
    "ConnectClient",
    "ConnectorStatus",
    "KeyDefinition",
    "Plugin",
    "SourceOffset",
    "TaskStatus",
    "Validation",
    "WorkerInfo",
]

T = TypeVar("T")
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Which Connect this is, and of which Kafka cluster."""

    version: str
    commit: str
    kafka_cluster_id: str


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task. `trace` is the Java stack trace of a failed one, else empty."""

    id: int
    state: str
    worker_id: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """A connector and its tasks. RUNNING says that the thread lives, not that data flows."""

    name: str
    state: str
    worker_id: str
    type: str
    tasks: tuple[TaskStatus, ...]
    trace: str = ""

    @property
    def running(self) -> bool:
        """The connector and at least one task run, and none does anything else."""
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)

    @property
    def failure(self) -> str | None:
        """The first stack trace of what failed, or None."""
        if self.state == "FAILED":
            return self.trace or "failed without a trace"
        return next((task.trace or f"task {task.id} failed" for task in self.tasks if task.state == "FAILED"), None)

    @property
    def cause(self) -> str | None:
        """What lies at the bottom of `failure`, in one line; without a cause its first line says it."""
        if self.failure is None:
            return None
        lines = [line for line in self.failure.splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith("Caused by:")]
        return (causes[-1] if causes else lines[0])[:300]


@dataclass(frozen=True, slots=True)
class SourceOffset:
    """A stored offset (KIP-875): `partition` and `offset` as the connector wrote them."""

    partition: dict[str, JsonValue]
    offset: dict[str, JsonValue] | None


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin: `type` is source, sink, converter, header_converter, transformation or predicate."""

    java_class: str
    type: str
    version: str | None


@dataclass(frozen=True, slots=True)
class KeyDefinition:
    """One key of a plugin's ConfigDef. `default` is None where there is none."""

    name: str
    type: str
    default: str | None
    required: bool
    importance: str
    documentation: str
    group: str | None


@dataclass(frozen=True, slots=True)
class Validation:
    """What the worker says of a config: errors by key, in the plugin's own words, and every key it knows."""

    error_count: int
    errors: dict[str, tuple[str, ...]]
    keys: tuple[str, ...]
    recommended: dict[str, tuple[str, ...]]


class ConnectClient:
    """A client of one Connect cluster, usable as a context manager. Not for threads to share."""

    def __init__(self, url: str, *, auth: tuple[str, str] | None = None, timeout_seconds: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        # Without TLS there is nobody to verify, and the public authorities take 1.4 MB and 20 ms a client.
        tls = self.url.lower().startswith("https:")
        self._http = httpx2.Client(base_url=self.url, auth=auth, timeout=timeout_seconds, trust_env=False, verify=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- the cluster ---

    def info(self) -> WorkerInfo:
        """Version and cluster of the worker that answers."""
        return _read(WorkerInfo, self._request("GET", "/"))

    def plugins(self, *, connectors_only: bool = False) -> tuple[Plugin, ...]:
        """The installed plugins."""
        answer = self._request("GET", "/connector-plugins", params={"connectorsOnly": str(connectors_only).lower()})
        return tuple(
            Plugin(java_class=item["class"], type=item["type"], version=item.get("version"))
            for item in _read(list[dict[str, str | None]], answer)
            if item["class"] and item["type"]
        )

    def plugin_keys(self, java_class: str) -> tuple[KeyDefinition, ...]:
        """The ConfigDef of a plugin of any kind. Raises `ConnectError` (404) when it isn't installed."""
        answer = self._request("GET", f"/connector-plugins/{quote(java_class, safe='')}/config")
        return tuple(_key_definition(item) for item in _read(list[dict[str, JsonValue]], answer))

    def validate(self, config: Mapping[str, str]) -> Validation:
        """Ask the plugin whether it would take `config`, without deploying it."""
        java_class = config["connector.class"]
        path = f"/connector-plugins/{quote(java_class, safe='')}/config/validate"
        answer = _read(dict[str, JsonValue], self._request("PUT", path, body=dict(config)))
        values = [_read(dict[str, JsonValue], item["value"]) for item in _dicts(answer["configs"])]
        return Validation(
            error_count=_read(int, answer["error_count"]),
            errors={str(v["name"]): tuple(_strings(v["errors"])) for v in values if v.get("errors")},
            keys=tuple(str(value["name"]) for value in values),
            recommended={
                str(v["name"]): tuple(_strings(v["recommended_values"])) for v in values if v.get("recommended_values")
            },
        )

    def loggers(self) -> dict[str, str]:
        """Logger -> level, of the worker that answers."""
        answer = _read(dict[str, dict[str, JsonValue]], self._request("GET", "/admin/loggers"))
        return {name: str(item["level"]) for name, item in answer.items()}

    def set_logger(self, name: str, level: str, *, cluster: bool = True) -> None:
        """Set a logger's level, on all workers unless `cluster` is False (KIP-976)."""
        scope = "cluster" if cluster else "worker"
        self._request("PUT", f"/admin/loggers/{quote(name)}", params={"scope": scope}, body={"level": level})

    # --- connectors ---

    def connectors(self) -> tuple[str, ...]:
        """Names of the connectors, sorted."""
        return tuple(sorted(_read(list[str], self._request("GET", "/connectors"))))

    def deploy(self, config: Mapping[str, str], *, name: str | None = None) -> None:
        """Create the connector, or give it this config; `name` when it isn't in `config`."""
        name = name or config["name"]
        self._request("PUT", f"{_path(name)}/config", body={**config, "name": name})

    def delete(self, name: str) -> None:
        """Remove the connector. Its offsets stay: a connector of the same name goes on from them."""
        self._request("DELETE", _path(name))

    def config(self, name: str) -> dict[str, str]:
        """The deployed config, with references to secrets unresolved."""
        return _read(dict[str, str], self._request("GET", f"{_path(name)}/config"))

    def status(self, name: str) -> ConnectorStatus:
        """State of the connector and its tasks. Raises `ConnectError` (404) when there is none."""
        answer = _read(dict[str, JsonValue], self._request("GET", f"{_path(name)}/status"))
        own = _read(dict[str, JsonValue], answer["connector"])
        return ConnectorStatus(
            name=name,
            state=str(own["state"]),
            worker_id=str(own["worker_id"]),
            type=str(answer.get("type", "")),
            tasks=tuple(_read(TaskStatus, task) for task in _dicts(answer["tasks"])),
            trace=str(own.get("trace", "")),
        )

    def topics(self, name: str) -> tuple[str, ...]:
        """Topics that the connector has used since it was created (KIP-558), sorted."""
        answer = _read(dict[str, dict[str, list[str]]], self._request("GET", f"{_path(name)}/topics"))
        return tuple(sorted(answer[name]["topics"]))

    def restart(self, name: str, *, include_tasks: bool = True, only_failed: bool = False) -> None:
        """Restart the connector (KIP-745). `only_failed` leaves what runs alone."""
        params = {"includeTasks": str(include_tasks).lower(), "onlyFailed": str(only_failed).lower()}
        self._request("POST", f"{_path(name)}/restart", params=params)

    def restart_task(self, name: str, task: int) -> None:
        """Restart one task."""
        self._request("POST", f"{_path(name)}/tasks/{task}/restart")

    def pause(self, name: str) -> None:
        """Hold the connector; its tasks stay, and keep their resources."""
        self._request("PUT", f"{_path(name)}/pause")

    def resume(self, name: str) -> None:
        """Let a paused or stopped connector go on."""
        self._request("PUT", f"{_path(name)}/resume")

    def stop(self, name: str) -> None:
        """Stop the connector and its tasks; its config and offsets stay."""
        self._request("PUT", f"{_path(name)}/stop")

    # --- offsets (KIP-875) ---

    def offsets(self, name: str) -> tuple[SourceOffset, ...]:
        """The stored offsets: of the source's partitions, or of a sink's topic partitions."""
        answer = _read(dict[str, list[dict[str, JsonValue]]], self._request("GET", f"{_path(name)}/offsets"))
        return tuple(_read(SourceOffset, item) for item in answer["offsets"])

    def alter_offsets(self, name: str, offsets: Sequence[SourceOffset]) -> str:
        """Set stored offsets of a STOPPED connector; gives Connect's answer. None as offset removes one.

        Raises `ConnectError` without asking Connect when the connector isn't stopped: what a running task
        commits next would undo the change.
        """
        self._demand_stopped(name, "alter")
        body = {"offsets": [{"partition": item.partition, "offset": item.offset} for item in offsets]}
        return _message(self._request("PATCH", f"{_path(name)}/offsets", body=body))

    def reset_offsets(self, name: str) -> str:
        """Forget all stored offsets of a STOPPED connector; gives Connect's answer.

        Connect 4.3 answers 500 for an exactly-once source with `offsets.storage.topic`: see `stack.deploy`.
        """
        self._demand_stopped(name, "reset")
        return _message(self._request("DELETE", f"{_path(name)}/offsets"))

    def _demand_stopped(self, name: str, verb: str) -> None:
        status = self.status(name)
        if status.state != "STOPPED" or status.tasks:
            raise ConnectError(
                f"won't {verb} the offsets of `{name}`: it is {status.state} with {len(status.tasks)} tasks",
                status=None,
                hint=f"stop it first (`stop(name)`, then `wait_until_stopped`), and {verb} them then",
            )

    # --- waits ---

    def wait_until_up(self, *, timeout_seconds: float = 60.0) -> WorkerInfo:
        """Wait until the worker answers and has joined its group."""

        def ask() -> WorkerInfo | str:
            try:
                self.connectors()
                return self.info()
            except ConnectUnavailable as error:
                return error.message

        return _wait(ask, f"Connect at {self.url} to answer", timeout_seconds)

    def wait_until_running(
        self, name: str, *, timeout_seconds: float = 60.0, grace_seconds: float = 3.0
    ) -> ConnectorStatus:
        """Wait until the connector and all its tasks run. Raises `ConnectError` when one of them stays FAILED.

        For `grace_seconds` a failure is not believed: after a restart or a new config Connect shows the old one.
        """
        believed = time.monotonic() + grace_seconds

        def ask() -> ConnectorStatus | str:
            status = self._status_or_none(name)
            if status is None:
                return "not known yet"
            if status.failure and time.monotonic() >= believed:
                raise ConnectError(
                    f"connector `{name}` failed",
                    detail=status.failure,
                    hint="correct the cause, then `restart(name, only_failed=True)`",
                )
            return status if status.running else _describe(status)

        return _wait(ask, f"connector `{name}` to run", timeout_seconds)

    def wait_until_stopped(self, name: str, *, timeout_seconds: float = 60.0) -> ConnectorStatus:
        """Wait until the connector is STOPPED and has no task left."""

        def ask() -> ConnectorStatus | str:
            status = self.status(name)
            return status if status.state == "STOPPED" and not status.tasks else _describe(status)

        return _wait(ask, f"connector `{name}` to stop", timeout_seconds)

    def wait_until_paused(self, name: str, *, timeout_seconds: float = 60.0) -> ConnectorStatus:
        """Wait until the connector and its tasks are PAUSED."""

        def ask() -> ConnectorStatus | str:
            status = self.status(name)
            done = status.state == "PAUSED" and all(task.state == "PAUSED" for task in status.tasks)
            return status if done else _describe(status)

        return _wait(ask, f"connector `{name}` to pause", timeout_seconds)

    def wait_until_gone(self, name: str, *, timeout_seconds: float = 60.0) -> None:
        """Wait until the connector is no longer known."""

        def ask() -> bool | str:
            status = self._status_or_none(name)
            return True if status is None else _describe(status)

        _wait(ask, f"connector `{name}` to be gone", timeout_seconds)

    def _status_or_none(self, name: str) -> ConnectorStatus | None:
        try:
            return self.status(name)
        except ConnectError as error:
            if error.status == 404:
                return None
            raise

    # --- the border ---

    def _request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: object | None = None
    ) -> JsonValue:
        """One request; the only place where HTTP errors become ours."""
        deadline = time.monotonic() + self.timeout_seconds
        while True:
            try:
                response = self._http.request(method, path, params=params, json=body)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise ConnectUnavailable(
                    f"Connect at {self.url} doesn't answer {method} {path}: {type(error).__name__}",
                    hint="is the worker up? `GET /` should give its version",
                ) from error
            if _rebalancing(response) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            if response.is_success:
                return _json(response, path)
            raise self._refusal(method, path, response)

    def _refusal(self, method: str, path: str, response: httpx2.Response) -> ConnectError:
        try:
            message = _message(response.json())
        except ValueError:
            message = response.text.strip()[:500]
        first, _, rest = message.partition("\n")
        text = f"{method} {path}: HTTP {response.status_code}: {first or 'no message'}"
        if _rebalancing(response):
            return ConnectUnavailable(
                text, status=response.status_code, hint="the cluster is still rebalancing; try again"
            )
        return ConnectError(text, status=response.status_code, detail=rest or None)


def _rebalancing(response: httpx2.Response) -> bool:
    # Documented as 409. A GET of a config answers 500 with the same sentence while a worker joins (4.3.1).
    # "Momentarily due to stale configuration" is what follows a change of a config.
    return response.status_code in (409, 500) and any(word in response.text for word in ("rebalance", "momentarily"))


def _path(name: str) -> str:
    return f"/connectors/{quote(name, safe='')}"


def _json(response: httpx2.Response, path: str) -> JsonValue:
    if not response.content:
        return None
    try:
        return cast("JsonValue", response.json())
    except ValueError as error:
        raise ConnectError(
            f"{path}: the answer is not JSON", status=response.status_code, hint="is this Kafka Connect's REST API?"
        ) from error


_adapters: dict[object, TypeAdapter[object]] = {}


def _read(kind: type[T], value: object) -> T:
    """`value` as `kind`; an answer of another shape is a `ConnectError`, not a surprise further down."""
    try:
        if kind not in _adapters:
            _adapters[kind] = TypeAdapter(kind)
        return cast("T", _adapters[kind].validate_python(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConnectError(f"Connect's answer has another shape than expected: {where}: {first['msg']}") from error


def _dicts(value: JsonValue) -> list[dict[str, JsonValue]]:
    return _read(list[dict[str, JsonValue]], value)


def _strings(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _message(answer: object) -> str:
    return str(answer["message"]) if isinstance(answer, dict) and "message" in answer else ""


def _key_definition(item: dict[str, JsonValue]) -> KeyDefinition:
    default = item.get("default_value")
    return KeyDefinition(
        name=str(item["name"]),
        type=str(item["type"]),
        default=None if default is None else str(default),
        required=bool(item.get("required")),
        importance=str(item.get("importance", "")),
        documentation=str(item.get("documentation") or ""),
        group=None if item.get("group") is None else str(item["group"]),
    )


def _describe(status: ConnectorStatus) -> str:
    tasks = ", ".join(f"task {task.id} {task.state}" for task in status.tasks) or "no tasks"
    return f"connector {status.state}, {tasks}"


def _wait(ask: Callable[[], T | str], what: str, timeout_seconds: float) -> T:
    """Ask until the answer is no longer a string (which says how things stand), or raise with the last one."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = ask()
        if not isinstance(answer, str):
            return answer
        if time.monotonic() >= deadline:
            raise ConnectUnavailable(f"waited {timeout_seconds:g} s for {what}; last seen: {answer}")
        time.sleep(_POLL_SECONDS)
