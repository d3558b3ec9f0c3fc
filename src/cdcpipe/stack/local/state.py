"""What a local stack remembers: `stack.json` (plan and ports) and `credentials.json` (mode 0600)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import secrets
import socket
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from cdcpipe.errors import PortTaken, StackError, UsageError
from cdcpipe.stack.endpoints import Role, Secret
from cdcpipe.stack.pipeline import AvroConverterName

__all__ = ["Credentials", "Plan", "Wanted", "claim_ports", "port_names"]

_SCHEMA = "cdcpipe.stack/1"
# Below the range from which Linux takes ports for outgoing connections: nothing takes one of these by chance.
_PORTS = range(20_000, 32_000)
_S3_PORTS = ("s3-master", "s3-volume", "s3-filer", "s3", "s3-master-grpc", "s3-volume-grpc", "s3-filer-grpc", "s3-grpc")


_LINKS = ("connect-postgres", "connect-catalog", "connect-registry", "connect-s3", "registry-postgres")


def _link_ports(brokers: int) -> tuple[str, ...]:
    """The ports of a proxied stack: toxiproxy's own, its proxies', the listeners behind them, a second worker's."""
    nodes = range(1, brokers + 1)
    links = [*_LINKS, *(f"connect-kafka-{node}" for node in nodes)]
    listeners = [f"kafka-{node}-linked" for node in nodes]
    if brokers > 1:
        links += [f"kafka-{way}-{node}" for way in ("kafka", "quorum") for node in nodes]
        listeners += [f"kafka-{node}-inter" for node in nodes]
    return ("toxiproxy", *(f"link-{link}" for link in links), *listeners, "connect-2")


