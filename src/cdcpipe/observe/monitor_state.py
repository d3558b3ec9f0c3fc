"""What a person sees of a pipeline at one moment: rates, lags, states, anomalies, alerts. The web page and
`cdcpipe top` show the same document, `cdcpipe.monitor/1`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final

from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.metrics import HOPS

__all__ = ["Alert", "History", "Told", "state_of"]

SCHEMA: Final = "cdcpipe.monitor/1"
RATE_SECONDS: Final = 30.0
"""Over which a rate is taken: the archive grows in steps of some seconds."""
STEP_SECONDS: Final = 2.0
KEPT: Final = 150
"""Steps that the charts show: five minutes."""


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence of a moment: an anomaly with its name, or a line of the monitor's own."""

    at: float
    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as Prometheus has it. `state` is `pending` or `firing`."""

    name: str
    severity: str
    state: str
    since: str
    summary: str
    runbook_url: str
    labels: dict[str, str]


class History:
    """Rates and lags of the last minutes, in even steps."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._totals: deque[tuple[float, dict[str, float]]] = deque()
        self._cpu: deque[tuple[float, dict[str, float]]] = deque()
        self._steps: deque[dict[str, float | None]] = deque(maxlen=KEPT)
        self._lock = threading.Lock()

    def step(self, now: float | None = None) -> None:
        """Look at the counters."""
        at = time.time() if now is None else now
        totals = {key[0]: value for key, value in self._exporter.family("cdcpipe_events_total").items()}
        cpu = {key[0]: value for key, value in self._exporter.family("cdcpipe_component_cpu_seconds_total").items()}
        lags = {key[0]: value for key, value in self._exporter.family("cdcpipe_lag_seconds").items()}
        with self._lock:
            for series, values in ((self._totals, totals), (self._cpu, cpu)):
                series.append((at, values))
                while len(series) > 2 and at - series[0][0] > RATE_SECONDS:
                    series.popleft()
            rates = self._rates(self._totals)
            self._steps.append(
                {
                    "at": round(at, 1),
                    **{hop: rates.get(hop) for hop in ("commit", "log", "archive")},
                    "lag_log": _rounded(lags.get("commit_to_log")),
                    "lag_archive": _rounded(lags.get("commit_to_archive")),
                }
            )

    def rates(self) -> dict[str, float]:
        """Hop -> events a second."""
        with self._lock:
            return self._rates(self._totals)

    def cores(self) -> dict[str, float]:
        """Component -> CPU cores in use."""
        with self._lock:
            return self._rates(self._cpu)

    def steps(self) -> list[dict[str, float | None]]:
        """The steps kept, oldest first."""
        with self._lock:
            return list(self._steps)

    @staticmethod
    def _rates(series: deque[tuple[float, dict[str, float]]]) -> dict[str, float]:
        found = {}
        for name, newest in (series[-1][1] if series else {}).items():
            # From the first step at which it was known: a component that came later has no past.
            at, first = next((at, values[name]) for at, values in series if name in values)
            span = series[-1][0] - at
            if span > 0:
                found[name] = round(max(0.0, newest - first) / span, 3)
        return found


