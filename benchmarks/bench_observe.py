"""What watching costs: the pipeline with and without everything of issue 8 that runs all the time, side by side.

Each round brings up two stacks one after the other, gives both the same load, and waits until all of it is archived.
The observed one has JMX agents in Kafka and Connect, `cdcpipe monitor` with its probe rows, a Prometheus that scrapes
every five seconds, and an Alertmanager. Throughput is events over the time from the load's begin until the log (or the
archive) has them all: a pipeline that falls behind shows it. A JSON object on stdout; targets are 5 % and 150 MB.

`watchers_memory_mb` is what the processes take that are there for watching alone, `watchers_anonymous_mb` what of it is
no page of a program or library on disk, which the kernel may drop; `extra_memory_mb` is the difference of whole stacks,
at their peaks. A JVM gives no part of its heap back that it has touched once, so what it takes depends
on when it happened to collect: `extra_live_memory_mb` is the same difference with each heap counted as what is in it
after a collection. A verification, which the monitor makes each five minutes, is a process of its own that comes and
goes: it is told apart, as `verification_memory_mb`, and on top of the difference, as `extra_with_verification_mb`.
`extra_by_part_mb` says where the difference is, and `bare_servers_mb` what a Prometheus and an Alertmanager take that
look at nothing: with the agents in the JVMs, that is what no monitor can save.

    python benchmarks/bench_observe.py --rate 10000 --seconds 30 --rounds 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cdcpipe.observe.monitor_local import Surroundings, prometheus_of
from cdcpipe.settings import MonitorSettings, load_settings
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.local.java import JavaProcess, java_executable
from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.local.state import claim_ports
from cdcpipe.verify.settle import settle
from cdcpipe.workload import Shop, Workload

WATCHERS = frozenset({"prometheus", "prometheus-alertmanager", "alertmanager"})
VERIFICATION = "verification"


class Peak:
    """The most memory that was seen, once a second, by part; and the CPU that each part has used."""

    def __init__(self, stack: LocalStack, monitor: subprocess.Popen[bytes] | None) -> None:
        self._stack, self._monitor = stack, monitor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.memory: dict[str, int] = {}
        self.anonymous: dict[str, int] = {}
        self.total = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def cpu(self) -> dict[str, float]:
        used = {name: component.cpu_seconds() for name, component in self._stack.components.items()}
        for process in self._watching():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                name = self._name(process)
                used[name] = used.get(name, 0) + times.user + times.system
        return used

    def _watching(self) -> list[psutil.Process]:
        if self._monitor is None:
            return []
        found = processes_below(self._stack.folder, WATCHERS)
        with contextlib.suppress(psutil.Error):
            monitor = psutil.Process(self._monitor.pid)
            found += [monitor, *(each for each in monitor.children(recursive=True) if each not in found)]
        return found

    def _run(self) -> None:
        while not self._stop.wait(1):
            now = self._stack.memory_bytes()
            for process in self._watching():
                with contextlib.suppress(psutil.Error, OSError):
                    name = self._name(process)
                    now[name] = now.get(name, 0) + process.memory_full_info().pss
                    self.anonymous[name] = max(self.anonymous.get(name, 0), anonymous(process.pid))
            for name, size in now.items():
                self.memory[name] = max(size, self.memory.get(name, 0))
            self.total = max(self.total, sum(size for name, size in now.items() if name != VERIFICATION))

    def _name(self, process: psutil.Process) -> str:
        name = process.name()
        if name in WATCHERS:
            return name
        return "monitor" if self._monitor is not None and process.pid == self._monitor.pid else VERIFICATION


def anonymous(pid: int) -> int:
    """The part of the process's proportional set size that lies in no file."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(size) for size in re.findall(r"^Pss_Anon: +(\d+) kB", text, re.MULTILINE)) * 1024


def jcmd(pid: int, command: str) -> str:
    """Ask a JVM, as `jcmd` does: the wheel has its module, and not its launcher."""
    java = [str(java_executable()), "-XX:+UseSerialGC", "-Xmx64m", "-m", "jdk.jcmd/sun.tools.jcmd.JCmd"]
    return subprocess.run([*java, str(pid), command], capture_output=True, text=True, check=True, timeout=60).stdout


def heap(pid: int) -> tuple[int, int]:
    """Bytes of the heap that the process has touched, and those that are in use after a collection."""
    info = jcmd(pid, "GC.heap_info")
    bounds = [int(each, 16) for each in re.findall(r"0x([0-9a-f]{16})", info)]
    touched, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="ascii", errors="replace").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = min(bounds) <= int(found[1], 16) and int(found[2], 16) <= max(bounds)
        elif inside and line.startswith("Rss:"):
            touched += int(line.split()[1]) * 1024
    jcmd(pid, "GC.run")
    used = re.findall(r"(?:DefNew|Tenured) .*?used (\d+)K", jcmd(pid, "GC.heap_info"))
    return touched, sum(int(each) for each in used) * 1024