def port_names(brokers: int, *, observed: bool = False, proxied: bool = False) -> tuple[str, ...]:
    """Every port that a stack listens on, by name. The ones people use come first.

    An observed stack has more: those of its servers' metrics, and those of the programs that look at them. A proxied
    one has those of its links.
    """
    kafka = [f"kafka-{node}" for node in range(1, brokers + 1)]
    metrics = [f"{name}-metrics" for name in (*kafka, "connect", "s3")]
    watching = ("monitor", "prometheus", "alertmanager", *metrics) if observed else ()
    controllers = [f"{name}-controller" for name in kafka]
    return (
        "postgres",
        *kafka,
        "connect",
        "registry",
        "s3",
        *controllers,
        "registry-management",
        *(name for name in _S3_PORTS if name != "s3"),
        *watching,
        *(_link_ports(brokers) if proxied else ()),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call of `up` wants of the stack: None, and what a dict doesn't name, stay as they are."""

    brokers: int | None = None
    ports: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    observed: bool | None = None
    proxied: bool | None = None
    converter: AvroConverterName | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a stack is built: fixed at its first start, but for ports that somebody else took meanwhile."""

    brokers: int
    versions: dict[str, str]
    cluster_id: str
    ports: dict[str, int]
    fixed_ports: dict[str, int] = field(default_factory=dict)
    observed: bool = False
    """Whether its servers expose metrics, each on a port of its own."""
    proxied: bool = False
    """Whether a proxy stands in every link of its pipeline, so that links can be broken."""
    converter: AvroConverterName = "confluent"
    """Whose Avro converter its connectors use."""

    @classmethod
    def new(cls, wanted: Wanted) -> Plan:
        """A plan for a new stack, with free ports. Raises `UsageError` for a number of brokers that can't be."""
        brokers = wanted.brokers or 1
        if brokers not in (1, 3):
            raise UsageError(f"a stack has 1 or 3 brokers, not {brokers}")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):  # the storage tool would take it for an option
            cluster = f"A{cluster[1:]}"
        observed, proxied = bool(wanted.observed), bool(wanted.proxied)
        ports = claim_ports(port_names(brokers, observed=observed, proxied=proxied), wanted.ports, {})
        converter = wanted.converter or "confluent"
        return cls(brokers, wanted.versions, cluster, ports, wanted.ports, observed, proxied, converter)

    def changed(self, wanted: Wanted, *, running: bool) -> Plan:
        """This plan with what is `wanted` of it. Raises `UsageError` for what can't change, now or ever."""
        for given, fixed, what in (
            (wanted.brokers, self.brokers, f"has {self.brokers} broker(s)"),
            (wanted.converter, self.converter, f"uses {self.converter}'s Avro converter"),
        ):
            if given not in (None, fixed):
                raise UsageError(
                    f"this stack {what}; that can't be changed later",
                    hint="`cdcpipe down --purge` first, or use another folder with `--stack`",
                )
        observed = self.observed if wanted.observed is None else wanted.observed
        proxied = self.proxied if wanted.proxied is None else wanted.proxied
        if running:
            changed = any(self.versions.get(name) != version for name, version in wanted.versions.items())
            moved = any(self.ports.get(name) != port for name, port in wanted.ports.items())
            if changed or moved or (observed, proxied) != (self.observed, self.proxied):
                raise UsageError(
                    "versions, ports, `--observed` and `--proxied` can't change while the stack runs",
                    hint="`cdcpipe down` first",
                )
            return self
        fixed_ports = {**self.fixed_ports, **wanted.ports}
        names = port_names(self.brokers, observed=observed, proxied=proxied)
        return replace(
            self,
            versions=wanted.versions or self.versions,
            ports=claim_ports(names, fixed_ports, self.ports),
            fixed_ports=fixed_ports,
            observed=observed,
            proxied=proxied,
        )

    @classmethod
    def load(cls, path: Path) -> Plan | None:
        """The plan in `path`, None when there is none. Raises `StackError` for a file that isn't one."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("schema") != _SCHEMA:
                raise ValueError("another schema")
            return cls(**content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StackError(
                f"`{path}` is not a stack of this version of cdcpipe: {error}",
                hint="`cdcpipe down --purge` removes the stack and its data",
            ) from error

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        _write(path, {"schema": _SCHEMA, **asdict(self)}, 0o644)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Every credential of a stack, made at random when it is new."""

    roles: dict[str, Role]
    s3_admin: tuple[str, Secret]
    s3_pipeline: tuple[str, Secret]

    @classmethod
    def new(cls) -> Credentials:
        """Fresh ones."""
        purposes = ("admin", "owner", "replication", "witness", "catalog", "registry")
        names = {"admin": "cdcpipe_admin", "owner": "shop"}
        return cls(
            roles={p: Role(names.get(p, f"cdcpipe_{p}"), Secret(secrets.token_urlsafe(24))) for p in purposes},
            s3_admin=_key(),
            s3_pipeline=_key(),
        )

    @classmethod
    def load_or_make(cls, path: Path) -> Credentials:
        """Those in `path`, made now if there is no such file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            made = cls.new()
            roles = {purpose: [role.name, str(role.password)] for purpose, role in made.roles.items()}
            _write(path, {"roles": roles, "s3_admin": made.s3_admin, "s3_pipeline": made.s3_pipeline}, 0o600)
            return made
        except (OSError, ValueError) as error:
            raise StackError(
                f"`{path}` can't be read: {error}", hint="`cdcpipe down --purge` removes the stack and its data"
            ) from error
        return cls(
            roles={purpose: Role(name, Secret(password)) for purpose, (name, password) in content["roles"].items()},
            s3_admin=(content["s3_admin"][0], Secret(content["s3_admin"][1])),
            s3_pipeline=(content["s3_pipeline"][0], Secret(content["s3_pipeline"][1])),
        )


def _key() -> tuple[str, Secret]:
    return f"CDC{secrets.token_hex(8).upper()}", Secret(secrets.token_urlsafe(30))


def _write(path: Path, content: object, mode: int) -> None:
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def claim_ports(names: tuple[str, ...], fixed: Mapping[str, int], wished: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the fixed one, else the wished one if it is free, else any.

    Raises `PortTaken` when a fixed one is in use, naming who uses it.
    """
    unknown = sorted(set(fixed) - set(names))
    if unknown:
        raise UsageError(f"no port is called `{unknown[0]}`", hint=f"there are: {', '.join(names)}")
    claimed: dict[str, int] = {}
    for name in names:
        if name in fixed:
            if not _free(fixed[name]) or fixed[name] in claimed.values():
                raise PortTaken(
                    f"port {fixed[name]} for `{name}` is in use{_holder(fixed[name])}",
                    hint=f"end that process, or choose another with `--port {name}=N`; without it a free one is taken",
                )
            claimed[name] = fixed[name]
    for name in names:
        if name not in claimed:
            claimed[name] = _any_free(wished.get(name), set(claimed.values()) | set(fixed.values()))
    return claimed


def _any_free(wished: int | None, taken: set[int]) -> int:
    if wished is not None and wished not in taken and _free(wished):
        return wished
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in taken and _free(port):
            return port
    raise PortTaken(f"no port between {_PORTS.start} and {_PORTS.stop} is free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what TIME_WAIT holds is free for a listener
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _holder(port: int) -> str:
    """Who listens on `port`, as far as we may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by `{psutil.Process(connection.pid).name()}` (process {connection.pid})"
    return ""
