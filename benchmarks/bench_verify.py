"""All checks over three synthetic ledgers, against a plain scan of the same bytes.

    python benchmarks/bench_verify.py [--changes 10000000] [--folder DIR] [--damage]

Prints one JSON object: seconds, changes per second, peak memory, and the ratio to a scan that only hashes every column.
The ledgers are written once into `--folder` and used again. With `--damage`, 0.1 % of the log is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import duckdb
import psutil

_CHANGES = """
SELECT 'public.t' || (k % 8) AS "table", (1000 + i // 10)::UBIGINT AS xid, (i % 10 + 1)::BIGINT AS seq,
  (1000000 + (i // 10) * 1000 + 999)::UBIGINT AS commit_lsn,
  (1000000 + (i // 10) * 1000 + (i % 10) * 80)::UBIGINT AS lsn,
  CASE WHEN v % 4 = 0 THEN 'c' WHEN v % 4 = 3 THEN 'd' ELSE 'u' END AS op,
  encode('2:idn' || length(k::VARCHAR) || ':' || k) AS key,
  CASE WHEN v % 4 = 0 THEN NULL ELSE unhex(md5(k || '/' || (v - 1))) END AS before,
  CASE WHEN v % 4 = 3 THEN NULL ELSE unhex(md5(k || '/' || v)) END AS after,
  {place},
  make_timestamptz(1790000000000000 + i * 100) AS committed_at, NULL::VARCHAR[] AS unknown
FROM (SELECT i, i % {keys} AS k, i // {keys} AS v FROM range({changes}) t(i))
"""
_NOWHERE = 'NULL::VARCHAR AS topic, NULL::INT AS partition, NULL::BIGINT AS "offset", NULL::VARCHAR AS object'
_RECORD = (
    "'shop.public.t' || (k % 8) AS topic, (k // 8 % 3)::INT AS partition, "
    '(i // 24 + i // 240 * 2)::BIGINT AS "offset"'  # gaps, as transaction markers leave them
)
_OBJECT = (
    "'lake/t' || (k % 8) || '/event_time_hour=' || strftime(make_timestamp(1790000000000000 + i * 100), "
    "'%Y-%m-%d-%H') || '/' || (k // 8 % 3) || '-' || (i // 500000) || '.parquet' AS object"
)


def make(folder: Path, changes: int) -> None:
    """Write the three ledgers, unless they are there."""
    keys = 24 * max(1, changes // 100)
    places = {"wal": _NOWHERE, "log": f"{_RECORD}, NULL::VARCHAR AS object", "archive": f"{_RECORD}, {_OBJECT}"}
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET memory_limit = '2GB'; SET preserve_insertion_order = false")
        for kind, place in places.items():
            target = folder / kind
            if (target / "manifest.json").exists():
                continue
            (target / "changes").mkdir(parents=True, exist_ok=True)
            file = target / "changes" / "000000.parquet"
            sql = _CHANGES.format(place=place, keys=keys, changes=changes)
            connection.execute(f"COPY ({sql}) TO '{file}' (CODEC zstd, COMPRESSION_LEVEL 1)")
            manifest = {"kind": kind, "complete": True, "counts": {"changes": changes}}
            (target / "manifest.json").write_text(json.dumps(manifest))


def scan(folder: Path) -> float:
    """Seconds to read every byte of the three ledgers and hash every value, on as many threads."""
    start = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2; SET memory_limit = '1500MB'")
        for kind in ("wal", "log", "archive"):
            connection.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM '{folder / kind}/changes/*.parquet'").fetchall()
    return time.perf_counter() - start


class PeakMemory:
    """The largest resident set while it is entered, sampled."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, process.memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory-limit", default="1500MB")
    parser.add_argument("--damage", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench-verify-", dir="/var/tmp"))
    try:
        make(folder, options.changes)
        plain = scan(folder)
        from cdcpipe import verify

        log: object = folder / "log"
        if options.damage:
            log = folder / "log-damaged"
            damage(folder / "log", Path(str(log)))
        with PeakMemory() as memory:
            start = time.perf_counter()
            report = verify.events(folder / "wal", log, folder / "archive", memory_limit=options.memory_limit)
            seconds = time.perf_counter() - start
        kinds = ("wal", "log", "archive")
        size = sum(path.stat().st_size for kind in kinds for path in (folder / kind).rglob("*.parquet"))
        result = {
            "benchmark": "verify.events",
            "changes": options.changes,
            "ledger_bytes": size,
            "seconds": round(seconds, 2),
            "changes_per_second": round(options.changes / seconds),
            "scan_seconds": round(plain, 2),
            "ratio_to_scan": round(seconds / plain, 2),
            "peak_rss_bytes": memory.bytes,
            "verdict": report.verdict.value,
            "anomalies": list(report.anomalies),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "duckdb": duckdb.__version__,
            "stages": {each.name: round(each.seconds, 2) for each in report.results if each.seconds},
        }
        json.dump(result, sys.stdout, indent=1)
        print()
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def damage(log: Path, target: Path) -> None:
    """A copy of `log` without each thousandth change."""
    (target / "changes").mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        file = target / "changes" / "000000.parquet"
        connection.execute(
            f"COPY (SELECT * FROM '{log}/changes/*.parquet' WHERE (xid * 7 + seq) % 1000 <> 3) TO '{file}' (CODEC zstd)"
        )
        counted = connection.execute(f"SELECT count(*) FROM '{file}'").fetchone()
        assert counted is not None
    manifest = {"kind": "log", "complete": True, "counts": {"changes": counted[0]}}
    (target / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main()
