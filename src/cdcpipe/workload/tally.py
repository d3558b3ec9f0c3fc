"""What a workload has done so far, and in all: plain figures that can be added up and sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cdcpipe.workload.pace import Latencies
from cdcpipe.workload.plan import Plan

__all__ = ["Outcome", "Tally", "WorkloadProgress", "WorkloadResult"]


class Outcome(StrEnum):
    """How a transaction ended, as far as its client knows."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    UNKNOWN_COMMITTED = "unknown_committed"
    UNKNOWN_ABORTED = "unknown_aborted"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Tally:
    """The figures of one connection. Written by its thread alone; read by others at any time."""

    tables: tuple[str, ...]
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Outcome), 0))
    unresolved: int = 0
    events: int = 0
    key_changes: int = 0
    reconnects: int = 0
    by_table: dict[str, dict[str, int]] = field(init=False)
    latencies: Latencies = field(default_factory=Latencies)
    due: float | None = None  # when the transaction now running or waited for is due, seconds from the start
    in_flight: bool = False
    behind: float = 0.0  # how late it was at the end
    behind_max: float = 0.0
    last_commit: float = 0.0

    def __post_init__(self) -> None:
        self.by_table = {table: dict.fromkeys("cudt", 0) for table in self.tables}

    def committed(self, plan: Plan) -> None:
        for step in plan.steps:
            if step.kept and step.table is not None and step.op is not None:
                self.by_table[step.table][step.op] += step.rows
                self.events += step.rows
        self.key_changes += plan.kind == "rekey"


@dataclass(frozen=True, slots=True)
class WorkloadProgress:
    """Where a workload stands.

    `events_target` is what the schedule has asked for until now. `behind_seconds` is by how much the slowest
    connection is late. `unknown` counts transactions whose COMMIT got no answer and that are not resolved
    yet; `events_by_table` is table -> op (`c` `u` `d` `t`) -> committed row changes.
    """

    seconds: float
    events_target: int
    events_committed: int
    committed: int
    rolled_back: int
    failed: int
    unknown: int
    behind_seconds: float
    events_by_table: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """What a workload did.

    committed: transactions that the server said were committed
    rolled_back: those that the workload itself rolled back
    failed: those that an error ended before their COMMIT was sent, or that the server refused; each was run again
    unknown: those whose connection was lost while they were committed. Of these `unknown_committed` and
        `unknown_aborted` were resolved afterwards; `unresolved` were not, since the server did not come back in time
    events: row changes of `committed` and `unknown_committed`; a changed primary key is one `u` (and is counted in
        `key_changes`: Debezium makes a delete and a create of it)
    events_by_table: table -> op (`c` `u` `d` `t`) -> the same row changes
    achieved_rate: `events` a second, over `seconds`: from the start to the end of the schedule or the last commit,
        whichever was later
    behind_seconds, behind_seconds_max: how late the slowest connection was at the end, and at any moment
    commit_latency_seconds: `p50`, `p95`, `p99`, from the moment a transaction was due to the answer to its COMMIT
    cpu_seconds: processor time of the generator's process, from the start of the schedule
    stopped: whether it was asked to stop before the schedule was over
    record: the JSONL file with one line a transaction, if one was asked for
    """

    seed: int
    rate: float
    seconds: float
    connections: int
    committed: int
    rolled_back: int
    failed: int
    unknown: int
    unknown_committed: int
    unknown_aborted: int
    unresolved: int
    reconnects: int
    events: int
    key_changes: int
    events_by_table: Mapping[str, Mapping[str, int]]
    achieved_rate: float
    behind_seconds: float
    behind_seconds_max: float
    commit_latency_seconds: Mapping[str, float]
    cpu_seconds: float
    stopped: bool
    record: Path | None = None


def events_by_table(tallies: list[Tally]) -> dict[str, dict[str, int]]:
    """The sum over connections."""
    whole = {table: dict.fromkeys("cudt", 0) for table in tallies[0].tables}
    for tally in tallies:
        for table, ops in tally.by_table.items():
            for op, count in ops.items():
                whole[table][op] += count
    return whole
