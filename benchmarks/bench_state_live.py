"""Cuts through a large live table, one after the other, while writers go on; then one altered row in its archive.

    python benchmarks/bench_state_live.py [--rows 1000000] [--writes 2000] [--cuts 20]

On a stack of its own, from PostgreSQL to S3. Prints one JSON object: for each cut its verdict, seconds, and the writes
a second that were committed meanwhile (as a ratio to those before the first cut); then what was found of the row that
was altered behind the pipeline's back.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from cdcpipe import verify
from cdcpipe.ledger.objects import Bucket
from cdcpipe.settings import load_settings
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.stack import LocalStack

TABLE = "public.ledger_rows"
_ROWS_A_STATEMENT = 20


class Writers:
    """`writes` row changes a second on random rows: updates, a few inserts and deletes; never paused."""

    def __init__(self, endpoints: Endpoints, rows: int, writes: float) -> None:
        self._endpoints, self._rows, self._writes = endpoints, rows, writes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.committed = 0
        self.longest_pause = 0.0

    def _run(self) -> None:
        rng = random.Random(11)
        start = last = time.monotonic()
        with psycopg.connect(self._endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            while not self._done.is_set():
                keys = sorted({rng.randrange(self._rows) for _ in range(_ROWS_A_STATEMENT)})
                with connection.transaction():
                    if rng.random() < 0.02:
                        connection.execute(f"DELETE FROM {TABLE} WHERE id = ANY(%s)", [keys])
                    else:
                        connection.execute(
                            f"INSERT INTO {TABLE} SELECT k, %s, 'again', clock_timestamp() FROM unnest(%s::bigint[]) k "
                            "ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, at = excluded.at",
                            [rng.randrange(10**6) / 100, keys],
                        )
                self.committed += len(keys)
                now = time.monotonic()
                self.longest_pause, last = max(self.longest_pause, now - last), now
                self._done.wait(max(0.0, start + self.committed / self._writes - now))

    def __enter__(self) -> Writers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)


def fill(endpoints: Endpoints, rows: int) -> float:
    """Make the table and wait until its rows are in the archive; gives the seconds."""
    start = time.monotonic()
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, amount numeric(12,2), note text, at timestamptz)"
        )
        connection.execute(f"ALTER TABLE {TABLE} REPLICA IDENTITY FULL")
        for begin in range(0, rows, 10_000):
            connection.execute(
                f"INSERT INTO {TABLE} SELECT g, g / 100.0, 'row ' || g, now() "
                "FROM generate_series(%s::bigint, %s::bigint) g",
                [begin, min(begin + 10_000, rows) - 1],
            )
    await_flow(endpoints, archive=True, timeout_seconds=1800)
    return time.monotonic() - start


def alter(endpoints: Endpoints, filled_at: datetime) -> int:
    """Change one value of one row of one data file, as no pipeline would; gives the row's key."""
    bucket = Bucket(endpoints.s3)
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoints.s3.url,
        region_name=endpoints.s3.region,
        aws_access_key_id=endpoints.s3.access_key_id,
        aws_secret_access_key=str(endpoints.s3.secret_access_key),
    )
    prefix = f"warehouse/{endpoints.topic_prefix}/{TABLE.replace('.', '/')}/data/"
    names = sorted(each.name for each in bucket.list(prefix) if each.name.endswith(".parquet"))
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        # Those that no writer has come across: their only change is the insert.
        untouched = {row[0] for row in connection.execute(f"SELECT id FROM {TABLE} WHERE at <= %s", [filled_at])}
    for name in names:
        with bucket.open(name) as file:
            table = pq.read_table(file)
        rows: list[dict[str, Any]] = table.to_pylist()
        for row in rows:
            image = row["after"]
            if row["op"] in ("c", "r") and image and image["id"] in untouched:
                image["note"] = "altered"
                buffer = io.BytesIO()
                pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), buffer)
                s3.put_object(Bucket=endpoints.s3.bucket, Key=name, Body=buffer.getvalue())
                return int(image["id"])
    raise SystemExit("no row to alter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--writes", type=float, default=2000)
    parser.add_argument("--cuts", type=int, default=20)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-state-live-", dir="/var/tmp"))
    stack = LocalStack(folder / "stack", cache=load_settings().cache)
    try:
        stack.up(tables=(TABLE,))
        endpoints = stack.endpoints
        filled = fill(endpoints, options.rows)
        with psycopg.connect(endpoints.postgres.conninfo("owner")) as connection:
            (filled_at,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
        print(f"{options.rows:,} rows archived in {filled:.0f} s", file=sys.stderr)
        cuts = []
        with Writers(endpoints, options.rows, options.writes) as writers:
            time.sleep(5)
            alone = writers.committed / 5
            for number in range(options.cuts):
                before, start = writers.committed, time.monotonic()
                report = verify.state(endpoints, tables=[TABLE], timeout_seconds=300)
                seconds = time.monotonic() - start
                rate = (writers.committed - before) / seconds
                cuts.append(
                    {
                        "verdict": report.verdict.value,
                        "seconds": round(seconds, 1),
                        "rows": report.facts["rows"],
                        "writes_per_second": round(rate),
                        "ratio_to_writes_alone": round(rate / alone, 2),
                        "in_progress": report.facts["snapshot"].count(",") + bool(report.facts["snapshot"][-1] != ":"),
                    }
                )
                print(f"cut {number + 1}: {cuts[-1]}", file=sys.stderr)
            pause = writers.longest_pause
        key = alter(endpoints, filled_at)
        report = verify.state(endpoints, tables=[TABLE], timeout_seconds=300)
        witnesses = report["cut-divergence"].witnesses
        result = {
            "benchmark": "verify.state.live",
            "rows": options.rows,
            "cuts": cuts,
            "false_alarms": sum(each["verdict"] != "pass" for each in cuts),
            "writers_longest_pause_seconds": round(pause, 3),
            "altered": {
                "key": key,
                "anomalies": list(report.anomalies),
                "witnesses": [(each.key, each.note) for each in witnesses],
                "found": len(witnesses) == 1 and witnesses[0].key == f"2:idn{len(str(key))}:{key}",
            },
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
        }
        json.dump(result, sys.stdout, indent=1)
        print()
    finally:
        stack.down(purge=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
