"""Changes a second from the WAL to a finished ledger, against a plain read of the same WAL. One JSON line."""

from __future__ import annotations

import json
import sys
import time

import psycopg
from servers import postgres

from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.endpoints import PostgresEndpoint

CHANGES = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
ROWS_PER_TRANSACTION = 10

TABLE = """
CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint, status text, total numeric(12, 2), placed timestamptz,
                     note text, paid boolean, quantity int);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE PUBLICATION cdc FOR TABLE orders;
"""

LOAD = f"""
DO $$ BEGIN FOR k IN 0..{{changes}} / {ROWS_PER_TRANSACTION} - 1 LOOP
  INSERT INTO orders SELECT g, g % 10000, 'placed', g * 1.25, now() + g * interval '1.000001 second',
         'order number ' || g, g % 2 = 0, g % 7
  FROM generate_series(k * {ROWS_PER_TRANSACTION}, (k + 1) * {ROWS_PER_TRANSACTION} - 1) g;
  COMMIT;
END LOOP; END $$
"""


def main() -> None:
    """Load, read plainly, read into a ledger."""
    with postgres() as server:
        endpoint = PostgresEndpoint("127.0.0.1", server.port, "postgres", {"admin": server.admin})
        with psycopg.connect(endpoint.conninfo("admin"), autocommit=True) as connection:
            connection.execute(TABLE)
            connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
            # The witness makes its slot, then waits until it is told to stop: all is read in one go, and timed.
            witness = WalWitness(
                endpoint, server.folder.parent / "ledger", publication="cdc", role="admin", poll_seconds=86_400
            )
            witness.start()
            connection.execute(LOAD.format(changes=CHANGES))
            plain = _plain(connection)
            began, cpu = time.perf_counter(), time.process_time()
            ledger = witness.stop(timeout_seconds=600)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        changes = ledger.manifest.counts["changes"]
        print(
            json.dumps(
                {
                    "benchmark": "ledger_wal",
                    "changes": changes,
                    "seconds": round(seconds, 2),
                    "changes_per_second": round(changes / seconds),
                    "changes_per_cpu_second_of_reader": round(changes / cpu),
                    "plain_read_seconds": round(plain, 2),
                    "ratio_to_plain_read": round(seconds / plain, 2),
                    "complete": ledger.manifest.complete,
                }
            )
        )


def _plain(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    began = time.perf_counter()
    with connection.cursor(binary=True) as cursor:
        rows = cursor.stream(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('bench', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'cdc')",
            size=5_000,
        )
        for _ in rows:
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
