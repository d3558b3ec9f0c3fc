"""`Monitor`: asks a running pipeline how it is, without end, and knows the answer as metrics and as a picture.

    with Monitor(stack, settings) as monitor:
        monitor.exporter.text()     # for Prometheus
        monitor.state()             # for people

Every source of metrics has a thread of its own (`cdcpipe.observe.monitor_source`). Nothing that fails ends the monitor,
and the monitor touches nothing of the pipeline but its own row in the watermark table, and with `restart_tasks` what
failed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx2

from cdcpipe.errors import ServiceError
from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_archive import ArchiveReader
from cdcpipe.observe.monitor_jmx import Jmx
from cdcpipe.observe.monitor_pipeline import Archive, Kafka, Known, Pipeline, Postgres
from cdcpipe.observe.monitor_probe import Probe, Track
from cdcpipe.observe.monitor_services import ServiceChecks, certificate_expiry
from cdcpipe.observe.monitor_source import Partial, Runner, Source
from cdcpipe.observe.monitor_state import STEP_SECONDS, Alert, History, Told, state_of
from cdcpipe.observe.monitor_verify import verify_state
from cdcpipe.observe.trust import authorities
from cdcpipe.settings import MonitorSettings
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.stack import Stack
from cdcpipe.verify.progress import Bounds, Watch

if TYPE_CHECKING:
    from cdcpipe.observe.audit import Collector

__all__ = ["Monitor"]

_LOG = logging.getLogger("cdcpipe.monitor")
_VERDICTS = ("pass", "fail", "inconclusive", "error")
_SLOW_SECONDS = 15.0  # memory, CPU, JMX: costly to ask, slow to change


class Monitor:
    """Watches `stack`. `metrics` maps a component to the address of its metrics (only Kafka and Connect matter).

    `folders` are watched for room: name -> path. With `audit` it collects the audit trail too, and closes the
    collector in the end. Starts as a context manager, and ends with the block.
    """

    def __init__(
        self,
        stack: Stack,
        settings: MonitorSettings,
        *,
        source: str = SOURCE,
        sink: str = SINK,
        metrics: Mapping[str, str] | None = None,
        folders: Mapping[str, Path] | None = None,
        audit: Collector | None = None,
    ) -> None:
        self.exporter = Exporter()
        self.settings = settings
        self._stack = stack
        self._names = (source, sink)
        self._endpoints = stack.endpoints
        self._folders = dict(folders or {})
        self._audit = audit
        self._known = Known()
        self._jmx = Jmx(self._known, {**(metrics or {}), **settings.metrics}, self._get)
        self._history = History(self.exporter)
        self._anomalies: deque[Told] = deque(maxlen=50)
        self._lines: deque[Told] = deque(maxlen=50)
        self._alerts: list[Alert] | None = None
        self._committed: deque[tuple[float, float]] = deque(maxlen=1000)
        self._track = Track(
            lambda hop, seconds: self.exporter.observe("cdcpipe_probe_duration_seconds", seconds, hop=hop)
        )
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="monitor-tick", daemon=True)
        self._http = httpx2.Client(timeout=5, trust_env=False, verify=authorities())
        self._checks = ServiceChecks(self._endpoints)
        watch = Watch(bounds=Bounds(wal_pin_bytes=settings.wal_retained_bytes_max))
        self._tell_settings(watch)
        self._runners = [Runner(each, self.exporter, self.say) for each in self._sources(watch)]

    # Life -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Begin to ask."""
        for runner in self._runners:
            runner.start()
        self._ticker.start()

    def close(self) -> None:
        """Ask no more. A question that hangs is left behind: its thread ends with the process."""
        self._stop.set()
        for runner in self._runners:
            runner.stop()
        deadline = time.monotonic() + 10
        for runner in self._runners:
            runner.join(max(0.1, deadline - time.monotonic()))
        self._ticker.join(2)
        self._http.close()

    def say(self, sentence: str) -> None:
        """A line for the operator, in the log and on the page."""
        self._lines.append(Told(time.time(), "monitor", sentence))
        _LOG.warning(sentence)

    def state(self) -> dict[str, Any]:
        """The pipeline at this moment, as `cdcpipe.monitor/1`."""
        return state_of(
            self.exporter,
            self._history,
            components=self._checks.components,
            connectors=self._names,
            anomalies=list(self._anomalies),
            lines=list(self._lines),
            alerts=self._alerts,
        )

    @property
    def ready(self) -> bool:
        """Whether every source was asked once."""
        return len(self.exporter.family("cdcpipe_monitor_source_up")) >= len(self._runners)

    # Sources --------------------------------------------------------------------------------------

    def _sources(self, watch: Watch) -> list[Source]:
        tell, endpoints, every = self.exporter, self._endpoints, self.settings.every_seconds
        source, sink = self._names
        pipeline = Pipeline(
            *(tell, endpoints, self._known),
            source=source,
            sink=sink,
            slot=self._stack.settings.slot,
            watch=watch,
            found=self._found,
            restarting=self.say if self.settings.restart_tasks else None,
        )
        postgres, kafka = Postgres(tell, endpoints), Kafka(tell, endpoints, self._known)
        reader = None if endpoints.catalog is None else ArchiveReader(endpoints, endpoints.catalog)
        probe = Probe(endpoints, self._track, reader, every_seconds=self.settings.probe_seconds, sink=sink)
        answers = ("cdcpipe_component_up",)
        lags = ("cdcpipe_lag_seconds", "cdcpipe_probes_pending")
        found = [
            Source("components", min(2.0, every / 2), self._ask_components, answers, close=self._checks.close),
            Source("pipeline", every, pipeline.ask, Pipeline.OWNS, close=pipeline.close),
            Source("postgres", every, postgres.ask, Postgres.OWNS, close=postgres.close),
            Source("kafka", every, kafka.ask, Kafka.OWNS, close=kafka.close),
            Source("probe", 0.5, lambda: self._ask_probe(probe), lags, close=probe.close),
            Source("certificates", 3600, self._ask_certificates, ("cdcpipe_certificate_expiry_timestamp_seconds",)),
            Source("disk", _SLOW_SECONDS, self._ask_disk, ("cdcpipe_disk_free_bytes", "cdcpipe_disk_size_bytes")),
        ]
        if reader is not None:
            archive = Archive(tell, reader, lambda: kafka.change_topics)
            found.append(Source("archive", max(10.0, every), archive.ask, Archive.OWNS, close=reader.close))
        if self._stack.components:
            owns = ("cdcpipe_component_memory_bytes", "cdcpipe_component_cpu_seconds_total")
            found.append(Source("processes", _SLOW_SECONDS, self._ask_processes, owns))
        found += [self._metrics_source(name) for name in self._checks.components if _has_jmx(name)]
        if self._audit is not None:
            audit = self._audit
            found.append(Source("audit", _SLOW_SECONDS, lambda: _collect(audit), bound_seconds=120, close=audit.close))
        if self.settings.verify_seconds:
            found.append(Source("verify", self.settings.verify_seconds, self._ask_verify, bound_seconds=600))
        if self.settings.prometheus_url:
            found.append(Source("prometheus", every, self._ask_prometheus, ("cdcpipe_alerts_firing",)))
        if self.settings.alertmanager_url:
            found.append(Source("alertmanager", every, self._ask_alertmanager))
        return found

    def _metrics_source(self, component: str) -> Source:
        return Source(f"jmx_{component.replace('-', '_')}", _SLOW_SECONDS, lambda: self._jmx.ask(component))

    def _tell_settings(self, watch: Watch) -> None:
        tell, settings = self.exporter.set, self.settings
        tell("cdcpipe_build_info", 1, version=version("cdcpipe"))
        tell("cdcpipe_monitor_start_timestamp_seconds", time.time())
        tell("cdcpipe_throughput_target_events_per_second", settings.target_rate)
        tell("cdcpipe_memory_limit_bytes", settings.memory_limit_bytes)
        tell("cdcpipe_wal_retained_limit_bytes", settings.wal_retained_bytes_max)
        tell("cdcpipe_verification_interval_seconds", settings.verify_seconds)
        tell("cdcpipe_lag_target_seconds", settings.log_seconds_max, hop="commit_to_log")
        tell("cdcpipe_lag_target_seconds", settings.archive_seconds_max, hop="commit_to_archive")
        # A counter that appears with its first count has no increase that a query could see.
        for result in watch.results():
            self.exporter.inc("cdcpipe_anomalies_total", 0, anomaly=result.name)
        for verdict in _VERDICTS if settings.verify_seconds else ():
            self.exporter.inc("cdcpipe_verifications_total", 0, verdict=verdict)

    def _found(self, name: str, sentence: str) -> None:
        self._anomalies.append(Told(time.time(), name, sentence))
        _LOG.warning("anomaly %s: %s", name, sentence)

    def _arrived(self, hop: str, seconds: float) -> None:
        self.exporter.observe("cdcpipe_probe_duration_seconds", seconds, hop=hop)

    def _ask_components(self) -> None:
        self.exporter.replace("cdcpipe_component_up", dict(self._checks.ask()))

    def _ask_probe(self, probe: Probe) -> None:
        probe.step()
        now = time.monotonic()
        lags = self._track.lag_seconds(now)
        self.exporter.replace("cdcpipe_lag_seconds", lags)
        self.exporter.replace("cdcpipe_probes_pending", self._track.pending())
        self._tell_events_on_the_way(now, lags.get("commit_to_log"))

    def _tell_events_on_the_way(self, now: float, lag: float | None) -> None:
        """Row changes committed within the lag's seconds: those can't be in the log yet."""
        total = self.exporter.value("cdcpipe_events_total", hop="commit")
        if total is None or lag is None:
            return
        if not self._committed or self._committed[-1][1] != total:
            self._committed.append((now, total))
        times = [at for at, _ in self._committed]
        index = bisect_left(times, now - lag)
        if 0 < index < len(times):  # between two looks it grew evenly, as far as we know
            (before, low), (after, high) = self._committed[index - 1], self._committed[index]
            then = low + (high - low) * (now - lag - before) / (after - before)
        else:
            then = self._committed[min(index, len(times) - 1)][1]
        rate = self._history.rates().get("commit", 0.0)
        # PostgreSQL's statistics come every few seconds; what was committed since is as much as the rate says.
        since = min(lag, now - times[-1]) * rate
        self.exporter.set("cdcpipe_lag_events", max(0.0, total - then) + since, hop="commit_to_log")

    def _ask_certificates(self) -> None:
        found = certificate_expiry(self._endpoints)
        self.exporter.replace("cdcpipe_certificate_expiry_timestamp_seconds", found)

    def _ask_disk(self) -> None:
        disks = {name: shutil.disk_usage(path) for name, path in self._folders.items() if path.exists()}
        self.exporter.replace("cdcpipe_disk_free_bytes", {name: float(disk.free) for name, disk in disks.items()})
        self.exporter.replace("cdcpipe_disk_size_bytes", {name: float(disk.total) for name, disk in disks.items()})

    def _ask_processes(self) -> None:
        components = self._stack.components
        memory = {name: float(component.memory_bytes()) for name, component in components.items()}
        self.exporter.replace("cdcpipe_component_memory_bytes", {name: size for name, size in memory.items() if size})
        for name, component in components.items():
            used = getattr(component, "cpu_seconds", None)
            if used is not None and memory.get(name):
                self.exporter.set("cdcpipe_component_cpu_seconds_total", used(), component=name)

    def _ask_verify(self) -> None:
        if not all(self.exporter.family("cdcpipe_component_up").values()):
            return  # a verification that can't be made proves nothing; the next one is due in a while
        source, sink = self._names
        found = verify_state(self._endpoints, source=source, sink=sink, stop=self._stop)
        if self._stop.is_set():
            return
        tell = self.exporter
        tell.inc("cdcpipe_verifications_total", verdict=found.verdict)
        tell.replace("cdcpipe_verification_verdict", {each: each == found.verdict for each in _VERDICTS})
        tell.set("cdcpipe_verification_last_timestamp_seconds", time.time())
        tell.set("cdcpipe_verification_duration_seconds", found.seconds)
        if found.through is not None:
            tell.set("cdcpipe_verified_through_timestamp_seconds", found.through)
        for name in found.anomalies:
            tell.inc("cdcpipe_anomalies_total", anomaly=name.partition("@")[0])
            self._found(name, found.sentence)
        if found.verdict == "error":
            raise ServiceError(f"the archive can't be verified: {found.sentence}")

    def _ask_prometheus(self) -> None:
        self._alerts = None
        self._alerts = [_alert(each) for each in self._json(f"{self.settings.prometheus_url}/api/v1/alerts")]
        firing = [each.severity for each in self._alerts if each.state == "firing"]
        self.exporter.replace(
            "cdcpipe_alerts_firing", {severity: firing.count(severity) for severity in ("critical", "warning")}
        )

    def _ask_alertmanager(self) -> None:
        self._get(f"{self.settings.alertmanager_url}/-/ready")

    def _get(self, url: str) -> str:
        try:
            answer = self._http.get(url)
        except httpx2.HTTPError as error:
            raise ServiceError(f"{url} doesn't answer: {type(error).__name__}") from error
        if not answer.is_success:
            raise ServiceError(f"{url} answers {answer.status_code}")
        return answer.text

    def _json(self, url: str) -> list[dict[str, Any]]:
        try:
            found = json.loads(self._get(url))["data"]["alerts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{url} doesn't answer as Prometheus does") from error
        assert isinstance(found, list)
        return found

    def _tick(self) -> None:
        while not self._stop.wait(STEP_SECONDS):
            with contextlib.suppress(RuntimeError):  # a family that changes while it is copied
                self._history.step()
            for runner in self._runners:
                runner.watch()


def _collect(audit: Collector) -> None:
    audit.hear()
    problems = audit.collect().problems
    if problems:
        raise Partial("; ".join(f"`{source}`: {problem}" for source, problem in problems.items()))


def _has_jmx(component: str) -> bool:
    return component == "connect" or component.startswith("kafka-")


def _alert(said: dict[str, Any]) -> Alert:
    labels, notes = dict(said.get("labels", {})), said.get("annotations", {})
    return Alert(
        name=labels.pop("alertname", ""),
        severity=labels.pop("severity", ""),
        state=said.get("state", ""),
        since=said.get("activeAt", ""),
        summary=notes.get("summary", ""),
        runbook_url=notes.get("runbook_url", ""),
        labels=labels,
    )
