"""The embedded PostgreSQL is a real one, set up for logical replication."""

from __future__ import annotations

import psycopg
import pytest

from cdcpipe.stack.component import ComponentState
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.stack.local.postgres import Postgres

pytestmark = pytest.mark.postgres


def test_the_witness_can_open_a_logical_slot(postgres: PostgresEndpoint) -> None:
    with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as connection:
        row = connection.execute("SELECT pg_create_logical_replication_slot('w', 'pgoutput', true)").fetchone()
    assert row is not None


def test_a_wrong_password_is_refused(postgres: PostgresEndpoint) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.conninfo("owner") + "x")


def test_its_processes_are_found_by_their_folder_and_memory_is_measured(postgres_server: Postgres) -> None:
    assert postgres_server.state() is ComponentState.READY
    assert 5e6 < postgres_server.memory_bytes() < 1e9


def test_pause_and_resume_are_seen(postgres_server: Postgres) -> None:
    postgres_server.pause()
    try:
        assert postgres_server.state() is ComponentState.PAUSED
    finally:
        postgres_server.resume()
    assert postgres_server.state() is ComponentState.READY
