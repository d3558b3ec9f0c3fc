"""What a demo found, as plain figures: the JSON object, and what the page is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DemoResult", "Latency", "PhaseTime", "Sample", "quantile"]


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase and how long it took."""

    phase: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of the load, `at` seconds after its start.

    `target` and `committed` are events a second that the schedule asked for and PostgreSQL committed, `log` those
    that came out of Kafka. Latencies (commit to read_committed consumer, ms) are None when nothing came. `archived`
    is the number of rows that the archive has gained, `memory` bytes by component; both None between their readings.
    """

    at: float
    target: float
    committed: float
    log: float
    log_bytes: int
    behind_seconds: float
    p50_ms: float | None
    p99_ms: float | None
    archived: int | None = None
    memory: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Commit to a read_committed consumer, in ms, over all samples of the load."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that `cdcpipe demo --json` prints. `peak_rss_bytes` holds proportional set sizes; `all` is the peak
    of the sum at one moment, not the sum of peaks. `cpu_seconds` are those of the load. `events`, `achieved_rate`
    and `latency_ms` leave the warm-up out; the ledgers' figures and the verdict include it. `compared` changes were
    judged; `archive_rows` has also what came before the WAL was read and after the watermark, such as probe rows."""

    verdict: str
    sentence: str
    anomalies: tuple[str, ...]
    rate: float
    seconds: float
    brokers: int
    seed: int
    warm_up_seconds: float
    events: int
    achieved_rate: float
    latency_ms: Latency
    compared: int
    wal_changes: int
    log_records: int
    archive_rows: int
    missing: int
    duplicates: int
    altered: int
    peak_rss_bytes: Mapping[str, int]
    cpu_seconds: Mapping[str, float]
    phases: tuple[PhaseTime, ...]
    rows_by_table: Mapping[str, Mapping[str, int]]
    files_by_hour: Mapping[str, int]
    bytes_by_hour: Mapping[str, int]
    versions: Mapping[str, str]
    unexpected_errors: tuple[str, ...]
    run: Path
    samples: tuple[Sample, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        content = asdict(self)
        del content["samples"]
        content["run"] = str(self.run)
        content["report"] = str(self.run / "report.html")
        content["phases"] = {phase.phase: round(phase.seconds, 2) for phase in self.phases}
        return {"schema": "cdcpipe.demo/1", **content}


def quantile(ordered: list[float], q: float) -> float | None:
    """The value that a share `q` of `ordered` doesn't exceed, None when it is empty."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1)
