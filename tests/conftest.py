"""Fixtures for real servers. Endpoints are the only thing a test sees of them."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg
import pytest

from cdcpipe.settings import load_settings
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.stack.local.postgres import Postgres, new_role
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.local.state import claim_ports

_numbers = itertools.count(1)
_TOLD_LINES = 25


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed on the session's stack shows the last errors of each component: the stack is gone after it."""
    report = yield
    local = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(local, LocalStack):
        for name, component in local.components.items():
            lines = component.log_tail(20_000)
            found = [line[:300] for line in lines if any(word in line for word in (" ERROR ", "FATAL", "Caused by: "))]
            if found:
                report.sections.append((f"errors of {name}", "\n".join(found[-_TOLD_LINES:])))
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One real PostgreSQL server for the session, without the rest of the pipeline."""
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    [port] = claim_ports(("postgres",), {}, {}).values()
    server = Postgres(folder / "postgres", folder / "log", port=port, admin=new_role("admin"))
    server.start()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def postgres(postgres_server: Postgres) -> PostgresEndpoint:
    """A fresh database for the module, owned by role `owner`; `replication` and `witness` may replicate, not write.

    `wal_level` is `logical`. The superuser is role `admin`.
    """
    number = next(_numbers)
    roles = {purpose: new_role(f"{purpose}_{number}") for purpose in ("owner", "replication", "witness")}
    roles["admin"] = postgres_server.admin
    database = f"test_{number}"
    with psycopg.connect(postgres_server.conninfo(), autocommit=True) as connection:
        for purpose in ("owner", "replication", "witness"):
            role = roles[purpose]
            rights = "" if purpose == "owner" else " REPLICATION"
            connection.execute(f"CREATE ROLE {role.name} LOGIN{rights} PASSWORD '{role.password!s}'")
        connection.execute(f"CREATE DATABASE {database} OWNER {roles['owner'].name}")
    return PostgresEndpoint(host="127.0.0.1", port=postgres_server.port, database=database, roles=roles)


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The whole pipeline, real servers, one for the session: `stack.endpoints` is what a test needs of it.

    With `CDCPIPE_TEST_STACK=FOLDER` the stack in that folder is used, brought up if need be, and left running.
    """
    kept = os.environ.get("CDCPIPE_TEST_STACK")
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="cdcpipe-stack-", dir="/var/tmp"))
    settings = load_settings()
    local = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror)
    try:
        local.up(await_archive=True)
        yield local
    finally:
        if not kept:
            local.down(purge=True)
            shutil.rmtree(folder.with_name(f"{folder.name}.audit"), ignore_errors=True)
