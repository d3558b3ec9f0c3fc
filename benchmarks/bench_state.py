"""State at a cut of a large table at rest against its archive, next to a plain reading of both.

    python benchmarks/bench_state.py [--rows 10000000] [--reladiff PROGRAM]

A PostgreSQL of its own, and Parquet files as an Iceberg sink writes them (whole envelopes, hourly folders). Prints one
JSON object: seconds of each step, their ratio to a plain `COPY` of the table and a scan of the files, and the largest
memory. `--reladiff` names the program of the package `reladiff`: it then compares the table with a copy of itself in
the same server, which is less work (both sides in one database, no files), as a public tool to be measured against.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psycopg
from bench_verify import PeakMemory
from servers import postgres

from cdcpipe.ledger.archive import read_folders
from cdcpipe.ledger.catalogue import Catalogue
from cdcpipe.ledger.objects import Folder
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.verify.cut import read_state
from cdcpipe.verify.fold import compare_state

TABLE, TOPIC = "public.big", "cdc.public.big"
_FILE_ROWS = 500_000
_ROW = """
{
  'id': g, 'amount': ((g * 7919) % 100000000 / 100)::DECIMAL(12,2), 'note': 'row ' || g,
  'at': strftime(make_timestamp(1767225600000000 + g * 1000000), '%Y-%m-%dT%H:%M:%S') || '.000000Z'
}
"""
_ENVELOPE = f"""
SELECT NULL::STRUCT(id BIGINT, amount DECIMAL(12,2), note VARCHAR, "at" VARCHAR) AS before, {_ROW} AS after,
  {{'ts_us': 1790000000000000 + g, 'schema': 'public', 'table': 'big', 'txId': $xid, 'lsn': 1000 + g}} AS source,
  {{'id': '1', 'total_order': g}} AS transaction, 'c' AS op,
  '{TOPIC}' AS kafka_topic, (g % 3)::INT AS kafka_partition, g // 3 AS kafka_offset,
  make_timestamptz(1790000000000000 + g) AS event_time
FROM range($begin, $end) t(g)
"""


def make_table(postgres: Postgres, rows: int) -> int:
    """Fill the table; gives the id of a transaction that is visible."""
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE TABLE big (id bigint PRIMARY KEY, amount numeric(12,2), note text, at timestamptz)")
        connection.execute(
            "INSERT INTO big SELECT g, (g::bigint * 7919) %% 100000000 / 100.0, 'row ' || g, "
            "to_timestamp(1767225600 + g) FROM generate_series(0, %s) g",
            [rows - 1],
        )
        connection.execute("CREATE PUBLICATION cdc FOR TABLE big")
        connection.execute("VACUUM ANALYZE big")
        row = connection.execute("SELECT pg_current_xact_id()::text::bigint - 1").fetchone()
        assert row is not None
        return int(row[0])


def make_files(folder: Path, rows: int, xid: int) -> None:
    """Its archive: a file for each half million of rows."""
    target = folder / "topics" / TOPIC / "event_time_hour=2026-09-21-14"
    target.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET memory_limit = '2GB'")
        for begin in range(0, rows, _FILE_ROWS):
            end = min(rows, begin + _FILE_ROWS)
            query = _ENVELOPE.replace("$xid", str(xid)).replace("$begin", str(begin)).replace("$end", str(end))
            connection.execute(f"COPY ({query}) TO '{target}/{begin:09d}.parquet' (CODEC zstd, COMPRESSION_LEVEL 1)")


def plain_reading(postgres: Postgres, files: Path) -> tuple[float, float]:
    """Seconds to COPY the table out, and to read and hash the rows of the files; nothing is kept."""
    start = time.perf_counter()
    with psycopg.connect(postgres.conninfo()) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY big TO STDOUT (FORMAT csv)") as copy:
            for _ in copy:
                pass
    table = time.perf_counter() - start
    with duckdb.connect() as scanner:
        scanner.execute("SET threads = 2; SET memory_limit = '1500MB'")
        scanner.execute(f"SELECT bit_xor(hash(after, op, source)) FROM '{files}/**/*.parquet'").fetchall()
    return table, time.perf_counter() - start - table


def by_reladiff(program: str, postgres: Postgres) -> float:
    """Seconds that the public tool takes for the table and a copy of it in the same server."""
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE TABLE big_copy AS TABLE big")
        connection.execute("ALTER TABLE big_copy ADD PRIMARY KEY (id)")
        connection.execute("VACUUM ANALYZE big_copy")
    admin = postgres.admin
    dsn = f"postgresql://{admin.name}:{admin.password!s}@127.0.0.1:{postgres.port}/postgres"
    start = time.perf_counter()
    columns = ["-c", "amount", "-c", "note", "-c", "at"]
    done = subprocess.run(
        [program, dsn, "big", dsn, "big_copy", "-k", "id", *columns], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or done.stdout.strip():
        raise SystemExit(f"reladiff says: {(done.stdout + done.stderr)[-500:]}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--reladiff", metavar="PROGRAM")
    options = parser.parse_args()
    with postgres() as server:
        folder = server.folder.parent
        xid = make_table(server, options.rows)
        make_files(folder / "lake", options.rows, xid)
        table_seconds, files_seconds = plain_reading(server, folder / "lake")
        roles = {"owner": server.admin, "witness": server.admin}
        endpoint = PostgresEndpoint("127.0.0.1", server.port, "postgres", roles)
        with PeakMemory() as memory:
            start = time.perf_counter()
            state = read_state(endpoint, folder / "state", publication="cdc", tables=[TABLE])
            with psycopg.connect(server.conninfo()) as connection:
                catalogue = Catalogue.read(connection, publication="cdc")
            read = time.perf_counter()
            ledger = read_folders(
                Folder(folder / "lake"), folder / "archive", topics={TABLE: TOPIC}, catalogue=catalogue
            )
            archived = time.perf_counter()
            report = compare_state(state, ledger, temp_folder=folder)
            seconds = time.perf_counter() - start
        result = {
            "benchmark": "verify.state",
            "rows": options.rows,
            "verdict": report.verdict.value,
            "seconds": round(seconds, 1),
            "table_seconds": round(read - start, 1),
            "archive_seconds": round(archived - read, 1),
            "compare_seconds": round(start + seconds - archived, 1),
            "plain_table_seconds": round(table_seconds, 1),
            "plain_archive_seconds": round(files_seconds, 1),
            "ratio_to_plain_reading": round(seconds / (table_seconds + files_seconds), 2),
            "peak_rss_bytes": memory.bytes,
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "duckdb": duckdb.__version__,
        }
        if options.reladiff:
            public = by_reladiff(options.reladiff, server)
            result |= {"reladiff_seconds": round(public, 1), "ratio_to_reladiff": round(seconds / public, 2)}
        json.dump(result, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
