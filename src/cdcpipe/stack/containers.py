"""The pipeline in containers, through testcontainers: official images, one network, ports on loopback.

Clients of ours reach the servers by ports of this machine, the servers each other by their names in the network. So
there are two views of one pipeline: `endpoints`, and `ContainerPlan.inside`, which connectors and worker are given.

Images are settings (`[containers]`). Kafka's also runs Connect: its plugins are mounted from the artefact cache, since
no official image has Debezium, the Iceberg sink and an Avro converter.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psycopg

from cdcpipe.connect.properties import write_properties
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import CdcpipeError, ComponentFailed, MachineError, MissingExtra, StackNotRunning
from cdcpipe.events import ComponentReady, ComponentStarting, Listener, ignore
from cdcpipe.settings import ContainerSettings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.certificate import Certificate, self_signed, trusting
from cdcpipe.stack.component import ComponentState, Readiness, wait_until
from cdcpipe.stack.deploy import await_flow, deploy_connectors, ensure_topics, set_compatibility
from cdcpipe.stack.endpoints import CatalogEndpoint, Endpoints, PostgresEndpoint, S3Endpoint
from cdcpipe.stack.local.connect import make_plugin_folder
from cdcpipe.stack.local.database import prepare_databases
from cdcpipe.stack.local.s3 import s3_client
from cdcpipe.stack.local.state import Credentials, claim_ports
from cdcpipe.stack.pipeline import PLUGINS, PipelineSettings, SecretPlaces, secret_values, worker

if TYPE_CHECKING:
    from cdcpipe.stack.link import Link

__all__ = ["ContainerComponent", "ContainerPlan", "ContainerSpec", "ContainerStack", "specifications"]

_NAMES = ("postgres", "kafka-1", "s3", "registry", "connect")
_PORTS = {"postgres": 5432, "kafka-1": 9092, "s3": 8333, "registry": 8080, "connect": 8083}
_S3_TLS_PORT = 8334
_ETC = "/etc/cdcpipe"
_SECRETS = f"{_ETC}/secrets/pipeline.properties"
_S3_CERTIFICATE, _S3_KEY, _TRUST = f"{_ETC}/s3.crt", f"{_ETC}/s3.key", f"{_ETC}/trust.p12"


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """Ports of this machine, and the credentials: everything else follows."""

    ports: Mapping[str, int]
    credentials: Credentials

    @property
    def outside(self) -> Endpoints:
        """For clients on this machine."""
        return self._endpoints({name: ("127.0.0.1", port) for name, port in self.ports.items()})

    @property
    def inside(self) -> Endpoints:
        """For servers in the network. The broker's own listener for it has another port; only we call Connect."""
        places = {name: (name, port) for name, port in _PORTS.items()}
        inside = self._endpoints({**places, "kafka-1": ("kafka-1", 19092)})
        # What leaves loopback is encrypted: clients on this machine have the port in clear, the sink has the other.
        s3 = replace(inside.s3, url=f"https://s3:{_S3_TLS_PORT}")
        return replace(inside, connect_url=self.outside.connect_url, s3=s3)

    @property
    def settings(self) -> PipelineSettings:
        """How its pipeline is set up, as its connectors see it."""
        return PipelineSettings(registry_root=f"http://registry:{_PORTS['registry']}")

    def _endpoints(self, places: Mapping[str, tuple[str, int]]) -> Endpoints:
        roles, (key, secret) = self.credentials.roles, self.credentials.s3_pipeline

        def url(name: str) -> str:
            return f"http://{places[name][0]}:{places[name][1]}"

        host, port = places["postgres"]
        sources = {purpose: roles[purpose] for purpose in ("owner", "replication", "witness")}
        catalog = PostgresEndpoint(host, port, "catalog", {"catalog": roles["catalog"]})
        return Endpoints(
            postgres=PostgresEndpoint(host, port, "shop", sources),
            bootstrap_servers=":".join(map(str, places["kafka-1"])),
            connect_url=url("connect"),
            registry_url=f"{url('registry')}/apis/ccompat/v7",
            s3=S3Endpoint(url("s3"), "us-east-1", "lake", key, secret),
            catalog=CatalogEndpoint("iceberg", catalog, "catalog", "s3://lake/warehouse"),
            publication="cdc",
            topic_prefix="cdc",
            dead_letter_topic="cdc.dead-letters",
            transaction_topic="cdc.transaction",
        )


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container. `files` are mounted read-only: path in the container -> content or path on this machine."""

    name: str
    image: str
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    files: Mapping[str, str | bytes | Path] = field(default_factory=dict)


def specifications(
    plan: ContainerPlan, images: ContainerSettings, *, plugins: Path, certificate: Certificate
) -> dict[str, ContainerSpec]:
    """Name -> container, in the order in which they start.

    `plugins` is the worker's plugin path on this machine, `certificate` that of the S3 server.
    """
    admin, registry = plan.credentials.roles["admin"], plan.credentials.roles["registry"]
    postgres = {"POSTGRES_USER": admin.name, "POSTGRES_PASSWORD": str(admin.password), "POSTGRES_DB": "postgres"}
    logical = ("-c", "wal_level=logical", "-c", "max_replication_slots=20", "-c", "max_wal_senders=20")
    config = worker(
        plan.inside, plan.settings, port=_PORTS["connect"], plugin_path="/opt/plugins", secrets_folder=f"{_ETC}/secrets"
    ).model_copy(update={"listeners": (f"http://0.0.0.0:{_PORTS['connect']}",), "rest_advertised_host_name": "connect"})
    specs = (
        ContainerSpec("postgres", images.postgres, postgres, ("postgres", *logical)),
        ContainerSpec("kafka-1", images.kafka, _broker(plan.ports["kafka-1"])),
        ContainerSpec(
            "s3",
            images.s3,
            command=(
                *("server", "-s3", f"-s3.config={_ETC}/s3.json", "-dir=/data", "-ip.bind=0.0.0.0", "-volume.max=50"),
                f"-s3.port.https={_S3_TLS_PORT}",
                *(f"-s3.cert.file={_S3_CERTIFICATE}", f"-s3.key.file={_S3_KEY}"),
            ),
            files={
                f"{_ETC}/s3.json": _identities(plan),
                _S3_CERTIFICATE: certificate.certificate,
                _S3_KEY: certificate.key,
            },
        ),
        ContainerSpec(
            "registry",
            images.registry,
            {
                "APICURIO_STORAGE_KIND": "sql",
                "APICURIO_STORAGE_SQL_KIND": "postgresql",
                "APICURIO_DATASOURCE_URL": "jdbc:postgresql://postgres:5432/registry",
                "APICURIO_DATASOURCE_USERNAME": registry.name,
                "APICURIO_DATASOURCE_PASSWORD": str(registry.password),
            },
        ),
        ContainerSpec(
            "connect",
            images.connect,
            {"KAFKA_HEAP_OPTS": "-Xms256m -Xmx768m", "KAFKA_OPTS": trusting(_TRUST)},
            ("/opt/kafka/bin/connect-distributed.sh", f"{_ETC}/worker.properties"),
            {
                f"{_ETC}/worker.properties": write_properties(config.to_config()),
                _SECRETS: write_properties(dict(secret_values(plan.inside))),
                _TRUST: certificate.trust_store,
                "/opt/plugins": plugins,
            },
        ),
    )
    return {spec.name: spec for spec in specs}


def _broker(port: int) -> dict[str, str]:
    """KRaft alone, by the environment that `apache/kafka` turns into properties."""
    properties = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "INSIDE://:19092,OUTSIDE://:9092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"INSIDE://kafka-1:19092,OUTSIDE://127.0.0.1:{port}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "INTER_BROKER_LISTENER_NAME": "INSIDE",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "CONTROLLER_QUORUM_VOTERS": "1@kafka-1:9093",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "HEAP_OPTS": "-Xms256m -Xmx512m",
    }
    return {f"KAFKA_{name}": value for name, value in properties.items()}


def _identities(plan: ContainerPlan) -> str:
    rights = [f"{verb}:lake" for verb in ("Read", "Write", "List", "Tagging")]
    found = (("admin", plan.credentials.s3_admin, ["Admin"]), ("pipeline", plan.credentials.s3_pipeline, rights))
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": str(secret)}], "actions": actions}
        for name, (key, secret), actions in found
    ]
    return json.dumps({"identities": identities})


class ContainerComponent:
    """A container that is there, managed through the engine. `ask` asks its server, over its own protocol."""

    def __init__(self, name: str, image: str, container: Any, ask: Callable[[], Readiness]) -> None:
        self.name = name
        self.version = image.rpartition(":")[2]
        self._container = container
        self._ask = ask

    def start(self) -> None:
        if self.state() is ComponentState.STOPPED:
            self._container.start()

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        if self.state() is not ComponentState.STOPPED:
            self._container.stop(timeout=int(timeout_seconds))

    def kill(self) -> None:
        if self.state() is not ComponentState.STOPPED:
            self._container.kill()

    def pause(self) -> None:
        self._container.pause()

    def resume(self) -> None:
        if self.state() is ComponentState.PAUSED:
            self._container.unpause()

    def readiness(self) -> Readiness:
        return self._ask()

    def state(self) -> ComponentState:
        self._container.reload()
        if self._container.status == "paused":
            return ComponentState.PAUSED
        if self._container.status != "running":
            return ComponentState.STOPPED
        return ComponentState.READY if self._ask().ready else ComponentState.STARTING

    def await_ready(self, *, timeout_seconds: float = 120.0) -> None:
        """Wait until it can serve. Raises `ComponentFailed` with the end of its log."""
        last = Readiness(False, "not asked yet")

        def ready() -> bool:
            nonlocal last
            last = self._ask()
            return last.ready

        wait_until(
            ready,
            what=lambda: f"`{self.name}` ready ({last.reason})",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.3,
            error=lambda text: ComponentFailed(self.name, text, detail="\n".join(self.log_tail(12))),
        )

    def memory_bytes(self) -> int:
        """What the engine counts, the page cache left out."""
        if self.state() is ComponentState.STOPPED:
            return 0
        memory = self._stats().get("memory_stats", {})
        return int(memory.get("usage", 0)) - int(memory.get("stats", {}).get("inactive_file", 0))

    def cpu_seconds(self) -> float:
        """User and system time, as the engine counts."""
        if self.state() is ComponentState.STOPPED:
            return 0.0
        return float(self._stats()["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

    def _stats(self) -> dict[str, Any]:
        """The engine's figures of now. Without `one_shot` it waits for a second sample, to tell a rate."""
        found: dict[str, Any] = self._container.stats(stream=False, one_shot=True)
        return found

    def log_tail(self, lines: int = 20) -> list[str]:
        return str(self._container.logs(tail=lines).decode("utf-8", "replace")).splitlines()


