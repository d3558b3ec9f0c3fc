"""How long `cdcpipe config lint` takes on a real config, start-up included. JSON lines on stdout.

Wall time is the median of RUNS, CPU time (user and system) theirs, too; `ratio` is that to `python -c pass`, so that
figures of two machines can be compared.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
CONFIG = {
    "name": "orders-source",
    "config": {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "db",
        "database.port": "5432",
        "database.user": "debezium",
        "database.password": "${file:/etc/connect/pg.properties:password}",
        "database.dbname": "shop",
        "topic.prefix": "shop",
        "plugin.name": "pgoutput",
        "slot.name": "orders",
        "publication.name": "orders",
        "table.include.list": "public.orders,public.customers",
        "heartbeat.interval.ms": "10000",
        "key.converter": "io.confluent.connect.avro.AvroConverter",
        "key.converter.schema.registry.url": "http://registry:8081",
        "value.converter": "io.confluent.connect.avro.AvroConverter",
        "value.converter.schema.registry.url": "http://registry:8081",
        "transforms": "unwrap",
        "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    },
}


def timed(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


def main() -> None:
    """Measure both in turn, so that what else the machine does falls on both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.json"
        path.write_text(json.dumps(CONFIG), encoding="utf-8")
        commands = {
            "config_lint": ["-c", "from cdcpipe.cli import main; main()", "config", "lint", str(path)],
            "python_pass": ["-c", "pass"],
        }
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for arguments in commands.values():
            timed(arguments)  # files in the page cache, byte code written
        for _ in range(RUNS):
            for name, arguments in commands.items():
                figures[name].append(timed(arguments))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    for name, (wall, cpu) in medians.items():
        line: dict[str, object] = {"benchmark": name, "wall_seconds": round(wall, 4), "cpu_seconds": round(cpu, 4)}
        if name == "config_lint":
            base = medians["python_pass"]
            line |= {"ratio_wall": round(wall / base[0], 2), "ratio_cpu": round(cpu / max(base[1], 1e-9), 2)}
            line |= {"limit_wall_seconds": 0.5, "runs": RUNS}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
