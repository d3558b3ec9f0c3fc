"""Proof, or its opposite: three ledgers compared, checks with names, a verdict with witnesses.

    from cdcpipe import verify
    report = verify.events(wal="…/wal", log="…/log", archive="…/archive", level="exactly_once")
    report.verdict, report.anomalies, report["lost-change"].witnesses

    verify.events_of(endpoints, seconds=60)      # the same for a running pipeline: what happens from now on
    verify.state(endpoints)                      # is the archive equal to the tables, right now?
    verify.judge_run("runs/latest")              # an old run again, by this release's checks

**The model.** A ledger is the same table seen at three places: what PostgreSQL committed (`wal`), what the topics
hold (`log`), what the files hold (`archive`). A change is `(xid, seq)`, a record `(topic, partition, offset)`. wal
and log are compared change by change, log and archive record by record, and the log is read in its own order, by
partition and by key.

**Anomalies** have the names of `cdcpipe`'s taxonomy. Each check states a claim as a sentence that could be proven
false, and what a pass does not prove. Claims are literal, so one damage can refute several: what another anomaly
explains is marked as its consequence (`Witness.cause`, `Report.consequences`); `Report.anomalies` are the ones that
nothing explains:

- A lost change tears its transaction (`torn-transaction`) and breaks its key's chain (`key-gap`): both are
  consequences.
- Missing records are `lost-change` at the sink; two or more in a row that no object holds are an `offset-hole`. Either
  leaves the partition's accounts unbalanced (`unaccounted-drop`, then a consequence).
- A repeated row is a `duplicate-row`; two or more common records of two objects are an `overlapping-object`.
- A repeated change is a `duplicate-change`, unless its key ends in it: then `stale-overwrite` or `resurrection`.
- A change before an earlier one of its key is a `key-inversion`; others it overtakes are consequences.
- Half of a changed primary key is a `pk-change-orphan`; what is missing before the first streamed change after a
  snapshot is a `handoff-gap`; `lost-change` is then a
  consequence.

**How.** The comparisons are Ibis expressions, run by DuckDB out of core with a memory limit: no ledger is ever loaded
into Python. They compile to Spark SQL as well, for an archive that outgrew a machine (`pyspark` is not a dependency).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdcpipe.verify.evidence import Cut, Evidence
    from cdcpipe.verify.judge import events
    from cdcpipe.verify.level import Level
    from cdcpipe.verify.live import events_of, judge_run, state, verified_through
    from cdcpipe.verify.outcome import Report
    from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

__all__ = [
    "CheckResult",
    "Cut",
    "Evidence",
    "Level",
    "Report",
    "Verdict",
    "Witness",
    "events",
    "events_of",
    "judge_run",
    "state",
    "verified_through",
]

_EXPORTS = {
    "CheckResult": "verdict",
    "Cut": "evidence",
    "Evidence": "evidence",
    "Level": "level",
    "Report": "outcome",
    "Verdict": "verdict",
    "Witness": "verdict",
    "events": "judge",
    "events_of": "live",
    "judge_run": "live",
    "state": "live",
    "verified_through": "live",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'cdcpipe.verify' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cdcpipe.verify.{_EXPORTS[name]}"), name)
