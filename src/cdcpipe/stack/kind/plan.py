"""What was chosen for a kind stack, the addresses that follow from it, and the manifests that it is made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cdcpipe.connect import ConfigProvider, SecretRef, WorkerConfig
from cdcpipe.errors import StackError, UsageError
from cdcpipe.stack.endpoints import CatalogEndpoint, Endpoints, PostgresEndpoint, Role, S3Endpoint, Secret
from cdcpipe.stack.kind.cluster import Cluster, scratch_folder
from cdcpipe.stack.kind.images import Image
from cdcpipe.stack.kind.monitoring import monitor_settings, scraping
from cdcpipe.stack.kind.tools import deploy_folder
from cdcpipe.stack.local.state import Credentials
from cdcpipe.stack.pipeline import PipelineSettings, SecretPlaces, secret_values, worker

__all__ = ["PORTS", "SECRETS_FOLDER", "KindPlan", "manifests", "secret_places", "secrets_of", "worker_config"]

# Host ports on loopback, equal to the node ports: deploy/kind/cluster.yaml and components/ports.
PORTS: Mapping[str, int] = {
    "postgres": 32432,
    "kafka-1": 32092,
    "kafka-2": 32093,
    "kafka-3": 32094,
    "connect": 32083,
    "registry": 32081,
    "s3": 32333,
    "toxiproxy": 32474,
    "prometheus": 32090,
}
SECRETS_FOLDER = "/etc/cdcpipe/secrets"
_PREFIX = "cdc"


@dataclass(frozen=True, slots=True)
class KindPlan:
    """How a kind stack is built; fixed while its cluster lives."""

    brokers: int = 1
    chaos: bool = False
    monitoring: bool = False
    bucket: str = "lake"
    region: str = "us-east-1"
    role_arn: str | None = None
    """The IAM role that the sink assumes by its pod's own token. None: an S3 server in the cluster."""

    def __post_init__(self) -> None:
        if self.brokers not in (1, 3):
            raise UsageError(f"a stack has 1 or 3 brokers, not {self.brokers}")
        if self.monitoring and not self.s3_local:
            raise UsageError(
                "in the cluster, `cdcpipe monitor` has no right to read a bucket of AWS",
                hint="run it with an identity that has: `cdcpipe monitor --target kind` on this machine",
            )

    @property
    def s3_local(self) -> bool:
        """Whether the S3 server is in the cluster."""
        return self.role_arn is None

    @classmethod
    def from_config_map(cls, data: Mapping[str, str]) -> KindPlan:
        """Out of the ConfigMap `cdcpipe-plan`. Raises `StackError` for one of another version."""
        try:
            return cls(**json.loads(data["plan.json"]))
        except (KeyError, ValueError, TypeError) as error:
            raise StackError(
                "the cluster was made by another version of cdcpipe", hint="`cdcpipe kind down`, then up again"
            ) from error

    def to_config_map(self) -> dict[str, Any]:
        """The ConfigMap that remembers it."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cdcpipe-plan", "namespace": "cdcpipe"},
            "data": {"plan.json": json.dumps(asdict(self))},
        }

    @property
    def settings(self) -> PipelineSettings:
        """The pipeline's, as its servers see it: the registry by its name in the cluster."""
        root = "http://toxiproxy:18080" if self.chaos else "http://registry:8080"
        return PipelineSettings(brokers=self.brokers, registry_root=root)

    def outside(self, credentials: Credentials) -> Endpoints:
        """Where a client on this machine finds the servers."""
        roles = {purpose: credentials.roles[purpose] for purpose in ("owner", "replication", "witness")}
        catalog = PostgresEndpoint("127.0.0.1", PORTS["postgres"], "catalog", {"catalog": credentials.roles["catalog"]})
        key, secret = credentials.s3_pipeline
        s3 = S3Endpoint(f"http://127.0.0.1:{PORTS['s3']}", self.region, self.bucket, key, secret)
        if not self.s3_local:
            s3 = S3Endpoint(None, self.region, self.bucket, None, None)
        return Endpoints(
            postgres=PostgresEndpoint("127.0.0.1", PORTS["postgres"], "shop", roles),
            bootstrap_servers=",".join(f"127.0.0.1:{PORTS[f'kafka-{node}']}" for node in range(1, self.brokers + 1)),
            connect_url=f"http://127.0.0.1:{PORTS['connect']}",
            registry_url=f"http://127.0.0.1:{PORTS['registry']}/apis/ccompat/v7",
            s3=s3,
            catalog=CatalogEndpoint("iceberg", catalog, "catalog", f"s3://{self.bucket}/warehouse"),
            publication=_PREFIX,
            topic_prefix=_PREFIX,
            dead_letter_topic=f"{_PREFIX}.dead-letters",
            transaction_topic=f"{_PREFIX}.transaction",
        )

    def inside(self, credentials: Credentials) -> Endpoints:
        """Where the pods find each other; only Connect's own address stays the one of this machine."""
        outside = self.outside(credentials)
        assert outside.catalog is not None
        source, catalog, s3, brokers = ("postgres", 5432), ("postgres", 5432), "https://s3:8334", "kafka:9092"
        if self.chaos:  # components/chaos/proxies.json
            source, catalog, s3 = ("toxiproxy", 15432), ("toxiproxy", 15433), "https://toxiproxy:18333"
            brokers = ",".join(f"toxiproxy:{19090 + node}" for node in range(1, self.brokers + 1))
        return replace(
            outside,
            postgres=replace(outside.postgres, host=source[0], port=source[1]),
            bootstrap_servers=brokers,
            registry_url=f"{self.settings.registry_root}/apis/ccompat/v7",
            s3=replace(outside.s3, url=s3) if self.s3_local else outside.s3,
            catalog=replace(
                outside.catalog, postgres=replace(outside.catalog.postgres, host=catalog[0], port=catalog[1])
            ),
        )


