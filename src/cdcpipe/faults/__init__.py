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
from cdcpipe.faults.link import Bandwidth, Cut, HalfOpen, Latency, OneWayCut, Refuse, Reset, SlowClose, Truncate
from cdcpipe.faults.machine import ClockStep, DiskFull, MemorySqueeze
from cdcpipe.faults.postgres import (
    Failover,
    OpenTransaction,
    PostgresCrash,
    PublicationAltered,
    SlotAdvanced,
    SlotDropped,
    WalsenderTerminated,
)
from cdcpipe.faults.process import Kill, Pause, Restart, RestartStorm, RollingRestart, Stop
from cdcpipe.faults.rebalance import ForeignMember, Rebalance
from cdcpipe.faults.storage import S3Error, S3LostAnswer, S3SlowDown, S3Timeout

__all__ = [
    "Bandwidth",
    "ClockStep",
    "Cut",
    "DiskFull",
    "Failover",
    "Fault",
    "FaultRecord",
    "ForeignMember",
    "HalfOpen",
    "Journal",
    "Kill",
    "Latency",
    "MemorySqueeze",
    "OneWayCut",
    "OpenTransaction",
    "Pause",
    "PostgresCrash",
    "PublicationAltered",
    "Rebalance",
    "Refuse",
    "Reset",
    "Restart",
    "RestartStorm",
    "RollingRestart",
    "RunningFault",
    "S3Error",
    "S3LostAnswer",
    "S3SlowDown",
    "S3Timeout",
    "SlotAdvanced",
    "SlotDropped",
    "SlowClose",
    "Stop",
    "Truncate",
    "WalsenderTerminated",
    "fault_from_dict",
    "heal",
    "kinds",
    "run_fault",
]
