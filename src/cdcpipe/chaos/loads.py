"""What writes while things break: the shop, and two loads that are made for a known loss.

- `shop`: `cdcpipe.workload`, a process of its own.
- `copy`: `COPY` of 2,000 rows a transaction into one table: all of its changes share one LSN or a few (D1).
- `tiny`: one row a transaction over eight connections: commits that begin where another ends (D2).

A load that loses its server goes on when it is back. What was committed is for the WAL to say, not for the load.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import psycopg

from cdcpipe.errors import PostgresError
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.workload import Shop, Workload

__all__ = ["LOADS", "BulkLoad", "Load", "LoadProgress", "ShopLoad", "TinyLoad"]

_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Events that were due and that were committed until now, and how late the slowest writer is."""

    target: int
    committed: int
    behind_seconds: float


class Load(Protocol):
    """A writer at a rate for a time."""

    TABLES: ClassVar[tuple[str, ...]]

    def create(self, postgres: PostgresEndpoint) -> None:
        """Make its tables. Raises PostgresError."""

    def start(self, postgres: PostgresEndpoint, *, rate: float, seconds: float, record: Path) -> None:
        """Begin."""

    @property
    def running(self) -> bool:
        """Whether it goes on."""

    def progress(self) -> LoadProgress:
        """Where it stands."""

    def end(self) -> Mapping[str, Any]:
        """End it now if it isn't over, and give its figures: `events`, `achieved_rate`, `reconnects`."""


class ShopLoad:
    """The shop of `cdcpipe.workload`."""

    TABLES: ClassVar[tuple[str, ...]] = Shop.TABLES

    def __init__(self, seed: int) -> None:
        self._shop = Shop(seed=seed)
        self._work: Workload | None = None

    def create(self, postgres: PostgresEndpoint) -> None:
        self._shop.create(postgres)

    def start(self, postgres: PostgresEndpoint, *, rate: float, seconds: float, record: Path) -> None:
        # Faults of PostgreSQL itself make it late; what it then catches up is part of the load.
        self._work = Workload(postgres, self._shop, rate=rate, seconds=seconds, record=record, overtime_seconds=30)
        self._work.start()

    @property
    def running(self) -> bool:
        return self._work is not None and self._work.running

    def progress(self) -> LoadProgress:
        assert self._work is not None
        now = self._work.progress()
        return LoadProgress(now.events_target, now.events_committed, now.behind_seconds)

    def end(self) -> Mapping[str, Any]:
        assert self._work is not None
        self._work.stop()
        result = self._work.wait(timeout_seconds=90)
        return {
            "events": result.events,
            "seconds": round(result.seconds, 2),
            "achieved_rate": round(result.achieved_rate, 1),
            "reconnects": result.reconnects,
            "unknown": result.unknown,
            "unresolved": result.unresolved,
        }


class _Threads:
    """Base of loads that write from threads: each calls `_transaction` when it is due and the server is there."""

    TABLES: ClassVar[tuple[str, ...]] = ()
    SCHEMA: ClassVar[str] = ""
    writers: ClassVar[int] = 1
    size: ClassVar[int] = 1

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._committed = [0] * self.writers
        self._reconnects = [0] * self.writers
        self._begun = self._ended = 0.0
        self._rate = self._seconds = 0.0
        self._errors: list[str] = []

    def create(self, postgres: PostgresEndpoint) -> None:
        try:
            with psycopg.connect(postgres.conninfo("owner"), autocommit=True, connect_timeout=10) as connection:
                connection.execute(self.SCHEMA)
        except psycopg.Error as error:
            raise PostgresError(f"the load's tables can't be made: {str(error).strip()}") from error

    def start(self, postgres: PostgresEndpoint, *, rate: float, seconds: float, record: Path) -> None:
        del record  # the WAL says it all
        self._rate, self._seconds, self._begun = rate, seconds, time.monotonic()
        for number in range(self.writers):
            work = threading.Thread(target=self._write, args=(postgres, number), name=f"load-{number}", daemon=True)
            self._threads.append(work)
            work.start()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def progress(self) -> LoadProgress:
        passed = min(time.monotonic() - self._begun, self._seconds)
        done = sum(self._committed)
        target = int(passed * self._rate)
        return LoadProgress(target, done, max(0.0, (target - done) / self._rate))

    def end(self) -> Mapping[str, Any]:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._errors:
            raise PostgresError(f"the load failed: {self._errors[0]}")
        seconds = self._ended - self._begun
        events = sum(self._committed)
        return {
            "events": events,
            "seconds": round(seconds, 2),
            "achieved_rate": round(events / max(seconds, 1e-6), 1),
            "reconnects": sum(self._reconnects),
        }

    def _write(self, postgres: PostgresEndpoint, number: int) -> None:
        rng = random.Random(f"{type(self).__name__}/{self._seed}/{number}")
        due, step = self._begun, self.size / (self._rate / self.writers)
        connection: psycopg.Connection[Any] | None = None
        while not self._stop.is_set() and due < self._begun + self._seconds:
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            try:
                if connection is None:
                    connection = psycopg.connect(postgres.conninfo("owner"), autocommit=True, connect_timeout=5)
                self._transaction(connection, number, rng)
                self._committed[number] += self.size
                due += step
            except psycopg.OperationalError:
                if connection is not None:
                    self._reconnects[number] += 1
                    with contextlib.suppress(psycopg.Error):
                        connection.close()
                connection = None
                self._stop.wait(_PAUSE_SECONDS)
            except psycopg.Error as error:
                self._errors.append(str(error).strip())
                break
        if connection is not None:
            connection.close()
        self._ended = max(self._ended, time.monotonic())

    def _transaction(self, connection: psycopg.Connection[Any], number: int, rng: random.Random) -> None:
        raise NotImplementedError


class BulkLoad(_Threads):
    """`COPY`, 2,000 rows a transaction."""

    TABLES: ClassVar[tuple[str, ...]] = ("public.bulk",)
    SCHEMA: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS public.bulk (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "batch bigint NOT NULL, place integer NOT NULL, payload text NOT NULL)"
    )
    size: ClassVar[int] = 2000

    def _transaction(self, connection: psycopg.Connection[Any], number: int, rng: random.Random) -> None:
        batch, filler = rng.getrandbits(40), f"{rng.getrandbits(256):064x}"
        rows = "".join(f"{batch}\t{place}\t{filler}\n" for place in range(self.size))
        with connection.cursor() as cursor, cursor.copy("COPY public.bulk (batch, place, payload) FROM STDIN") as copy:
            copy.write(rows)


class SmallCopies(BulkLoad):
    """`COPY`, 10 rows a transaction: all of a transaction's rows lie at the LSN that its BEGIN has."""

    size: ClassVar[int] = 10


class TinyLoad(_Threads):
    """One row a transaction, eight connections."""

    TABLES: ClassVar[tuple[str, ...]] = ("public.tiny",)
    SCHEMA: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS public.tiny (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "writer integer NOT NULL, value bigint NOT NULL)"
    )
    writers: ClassVar[int] = 8

    def _transaction(self, connection: psycopg.Connection[Any], number: int, rng: random.Random) -> None:
        value = rng.getrandbits(60)
        connection.execute("INSERT INTO public.tiny (writer, value) VALUES (%s, %s)", (number, value), prepare=True)


LOADS: Final[Mapping[str, Callable[[int], Load]]] = {
    "shop": ShopLoad,
    "copy": BulkLoad,
    "small-copy": SmallCopies,
    "tiny": TinyLoad,
}
"""Name -> the load for a seed."""
