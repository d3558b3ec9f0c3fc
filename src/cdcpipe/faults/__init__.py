"""Faults: what is broken on purpose, as values that heal themselves.

    from cdcpipe.faults import Journal, Kill, run_fault

    journal = Journal.of_folder(stack.folder)
    heal(stack, journal)                                      # what a run that was killed has left
    record = run_fault(Kill("connect", seconds=2), stack, journal)
    with Pause("kafka-1").applied(stack, journal):
        ...

`docs/faults.md` lists them all.
"""

from __future__ import annotations

from cdcpipe.faults.fault import Fault, FaultRecord, RunningFault, fault_from_dict, kinds, run_fault
from cdcpipe.faults.journal import Journal, heal
from cdcpipe.faults.process import Kill, Pause, Restart, RestartStorm, RollingRestart, Stop

__all__ = [
    "Fault",
    "FaultRecord",
    "Journal",
    "Kill",
    "Pause",
    "Restart",
    "RestartStorm",
    "RollingRestart",
    "RunningFault",
    "Stop",
    "fault_from_dict",
    "heal",
    "kinds",
    "run_fault",
]
