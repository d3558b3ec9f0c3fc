"""The whole thing once: a stack of its own, a realistic load, the three ledgers, the verdict, a report.

stack up -> tables -> wal witness -> load -> settle -> log and archive read -> every check -> page -> stack down
"""

from __future__ import annotations

from cdcpipe.demo.result import DemoResult, PhaseTime, Sample
from cdcpipe.demo.run import DemoSettings, run_demo

__all__ = ["DemoResult", "DemoSettings", "PhaseTime", "Sample", "run_demo"]