def state_of(
    exporter: Exporter,
    history: History,
    *,
    components: tuple[str, ...],
    connectors: tuple[str, str],
    anomalies: list[Told],
    lines: list[Told],
    alerts: list[Alert] | None,
) -> dict[str, Any]:
    """The document; `connectors` are the names of source and sink. What isn't known is null."""
    value, family = exporter.value, exporter.family
    ups = {key[0]: bool(up) for key, up in family("cdcpipe_component_up").items()}
    memory = {key[0]: used for key, used in family("cdcpipe_component_memory_bytes").items()}
    rates, cores = history.rates(), history.cores()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "at": time.time(),
        "target_rate": value("cdcpipe_throughput_target_events_per_second"),
        "memory_limit_bytes": value("cdcpipe_memory_limit_bytes"),
        "components": [
            {"name": name, "up": ups.get(name), "memory_bytes": memory.get(name), "cores": cores.get(name)}
            for name in components
        ],
        "connectors": _connectors(exporter, connectors),
        "hops": {
            hop: {"rate": rates.get(hop), "total": value("cdcpipe_events_total", hop=hop)}
            for hop in ("commit", "log", "archive")
        },
        "lags": {
            hop: {
                "seconds": _rounded(value("cdcpipe_lag_seconds", hop=hop)),
                "events": value("cdcpipe_lag_events", hop=hop),
                "bytes": value("cdcpipe_lag_bytes", hop=hop),
                "target_seconds": value("cdcpipe_lag_target_seconds", hop=hop),
            }
            for hop in HOPS
        },
        "slots": [
            {"name": key[0], "retained_bytes": size, "active": bool(value("cdcpipe_slot_active", slot=key[0]))}
            for key, size in sorted(family("cdcpipe_slot_retained_bytes").items())
        ],
        "wal_retained_limit_bytes": value("cdcpipe_wal_retained_limit_bytes"),
        "dead_letters": sum(family("cdcpipe_dead_letters_kept").values())
        if family("cdcpipe_dead_letters_kept")
        else None,
        "archive": {
            "rows": sum(family("cdcpipe_archive_rows").values()),
            "files": sum(family("cdcpipe_archive_files").values()),
            "bytes": sum(family("cdcpipe_archive_bytes").values()),
        },
        "verification": {
            "verdict": next((key[0] for key, on in family("cdcpipe_verification_verdict").items() if on), None),
            "at": value("cdcpipe_verification_last_timestamp_seconds"),
            "through": value("cdcpipe_verified_through_timestamp_seconds"),
            "interval_seconds": value("cdcpipe_verification_interval_seconds"),
        },
        "sources": {key[0]: bool(up) for key, up in sorted(family("cdcpipe_monitor_source_up").items())},
        "anomalies": [asdict(each) for each in reversed(anomalies)],
        "lines": [asdict(each) for each in reversed(lines)],
        "alerts": None if alerts is None else [asdict(each) for each in alerts],
        "history": history.steps(),
    }
    document["health"], document["sentence"] = _health(document)
    return document


def _connectors(exporter: Exporter, names: tuple[str, str]) -> list[dict[str, Any]]:
    states = {key[0]: key[1] for key, on in exporter.family("cdcpipe_connector_state").items() if on}
    tasks = [key for key, on in exporter.family("cdcpipe_task_state").items() if on]
    return [
        {
            "name": name,
            "role": role,
            "state": states[name],
            "tasks": [{"id": int(task), "state": its} for connector, task, its in sorted(tasks) if connector == name],
        }
        for role, name in zip(("source", "sink"), names, strict=True)
        if name in states
    ]


def _health(document: dict[str, Any]) -> tuple[str, str]:
    """`down`, `degraded`, `unknown` or `healthy`, and the first reason for it."""
    for each in document["components"]:
        if each["up"] is False:
            return "down", f"{each['name']} does not answer"
    for connector in document["connectors"]:
        broken = [task for task in connector["tasks"] if task["state"] == "FAILED"]
        if connector["state"] == "FAILED" or broken:
            return "down", f"{connector['name']} has failed"
    firing = [each for each in document["alerts"] or () if each["state"] == "firing"]
    critical = [each for each in firing if each["severity"] == "critical"]
    if critical:
        return "down", critical[0]["summary"]
    if document["verification"]["verdict"] == "fail":
        return "degraded", "the last verification found anomalies"
    for hop, lag in document["lags"].items():
        if lag["seconds"] is not None and lag["target_seconds"] and lag["seconds"] > lag["target_seconds"]:
            return "degraded", f"{hop.replace('_', ' ')} takes {lag['seconds']:.1f} s, more than it may"
    if firing:
        return "degraded", firing[0]["summary"]
    if not document["connectors"] or any(each["up"] is None for each in document["components"]):
        return "unknown", "not everything has been asked yet"
    return "healthy", "every component answers and changes arrive in time"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
