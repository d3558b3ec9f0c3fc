"""`Pipeline`: what a test does with a running pipeline. Behind the fixture `pipeline`."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from cdcpipe.conformance.digests import digests_of
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import CdcpipeError, ConnectUnavailable, PostgresError, StackError
from cdcpipe.settings import Settings
from cdcpipe.stack.belongings import remove_tables
from cdcpipe.stack.deploy import await_flow, ensure_topics
from cdcpipe.stack.endpoints import SINK, SOURCE, WATERMARK_TABLE, Endpoints
from cdcpipe.stack.targets import ManagedStack
from cdcpipe.workload.runner import Workload
from cdcpipe.workload.shop import Shop

if TYPE_CHECKING:
    from cdcpipe.ledger.wal import WalWitness
    from cdcpipe.schemas.registry import Registry
    from cdcpipe.verify.settle import Settlement

__all__ = ["Pipeline"]

_PROBE_SECONDS = 45


class Pipeline:
    """A running pipeline and what we made in it. Tables of a test have a token in their names, so that nobody's table
    is ever touched; at the end they are removed from database, log, registry and archive, unless the stack is ours
    and goes away itself."""

    def __init__(self, stack: ManagedStack, settings: Settings, *, level: str, seed: int) -> None:
        self.stack = stack
        self.load = settings.conformance
        self.bounds: Mapping[str, float] = settings.conformance.bounds
        self.level, self.seed = level, seed
        self.token = uuid.uuid4().hex[:6]
        self.source: str = getattr(stack, "source", SOURCE)
        self.sink: str = getattr(stack, "sink", SINK)
        self.shop = Shop(seed=seed, prefix="" if self.ours else f"t{self.token}_")
        self._made: list[str] = []
        self._has_shop = False

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are."""
        return self.stack.endpoints

    @property
    def ours(self) -> bool:
        """Whether the stack was made by us, so that what is in it goes with it."""
        return not hasattr(self.stack, "examine")

    def __enter__(self) -> Self:
        """A pipeline that isn't ours must carry something before anything of it is judged."""
        if not self.ours:
            try:
                self.probe(timeout_seconds=_PROBE_SECONDS)
            except ConnectUnavailable as error:
                raise StackError(
                    f"no traffic comes through this pipeline: a row of {WATERMARK_TABLE} was not in Kafka within "
                    f"{_PROBE_SECONDS} s",
                    hint="does the source capture that table, and is its slot being read?",
                ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.ours or not self._made:
            return
        # What is still on its way would make topics and archive tables anew.
        with contextlib.suppress(Exception):
            self.settle(timeout_seconds=120)
        remove_tables(self.endpoints, self._made)
        if self._has_shop:
            self.shop.drop_types(self.endpoints.postgres)

    # Its parts ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def sql(self, role: str = "owner") -> Iterator[psycopg.Connection[Any]]:
        """A connection to the source database, autocommit. Raises `PostgresError`."""
        try:
            connection = psycopg.connect(self.endpoints.postgres.conninfo(role), autocommit=True, connect_timeout=20)
        except psycopg.Error as error:
            raise PostgresError(f"PostgreSQL can't be reached: {str(error).strip()}") from error
        with connection:
            yield connection

    def connect(self) -> ConnectClient:
        """A client of Kafka Connect; close it, or use `with`."""
        return ConnectClient(self.endpoints.connect_url)

    def registry(self) -> Registry:
        """A client of the registry; close it, or use `with`."""
        from cdcpipe.schemas.registry import Registry

        return Registry(self.endpoints.registry_url)

    def topic_of(self, table: str) -> str:
        """The topic of `schema.table`."""
        return self.endpoints.topic_of(table)

    # What tests make ------------------------------------------------------------------------------

    def table(self, name: str, columns: str, *, full: bool = True) -> str:
        """Make a table and its topic; gives its whole name. `full`: REPLICA IDENTITY FULL."""
        return self.tables({name: columns}, full=full)[name]

    def tables(self, columns: Mapping[str, str], *, full: bool = True) -> dict[str, str]:
        """Make several: short name -> whole name. At once, since each new topic makes the sink rebalance."""
        schema = self.endpoints.captured_schemas[0]
        wholes = {name: f"{schema}.{name}_{self.token}" for name in columns}
        self._made += wholes.values()
        ensure_topics(self.endpoints, self.stack.settings, tuple(wholes.values()))
        for name, text in columns.items():
            self._create(wholes[name], text, full=full)
        return wholes

    def _create(self, whole: str, columns: str, *, full: bool) -> None:
        identifier = sql.Identifier(*whole.split("."))
        with self.sql() as connection:
            # The columns are a test's own text.
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(identifier, sql.SQL(columns)))
            if full:
                connection.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(identifier))
        self._demand_published(whole)

    def _demand_published(self, table: str) -> None:
        with self.sql("witness") as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_publication_tables WHERE pubname = %s AND schemaname || '.' || tablename = %s",
                [self.endpoints.publication, table],
            ).fetchone()
        if found is None:
            raise PostgresError(
                f"a new table of schema `{table.partition('.')[0]}` is not in publication "
                f"`{self.endpoints.publication}`: tests can't have tables of their own",
                hint="make the publication FOR TABLES IN SCHEMA or FOR ALL TABLES",
            )

    def shop_tables(self) -> tuple[str, ...]:
        """The shop's tables, made on first use with their topics."""
        if not self._has_shop:
            self._made += self.shop.tables
            ensure_topics(self.endpoints, self.stack.settings, self.shop.tables)
            self.shop.create(self.endpoints.postgres)
            self._has_shop = True
        return self.shop.tables

    def workload(
        self, *, rate: float = 500, seconds: float = 10, connections: int = 4, record: Path | None = None
    ) -> Workload:
        """The shop's load, ready to start: a context manager with `wait()`."""
        self.shop_tables()
        return Workload(
            self.endpoints.postgres, self.shop, rate=rate, seconds=seconds, connections=connections, record=record
        )

    def witness(self, folder: Path) -> WalWitness:
        """A replication slot of our own that writes the wal ledger into `folder`; a context manager."""
        from cdcpipe.ledger.wal import WalWitness

        return WalWitness(self.endpoints.postgres, folder, publication=self.endpoints.publication)

    def execute(self, statements: str, role: str = "owner") -> None:
        """Run SQL statements, each in a transaction of its own. Raises `PostgresError`."""
        with self.sql(role) as connection:
            try:
                for statement in statements.split(";"):
                    if statement.strip():
                        connection.execute(statement.encode())
            except psycopg.Error as error:
                raise PostgresError(f"PostgreSQL refuses: {str(error).strip()}") from error

    def revive(self) -> None:
        """Restart what is FAILED: Connect itself never does."""
        with contextlib.suppress(CdcpipeError), self.connect() as client:
            for name in (self.source, self.sink):
                if client.status(name).failure:
                    client.restart(name, only_failed=True)
                    client.wait_until_running(name, timeout_seconds=60)

    # Waiting --------------------------------------------------------------------------------------

    def settle(self, *, timeout_seconds: float = 120) -> Settlement:
        """Wait until all that was committed is archived; `cut.reached` says whether it is."""
        from cdcpipe.verify.settle import settle

        return settle(self.endpoints, source=self.source, sink=self.sink, timeout_seconds=timeout_seconds)

    def probe(self, *, archive: bool = False, timeout_seconds: float = 90) -> float:
        """Commit a row and wait until it came out of Kafka, with `archive` out of S3 too: the seconds it took."""
        begin = time.monotonic()
        await_flow(self.endpoints, archive=archive, timeout_seconds=timeout_seconds)
        return time.monotonic() - begin

    def versions(self) -> dict[str, str]:
        """Component -> version and digest, for the report."""
        versions = {name: component.version for name, component in self.stack.components.items()}
        versions |= self.stack.plugin_versions()
        found = digests_of(self.stack)
        return {name: f"{version} {found[name]}" if name in found else version for name, version in versions.items()}
