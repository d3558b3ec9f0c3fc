"""Settings of a project and of a user, and the one place that says which wins.

    command line  >  CDCPIPE_* in the environment  >  cdcpipe.toml  >  [tool.cdcpipe] in pyproject.toml  >  default

Files are looked for in the working directory. An unknown key is an error, so that a typing mistake is not
silently a default.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cdcpipe.errors import SettingsError

__all__ = [
    "CatalogSettings",
    "ComponentSettings",
    "ConformanceSettings",
    "ContainerSettings",
    "EndpointSettings",
    "MonitorSettings",
    "PostgresSettings",
    "QualityLimits",
    "QualitySettings",
    "QualityTable",
    "RoleSettings",
    "S3Settings",
    "Settings",
    "load_settings",
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RoleSettings(_Table):
    """A PostgreSQL role. Its password is better left to the environment than to a file."""

    name: str
    password: SecretStr = SecretStr("")


class PostgresSettings(_Table):
    """The source database. `owner` makes tables; `witness` (default: `owner`) has REPLICATION and reads them."""

    host: str = "127.0.0.1"
    port: int = 5432
    database: str
    owner: RoleSettings
    witness: RoleSettings | None = None


class S3Settings(_Table):
    """The bucket of the archive. Without `url` it is AWS; without keys, the machine's own identity is used."""

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    region: str = "us-east-1"
    bucket: str
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None


class CatalogSettings(_Table):
    """The Iceberg catalog: a JDBC catalog called `name` in a PostgreSQL database."""

    name: str = "iceberg"
    warehouse: str
    host: str = "127.0.0.1"
    port: int = 5432
    database: str
    role: RoleSettings


class ComponentSettings(_Table):
    """How a component of an existing pipeline is managed: shell commands, each optional. `memory` prints bytes,
    `cpu` seconds of CPU so far, `log` its newest lines; `ready` exits with 0 when it can serve."""

    version: str = ""
    start: str | None = None
    stop: str | None = None
    kill: str | None = None
    pause: str | None = None
    resume: str | None = None
    ready: str | None = None
    memory: str | None = None
    cpu: str | None = None
    log: str | None = None


class EndpointSettings(_Table):
    """`[endpoints]`: a pipeline that is there already.

    In the environment: `CDCPIPE_ENDPOINTS__CONNECT_URL`, `CDCPIPE_ENDPOINTS__POSTGRES__OWNER__PASSWORD`, ...
    """

    postgres: PostgresSettings
    bootstrap_servers: str
    connect_url: str
    registry_url: str
    s3: S3Settings
    catalog: CatalogSettings | None = None
    """The Iceberg catalog; without one the archive is read from Hive-style folders below `archive_prefix`."""
    archive_prefix: str = "topics/"
    publication: str
    topic_prefix: str
    slot: str
    source: str
    """The source connector's name."""
    sink: str
    """The sink connector's name."""
    dead_letter_topic: str = ""
    transaction_topic: str = ""
    captured_schemas: tuple[str, ...] = ("public",)
    components: dict[str, ComponentSettings] = Field(default_factory=dict)


class ContainerSettings(_Table):
    """`[containers]`: the images of `--target containers`. The defaults are the projects' own, by version.

    `connect` runs `/opt/kafka/bin/connect-distributed.sh`; its plugins are mounted from the artefact cache, since no
    official image has Debezium, the Iceberg sink and an Avro converter.
    """

    postgres: str = "postgres:18"
    kafka: str = "apache/kafka:4.2.2"
    registry: str = "apicurio/apicurio-registry:3.3.3"
    s3: str = "chrislusf/seaweedfs:4.48"
    connect: str = "apache/kafka:4.2.2"
    start_seconds: Annotated[float, Field(gt=0)] = 120
    """How long one container may take until it is ready."""


class ConformanceSettings(_Table):
    """`[conformance]`: the load of the suite, and bounds where they are stricter than the requirements."""

    rate: Annotated[float, Field(ge=1, le=1_000_000)] = 10_000
    """Events a second that are offered for R2.1. Less than the requirement makes it inconclusive."""
    seconds: Annotated[float, Field(ge=1, le=3600)] = 30
    warm_up: Annotated[float, Field(ge=0, le=3600)] = 20
    bounds: dict[str, float] = Field(default_factory=dict)


