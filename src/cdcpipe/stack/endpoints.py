"""Where a pipeline's servers are, wherever they run: all that ledgers, checks and workloads know of a stack."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "SINK",
    "SOURCE",
    "WATERMARK_SCHEMA",
    "WATERMARK_TABLE",
    "CatalogEndpoint",
    "Endpoints",
    "PostgresEndpoint",
    "Role",
    "S3Endpoint",
    "Secret",
]

SOURCE = "cdcpipe-source"
"""The source connector."""
SINK = "cdcpipe-sink"
"""The sink connector."""
WATERMARK_SCHEMA = "cdcpipe"
WATERMARK_TABLE = f"{WATERMARK_SCHEMA}.watermark"
"""`(name text primary key, token bigint, at timestamptz)`: captured rows that say how far the pipeline has come."""


class Secret(str):
    """A credential: a `str` for those who use it, hidden in every `repr` (logs, tracebacks, reports)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"


@dataclass(frozen=True, slots=True)
class Role:
    """A PostgreSQL role and its password."""

    name: str
    password: Secret


@dataclass(frozen=True, slots=True)
class PostgresEndpoint:
    """The source database. `roles` by purpose: `owner`, `replication`, `witness`."""

    host: str
    port: int
    database: str
    roles: dict[str, Role]

    def conninfo(self, role: str = "owner") -> str:
        """A libpq connection string for `role`, for psycopg; never for argv or a log."""
        who = self.roles[role]
        return f"host={self.host} port={self.port} dbname={self.database} user={who.name} password={who.password!s}"


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """An S3 server and one bucket in it. `url` is None for AWS itself."""

    url: str | None
    region: str
    bucket: str
    access_key_id: str | None
    secret_access_key: Secret | None


@dataclass(frozen=True, slots=True)
class CatalogEndpoint:
    """The Iceberg catalog (a JDBC catalog in PostgreSQL) and the warehouse in S3."""

    name: str
    postgres: PostgresEndpoint
    role: str
    warehouse: str

    def sqlalchemy_url(self) -> str:
        """The catalog's address for pyiceberg's `SqlCatalog`."""
        who = self.postgres.roles[self.role]
        pg = self.postgres
        return f"postgresql+psycopg://{who.name}:{who.password!s}@{pg.host}:{pg.port}/{pg.database}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Everything a client needs to reach a running pipeline.

    `registry_url` is the base of a Confluent-compatible API. `publication` is the publication that the source
    connector reads; a table `schema.table` of `captured_schemas` lies in topic `<topic_prefix>.<schema>.<table>`.
    Without a `catalog` the archive is Hive-style folders below `archive_prefix`, as Confluent's and Aiven's sinks
    write it.
    """

    postgres: PostgresEndpoint
    bootstrap_servers: str
    connect_url: str
    registry_url: str
    s3: S3Endpoint
    catalog: CatalogEndpoint | None
    publication: str
    topic_prefix: str
    dead_letter_topic: str
    transaction_topic: str
    captured_schemas: tuple[str, ...] = ("public", WATERMARK_SCHEMA)
    archive_prefix: str = "topics/"

    def topic_of(self, table: str) -> str:
        """The topic of the changes of `schema.table`."""
        return f"{self.topic_prefix}.{table}"

    def table_of(self, topic: str) -> str:
        """The `schema.table` whose changes are in `topic`."""
        return topic.removeprefix(f"{self.topic_prefix}.")

    @property
    def connect_config_topic(self) -> str:
        """Where the workers of a stack of ours record each connector's config."""
        return f"{self.topic_prefix}.connect-configs"

    @property
    def change_topic_prefixes(self) -> tuple[str, ...]:
        """How the topics of captured tables begin, for `str.startswith`: one for each captured schema."""
        return tuple(f"{self.topic_prefix}.{schema}." for schema in self.captured_schemas)