def secret_places() -> SecretPlaces:
    """Where Connect finds credentials: each a file of the mounted Secret `pipeline`."""
    return SecretPlaces(**{name: SecretRef.directory(SECRETS_FOLDER, name) for name in SecretPlaces.__slots__})


def worker_config(plan: KindPlan) -> WorkerConfig:
    """The worker of a pod: reached by its own address, secrets from the mounted folder only."""
    nobody = Role("", Secret(""))
    purposes = ("owner", "replication", "witness", "catalog", "admin", "registry")
    names = Credentials(dict.fromkeys(purposes, nobody), ("", Secret("")), ("", Secret("")))
    config = worker(
        plan.inside(names), plan.settings, port=8083, plugin_path="/opt/plugins", secrets_folder=SECRETS_FOLDER
    )
    return config.model_copy(
        update={
            "listeners": ("http://0.0.0.0:8083",),
            "rest_advertised_host_name": "@POD_IP@",
            "config_providers": (ConfigProvider.directory(allowed_paths=(SECRETS_FOLDER,)),),
        }
    )


def secrets_of(plan: KindPlan, credentials: Credentials) -> dict[str, dict[str, str]]:
    """Secret -> its content. `cdcpipe-credentials` is what clients outside are given; no pod mounts it."""
    admin, registry = credentials.roles["admin"], credentials.roles["registry"]
    found = {
        "cdcpipe-credentials": {"credentials.json": _credentials_json(credentials)},
        "postgres-admin": {"username": admin.name, "password": str(admin.password)},
        "registry-database": {
            "registry.properties": f"apicurio.datasource.username={registry.name}\n"
            f"apicurio.datasource.password={registry.password!s}\n"
        },
        "pipeline": {
            name: value
            for name, value in secret_values(plan.outside(credentials)).items()
            if plan.s3_local or not name.startswith("s3_")
        },
    }
    if plan.monitoring:
        directly = replace(plan, chaos=False).inside(credentials)  # a link that is cut isn't the monitor's
        inside = replace(directly, connect_url="http://connect:8083")
        text = monitor_settings(inside, plan.settings.slot, plan.brokers)
        found["monitor"] = {"cdcpipe.toml": text}
    if plan.s3_local:
        found["s3-identities"] = {"s3.json": _identities(plan, credentials)}
    return found