@contextlib.contextmanager
def monitored(stack: LocalStack, observed: bool) -> Iterator[subprocess.Popen[bytes] | None]:
    if not observed:
        yield None
        return
    environment = {**os.environ, "CDCPIPE_STACK": str(stack.folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "cdcpipe", "monitor", "--with-prometheus"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as monitor:
        try:
            assert monitor.stdout is not None
            for _ in range(4):  # page, metrics, prometheus, alertmanager
                if not monitor.stdout.readline():
                    raise SystemExit("the monitor did not start")
            yield monitor
        finally:
            monitor.send_signal(signal.SIGTERM)
            monitor.wait(60)


def bare_servers() -> dict[str, float]:
    """Prometheus and Alertmanager beside nothing, with nobody to tell: their proportional set size in MB."""
    with tempfile.TemporaryDirectory(prefix="cdcpipe-bench-", dir="/var/tmp") as folder:
        ports = claim_ports(("prometheus", "alertmanager", "monitor"), {}, {})
        around = Surroundings(f"127.0.0.1:{ports['monitor']}", {}, {}, ports, Path(folder))
        with prometheus_of(around, MonitorSettings()) as servers:
            time.sleep(10)  # two rounds of scraping and of rules
            return {server.name: round(server.memory_bytes() / 1e6, 1) for server in servers}


def measure(*, observed: bool, rate: float, seconds: float, warm_up: float) -> dict[str, Any]:
    """One run on a fresh stack."""
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="cdcpipe-bench-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        stack = LocalStack(Path(folder), cache=settings.cache, maven_mirror=settings.maven_mirror)
        try:
            stack.up(observed=observed, tables=Shop.TABLES)
            postgres, shop = stack.endpoints.postgres, Shop(seed=7)
            shop.create(postgres)
            with monitored(stack, observed) as monitor:
                with Workload(postgres, shop, rate=rate / 2, seconds=warm_up) as load:
                    load.wait()
                await_flow(stack.endpoints, archive=True, timeout_seconds=300)
                with Peak(stack, monitor) as peak:
                    before, begun = peak.cpu(), time.monotonic()
                    with Workload(postgres, shop, rate=rate, seconds=seconds) as load:
                        result = load.wait()
                    loaded = time.monotonic() - begun
                    settled = settle(stack.endpoints, timeout_seconds=300)
                    whole = time.monotonic() - begun
                    used = {name: round(cpu - before.get(name, 0), 1) for name, cpu in peak.cpu().items()}
                heaps = {
                    name: heap(process.pid)
                    for name, component in stack.components.items()
                    if isinstance(component, JavaProcess) and (process := component.find()) is not None
                }
        finally:
            stack.down(purge=True)
    watching = {name: size for name, size in peak.memory.items() if name in (*WATCHERS, "monitor")}
    own = {name: size for name, size in peak.anonymous.items() if name in watching}
    in_log = loaded + settled.seconds.get("source", 0)
    return {
        "observed": observed,
        "events": result.events,
        "settled": settled.cut.reached,
        "offered_rate": rate,
        "written_rate": round(result.achieved_rate, 1),
        "log_rate": round(result.events / in_log, 1),
        "archive_rate": round(result.events / whole, 1),
        "peak_memory_mb": round(peak.total / 1e6, 1),
        "live_memory_mb": round((peak.total - sum(touched - live for touched, live in heaps.values())) / 1e6, 1),
        "watchers_memory_mb": round(sum(watching.values()) / 1e6, 1),
        "watchers_anonymous_mb": round(sum(own.values()) / 1e6, 1),
        "verification_memory_mb": round(peak.memory.get(VERIFICATION, 0) / 1e6, 1),
        "memory_mb": {name: round(size / 1e6, 1) for name, size in peak.memory.items()},
        "heap_touched_mb": {name: round(touched / 1e6, 1) for name, (touched, _) in heaps.items()},
        "heap_live_mb": {name: round(live / 1e6, 1) for name, (_, live) in heaps.items()},
        "cpu_seconds": used,
        "cpu_seconds_all": round(sum(used.values()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for number in range(options.rounds):
        for observed in (False, True) if number % 2 == 0 else (True, False):  # no order has an advantage
            runs.append(measure(observed=observed, rate=options.rate, seconds=options.seconds, warm_up=options.warm_up))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)

    def median(key: str, part: str | None = None, *, observed: bool) -> float:
        chosen = [run[key] for run in runs if run["observed"] is observed]
        return statistics.median(each if part is None else each.get(part, 0.0) for each in chosen)

    def ratio(key: str) -> float:
        return round(median(key, observed=True) / median(key, observed=False), 4)

    def extra(key: str, part: str | None = None) -> float:
        return round(median(key, part, observed=True) - median(key, part, observed=False), 1)

    parts = sorted({name for run in runs for name in run["memory_mb"]} - {VERIFICATION})
    verification = median("verification_memory_mb", observed=True)
    print(
        json.dumps(
            {
                "benchmark": "observe",
                "rate": options.rate,
                "seconds": options.seconds,
                "rounds": options.rounds,
                "log_throughput_ratio": ratio("log_rate"),
                "archive_throughput_ratio": ratio("archive_rate"),
                "cpu_ratio": ratio("cpu_seconds_all"),
                "watchers_memory_mb": median("watchers_memory_mb", observed=True),
                "watchers_anonymous_mb": median("watchers_anonymous_mb", observed=True),
                "extra_memory_mb": extra("peak_memory_mb"),
                "extra_by_part_mb": {name: extra("memory_mb", name) for name in parts},
                "bare_servers_mb": bare_servers(),
                "extra_live_memory_mb": extra("live_memory_mb"),
                "verification_memory_mb": verification,
                "extra_with_verification_mb": round(extra("peak_memory_mb") + verification, 1),
                "targets": {"log_throughput_ratio": 0.95, "extra_memory_mb": 150},
                "runs": runs,
            }
        )
    )


if __name__ == "__main__":
    main()