class MonitorSettings(_Table):
    """`[monitor]`: what `cdcpipe monitor` asks, how often, and from when on something is too much.

    In the environment: `CDCPIPE_MONITOR__LISTEN`, `CDCPIPE_MONITOR__TARGET_RATE`, ...
    """

    listen: Annotated[str, Field(pattern=r"^[^:]+:\d{1,5}$")] | None = None
    """Address and port of page and metrics. Default: the stack's own port on loopback, else 127.0.0.1:9464."""
    every_seconds: Annotated[float, Field(ge=0.5, le=600)] = 5.0
    """How often the pipeline is sampled. Components are asked twice as often at least."""
    probe_seconds: Annotated[float, Field(ge=0.5, le=600)] = 5.0
    """How often a probe row is committed; the lags in seconds come from it."""
    verify_seconds: Annotated[float, Field(ge=0)] = 300.0
    """Pause between two verifications of the archive against the tables; 0 turns them off."""
    target_rate: Annotated[float, Field(gt=0)] = 10_000.0
    """Events a second that the pipeline should be able to carry."""
    log_seconds_max: Annotated[float, Field(gt=0)] = 5.0
    """How late a change may be in the log."""
    archive_seconds_max: Annotated[float, Field(gt=0)] = 60.0
    """How late a change may be in the archive."""
    memory_limit_bytes: Annotated[int, Field(gt=0)] = 4 << 30
    """What all components may take together."""
    wal_retained_bytes_max: Annotated[int, Field(gt=0)] = 1 << 30
    """WAL that a slot may keep."""
    restart_tasks: bool = False
    """Whether the monitor starts failed tasks again, with growing pauses: Connect never does."""
    audit: bool = False
    """Whether the monitor collects the audit trail too, and hears the S3 access log of an observed stack."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """Component -> address of its metrics, where the stack doesn't say it itself."""
    prometheus_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """A Prometheus whose alerts the page shows."""
    alertmanager_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """An Alertmanager that Prometheus notifies."""
    webhook_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where the Alertmanager of `--with-prometheus` sends notifications."""
    scrape_seconds: Annotated[float, Field(ge=0.5, le=600)] = 5.0
    """How often the Prometheus of `--with-prometheus` scrapes and evaluates."""


class QualityLimits(_Table):
    """Limits of a table or of one of its columns: what is stricter or laxer there than learnt, and what is left out."""

    score_max: Annotated[float, Field(gt=0)] | None = None
    ignore: tuple[str, ...] = ()
    """Measures that are not judged: `rows`, `null_rate`, `distinct`, ... (docs/quality.md lists them)."""
    bounds: dict[str, tuple[float | None, float | None]] = Field(default_factory=dict)
    """Measure -> lowest and highest value that is right, whatever was learnt."""


class QualityTable(QualityLimits):
    """`[quality.tables."schema.table"]`: limits of the table, and of its columns."""

    columns: dict[str, QualityLimits] = Field(default_factory=dict)


class QualitySettings(_Table):
    """`[quality]`: how `cdcpipe quality` profiles, learns and judges."""

    folder: Path | None = None
    """Where profiles and the baseline lie. Default: beside the stack's folder, named after it with `.quality`."""
    bucket_seconds: Annotated[int, Field(ge=10, le=86_400)] = 3600
    """The span of one profile."""
    score_max: Annotated[float, Field(gt=0)] = 6.0
    """From which score on a measure is an anomaly: how many robust standard deviations it is away."""
    history_min: Annotated[int, Field(ge=3)] = 24
    """Profiles of a table that must be there before it is judged."""
    late_seconds: Annotated[float, Field(gt=0)] = 300.0
    """From which delay between commit and log a row is late."""
    expectations: Path = Path("expectations.py")
    """A file of pandera schemas, written by hand; not there is fine."""
    ignore_tables: tuple[str, ...] = ("cdcpipe.watermark",)
    tables: dict[str, QualityTable] = Field(default_factory=dict)


class Settings(BaseSettings):
    """What can be set. Each field's environment variable is `CDCPIPE_` and its name in upper case."""

    model_config = SettingsConfigDict(
        env_prefix="CDCPIPE_",
        env_nested_delimiter="__",
        toml_file="cdcpipe.toml",
        pyproject_toml_table_header=("tool", "cdcpipe"),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    stack: Path = Path(".cdcpipe")
    """Folder of the local stack: its data, logs and credentials."""

    cache: Path = Field(default_factory=lambda: platformdirs.user_cache_path("cdcpipe"))
    """Folder of downloaded artefacts, shared by all stacks of this user."""

    maven_mirror: Annotated[str, Field(pattern=r"^(https?|file)://")] | None = None
    """Base address of a Maven repository to use instead of Maven Central."""

    runs: Path = Path("runs")
    """Where runs leave their folders."""

    endpoints: EndpointSettings | None = None
    """A pipeline that is there already, for `--target existing` and `cdcpipe verify`."""

    containers: ContainerSettings = ContainerSettings()
    """Images of `--target containers`."""

    conformance: ConformanceSettings = ConformanceSettings()
    """The load and bounds of the conformance suite."""

    audit: Path | None = None
    """Folder of the audit trail. Default: beside the stack's folder, named after it with `.audit`."""

    quality: QualitySettings = QualitySettings()
    """What of the data is judged, and when it is no longer like itself."""

    monitor: MonitorSettings = MonitorSettings()
    """What `cdcpipe monitor` and `cdcpipe top` ask, and their bounds."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            PyprojectTomlConfigSettingsSource(settings_cls),
        )


def load_settings(*, file: Path | str | None = None, **given: Any) -> Settings:
    """The settings in force; `given` are those of the command line, None means "not given".

    `file` is read instead of `cdcpipe.toml`. Raises `SettingsError` that names each wrong key.
    """
    kind: type[Settings] = Settings
    if file is not None:
        if not Path(file).is_file():
            raise SettingsError(f"there is no settings file `{file}`")

        class Chosen(Settings):
            model_config = SettingsConfigDict(toml_file=file)

        kind = Chosen
    try:
        return kind(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        findings = []
        for item in error.errors(include_url=False, include_input=False):
            key = ".".join(str(part) for part in item["loc"])
            near = difflib.get_close_matches(key, Settings.model_fields, n=1)
            if item["type"] == "extra_forbidden":
                findings.append(f"`{key}`: unknown setting" + (f"; did you mean `{near[0]}`?" if near else ""))
            else:
                findings.append(f"`{key}`: {item['msg']}")
        raise SettingsError(
            "a setting is wrong (cdcpipe.toml, [tool.cdcpipe] or CDCPIPE_*)", detail="\n".join(findings)
        ) from error
    except (OSError, ValueError) as error:  # a file that isn't TOML
        raise SettingsError(f"cdcpipe.toml or pyproject.toml can't be read: {error}") from error