def _identities(plan: KindPlan, credentials: Credentials) -> str:
    def identity(name: str, keys: tuple[str, Secret], actions: list[str]) -> dict[str, object]:
        return {"name": name, "credentials": [{"accessKey": keys[0], "secretKey": str(keys[1])}], "actions": actions}

    rights = [f"{verb}:{plan.bucket}" for verb in ("Read", "Write", "List", "Tagging")]
    pipeline = identity("pipeline", credentials.s3_pipeline, rights)
    return json.dumps({"identities": [identity("admin", credentials.s3_admin, ["Admin"]), pipeline]})


def _credentials_json(credentials: Credentials) -> str:
    return json.dumps(
        {
            "roles": {purpose: [role.name, str(role.password)] for purpose, role in credentials.roles.items()},
            "s3_admin": [credentials.s3_admin[0], str(credentials.s3_admin[1])],
            "s3_pipeline": [credentials.s3_pipeline[0], str(credentials.s3_pipeline[1])],
        }
    )


def credentials_from(secret: Mapping[str, str]) -> Credentials:
    """Out of the Secret `cdcpipe-credentials`."""
    content = json.loads(secret["credentials.json"])
    return Credentials(
        roles={purpose: Role(name, Secret(password)) for purpose, (name, password) in content["roles"].items()},
        s3_admin=(content["s3_admin"][0], Secret(content["s3_admin"][1])),
        s3_pipeline=(content["s3_pipeline"][0], Secret(content["s3_pipeline"][1])),
    )


def components_of(plan: KindPlan) -> list[str]:
    """The Kustomize components of `deploy/kind/components` that the plan is made of."""
    return [
        "ports",
        "s3-local" if plan.s3_local else "s3-aws",
        *(["brokers-3"] if plan.brokers == 3 else []),
        *(["chaos"] if plan.chaos else []),
        *(["monitoring"] if plan.monitoring else []),
    ]


def manifests(cluster: Cluster, plan: KindPlan, images: Sequence[Image]) -> list[dict[str, Any]]:
    """Every object of the stack but its Secrets, as Kustomize builds them, with these images."""
    with scratch_folder() as folder:
        shutil.copytree(deploy_folder("kind"), folder / "kind", ignore=shutil.ignore_patterns("images"))
        # Fresh, so that the worker always is what the pipeline's settings say.
        properties = worker_config(plan).to_properties()
        (folder / "worker.properties").write_text(properties, encoding="ascii", newline="\n")
        if plan.monitoring:
            path = folder / "kind" / "components" / "monitoring" / "prometheus.yml"
            path.write_text(scraping(path.read_text(encoding="utf-8"), plan.brokers), encoding="utf-8", newline="\n")
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "cdcpipe",
            "resources": ["kind/base"],
            "components": [f"kind/components/{name}" for name in components_of(plan)],
            "configMapGenerator": [{"name": "connect", "behavior": "merge", "files": ["worker.properties"]}],
            "images": [_image(image) for image in images],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        text = cluster.kubectl("kustomize", str(folder), what="building the manifests")
        if plan.role_arn is not None:
            text = text.replace("ROLE_ARN", plan.role_arn).replace("us-east-1", plan.region)
    return [item for item in yaml.safe_load_all(text) if item]


def _image(image: Image) -> dict[str, str]:
    name, _, tag = image.name.partition(":")
    return {"name": name, "newTag": tag}


def write_worker_properties(folder: Path | None = None) -> list[Path]:
    """Write each `worker.properties` of deploy/kind, for those who apply it without us; a test holds them to this."""
    home = folder or deploy_folder("kind")
    plans = {
        "base/config": KindPlan(),
        "components/brokers-3": KindPlan(brokers=3),
        "components/chaos": KindPlan(chaos=True),
    }
    written = []
    for place, plan in plans.items():
        path = home / place / "worker.properties"
        path.write_text(worker_config(plan).to_properties(), encoding="ascii", newline="\n")
        written.append(path)
    return written
