"""The pipeline on a kind cluster: up, down, and what faults, monitors and tests see of it.

`up` is idempotent: it makes the cluster if there is none, builds and loads the images that are missing, applies the
manifests and brings the pipeline into motion. When it fails, it says which pod, why, and what its log ends with;
everything stays as it is, so that it can be looked at, and `up` can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cdcpipe.errors import ComponentFailed, StackBusy, StackError, StackNotRunning, UsageError
from cdcpipe.events import ComponentReady, ComponentStarting, Listener, Notice, PhaseFinished, PhaseStarted, ignore
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.artefacts.lock import load_wanted
from cdcpipe.stack.certificate import self_signed
from cdcpipe.stack.component import Component, ComponentState
from cdcpipe.stack.deploy import await_flow, deploy_connectors, ensure_topics, set_compatibility
from cdcpipe.stack.endpoints import Endpoints, PostgresEndpoint, S3Endpoint
from cdcpipe.stack.kind import asking
from cdcpipe.stack.kind.cluster import Cluster
from cdcpipe.stack.kind.component import KindComponent
from cdcpipe.stack.kind.images import BASE, Image, Images
from cdcpipe.stack.kind.kube import Kube, statuses, why_not_ready
from cdcpipe.stack.kind.links import links_of
from cdcpipe.stack.kind.plan import (
    PORTS,
    KindPlan,
    credentials_from,
    manifests,
    secret_places,
    secrets_of,
)
from cdcpipe.stack.kind.tools import deploy_folder, tool
from cdcpipe.stack.link import Link
from cdcpipe.stack.local.database import prepare_databases
from cdcpipe.stack.local.state import Credentials
from cdcpipe.stack.pipeline import PLUGINS, PipelineSettings

__all__ = ["KindStack"]

_READY_SECONDS = 240
_MONITOR = ("Deployment", "monitor")
_S3_NAMES = ("s3", "s3.cdcpipe.svc", "toxiproxy")  # toxiproxy passes TLS on as it is
# What waiting can't mend.
_HOPELESS = {"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff", "ErrImagePull"}


class KindStack:
    """The stack on the cluster `cluster`. Nothing is asked or made until it is needed."""

    def __init__(
        self,
        folder: Path,
        *,
        store: Store,
        cluster: Cluster | None = None,
        base: str = BASE,
        listener: Listener = ignore,
    ) -> None:
        self.folder = folder.resolve()
        self.cluster = cluster or Cluster()
        self.kube = Kube(self.cluster.context)
        self._store = store
        self._base = base
        self._listener = listener

    # What others see ------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether its cluster is there."""
        return self.cluster.exists()

    @cached_property
    def plan(self) -> KindPlan:
        """How it is built. Raises `StackNotRunning` without a cluster, or when nothing was brought up on it."""
        data = self.kube.config_map("cdcpipe-plan")
        if data is None:
            raise StackNotRunning(
                f"there is no pipeline on the cluster `{self.cluster.name}`", hint="bring it up with `cdcpipe kind up`"
            )
        return KindPlan.from_config_map(data)

    @cached_property
    def _credentials(self) -> Credentials:
        secret = self.kube.secret("cdcpipe-credentials")
        if secret is None:
            raise StackNotRunning("the cluster has no credentials yet", hint="bring it up with `cdcpipe kind up`")
        return credentials_from(secret)

    @property
    def settings(self) -> PipelineSettings:
        """How its pipeline is set up."""
        return self.plan.settings

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are, from this machine."""
        return self.plan.outside(self._credentials)

    @cached_property
    def components(self) -> dict[str, KindComponent]:
        """Name -> component, in the order in which they start."""
        endpoints, wanted = self.endpoints, load_wanted()
        kafka = wanted["kafka"].version
        images = self._versions()

        def make(
            name: str, version: str, pod: str, ask: Callable[[], Any], *, stop_signal: str = "TERM"
        ) -> KindComponent:
            return KindComponent(name, version, pod, self.kube, ask, stop_signal=stop_signal)

        owner = endpoints.postgres.conninfo("owner") + " connect_timeout=5"
        made = [
            make("postgres", images["postgres"], "postgres-0", partial(asking.ask_postgres, owner), stop_signal="INT")
        ]
        for node in range(1, self.plan.brokers + 1):
            address = f"127.0.0.1:{PORTS[f'kafka-{node}']}"
            made.append(make(f"kafka-{node}", kafka, f"kafka-{node}", partial(asking.ask_broker, address, node)))
        if self.plan.s3_local:
            made.append(make("s3", images["s3"], "s3-0", partial(asking.ask_s3, endpoints.s3)))
        registry = partial(asking.ask_registry, endpoints.registry_url)
        made.append(make("registry", wanted["registry"].version, "registry-0", registry))
        made.append(make("connect", kafka, "connect-0", partial(asking.ask_connect, endpoints.connect_url)))
        return {component.name: component for component in made}

    def _versions(self) -> dict[str, str]:
        """What the images' own wheels are, from the annotation of their sets."""
        return {
            item.metadata.name: (item.metadata.annotations or {}).get("cdcpipe.dev/version", "")
            for item in self.kube.sets()
        }

    def running(self) -> Sequence[Component]:
        """The components whose server runs."""
        return [item for item in self.components.values() if item.state() is not ComponentState.STOPPED]

    @cached_property
    def links(self) -> Mapping[str, Link]:
        """Name -> link through toxiproxy; empty unless the stack was brought up with `chaos`."""
        return links_of(self.plan.brokers, self.kube) if self.plan.chaos else {}

    def memory_bytes(self) -> dict[str, int]:
        """Component -> proportional set size."""
        return {name: component.memory_bytes() for name, component in self.components.items()}

    def node_memory_bytes(self) -> int:
        """Working set of the whole node, Kubernetes itself included, as its kubelet reports it."""
        return int(self.kube.node_summary()["node"]["memory"]["workingSetBytes"])

    def plugin_versions(self) -> dict[str, str]:
        """Bundle -> version of what Connect runs."""
        wanted = load_wanted()
        return {name: wanted[name].version for name in PLUGINS}

    def digests(self) -> dict[str, str]:
        """Component -> digest of its image, which holds its plugins too."""
        found = {}
        for name, component in self.components.items():
            pod = self.kube.pod(component.pod)
            for status in (pod.status.container_statuses or []) if pod is not None else ():
                found[name] = "sha256:" + str(status.image_id).rpartition("sha256:")[2]
        return found

    # Up and down ----------------------------------------------------------------------------------

    def build(self, plan: KindPlan | None = None) -> list[Image]:
        """Build the images of `plan` that aren't there."""
        chosen = plan or KindPlan()
        images = Images(
            self._store,
            base=self._base,
            chaos=chosen.chaos,
            monitoring=chosen.monitoring,
            listener=self._listener,
        )
        return images.build()

    def load(self) -> list[str]:
        """Build what isn't there and load what the node lacks; give the names of what was loaded."""
        images = self.build(self._known_plan())
        if not self.cluster.exists():
            raise StackNotRunning(f"there is no cluster `{self.cluster.name}`", hint="`cdcpipe kind up` makes one")
        return self.cluster.load([image.name for image in images])

    def up(self, plan: KindPlan | None = None, *, tables: tuple[str, ...] = (), await_archive: bool = False) -> None:
        """Bring everything up; what is up already is left alone. Ends when a probe row came through."""
        for name in ("docker", "kind", "kubectl"):
            tool(name)
        with self._exclusive():
            with ThreadPoolExecutor(2) as pool:
                wanted = plan or self._known_plan()
                building = pool.submit(self._phase, "images", "building images", partial(self.build, wanted))
                self._phase("cluster", "making the cluster", self._make_cluster)
                images = building.result()
            self._phase("load", "loading images into the cluster", lambda: self.cluster.load([i.name for i in images]))
            self._choose(plan)
            objects = self._versioned(manifests(self.cluster, self.plan, images), images)
            watching = [item for item in objects if _place(item) == _MONITOR]
            servers = [item for item in objects if _place(item) != _MONITOR]
            self._phase("servers", "starting servers", lambda: self._start_servers(servers, tables))
            self._phase("pipeline", "starting the pipeline", lambda: self._start_pipeline(await_archive))
            if watching:  # last: a pipeline that was never there would look like one that is gone
                self._phase("monitor", "starting the monitor", lambda: self._start_monitor(watching))

    def down(self, *, purge: bool = False) -> None:
        """Stop the node; its data stays. `purge` removes the cluster, if it was made for this folder."""
        if not self.cluster.exists():
            return
        if purge and self._mark.exists():
            self.remove()
        elif purge:
            self._listener(Notice(f"the cluster `{self.cluster.name}` was there before: it stays"))
        else:
            self.stop()

    def stop(self) -> None:
        """Stop the node, and with it every pod; `up` goes on where it stopped."""
        with self._exclusive():
            if self.cluster.running():
                self.kube.close()
                self.cluster.stop()

    def remove(self) -> None:
        """Remove the cluster with all its data."""
        with self._exclusive():
            self.kube.close()
            self.cluster.delete()
            self._mark.unlink(missing_ok=True)
            for name in ("plan", "_credentials", "components", "links"):
                self.__dict__.pop(name, None)

    def _known_plan(self) -> KindPlan | None:
        try:
            return self.plan if self.cluster.running() else None
        except StackError:
            return None

    def close(self) -> None:
        """Close the connections to the API server; the next question opens new ones."""
        self.kube.close()

    @property
    def _mark(self) -> Path:
        return self.folder / "kind-cluster"

    def _exclusive(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "kind.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise StackBusy("another cdcpipe is working on the cluster", hint="wait for it") from error
        lock.release()
        return lock

    def _phase(self, phase: str, title: str, work: Callable[[], Any]) -> Any:
        begin = time.monotonic()
        self._listener(PhaseStarted(phase, title))
        ok = False
        try:
            result = work()
            ok = True
            return result
        finally:
            self._listener(PhaseFinished(phase, time.monotonic() - begin, ok))

    def _make_cluster(self) -> None:
        if self.cluster.exists():
            if not self.cluster.running():
                self.cluster.start()
            self.cluster.await_api()
            return
        self.cluster.create()
        self._mark.write_text(f"{self.cluster.name}\n", encoding="utf-8")

    def _choose(self, plan: KindPlan | None) -> None:
        """Fix the plan and the credentials: those that the cluster has, else new ones."""
        for name in ("components", "links"):
            self.__dict__.pop(name, None)
        self.cluster.kubectl(
            "apply", "-f", str(deploy_folder("kind", "base", "namespace.yaml")), what="making the namespace"
        )
        known = self.kube.config_map("cdcpipe-plan")
        if known is not None and plan not in (None, KindPlan.from_config_map(known)):
            raise UsageError(
                "the cluster was brought up with other options, which can't be changed later",
                hint="`cdcpipe kind down` first; its data is lost with it",
            )
        self.plan = plan or (KindPlan.from_config_map(known) if known else KindPlan())
        stored = self.kube.secret("cdcpipe-credentials")
        self._credentials = credentials_from(stored) if stored else Credentials.new()
        for name, content in secrets_of(self.plan, self._credentials).items():
            if self.kube.secret(name) != content:
                self.kube.apply_secret(name, content)
        if self.plan.s3_local and (self.kube.secret("s3-tls") is None or self.kube.secret("s3-trust") is None):
            made = self_signed("cdcpipe s3", names=_S3_NAMES)
            self.kube.apply_secret("s3-tls", {"tls.crt": made.certificate, "tls.key": made.key})
            self.kube.apply_secret("s3-trust", {"ca.p12": made.trust_store.decode(errors="surrogateescape")})

    # Servers --------------------------------------------------------------------------------------

    @staticmethod
    def _versioned(objects: list[dict[str, Any]], images: Sequence[Image]) -> list[dict[str, Any]]:
        """`objects`, in which each set says what version it runs."""
        for item in objects:
            if item["kind"] in ("StatefulSet", "Deployment"):
                version = next((i.version for i in images if i.component == item["metadata"]["name"]), "")
                item["metadata"].setdefault("annotations", {})["cdcpipe.dev/version"] = version
        return objects

    def _start_monitor(self, objects: Sequence[Mapping[str, Any]]) -> None:
        self._apply(objects)
        self._await_sets({item["metadata"]["name"] for item in objects})

    def _start_servers(self, objects: Sequence[Mapping[str, Any]], tables: tuple[str, ...]) -> None:
        """Apply everything; registry and Connect after what they need is there, so that neither has to crash first."""
        later = {("StatefulSet", "registry"), ("StatefulSet", "connect")}
        first = [item for item in objects if _place(item) not in later]
        self._apply([*first, self.plan.to_config_map()])
        early = {"postgres", "kafka"} | ({"s3"} if self.plan.s3_local else set())
        self._await_sets(early)
        endpoints, roles = self.endpoints, self._credentials.roles
        admin = PostgresEndpoint(
            endpoints.postgres.host, endpoints.postgres.port, "postgres", {"admin": roles["admin"]}
        )
        self._asked("postgres", lambda: asking.ask_postgres(admin.conninfo("admin")))
        prepare_databases(
            admin.conninfo("admin").replace("dbname=postgres ", ""),
            endpoints.postgres,
            publication=endpoints.publication,
            databases={"catalog": roles["catalog"], "registry": roles["registry"]},
        )
        if self.plan.s3_local:
            key, secret = self._credentials.s3_admin
            own = S3Endpoint(endpoints.s3.url, endpoints.s3.region, endpoints.s3.bucket, key, secret)
            self._asked("s3", partial(asking.make_bucket, own, endpoints))
        for node, address in enumerate(endpoints.bootstrap_servers.split(","), 1):
            self._asked(f"kafka-{node}", partial(asking.ask_broker, address, node))
        ensure_topics(endpoints, self.settings, tables)
        self._apply(objects)
        sets = {item["metadata"]["name"] for item in objects if item["kind"] in ("StatefulSet", "Deployment")}
        self._await_sets(sets, quiet=early)
        self._asked("registry", partial(asking.ask_registry, endpoints.registry_url))
        self._asked("connect", partial(asking.ask_connect, endpoints.connect_url))
        set_compatibility(endpoints, "FULL_TRANSITIVE")

    def _start_pipeline(self, await_archive: bool) -> None:
        deploy_connectors(self.plan.inside(self._credentials), self.settings, secret_places())
        await_flow(self.endpoints, archive=await_archive)

    def _apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self.cluster.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--field-manager=cdcpipe", "-f", "-"),
            what="applying the manifests",
            stdin=yaml.safe_dump_all(objects),
        )

    def _asked(self, name: str, ask: Callable[[], Any]) -> None:
        """Wait until the server answers from outside: its pod is ready a moment before its port leads there."""
        deadline = time.monotonic() + 60
        while not (answer := ask()).ready:
            if time.monotonic() > deadline:
                raise ComponentFailed(name, f"`{name}` is ready in the cluster, but not from outside: {answer.reason}")
            time.sleep(0.2)

    def _await_sets(self, names: set[str], *, quiet: Set[str] = frozenset()) -> None:
        """Wait until every pod of these sets is ready, and tell it but for `quiet`.

        Raises `ComponentFailed` that says which isn't, and why.
        """
        begin = time.monotonic()
        told: set[str] = set()
        for name in sorted(names - quiet):
            self._listener(ComponentStarting(name))
        while True:
            ready, _ = self.kube.rolled_out()
            for name in sorted((set(ready) & names) - told):
                if name not in quiet:
                    self._listener(ComponentReady(name, time.monotonic() - begin))
                told.add(name)
            if told >= names:
                return
            late = time.monotonic() - begin > _READY_SECONDS
            # What an earlier `up` left broken is replaced by this one.
            outgoing = self.kube.outgoing()
            hopeless = {
                pod.metadata.labels["app.kubernetes.io/name"]
                for pod in self.kube.pods()
                if self._hopeless(pod) and pod.metadata.name not in outgoing
            }
            if late or hopeless:
                # Others may only wait for it.
                self._fail(sorted(hopeless) or sorted(names - told), late and not hopeless)
            time.sleep(0.5)

    @staticmethod
    def _hopeless(pod: Any) -> bool:
        for status in statuses(pod):
            waiting = status.state.waiting
            if waiting is not None and waiting.reason in _HOPELESS:
                return True
            if waiting is not None and waiting.reason == "CrashLoopBackOff" and status.restart_count >= 3:
                return True
        return False

    def _fail(self, missing: list[str], late: bool) -> None:
        troubles = self.kube.troubles()
        first = f"`{missing[0]}`" if len(missing) == 1 else ", ".join(f"`{name}`" for name in missing)
        when = f" within {_READY_SECONDS} s" if late else ""
        raise ComponentFailed(
            missing[0],
            f"{first} did not become ready{when}",
            detail="\n".join(trouble.text() for trouble in troubles)
            or "no pod is there: see `kubectl -n cdcpipe get events`",
            hint="nothing was undone: `cdcpipe kind logs NAME` shows more, `cdcpipe kind up` tries again",
        )

    def pods_text(self) -> dict[str, str]:
        """Pod -> `ready`, or why it isn't."""
        return {pod.metadata.name: "ready" if self._pod_ready(pod) else why_not_ready(pod) for pod in self.kube.pods()}

    @staticmethod
    def _pod_ready(pod: Any) -> bool:
        from cdcpipe.stack.kind.kube import is_ready

        return is_ready(pod)


def _place(item: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and name of an object."""
    return item["kind"], item["metadata"]["name"]
