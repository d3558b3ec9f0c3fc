"""Chaos: a load, faults by a schedule, a drain, a verdict event by event, and what there is to see of it.

    plan = ChaosPlan.drawn(seed=7, seconds=120, rate=3000)
    result = run_chaos(plan, load_settings())
    result.verdict, result.anomalies, result.run

A run leaves `runs/chaos/<time>/`: `plan.json` (which replays it), `faults.jsonl`, `samples.jsonl`, `probes.parquet`,
`ledgers/`, `logs/`, `result.json`, `report.html`, `report.md`, `junit.xml`.
"""

from __future__ import annotations

from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.chaos.result import ChaosResult, load_result
from cdcpipe.chaos.run import run_chaos

__all__ = ["ChaosPlan", "ChaosResult", "load_result", "run_chaos"]
