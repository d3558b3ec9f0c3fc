"""The samples of the progress monitors, taken by a process of its own.

librdkafka's admin client ends the whole process by an assertion when a broker goes away in the middle of some requests
(confluentinc/librdkafka#4605, open): seen here when the only broker was killed. Whoever breaks brokers on purpose
must outlive that, so the requests are made elsewhere, and a process that died is replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Self

from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.verify.progress import Sample
from cdcpipe.verify.sampling import Sampler

__all__ = ["Watcher"]

_EVERY_SECONDS = 2.0


class Watcher:
    """Takes a sample each two seconds while it is open; `take` gives those since the last call."""

    def __init__(self, endpoints: Endpoints, *, slot: str, prefixes: Sequence[str]) -> None:
        self._arguments = (endpoints, slot, tuple(prefixes))
        self._context = multiprocessing.get_context("spawn")
        self._process: SpawnProcess | None = None
        self._samples: Connection | None = None
        self.deaths = 0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def take(self) -> list[Sample]:
        """The samples since the last call. A process that has died is replaced."""
        found: list[Sample] = []
        try:
            while self._samples is not None and self._samples.poll():
                found.append(self._samples.recv())
        except (EOFError, OSError):
            self.deaths += 1
            self._end()
            self._start()
        return found

    def _start(self) -> None:
        self._samples, writer = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=_run, args=(*self._arguments, writer, os.getpid()), daemon=True, name="cdcpipe-watch"
        )
        self._process.start()
        writer.close()  # ours: the end of the child's is then the end of the pipe

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join(5)
            self._process.close()
        if self._samples is not None:
            self._samples.close()
        self._process = self._samples = None


def _run(endpoints: Endpoints, slot: str, prefixes: tuple[str, ...], samples: Connection, parent: int) -> None:
    sampler = Sampler(
        endpoints,
        source=SOURCE,
        sink=SINK,
        slot=slot,
        prefixes=prefixes,
        list_every=8,
        writers=True,
        timeout_seconds=3,
    )
    try:
        with sampler:
            while os.getppid() == parent:  # a parent that was killed ends nobody
                begin = time.monotonic()
                samples.send(sampler.take())
                time.sleep(max(0.1, _EVERY_SECONDS - (time.monotonic() - begin)))  # its pace, not a wait
    except (KeyboardInterrupt, BrokenPipeError):
        pass
