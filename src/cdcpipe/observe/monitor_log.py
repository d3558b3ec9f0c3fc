"""The monitor as a process: its lines and its memory.

A line a record on stderr, and none that can end the monitor: when stderr can't be written (a full disk behind a
redirection), the monitor goes on and a metric says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from collections.abc import Iterator

from cdcpipe.observe.exporter import Exporter

__all__ = ["lean_memory", "log_to_stderr"]

_M_ARENA_MAX = -8  # of malloc.h


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, exporter: Exporter) -> None:
        super().__init__(sys.stderr)
        self._exporter = exporter
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(self.format(record) + self.terminator)
            self.stream.flush()
        except (OSError, ValueError):
            self._exporter.inc("cdcpipe_monitor_source_failures_total", source="log")
            self._exporter.set("cdcpipe_monitor_source_up", 0, source="log")
        else:
            self._exporter.set("cdcpipe_monitor_source_up", 1, source="log")


@contextlib.contextmanager
def log_to_stderr(exporter: Exporter) -> Iterator[None]:
    """Show the records of `cdcpipe` on stderr, until the block ends."""
    logger, handler = logging.getLogger("cdcpipe"), _Lines(exporter)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def lean_memory() -> None:
    """Let all threads of this process share two heaps. By default glibc gives each of our thirty its own, which doubles
    what the process takes; other C libraries have no such setting and need none."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
