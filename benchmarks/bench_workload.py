"""How fast the workload's generator is, against a PostgreSQL alone, and what it costs.

    python benchmarks/bench_workload.py [--seconds 20] [--rate 10000]

Prints one JSON object a line:
- `held`: the rate asked for and achieved, commit latency, processor cores of the generator and of PostgreSQL
- `maximum`: the same with no limit (1,000,000 events/s asked for)
- `plain_inserts`: `pgbench` with as many clients inserting 100 narrow rows a transaction
- `ratio`: `maximum` over `plain_inserts`. The workload's rows are wider, and a third of its events are updates with
  the whole old row in the WAL; its transactions are larger.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import threading
import time
from dataclasses import asdict

import psutil
import psycopg
import servers

from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.stack.local.process import processes_below
from cdcpipe.workload import Shop, Workload

CONNECTIONS = 4


class CpuMeter(threading.Thread):
    """Processor seconds of all of a server's processes, those that end meanwhile too."""

    def __init__(self, server: Postgres) -> None:
        super().__init__(daemon=True)
        self._data, self._done = server.data, threading.Event()
        self._first, self._last = self._sample(), dict[int, float]()
        self._start = time.monotonic()
        self.start()

    def _sample(self) -> dict[int, float]:
        found = {}
        for process in processes_below(self._data, frozenset({"postgres"})):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            found[process.pid] = times.user + times.system
        return found

    def run(self) -> None:
        while not self._done.wait(0.5):
            self._last |= self._sample()

    def cores(self) -> float:
        self._last |= self._sample()
        self._done.set()
        used = sum(seconds - self._first.get(pid, 0.0) for pid, seconds in self._last.items())
        return used / (time.monotonic() - self._start)


def workload(postgres: Postgres, rate: float, seconds: float) -> dict[str, object]:
    endpoint = PostgresEndpoint("127.0.0.1", postgres.port, "postgres", {"owner": postgres.admin})
    shop = Shop(seed=7)
    shop.create(endpoint)
    meter = CpuMeter(postgres)
    work = Workload(endpoint, shop, rate=rate, seconds=seconds, connections=CONNECTIONS, overtime_seconds=0)
    work.start()
    result = work.wait()
    cores = meter.cores()
    figures = asdict(result)
    keep = ("rate", "achieved_rate", "events", "committed", "commit_latency_seconds", "behind_seconds_max")
    generator = result.cpu_seconds / result.seconds
    return {key: figures[key] for key in keep} | {"generator_cores": generator, "postgres_cores": cores}


def plain_inserts(postgres: Postgres, seconds: float) -> dict[str, object]:
    with psycopg.connect(postgres.conninfo(), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int, c text)"
        )
    rows = ", ".join(f"(:a, {i}, 'filler of a row that pgbench would have made {i}')" for i in range(100))
    script = f"\\set a random(1, 1000000)\nINSERT INTO plain (a, b, c) VALUES {rows};\n"
    meter = CpuMeter(postgres)
    done = subprocess.run(
        [
            *(
                postgres.install / "bin" / "pgbench",
                "-h",
                "127.0.0.1",
                "-p",
                str(postgres.port),
                "-U",
                postgres.admin.name,
            ),
            *(
                "-n",
                "-M",
                "prepared",
                "-c",
                str(CONNECTIONS),
                "-j",
                "1",
                "-T",
                str(int(seconds)),
                "-f",
                "-",
                "postgres",
            ),
        ],
        input=script,
        env=os.environ | {"PGPASSWORD": str(postgres.admin.password)},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return {"rows_per_second": float(line.split()[2]) * 100, "postgres_cores": meter.cores()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=10_000.0)
    options = parser.parse_args()
    with servers.postgres() as postgres:
        held = workload(postgres, options.rate, options.seconds)
        print(json.dumps({"held": held}), flush=True)
        maximum = workload(postgres, 1_000_000, options.seconds / 2)
        print(json.dumps({"maximum": maximum}), flush=True)
        plain = plain_inserts(postgres, options.seconds / 2)
        print(json.dumps({"plain_inserts": plain}), flush=True)
        ratio = float(str(maximum["achieved_rate"])) / float(str(plain["rows_per_second"]))
        print(json.dumps({"ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
