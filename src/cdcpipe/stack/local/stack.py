"""The whole pipeline as processes on this machine, in one folder.

    <folder>/stack.json, credentials.json     what it is, and its secrets (0600)
    <folder>/<component>/                     working folder and data of each
    <folder>/log/                             their logs, rotated

`up` is idempotent: it starts what isn't running and leaves alone what is. Processes outlive the `up` that
started them; they are found again by the folder that they work in.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cdcpipe.errors import DiskFull, MachineError, StackBusy, StackError, StackNotRunning
from cdcpipe.events import ComponentReady, ComponentStarting, Listener, Notice, PhaseFinished, PhaseStarted, ignore
from cdcpipe.stack import jmx
from cdcpipe.stack.artefacts import Bundle, Store
from cdcpipe.stack.artefacts.golang import built, go_programs, program_path
from cdcpipe.stack.component import ComponentState
from cdcpipe.stack.deploy import await_flow, deploy_connectors, ensure_topics, set_compatibility
from cdcpipe.stack.endpoints import CatalogEndpoint, Endpoints, PostgresEndpoint, S3Endpoint
from cdcpipe.stack.local.connect import ConnectWorker, make_plugin_folder, plugin_folder_name
from cdcpipe.stack.local.database import prepare_databases
from cdcpipe.stack.local.java import JavaProcess, MetricsAgent, java_version
from cdcpipe.stack.local.kafka import Broker, check_format
from cdcpipe.stack.local.links import ProxiedLink, Toxiproxy, Wiring
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.process import LocalProcess, processes_below
from cdcpipe.stack.local.registry import ApicurioRegistry
from cdcpipe.stack.local.s3 import SeaweedS3
from cdcpipe.stack.local.state import Credentials, Plan, Wanted
from cdcpipe.stack.pipeline import PLUGINS, AvroConverterName, PipelineSettings, SecretPlaces, secret_values, worker

__all__ = ["LocalStack"]

_PREFIX = "cdc"
_BUCKET = "lake"
_REGION = "us-east-1"
_WATCHERS = frozenset({"prometheus", "prometheus-alertmanager", "alertmanager"})
_FREE_BYTES_MIN = 2 * 1024**3
# MB of heap. Together with metaspace, threads and the other servers the whole stays below 3 GB.
_HEAP = {"kafka": 320, "connect": 768, "registry": 192}


class LocalStack:
    """A stack in `folder`. Nothing runs and nothing is written until `up`."""

    def __init__(
        self, folder: Path, *, cache: Path, maven_mirror: str | None = None, listener: Listener = ignore
    ) -> None:
        self.folder = folder.resolve()
        self._store = Store(cache, mirror=maven_mirror, listener=listener)
        self._listener = listener
        self._giving_up = threading.Event()
        self._plan: Plan | None = Plan.load(self.folder / "stack.json")

    # What others see ------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """How it is built. Raises `StackNotRunning` when there is no stack in the folder."""
        if self._plan is None:
            raise StackNotRunning(f"there is no stack in `{self.folder}`", hint="bring one up with `cdcpipe up`")
        return self._plan

    @property
    def exists(self) -> bool:
        """Whether a stack was ever brought up in the folder."""
        return self._plan is not None

    @cached_property
    def _credentials(self) -> Credentials:
        return Credentials.load_or_make(self.folder / "credentials.json")

    @property
    def settings(self) -> PipelineSettings:
        """How its pipeline is set up."""
        return PipelineSettings(
            brokers=self.plan.brokers,
            registry_root=f"http://127.0.0.1:{self.plan.ports['registry']}",
            converter=self.plan.converter,
        )

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are."""
        ports, roles = self.plan.ports, self._credentials.roles
        source_roles = {purpose: roles[purpose] for purpose in ("owner", "replication", "witness")}
        catalog = PostgresEndpoint("127.0.0.1", ports["postgres"], "catalog", {"catalog": roles["catalog"]})
        key, secret = self._credentials.s3_pipeline
        brokers = range(1, self.plan.brokers + 1)
        return Endpoints(
            postgres=PostgresEndpoint("127.0.0.1", ports["postgres"], "shop", source_roles),
            bootstrap_servers=",".join(f"127.0.0.1:{ports[f'kafka-{node}']}" for node in brokers),
            connect_url=f"http://127.0.0.1:{ports['connect']}",
            registry_url=f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
            s3=S3Endpoint(f"http://127.0.0.1:{ports['s3']}", _REGION, _BUCKET, key, secret),
            catalog=CatalogEndpoint("iceberg", catalog, "catalog", f"s3://{_BUCKET}/warehouse"),
            publication=_PREFIX,
            topic_prefix=_PREFIX,
            dead_letter_topic=f"{_PREFIX}.dead-letters",
            transaction_topic=f"{_PREFIX}.transaction",
        )

    @cached_property
    def components(self) -> dict[str, LocalProcess]:
        """Name -> component, in the order in which they start."""
        found = {component.name: component for component in self._components()}
        for name in found if self.plan.observed else ():
            component, port = found[name], self.plan.ports.get(f"{name}-metrics")
            if isinstance(component, JavaProcess) and port is not None:
                rules = Path(jmx.__file__).with_name(f"{name.partition('-')[0]}.yml")
                jar = self._bundle_path("jmx-exporter") / self._bundles["jmx-exporter"].files[0].name
                component.agent = MetricsAgent(jar, port, rules)
        return found

    @cached_property
    def spares(self) -> dict[str, LocalProcess]:
        """Servers that `up` doesn't start and `down` stops: a second worker of a proxied stack, for rebalances."""
        return {"connect-2": self._worker("connect-2")} if self.plan.proxied else {}

    @property
    def _wiring(self) -> Wiring | None:
        return Wiring(self.plan.brokers, self.plan.ports) if self.plan.proxied else None

    @property
    def links(self) -> dict[str, ProxiedLink]:
        """Name -> link; empty unless the stack was brought up `proxied`."""
        wiring, toxiproxy = self._wiring, self.components.get("toxiproxy")
        if wiring is None or not isinstance(toxiproxy, Toxiproxy):
            return {}
        return wiring.links(toxiproxy.url)

    @property
    def pipeline_endpoints(self) -> Endpoints:
        """The endpoints as the pipeline itself sees them: through the links' proxies where there are any."""
        wiring = self._wiring
        return self.endpoints if wiring is None else wiring.endpoints(self.endpoints)

    @property
    def pipeline_settings(self) -> PipelineSettings:
        """The settings that go with `pipeline_endpoints`."""
        wiring = self._wiring
        return self.settings if wiring is None else wiring.settings(self.settings)

    def running(self) -> list[LocalProcess]:
        """The components that have a process."""
        return [component for component in self.components.values() if component.find() is not None]

    def memory_bytes(self) -> dict[str, int]:
        """Component -> proportional set size."""
        return {name: component.memory_bytes() for name, component in self.components.items()}

    def plugin_versions(self) -> dict[str, str]:
        """Bundle -> version of what Connect runs."""
        return {name: self._bundles[name].version for name in PLUGINS}

    # Up and down ----------------------------------------------------------------------------------

    def up(
        self,
        *,
        brokers: int | None = None,
        ports: Mapping[str, int] | None = None,
        versions: Mapping[str, str] | None = None,
        tables: tuple[str, ...] = (),
        await_archive: bool = False,
        observed: bool | None = None,
        proxied: bool | None = None,
        converter: AvroConverterName | None = None,
    ) -> None:
        """Bring every component up and the pipeline into motion; what runs already is left alone.

        Ends when the connectors' tasks run and a probe row came out of Kafka; with `await_archive`, out of the
        archive too. Topics of `tables` (`schema.table`) are made before the sink looks: one that appears later makes
        it rebalance, and its coordinator start anew. `observed` servers expose metrics, `proxied` ones can have their
        `links` broken: the plan keeps that, None leaves it as it was. `converter` (default Confluent's) is for a new
        stack, as `brokers` is. If anything fails, what this call started is
        stopped again, and the data stays.
        """
        with self._exclusive():
            self._make_plan(Wanted(brokers, dict(ports or {}), dict(versions or {}), observed, proxied, converter))
            started: list[LocalProcess] = []
            try:
                self._phase("artefacts", "artefacts", self._prepare_artefacts)
                self._phase("servers", "servers", lambda: self._start_servers(started, tables))
                self._phase("pipeline", "pipeline", lambda: self._start_pipeline(await_archive=await_archive))
            except BaseException:
                self._stop(started)
                raise

    def down(self, *, purge: bool = False) -> None:
        """Stop everything in order, the sink's side last; `purge` removes data, logs and credentials too."""
        if not self.exists and not self.folder.exists():
            return
        with self._exclusive():
            if self.exists:
                self._stop_watchers()
                self._stop([*self.components.values(), *self.spares.values()], discard=purge)
            if purge:
                self._purge()
        if purge:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _stop_watchers(self) -> None:
        """End the Prometheus and Alertmanager that a monitor, killed before it could, left in the folder."""
        left = processes_below(self.folder, _WATCHERS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(left, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _purge(self) -> None:
        if self.exists:
            postgres = self.components["postgres"]
            assert isinstance(postgres, Postgres)
            postgres.purge()
        for entry in self.folder.iterdir():
            if entry.name == "lock":
                continue
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
        self._plan = None
        for name in ("components", "spares", "_credentials", "_bundles"):
            self.__dict__.pop(name, None)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=0):
                yield
        except Timeout as error:
            raise StackBusy(
                f"another cdcpipe is bringing the stack in `{self.folder}` up or down",
                hint="wait for it, or use another folder with `--stack`",
            ) from error
        except PermissionError as error:
            raise MachineError(f"`{self.folder}` can't be written", hint="use another folder with `--stack`") from error

    def _phase(self, phase: str, title: str, work: object) -> None:
        assert callable(work)
        begin = time.monotonic()
        self._listener(PhaseStarted(phase, title))
        ok = False
        try:
            work()
            ok = True
        finally:
            self._listener(PhaseFinished(phase, time.monotonic() - begin, ok))

    # The plan -------------------------------------------------------------------------------------

    def _make_plan(self, wanted: Wanted) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < _FREE_BYTES_MIN:
            raise DiskFull(
                f"`{self.folder}` has {free / 1024**2:.0f} MB left; a stack needs 2 GB at least",
                hint="make room, or use a folder on another disk with `--stack`",
            )
        plan = Plan.new(wanted) if self._plan is None else self._plan.changed(wanted, running=bool(self.running()))
        # First of all: a stack whose versions can't be had could not even be taken down.
        bundles = self._store.select(dict(plan.versions))
        for node in range(1, plan.brokers + 1):
            check_format(self.folder / f"kafka-{node}", bundles["kafka"].version)
        self._plan = plan
        self._plan.save(self.folder / "stack.json")
        for name in ("components", "spares"):
            self.__dict__.pop(name, None)
        self._bundles = bundles

    @cached_property
    def _bundles(self) -> dict[str, Bundle]:
        return self._store.select(dict(self.plan.versions))

    def _bundle_path(self, name: str) -> Path:
        return self._store.folder_of(self._bundles[name])

    def _plugins(self) -> dict[str, Path]:
        return {name: self._bundle_path(name) for name in PLUGINS}

    def _prepare_artefacts(self) -> None:
        missing = self._store.missing_bytes(self._bundles.values())
        if missing:
            self._listener(Notice(f"downloading {missing / 1e6:.0f} MB of artefacts into {self._store.folder}"))
        self._store.folders(self._bundles.values())
        if self.plan.proxied:
            built(self._store, "toxiproxy", listener=self._listener)
        make_plugin_folder(self._store, self._bundle_path("kafka"), self._plugins())

    def _aot(self, name: str, program: Path) -> Path:
        return self._store.folder / "aot" / f"{name}-jdk{java_version()}-{program.name}.aot"

    def _components(self) -> Iterator[LocalProcess]:
        plan, credentials, jars = self.plan, self._credentials, self._bundle_path("kafka")
        endpoints, log = self.endpoints, self.folder / "log"
        ports, wiring = plan.ports, self._wiring
        if wiring is not None:
            yield Toxiproxy(
                program_path(self._store, "toxiproxy"),
                go_programs()["toxiproxy"].version.removeprefix("v"),
                self.folder / "toxiproxy",
                log,
                port=ports["toxiproxy"],
                proxies=wiring.proxies(),
            )
        yield Postgres(self.folder / "postgres", log, port=ports["postgres"], admin=credentials.roles["admin"])
        cluster = {n: (ports[f"kafka-{n}"], ports[f"kafka-{n}-controller"]) for n in range(1, plan.brokers + 1)}
        for node in cluster:
            yield Broker(
                node,
                cluster,
                jars=jars,
                version=self._bundles["kafka"].version,
                folder=self.folder / f"kafka-{node}",
                log_folder=log,
                cluster_id=plan.cluster_id,
                heap_mb=_HEAP["kafka"] if plan.brokers == 1 else 256,
                aot=self._aot("kafka", jars),
                links=None if wiring is None else wiring.broker_links(node),
            )
        admin_key, admin_secret = credentials.s3_admin
        yield SeaweedS3(
            self.folder / "s3",
            log,
            ports=[ports[name] for name in ("s3-master", "s3-volume", "s3-filer", "s3")]
            + [ports[f"{name}-grpc"] for name in ("s3-master", "s3-volume", "s3-filer", "s3")],
            admin=S3Endpoint(endpoints.s3.url, _REGION, _BUCKET, admin_key, admin_secret),
            pipeline=endpoints.s3,
            metrics_port=ports.get("s3-metrics"),
        )
        yield ApicurioRegistry(
            home=self._bundle_path("registry"),
            version=self._bundles["registry"].version,
            folder=self.folder / "registry",
            log_folder=log,
            port=ports["registry"],
            management_port=ports["registry-management"],
            database=f"127.0.0.1:{ports['postgres'] if wiring is None else wiring.postgres_of_registry()}/registry",
            role=credentials.roles["registry"],
            heap_mb=_HEAP["registry"],
            aot=self._aot("registry", self._bundle_path("registry")),
        )
        yield self._worker("connect")

    def _worker(self, name: str) -> ConnectWorker:
        jars, port = self._bundle_path("kafka"), self.plan.ports[name]
        secrets = ConnectWorker.secrets_file(self.folder / "connect")  # connectors name this file, whoever runs them
        return ConnectWorker(
            name=name,
            jars=jars,
            version=self._bundles["kafka"].version,
            folder=self.folder / name,
            log_folder=self.folder / "log",
            port=port,
            config=worker(
                self.pipeline_endpoints,
                self.settings,
                port=port,
                plugin_path=str(self._store.derived_path(plugin_folder_name(jars, self._plugins()))),
                secrets_folder=str(secrets.parent),
            ),
            secrets=secret_values(self.endpoints),
            heap_mb=_HEAP["connect"],
            aot=self._aot("connect", jars),
        )

    # Servers --------------------------------------------------------------------------------------

    def _start_servers(self, started: list[LocalProcess], tables: tuple[str, ...]) -> None:
        """Start what isn't running: PostgreSQL, brokers and S3 at once, the registry and Connect when they can be."""
        brokers = [component for name, component in self.components.items() if name.startswith("kafka-")]

        def postgres_and_registry() -> None:
            self._start(self.components["postgres"], started)
            roles = self._credentials.roles
            admin = self.components["postgres"]
            assert isinstance(admin, Postgres)
            prepare_databases(
                admin.conninfo(),
                self.endpoints.postgres,
                publication=self.endpoints.publication,
                databases={"catalog": roles["catalog"], "registry": roles["registry"]},
            )
            self._start(self.components["registry"], started)
            set_compatibility(self.endpoints, "FULL_TRANSITIVE")

        def kafka_and_connect() -> None:
            begun = [self._begin(broker, started) for broker in brokers]
            for broker, begin in zip(brokers, begun, strict=True):
                self._await(broker, begin)
            ensure_topics(self.endpoints, self.settings, tables)
            self._start(self.components["connect"], started)

        self._giving_up.clear()
        if "toxiproxy" in self.components:
            self._start(self.components["toxiproxy"], started)
        work = [postgres_and_registry, kafka_and_connect, lambda: self._start(self.components["s3"], started)]
        with ThreadPoolExecutor(len(work)) as pool:
            tasks = [pool.submit(item) for item in work]
            try:
                wait(tasks, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt:
                self._give_up(started)
                raise
            failed = [task.exception() for task in tasks if task.done() and task.exception() is not None]
            if failed:
                self._give_up(started)
                assert failed[0] is not None
                raise failed[0]

    def _start(self, component: LocalProcess, started: list[LocalProcess]) -> None:
        self._await(component, self._begin(component, started))

    def _give_up(self, started: list[LocalProcess]) -> None:
        """End what runs, so that the other threads' waits end now, and let them start nothing more."""
        self._giving_up.set()
        self._stop(list(started))

    def _begin(self, component: LocalProcess, started: list[LocalProcess]) -> float:
        begin = time.monotonic()
        if component.find() is None:
            if self._giving_up.is_set():
                raise StackError(f"`{component.name}` was not started: the start was given up")
            self._listener(ComponentStarting(component.name))
            started.append(component)
            component.start()
            if self._giving_up.is_set():  # it was given up while a folder was being prepared
                component.kill()
        elif component.state() is ComponentState.PAUSED:
            component.resume()
        return begin

    def _await(self, component: LocalProcess, begin: float) -> None:
        component.await_ready(timeout_seconds=120)
        self._listener(ComponentReady(component.name, time.monotonic() - begin))

    def _start_pipeline(self, *, await_archive: bool) -> None:
        secrets = SecretPlaces.in_file(str(ConnectWorker.secrets_file(self.folder / "connect")))
        deploy_connectors(self.pipeline_endpoints, self.pipeline_settings, secrets)
        await_flow(self.endpoints, archive=await_archive)

    def _stop(self, components: list[LocalProcess], *, discard: bool = False) -> None:
        """End them in the reverse of the order in which they start, spares first, so that nobody loses a server that it
        still needs."""

        def end(component: LocalProcess) -> None:
            component.discard() if discard else component.stop()

        order = {name: index for index, name in enumerate([*self.components, *self.spares])}
        brokers = []
        for component in sorted(components, key=lambda item: -order[item.name]):
            if component.name.startswith("kafka-"):
                brokers.append(component)  # all at once: the last of a quorum can't shut down in order alone
            elif component.name not in ("postgres", "toxiproxy"):
                end(component)
        with ThreadPoolExecutor(max(1, len(brokers))) as pool:
            list(pool.map(end, brokers))
        for component in components:
            if component.name in ("postgres", "toxiproxy"):
                end(component)
