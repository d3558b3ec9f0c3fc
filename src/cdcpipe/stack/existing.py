"""A pipeline that is there already: endpoints from settings, looked at before anything is judged.

`up` changes nothing. It asks every server whether it is there, whether it is what it should be, and whether our roles
have the rights that a verification needs; all that is wrong is told at once, each with where it was looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx2
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import CdcpipeError, StackError
from cdcpipe.settings import EndpointSettings, RoleSettings
from cdcpipe.stack.commands import CommandComponent
from cdcpipe.stack.component import Component, ComponentState
from cdcpipe.stack.endpoints import (
    WATERMARK_SCHEMA,
    WATERMARK_TABLE,
    CatalogEndpoint,
    Endpoints,
    PostgresEndpoint,
    Role,
    S3Endpoint,
    Secret,
)
from cdcpipe.stack.pipeline import PipelineSettings

if TYPE_CHECKING:
    from cdcpipe.stack.link import Link

__all__ = ["ExistingStack", "endpoints_of"]

_SECONDS = 10


def endpoints_of(settings: EndpointSettings) -> Endpoints:
    """The endpoints that `[endpoints]` describes."""
    postgres, s3, catalog = settings.postgres, settings.s3, settings.catalog
    owner = _role(postgres.owner)
    witness = _role(postgres.witness or postgres.owner)
    roles = {"owner": owner, "witness": witness, "replication": witness}
    prefix = settings.topic_prefix
    schemas = dict.fromkeys((*settings.captured_schemas, WATERMARK_SCHEMA))
    return Endpoints(
        postgres=PostgresEndpoint(postgres.host, postgres.port, postgres.database, roles),
        bootstrap_servers=settings.bootstrap_servers,
        connect_url=settings.connect_url.rstrip("/"),
        registry_url=settings.registry_url.rstrip("/"),
        s3=S3Endpoint(
            s3.url,
            s3.region,
            s3.bucket,
            s3.access_key_id,
            None if s3.secret_access_key is None else Secret(s3.secret_access_key.get_secret_value()),
        ),
        catalog=None
        if catalog is None
        else CatalogEndpoint(
            catalog.name,
            PostgresEndpoint(catalog.host, catalog.port, catalog.database, {"catalog": _role(catalog.role)}),
            "catalog",
            catalog.warehouse,
        ),
        publication=settings.publication,
        topic_prefix=prefix,
        dead_letter_topic=settings.dead_letter_topic or f"{prefix}.dead-letters",
        transaction_topic=settings.transaction_topic or f"{prefix}.transaction",
        captured_schemas=tuple(schemas),
        archive_prefix=settings.archive_prefix,
    )


def _role(role: RoleSettings) -> Role:
    return Role(role.name, Secret(role.password.get_secret_value()))


class ExistingStack:
    """Somebody's pipeline. Nothing of it is started, stopped or changed by this class."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._given = settings
        self.endpoints = endpoints_of(settings)
        self.source, self.sink = settings.source, settings.sink

    @cached_property
    def settings(self) -> PipelineSettings:
        """What can be told from outside: the number of brokers, the slot, the schemas."""
        schemas = tuple(each for each in self.endpoints.captured_schemas if each != WATERMARK_SCHEMA)
        return PipelineSettings(
            brokers=max(1, len(self._admin().list_topics(timeout=_SECONDS).brokers)),
            captured_schemas=schemas,
            slot=self._given.slot,
            registry_root=self.endpoints.registry_url,
        )

    @cached_property
    def components(self) -> Mapping[str, Component]:
        """Those that `[endpoints.components]` tells how to manage."""
        return {name: CommandComponent(name, each) for name, each in self._given.components.items()}

    @property
    def links(self) -> Mapping[str, Link]:
        """None: no proxy of ours stands in somebody else's links."""
        return {}

    def running(self) -> Sequence[Component]:
        """The components that say that they are ready."""
        return [each for each in self.components.values() if each.state() is ComponentState.READY]

    def memory_bytes(self) -> dict[str, int]:
        """Component -> bytes, of those that have a command `memory`."""
        sizes = {name: component.memory_bytes() for name, component in self.components.items()}
        return {name: size for name, size in sizes.items() if size}

    def plugin_versions(self) -> dict[str, str]:
        """Class of each connector -> its version, as Connect tells."""
        with ConnectClient(self.endpoints.connect_url, timeout_seconds=_SECONDS) as client:
            versions = {plugin.java_class: plugin.version or "?" for plugin in client.plugins()}
            classes = [client.config(name)["connector.class"] for name in (self.source, self.sink)]
        return {java_class: versions.get(java_class, "?") for java_class in classes}

    # Looking at it --------------------------------------------------------------------------------

    def up(self, *, tables: tuple[str, ...] = (), await_archive: bool = False) -> None:
        """Make sure that everything answers, is what it should be, and lets us do what we need.

        Raises `StackError` whose detail lists every finding. `tables` and `await_archive` change nothing here.
        """
        findings = self.examine()
        if findings:
            raise StackError(
                f"the pipeline can't be judged: {findings[0]}"
                + (f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""),
                detail="\n".join(findings),
                hint="correct [endpoints] in cdcpipe.toml (CDCPIPE_ENDPOINTS__*), or the rights of our roles",
            )

    def down(self, *, purge: bool = False) -> None:
        """Nothing: it isn't ours."""

    def examine(self) -> list[str]:
        """What keeps this pipeline from being judged, a sentence each; nothing when all is well."""
        asked: dict[str, Callable[[], list[str]]] = {
            "PostgreSQL": self._examine_postgres,
            "Kafka": self._examine_kafka,
            "Kafka Connect": self._examine_connect,
            "the schema registry": self._examine_registry,
            "S3": self._examine_s3,
            "the Iceberg catalog": self._examine_catalog,
        }
        findings: list[str] = []
        for what, examine in asked.items():
            try:
                findings += [f"{what}: {finding}" for finding in examine()]
            except (CdcpipeError, psycopg.Error, KafkaException, httpx2.HTTPError, OSError) as error:
                findings.append(f"{what}: {_first_line(error)}")
        return findings

    def _examine_postgres(self) -> list[str]:
        where, findings = self.endpoints.postgres, []
        for purpose in ("owner", "witness"):
            name = where.roles[purpose].name
            try:
                with psycopg.connect(where.conninfo(purpose), autocommit=True, connect_timeout=_SECONDS) as connection:
                    findings += [f"role `{name}` {each}" for each in self._examine_role(connection, purpose)]
            except psycopg.Error as error:
                findings.append(f"role `{name}`: {_first_line(error)}")
        return findings

    def _examine_role(self, connection: psycopg.Connection[Any], purpose: str) -> list[str]:
        def ask(question: str, *values: object) -> Any:
            row = connection.execute(question, values).fetchone()
            return None if row is None else row[0]

        if purpose == "witness":
            findings = []
            if ask("SHOW wal_level") != "logical":
                findings.append(f"sees wal_level = {ask('SHOW wal_level')}; it must be logical")
            if not ask("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"):
                findings.append("may not replicate: ALTER ROLE ... REPLICATION")
            if ask("SELECT 1 FROM pg_publication WHERE pubname = %s", self.endpoints.publication) is None:
                findings.append(f"sees no publication `{self.endpoints.publication}`")
            if ask("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", self._given.slot) is None:
                findings.append(f"sees no replication slot `{self._given.slot}`")
            return findings
        findings = []
        schema = self.settings_schema
        if not ask("SELECT has_schema_privilege(current_user, %s, 'CREATE')", schema):
            findings.append(f"may not make tables in schema `{schema}`")
        if ask("SELECT 1 FROM pg_namespace WHERE nspname = %s", WATERMARK_SCHEMA) and not ask(
            "SELECT has_schema_privilege(current_user, %s, 'USAGE')", WATERMARK_SCHEMA
        ):
            findings.append(f"may not use schema `{WATERMARK_SCHEMA}`")
        elif ask("SELECT to_regclass(%s)", WATERMARK_TABLE) is None:
            findings.append(
                f"sees no table {WATERMARK_TABLE} (name text primary key, token bigint, at timestamptz); make it, and "
                "have the source capture it"
            )
        elif not ask("SELECT has_table_privilege(current_user, %s, 'INSERT, UPDATE')", WATERMARK_TABLE):
            findings.append(f"may not write {WATERMARK_TABLE}")
        return findings

    @property
    def settings_schema(self) -> str:
        """The schema in which tests make their tables: the first that is captured."""
        return self.endpoints.captured_schemas[0]

    def _admin(self) -> AdminClient:
        return AdminClient(
            {"bootstrap.servers": self.endpoints.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 10_000}
        )

    def _examine_kafka(self) -> list[str]:
        known = self._admin().list_topics(timeout=_SECONDS).topics
        wanted = self.endpoints.topic_of(WATERMARK_TABLE)
        findings = (
            []
            if any(name.startswith(f"{self.endpoints.topic_prefix}.") for name in known)
            else [f"no topic begins with `{self.endpoints.topic_prefix}.` at {self.endpoints.bootstrap_servers}"]
        )
        if not findings and wanted not in known:
            findings = [f"there is no topic `{wanted}`: {WATERMARK_TABLE} is not captured"]
        return findings

    def _examine_connect(self) -> list[str]:
        findings = []
        with ConnectClient(self.endpoints.connect_url, timeout_seconds=_SECONDS) as client:
            known = client.connectors()
            for name in (self.source, self.sink):
                if name not in known:
                    findings.append(f"there is no connector `{name}`; there are {', '.join(known) or 'none'}")
                    continue
                status = client.status(name)
                if not status.running:
                    lines = (status.failure or "").splitlines()
                    findings.append(f"connector `{name}` does not run: {lines[0] if lines else status.state}")
        return findings

    def _examine_registry(self) -> list[str]:
        url = self.endpoints.registry_url
        answer = httpx2.get(f"{url}/config", timeout=_SECONDS, trust_env=False)
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not answer.is_success or not isinstance(content, dict) or "compatibilityLevel" not in content:
            return [
                f"{url}/config does not answer as Confluent's API does (status {answer.status_code}): "
                "is it a registry of another kind, or is its base path missing, such as /apis/ccompat/v7?"
            ]
        return []

    def _examine_s3(self) -> list[str]:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        s3 = self.endpoints.s3
        style: Any = {"addressing_style": "path"} if s3.url else {}
        client: Any = boto3.client(
            "s3",
            endpoint_url=s3.url,
            region_name=s3.region,
            aws_access_key_id=s3.access_key_id,
            aws_secret_access_key=None if s3.secret_access_key is None else str(s3.secret_access_key),
            config=Config(s3=style, connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"max_attempts": 1}),
        )
        try:
            client.list_objects_v2(Bucket=s3.bucket, MaxKeys=1)
        except ClientError as error:
            return [f"bucket `{s3.bucket}` can't be listed: {error.response['Error']['Code']}"]
        except BotoCoreError as error:
            return [f"bucket `{s3.bucket}` can't be reached: {_first_line(error)}"]
        finally:
            client.close()
        return []

    def _examine_catalog(self) -> list[str]:
        if self.endpoints.catalog is None:
            return ["none is given, and archives in plain folders can't be judged by this suite yet"]
        from cdcpipe.stack.catalog import open_catalog

        try:
            open_catalog(self.endpoints).list_namespaces()
        except Exception as error:  # noqa: BLE001 - SQLAlchemy's and pyiceberg's own trees
            return [f"it can't be read: {_first_line(error)}"]
        return []


def _first_line(error: BaseException) -> str:
    text = str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
