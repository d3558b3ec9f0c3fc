"""A load that looks like a shop's, at a rate that is held, and an account of what was committed.

    shop = Shop(seed=7)
    shop.create(postgres)
    with Workload(postgres, shop, rate=2000, seconds=30) as work:
        result = work.wait()

The generator runs in a process of its own. Its claims (`WorkloadResult`, and one line a transaction in the
record) are what its client connections were told; what PostgreSQL really holds is for the WAL ledger to say.
"""

from __future__ import annotations

from cdcpipe.workload.runner import Workload
from cdcpipe.workload.shop import Shop
from cdcpipe.workload.tally import Outcome, WorkloadProgress, WorkloadResult

__all__ = ["Outcome", "Shop", "Workload", "WorkloadProgress", "WorkloadResult"]
