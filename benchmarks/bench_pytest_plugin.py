"""What the pytest plugin costs a project that has cdcpipe installed and uses none of it, in ms. Bound: 30."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

_PROGRAM = """
import sys, time
import pytest
before = set(sys.modules)
begin = time.perf_counter()
import _cdcpipe_pytest
class Config:
    def addinivalue_line(self, name, line): pass
_cdcpipe_pytest.pytest_configure(Config())
_cdcpipe_pytest.pytest_collection_modifyitems(Config(), [])
print((time.perf_counter() - begin) * 1000, len(set(sys.modules) - before))
"""


def main() -> None:
    """Print one JSON line."""
    taken = []
    modules = 0
    for _ in range(9):
        done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
        milliseconds, count = done.stdout.split()
        taken.append(float(milliseconds))
        modules = int(count)
    print(
        json.dumps(
            {
                "benchmark": "pytest_plugin_unused",
                "milliseconds": round(statistics.median(taken), 2),
                "milliseconds_max": round(max(taken), 2),
                "bound": 30,
                "modules_loaded": modules,
            }
        )
    )


if __name__ == "__main__":
    main()
