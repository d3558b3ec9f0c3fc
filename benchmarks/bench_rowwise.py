"""What the guard of `cdcpipe.stack.rowwise` costs: COPY and single INSERTs, with and without it, side by side.

    python benchmarks/bench_rowwise.py [--rows 500000] [--rounds 5]

On a PostgreSQL of its own. Prints a JSON line for each: seconds of the median round, and the ratio of with to without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import psycopg
from servers import postgres

from cdcpipe.stack.rowwise import insert_row_by_row

COLUMNS = "(id bigint PRIMARY KEY, amount numeric(12,2), at timestamptz, body text)"


def copied(connection: psycopg.Connection, table: str, rows: int) -> float:
    """Seconds of one COPY of `rows` rows."""
    connection.execute(f"TRUNCATE {table}".encode())
    lines = "".join(f"{number}\t12.50\t2026-11-28 08:00:00+00\tbody {number}\n" for number in range(rows))
    begin = time.perf_counter()
    with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
        copy.write(lines)
    return time.perf_counter() - begin


def inserted(connection: psycopg.Connection, table: str, rows: int) -> float:
    """Seconds of `rows` INSERTs in one transaction, in the server: no time goes by between them."""
    connection.execute(f"TRUNCATE {table}".encode())
    loop = f"DO $$ BEGIN FOR n IN 1..{rows} LOOP INSERT INTO {table} VALUES (n, 12.5, now(), 'body'); END LOOP; END $$"
    begin = time.perf_counter()
    connection.execute(loop.encode())
    return time.perf_counter() - begin


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with (
        postgres() as server,
        psycopg.connect(server.conninfo(), dbname="postgres", autocommit=True) as connection,
    ):
        connection.execute("CREATE SCHEMA cdcpipe")
        connection.execute(f"CREATE TABLE bare {COLUMNS}".encode())
        connection.execute("CREATE SCHEMA guarded")
        insert_row_by_row(connection, ["guarded"])
        connection.execute(f"CREATE TABLE guarded.table {COLUMNS}".encode())
        for name, work in (("copy", copied), ("insert", inserted)):
            seconds: dict[str, list[float]] = {"bare": [], "guarded.table": []}
            for _ in range(asked.rounds):
                for table, taken in seconds.items():
                    taken.append(work(connection, table, asked.rows))
            without, guarded = (statistics.median(taken) for taken in seconds.values())
            figures = {"without_seconds": round(without, 2), "with_seconds": round(guarded, 2)}
            rates = {"with_rows_per_second": round(asked.rows / guarded), "ratio": round(guarded / without, 2)}
            print(json.dumps({"benchmark": "rowwise", "figure": name, "rows": asked.rows, **figures, **rates}))


if __name__ == "__main__":
    main()