class ContainerStack:
    """A stack of containers. `folder` holds its credentials and configs; nothing runs until `up`."""

    def __init__(self, folder: Path, images: ContainerSettings, *, store: Store, listener: Listener = ignore) -> None:
        self.folder = folder.resolve()
        self._images = images
        self._store = store
        self._listener = listener
        self._opened = contextlib.ExitStack()
        self._components: dict[str, ContainerComponent] = {}

    @cached_property
    def _plan(self) -> ContainerPlan:
        self.folder.mkdir(parents=True, exist_ok=True)
        credentials = Credentials.load_or_make(self.folder / "credentials.json")
        return ContainerPlan(claim_ports(_NAMES, {}, {}), credentials)

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are. Raises `StackNotRunning`."""
        if not self._components:
            raise StackNotRunning("no container of this stack runs", hint="`up` starts them")
        return self._plan.outside

    @property
    def settings(self) -> PipelineSettings:
        """How its pipeline is set up."""
        return self._plan.settings

    @property
    def components(self) -> Mapping[str, ContainerComponent]:
        """Name -> component, in the order in which they start."""
        return self._components

    @property
    def links(self) -> Mapping[str, Link]:
        """None: no proxy stands in the links of this target."""
        return {}

    def running(self) -> Sequence[ContainerComponent]:
        """The components whose containers run."""
        return [each for each in self._components.values() if each.state() is not ComponentState.STOPPED]

    def memory_bytes(self) -> dict[str, int]:
        """Component -> bytes."""
        return {name: component.memory_bytes() for name, component in self._components.items()}

    def plugin_versions(self) -> dict[str, str]:
        """Bundle -> version of what Connect runs."""
        bundles = self._store.select()
        return {name: bundles[name].version for name in PLUGINS}

    def digests(self) -> dict[str, str]:
        """Component -> digest of its image."""
        return {name: str(each._container.image.id) for name, each in self._components.items()}

    # Up and down ----------------------------------------------------------------------------------

    def up(self, *, tables: tuple[str, ...] = (), await_archive: bool = False) -> None:
        """Start the containers and bring the pipeline into motion.

        Raises `MachineError` when there is no engine, or it can't have an image.
        """
        try:
            self._start(tables)
            deploy_connectors(self._plan.inside, self.settings, SecretPlaces.in_file(_SECRETS))
            await_flow(self._plan.outside, archive=await_archive)
        except BaseException:
            self.down()
            raise

    def _start(self, tables: tuple[str, ...]) -> None:
        certificate = self_signed("cdcpipe s3", names=["s3"], extra="containers")
        specs = specifications(self._plan, self._images, plugins=self._plugins(), certificate=certificate)
        run = self._network()
        asks = self._asks()
        before: dict[str, Callable[[], None]] = {
            "registry": self._prepare_databases,
            "connect": lambda: ensure_topics(self._plan.outside, self.settings, tables),
        }
        for name, spec in specs.items():
            before.get(name, lambda: None)()
            self._listener(ComponentStarting(name))
            component = ContainerComponent(name, spec.image, run(spec), asks[name])
            self._components[name] = component
            component.await_ready(timeout_seconds=self._images.start_seconds)
            self._listener(ComponentReady(name, 0.0))
        set_compatibility(self._plan.outside, "FULL_TRANSITIVE")

    def _plugins(self) -> Path:
        bundles = self._store.select()
        folders = self._store.folders(bundles[name] for name in ("kafka", *PLUGINS))
        return make_plugin_folder(self._store, folders["kafka"], {name: folders[name] for name in PLUGINS})

    def _network(self) -> Callable[[ContainerSpec], Any]:
        """Make the network, and give what runs a container in it."""
        try:
            from docker.errors import APIError, DockerException
            from testcontainers.core.container import DockerContainer
            from testcontainers.core.network import Network
        except ImportError:
            raise MissingExtra("containers", "`--target containers`") from None
        try:
            network = self._opened.enter_context(Network())
        except (DockerException, OSError) as error:
            raise MachineError(
                f"the container engine can't be used: {error}",
                hint="start Docker (Docker Desktop, or your system's service), or use `--target local`",
            ) from error

        def run(spec: ContainerSpec) -> Any:
            container = DockerContainer(spec.image).with_network(network).with_network_aliases(spec.name)
            # Not by `with_bind_ports`, which takes no address: they are to be reached from this machine alone.
            ports: dict[str, Any] = container.ports
            ports[f"{_PORTS[spec.name]}/tcp"] = ("127.0.0.1", self._plan.ports[spec.name])
            container.with_kwargs(hostname=spec.name)
            for key, value in spec.environment.items():
                container.with_env(key, value)
            if spec.command:
                container.with_command(list(spec.command))
            for path, source in self._mounted(spec):
                container.with_volume_mapping(str(source), path, "ro")
            try:
                self._opened.enter_context(container)
            except (APIError, DockerException) as error:
                raise MachineError(
                    f"the container `{spec.name}` can't be had from image `{spec.image}`: {error}",
                    hint=f"set `{spec.name.partition('-')[0]}` in [containers] of cdcpipe.toml to an image that this "
                    "machine can pull, or load it with `docker load`",
                ) from error
            return container.get_wrapped_container()

        return run

    def _mounted(self, spec: ContainerSpec) -> Iterator[tuple[str, Path]]:
        """Files of a container on this machine, written now. Its user is another, so that they must be readable."""
        folder = self.folder / spec.name
        for path, content in spec.files.items():
            if isinstance(content, Path):
                yield path, content
                continue
            file = folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            # The folder above is ours alone; in the container the file belongs to nobody that it knows.
            self.folder.chmod(0o700)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as out:
                out.write(content.encode() if isinstance(content, str) else content)
            yield path, file

    def _prepare_databases(self) -> None:
        plan, roles = self._plan, self._plan.credentials.roles
        prepare_databases(
            self._conninfo(),
            plan.outside.postgres,
            publication=plan.outside.publication,
            databases={"catalog": roles["catalog"], "registry": roles["registry"]},
        )

    def _conninfo(self) -> str:
        admin = self._plan.credentials.roles["admin"]
        port = self._plan.ports["postgres"]
        return f"host=127.0.0.1 port={port} user={admin.name} password={admin.password!s} dbname=postgres"

    def _asks(self) -> dict[str, Callable[[], Readiness]]:
        """How each server is asked whether it is ready."""
        endpoints = self._plan.outside

        def postgres() -> Readiness:
            with psycopg.connect(self._conninfo(), connect_timeout=3):
                return Readiness(True)

        def kafka() -> Readiness:
            from confluent_kafka.admin import AdminClient

            admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
            return Readiness(bool(admin.list_topics(timeout=3).brokers))

        def s3() -> Readiness:
            key, secret = self._plan.credentials.s3_admin
            client: Any = s3_client(replace(endpoints.s3, access_key_id=key, secret_access_key=secret))
            with contextlib.closing(client):
                if endpoints.s3.bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=endpoints.s3.bucket)
            return Readiness(True)

        def registry() -> Readiness:
            answer = httpx2.get(f"{endpoints.registry_url}/subjects", timeout=3, trust_env=False)
            return Readiness(answer.status_code == 200, f"it answers {answer.status_code}")

        def connect() -> Readiness:
            with ConnectClient(endpoints.connect_url, timeout_seconds=3) as client:
                client.connectors()
            return Readiness(True)

        asks = {"postgres": postgres, "kafka-1": kafka, "s3": s3, "registry": registry, "connect": connect}
        return {name: _asked(ask) for name, ask in asks.items()}

    def down(self, *, purge: bool = False) -> None:
        """Remove containers, network, and with them their data; `purge` removes the credentials too."""
        self._opened.close()
        self._opened = contextlib.ExitStack()
        self._components.clear()
        if purge:
            shutil.rmtree(self.folder, ignore_errors=True)


def _asked(ask: Callable[[], Readiness]) -> Callable[[], Readiness]:
    """An error of whatever client asks is the answer no."""

    def asked() -> Readiness:
        try:
            return ask()
        except (CdcpipeError, Exception) as error:  # noqa: BLE001 - five clients' own trees of errors
            lines = str(error).strip().splitlines()
            return Readiness(False, lines[0] if lines else type(error).__name__)

    return asked
