"""What the JMX agents of Kafka and Connect tell. Prometheus scrapes them itself; the monitor takes the sizes of the
topics from there, and says which metrics were there and are gone: an alert over an absent metric never fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from cdcpipe.errors import ServiceError
from cdcpipe.observe.metrics import catalogue
from cdcpipe.observe.monitor_pipeline import Known
from cdcpipe.observe.monitor_source import Partial

__all__ = ["Jmx"]

_LOG_SIZE = "kafka_log_size_bytes"


class Jmx:
    """Asks the agents at `urls` (component -> address) by `get`, and tells `known` how many bytes the log holds."""

    def __init__(self, known: Known, urls: Mapping[str, str], get: Callable[[str], str]) -> None:
        self._known, self._urls, self._get = known, urls, get
        self._documented = frozenset(catalogue())
        self._sizes: dict[str, dict[tuple[str, int], float]] = {}
        self._seen: dict[str, set[str]] = {}

    def ask(self, component: str) -> None:
        """Ask one agent. Raises `ServiceError`, and `Partial` when it tells less than it did."""
        url = self._urls.get(component)
        if url is None:
            raise ServiceError(f"{component} exposes no metrics; bring the stack up with `cdcpipe up --observed`")
        names: set[str] = set()
        sizes: dict[tuple[str, int], float] = {}
        for family in text_string_to_metric_families(self._get(url)):
            names.update(sample.name for sample in family.samples)
            if family.name == _LOG_SIZE:
                sizes = {(s.labels["topic"], int(s.labels["partition"])): s.value for s in family.samples}
        if component.startswith("kafka"):
            self._sizes[component] = sizes
            self._known.log_bytes = self._merged()
        seen = self._seen.setdefault(component, set())
        seen |= names & self._documented
        if gone := sorted(seen - names):
            raise Partial(f"{component} no longer tells {', '.join(gone)}")

    def _merged(self) -> dict[tuple[str, int], float] | None:
        merged: dict[tuple[str, int], float] = {}
        for of_broker in list(self._sizes.values()):
            for place, size in of_broker.items():  # replicas of a partition have one size, not a sum
                merged[place] = max(size, merged.get(place, 0.0))
        return merged or None
