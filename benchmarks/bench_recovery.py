"""How soon the pipeline is back after a kill: of the worker, of the only broker, of one of three, of PostgreSQL.

JSON lines: for each fault the seconds until the probe flowed again, and until the archive went on, from the injection
and from the cure. `--seconds` and `--rate` are the load's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from cdcpipe.chaos import ChaosPlan, run_chaos
from cdcpipe.faults import Fault, Kill
from cdcpipe.faults.schedule import Schedule, Trigger
from cdcpipe.settings import load_settings

GOAL = {"flows": 15, "archive": 30}


def schedule(*faults: Fault, pause: float) -> Schedule:
    """One after the other, `pause` seconds between."""
    first, *rest = faults
    steps = [(Trigger("committed", 20_000), first)]
    steps += [(Trigger("after", pause, step=f"s{number}"), fault) for number, fault in enumerate(rest, 1)]
    return Schedule.of(*steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=3000)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--brokers", type=int, choices=(1, 3), action="append", help="default: both")
    parser.add_argument("--runs", type=Path, help="keep the runs' reports here")
    options = parser.parse_args()
    targets: dict[int, tuple[Fault, ...]] = {
        1: (Kill("connect"), Kill("kafka-1"), Kill("postgres")),
        3: (Kill("connect"), Kill("leader of cdc.public.orders 0"), Kill("controller")),
    }
    with tempfile.TemporaryDirectory(prefix="cdcpipe-bench-", dir="/var/tmp") as folder:
        settings = load_settings(runs=options.runs or Path(folder) / "runs", stack=Path(folder) / "stack")
        for brokers in options.brokers or (1, 3):
            plan = ChaosPlan(
                name="bench-recovery",
                rate=options.rate,
                seconds=options.seconds,
                brokers=brokers,
                schedule=schedule(*targets[brokers], pause=25),
            )
            result = run_chaos(plan, settings)
            for each in result.outcomes:
                found = None if each.recovery is None else each.recovery.to_json()
                line = {"benchmark": "recovery", "brokers": brokers, "rate": options.rate, "fault": each.fault}
                print(json.dumps({**line, "seconds": found, "goal": GOAL, "verdict": result.verdict.value}), flush=True)


if __name__ == "__main__":
    main()
