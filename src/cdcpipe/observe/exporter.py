"""The values of our metrics, in Prometheus' text format.

A value stands here only as long as somebody vouches for it: a source that can't be asked any more has its metrics
forgotten, and a scrape then shows them absent. An old number would look like a healthy one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from cdcpipe.errors import MissingExtra
from cdcpipe.observe.metrics import BUCKETS, METRICS, Metric

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtra("observe", "the monitor") from error

__all__ = ["CONTENT_TYPE", "Exporter"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

Labels = tuple[str, ...]


class _Histogram:
    """Counts by bucket, not yet summed up, and the sum of what was observed."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        index = next((i for i, bound in enumerate(BUCKETS) if value <= bound), len(BUCKETS))
        self.counts[index] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        summed, found = 0, []
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], self.counts, strict=True):
            summed += count
            found.append((bound, float(summed)))
        return found


class Exporter(Collector):
    """Takes values of the metrics in `cdcpipe.observe.metrics`, and no others. Threads may share it."""

    def __init__(self) -> None:
        self._metrics = {metric.name: metric for metric in METRICS}
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    # Values ---------------------------------------------------------------------------------------

    def set(self, name: str, value: float, **labels: str) -> None:
        """Give a series its value: a gauge's, or a counter's that somebody else counts."""
        key = self._key(name, labels)
        with self._lock:
            self._values.setdefault(name, {})[key] = float(value)

    def replace(self, name: str, values: Mapping[str, float] | Mapping[Labels, float]) -> None:
        """Give a family all its series: those that are not in `values` are gone."""
        metric = self._metric(name)
        made = {(key,) if isinstance(key, str) else key: float(value) for key, value in values.items()}
        assert all(len(key) == len(metric.labels) for key in made), name
        with self._lock:
            self._values[name] = made

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count. Only what counts up is a counter."""
        assert amount >= 0, (name, amount)
        key = self._key(name, labels)
        with self._lock:
            family = self._values.setdefault(name, {})
            family[key] = family.get(key, 0.0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram."""
        key = self._key(name, labels)
        with self._lock:
            self._histograms.setdefault(name, {}).setdefault(key, _Histogram()).observe(value)

    def forget(self, names: Iterable[str]) -> None:
        """Nobody vouches for these any more. What was counted by ourselves stays: it is still true."""
        with self._lock:
            for name in names:
                self._values.pop(name, None)

    # Looking at them ------------------------------------------------------------------------------

    def value(self, name: str, **labels: str) -> float | None:
        """The value of a series, None when it is absent."""
        key = self._key(name, labels)
        with self._lock:
            return self._values.get(name, {}).get(key)

    def family(self, name: str) -> dict[Labels, float]:
        """Label values -> value, of all series of a metric."""
        self._metric(name)
        with self._lock:
            return dict(self._values.get(name, {}))

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """For `prometheus_client`."""
        with self._lock:
            values = {name: dict(family) for name, family in self._values.items()}
            histograms = {
                name: {key: (each.buckets(), each.total) for key, each in family.items()}
                for name, family in self._histograms.items()
            }
        for metric in METRICS:
            if metric.kind == "histogram":
                shown = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for key, (buckets, total) in histograms.get(metric.name, {}).items():
                    shown.add_metric(key, buckets, total)
                yield shown
            elif metric.name in values:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = kind(metric.name, metric.help, labels=metric.labels)
                for key, value in sorted(values[metric.name].items()):
                    family.add_metric(key, value)
                yield family

    def _metric(self, name: str) -> Metric:
        return self._metrics[name]

    def _key(self, name: str, labels: Mapping[str, str]) -> Labels:
        metric = self._metric(name)
        assert set(labels) == set(metric.labels), (name, sorted(labels), metric.labels)
        return tuple(labels[label] for label in metric.labels)
