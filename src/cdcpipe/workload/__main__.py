"""The generator's own process; started by `cdcpipe.workload.Workload`, not by hand."""

from __future__ import annotations

from cdcpipe.workload.worker import run_from_stdin

if __name__ == "__main__":
    run_from_stdin()
