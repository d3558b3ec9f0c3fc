"""A source that has to begin with a snapshot: taken away, its table filled, and put in again."""

from __future__ import annotations

import random
from typing import Any

import psycopg

from cdcpipe.chaos.loads import BulkLoad
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import PostgresError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import forget_offsets
from cdcpipe.stack.local.connect import ConnectWorker
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.pipeline import SecretPlaces, source

__all__ = ["deploy_source", "fill", "remove_source"]

_BATCH = 20_000


def remove_source(stack: LocalStack) -> None:
    """Delete the source connector, its offsets and its slot."""
    endpoints, slot = stack.endpoints, stack.settings.slot
    forget_offsets(endpoints, stack.settings)
    with psycopg.connect(endpoints.postgres.conninfo("witness"), autocommit=True) as connection:

        def dropped() -> bool:
            row = connection.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
            if row is not None and not row[0]:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                return True
            return row is None

        wait_until(dropped, what=f"slot `{slot}` free", timeout_seconds=30, error=PostgresError)


def fill(stack: LocalStack, rows: int, seed: int) -> None:
    """Rows for the snapshot to read, in the table of `BulkLoad`. Raises PostgresError."""
    rng = random.Random(f"snapshot/{seed}")
    try:
        with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            for begin in range(0, rows, _BATCH):
                _copy(connection, rng, min(_BATCH, rows - begin))
    except psycopg.Error as error:
        raise PostgresError(f"{BulkLoad.TABLES[0]} can't be filled: {str(error).strip()}") from error


def _copy(connection: psycopg.Connection[Any], rng: random.Random, count: int) -> None:
    batch, filler = rng.getrandbits(40), f"{rng.getrandbits(256):064x}"
    lines = "".join(f"{batch}\t{place}\t{filler}\n" for place in range(count))
    with connection.cursor() as cursor, cursor.copy("COPY public.bulk (batch, place, payload) FROM STDIN") as copy:
        copy.write(lines)


def deploy_source(stack: LocalStack) -> None:
    """Put the source in again: it begins with a snapshot."""
    secrets = SecretPlaces.in_file(str(ConnectWorker.secrets_file(stack.folder / "connect")))
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        client.deploy(source(stack.endpoints, stack.settings, secrets).to_config())
