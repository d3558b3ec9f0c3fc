"""The monitor beside a pipeline, scraped over HTTP as a Prometheus would; and, for alerts, a real Prometheus."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx2

from cdcpipe.errors import ServiceError
from cdcpipe.settings import MonitorSettings
from cdcpipe.stack.component import wait_until

if TYPE_CHECKING:
    from cdcpipe.conformance.pipeline import Pipeline

__all__ = ["Scrape", "Watching"]


class Scrape:
    """One exposition: values by name and labels."""

    def __init__(self, text: str) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        self.at = time.monotonic()
        self.text = text
        self.samples: list[tuple[str, dict[str, str], float]] = [
            (sample.name, dict(sample.labels), float(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    @property
    def names(self) -> set[str]:
        """Every sample's name."""
        return {name for name, _, _ in self.samples}

    def values(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Values of other labels -> value."""
        return {
            tuple(value for key, value in found.items() if key not in labels): value_
            for sample, found, value_ in self.samples
            if sample == name and labels.items() <= found.items()
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The one value, None when there is none."""
        found = self.values(name, **labels)
        return next(iter(found.values())) if len(found) == 1 else None


class Watching:
    """A monitor of our own, for the length of a session. Its port is a free one of loopback."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._opened = contextlib.ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        from cdcpipe.observe.monitor import Monitor
        from cdcpipe.observe.web import WebServer

        pipeline = self._pipeline
        settings = MonitorSettings(every_seconds=2, probe_seconds=2, verify_seconds=0, target_rate=pipeline.load.rate)
        folder = getattr(pipeline.stack, "folder", None)
        monitor = Monitor(
            pipeline.stack,
            settings,
            source=pipeline.source,
            sink=pipeline.sink,
            folders={} if folder is None else {"stack": folder},
        )
        web = self._opened.enter_context(WebServer(monitor, "127.0.0.1:0"))
        self._opened.enter_context(monitor)
        self.url = web.url
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._opened.close()

    def scrape(self) -> Scrape:
        """Scrape it now, over HTTP. Raises `ServiceError`."""
        try:
            answer = httpx2.get(f"{self.url}/metrics", timeout=20, trust_env=False)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise ServiceError(f"the monitor's metrics can't be scraped: {error}") from error
        return Scrape(answer.text)

    @contextlib.contextmanager
    def prometheus(self) -> Iterator[Alerts]:
        """A Prometheus with our rules that scrapes the monitor every second. Raises `MachineError` without one."""
        from cdcpipe.observe.alerts import Prometheus, Target
        from cdcpipe.stack.local.state import claim_ports

        [port] = claim_ports(("prometheus",), {}, {}).values()
        with tempfile.TemporaryDirectory(prefix="cdcpipe-prometheus-", ignore_cleanup_errors=True) as made:
            server = Prometheus(
                Path(made) / "prometheus",
                Path(made) / "log",
                port=port,
                targets=[Target("cdcpipe-monitor", self.url.removeprefix("http://"))],
                scrape_seconds=1,
                alertmanager=None,
            )
            try:
                server.start()
                server.await_ready(timeout_seconds=60)
                yield Alerts(server.url, server.version)
            finally:
                server.stop()


class Alerts:
    """What a Prometheus says of alerts."""

    def __init__(self, url: str, version: str) -> None:
        self._url = url
        self.version = version

    def firing(self) -> set[tuple[str, str]]:
        """`(alert, component)` of what fires now. Raises `ServiceError`."""
        try:
            answer = httpx2.get(f"{self._url}/api/v1/alerts", timeout=10, trust_env=False)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise ServiceError(f"Prometheus can't be asked for its alerts: {error}") from error
        return {
            (each["labels"]["alertname"], each["labels"].get("component", ""))
            for each in answer.json()["data"]["alerts"]
            if each["state"] == "firing"
        }

    def await_firing(self, alert: tuple[str, str], *, firing: bool, timeout_seconds: float) -> float:
        """Wait until `alert` fires, or doesn't any more: the seconds that it took. Raises `AlertNotSeen`."""
        begin = time.monotonic()
        wait_until(
            lambda: (alert in self.firing()) is firing,
            what=f"the alert {alert[0]} of `{alert[1]}` {'fires' if firing else 'has cleared'}",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.5,
            error=AlertNotSeen,
        )
        return time.monotonic() - begin


class AlertNotSeen(ServiceError):
    """An alert did not fire, or did not clear, in its time."""
