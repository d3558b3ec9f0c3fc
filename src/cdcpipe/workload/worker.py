"""The workload's own process: a thread a connection, each at its own pace.

Speaks JSON lines: reads a specification and then `go` and `stop` on stdin, writes `ready`, `progress`, `result` or
`error` on stdout. The end of stdin means that the parent is gone: then this process ends too.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NoReturn

from cdcpipe.errors import CdcpipeError, PostgresError
from cdcpipe.workload.pace import Latencies, Pace, transaction_events_mean
from cdcpipe.workload.plan import Plan
from cdcpipe.workload.session import Attempt, Session
from cdcpipe.workload.shop import Shop
from cdcpipe.workload.tally import Outcome, Tally, WorkloadProgress, WorkloadResult, events_by_table

__all__ = ["Crew", "Recorder", "Specification", "main"]

_log = logging.getLogger("cdcpipe.workload")
_REFUSALS_MAX = 5
_RESOLVE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True, slots=True)
class Specification:
    """What to run. `overtime_seconds` is how long late transactions may go on after the end of the schedule."""

    seed: int
    truncate: bool
    rate: float
    seconds: float
    connections: int
    overtime_seconds: float
    record: str | None
    prefix: str = ""

    @property
    def shop(self) -> Shop:
        return Shop(self.seed, truncate=self.truncate, prefix=self.prefix)


class Recorder:
    """Writes one JSON line a transaction. Times are microseconds since 1970 in UTC."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

    def write(self, connection: int, plan: Plan, attempt: Attempt, intended_us: int, ended_us: int) -> None:
        if self._file is None:
            return
        committed = attempt.outcome in (Outcome.COMMITTED, Outcome.UNKNOWN_COMMITTED)
        row: dict[str, object] = {
            "xid": attempt.xid,
            "connection": connection,
            "kind": plan.kind,
            "outcome": str(attempt.outcome),
            "events": plan.events if committed else 0,
            "intended_us": intended_us,
            # when the client knew: of a transaction that was resolved later, when that was
            "ended_us": ended_us,
        }
        if attempt.error:
            row["error"] = attempt.error
        line = json.dumps(row, separators=(",", ":")) + "\n"
        with self._lock:
            self._file.write(line)

    def flush(self) -> None:
        if self._file is not None:
            with self._lock:
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Crew:
    """All connections of a workload, and what they have done."""

    def __init__(self, specification: Specification, conninfo: str) -> None:
        self.specification = specification
        self.shop = specification.shop
        self._stop = threading.Event()
        self._record = Recorder(Path(specification.record) if specification.record else None)
        self.tallies = [Tally(self.shop.plain_tables) for _ in range(specification.connections)]
        self._sessions = [
            Session(conninfo, stopped=self._stopped, hopeless=self._hopeless, renamed=self.shop.renamed)
            for _ in self.tallies
        ]
        self._error: CdcpipeError | None = None
        self._threads: list[threading.Thread] = []
        self._start = 0.0
        self._wall_us = 0
        self._stop_at = math.inf
        self._cpu_start = 0.0
        self._events_mean = transaction_events_mean(specification.rate / specification.connections)
        self._next_ids: list[dict[str, int]] = []

    def prepare(self) -> None:
        """Open the connections. Raises `PostgresError` when the server, or the shop in it, isn't there."""
        for number, session in enumerate(self._sessions):
            connection = session.connect()
            try:
                self._next_ids.append(self.shop.next_ids(connection, number))
            except PostgresError:
                raise
            except Exception as error:
                raise PostgresError(
                    f"the shop can't be read: {str(error).strip()}", hint="call `Shop.create` first"
                ) from error

    def go(self) -> None:
        self._cpu_start = time.process_time()
        self._start = time.monotonic()
        self._wall_us = time.time_ns() // 1000
        for number in range(len(self.tallies)):
            thread = threading.Thread(target=self._guarded, args=(number,), name=f"connection-{number}", daemon=True)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each connection finish the transaction that it is in."""
        if not self._stop.is_set():
            self._stop_at = self.elapsed
            self._stop.set()

    def join(self, timeout_seconds: float) -> bool:
        """Whether all connections are done."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def finished_by(self) -> float:
        """When the last connection must be done, in seconds from the start: late work and doubts have their limits."""
        end = self.specification.seconds + self.specification.overtime_seconds
        return min(self._stop_at, end) + _RESOLVE_SECONDS

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def flush(self) -> None:
        self._record.flush()

    def _stopped(self, seconds: float) -> bool:
        """Wait up to `seconds`; whether no further transaction is to be begun."""
        stopped = self._stop.wait(seconds) if seconds > 0 else self._stop.is_set()
        return stopped or self.elapsed > self.specification.seconds + self.specification.overtime_seconds

    def _hopeless(self, seconds: float) -> bool:
        """Wait `seconds`; whether a transaction in doubt will have to stay so."""
        time.sleep(seconds)
        return self.elapsed > self.finished_by

    # One connection ------------------------------------------------------------------------------

    def _guarded(self, number: int) -> None:
        try:
            self._work(number)
        except CdcpipeError as error:
            self._error = self._error or error
            self.stop()
        except Exception as error:  # noqa: BLE001 - a thread's exception would vanish
            self._error = self._error or CdcpipeError(f"the workload broke: {type(error).__name__}: {error}")
            self.stop()
        finally:
            self.tallies[number].due = None
            self._sessions[number].close()

    def _work(self, number: int) -> None:
        spec, tally = self.specification, self.tallies[number]
        rate = spec.rate / spec.connections
        # Connections don't all begin at the same moment.
        pace = Pace(rate, spec.seconds, phase=self._events_mean / rate * number / spec.connections)
        operations = self.shop.operations(number, self._events_mean, self._next_ids[number])
        while (due := pace.due) is not None:
            plan = operations.draw(due)
            intended = due if plan.commit else pace.aside
            tally.due = intended
            if self._stopped(intended - self.elapsed):
                break
            tally.behind_max = max(tally.behind_max, self.elapsed - intended)
            if not self._done(number, plan, intended):
                break
            if plan.commit:
                pace.take(plan.events)
        late = pace.due if pace.due is not None else spec.seconds
        tally.behind = max(0.0, min(self.elapsed, self._stop_at) - late)

    def _done(self, number: int, plan: Plan, intended: float) -> bool:
        """Run `plan` until it is committed or rolled back. False when the workload ended before that."""
        session, tally = self._sessions[number], self.tallies[number]
        refusals = 0
        while True:
            tally.in_flight = True
            attempt = session.run(plan)
            if attempt is None:
                tally.in_flight = False
                return False
            if attempt.outcome is Outcome.UNKNOWN:
                attempt = self._resolved(session, tally, plan, attempt)
            tally.in_flight = False
            now = self.elapsed
            tally.outcomes[attempt.outcome] += 1
            tally.reconnects = session.reconnects
            self._record.write(number, plan, attempt, self._wall(intended), self._wall(now))
            if attempt.outcome in (Outcome.COMMITTED, Outcome.UNKNOWN_COMMITTED):
                plan.on_commit()
                tally.committed(plan)
                tally.latencies.add(now - intended)
                tally.last_commit = now
                return True
            if attempt.outcome is Outcome.ROLLED_BACK:
                return True
            if attempt.outcome is Outcome.UNKNOWN:
                return False
            if not attempt.may_pass:
                refusals += 1
                if refusals == _REFUSALS_MAX:
                    raise PostgresError(f"`{plan.kind}` fails each time it is tried: {attempt.error}")
            tally.behind_max = max(tally.behind_max, now - intended)
            if self._stopped(0.01 * 2**refusals):
                return False

    def _resolved(self, session: Session, tally: Tally, plan: Plan, attempt: Attempt) -> Attempt:
        tally.unresolved += 1
        try:
            outcome = session.resolve(plan, attempt.xid)
        finally:
            tally.unresolved -= 1
        return dataclasses.replace(attempt, outcome=outcome)

    def _wall(self, seconds: float) -> int:
        return self._wall_us + round(seconds * 1e6)

    # Figures -------------------------------------------------------------------------------------

    def _behind(self) -> float:
        now = min(self.elapsed, self._stop_at)
        late = [now - due for tally in self.tallies if (due := tally.due) is not None]
        return max([0.0, *late])

    def _outcome(self, outcome: Outcome) -> int:
        return sum(tally.outcomes[outcome] for tally in self.tallies)

    def progress(self) -> WorkloadProgress:
        elapsed = self.elapsed
        return WorkloadProgress(
            seconds=elapsed,
            events_target=int(self.specification.rate * min(elapsed, self.specification.seconds)),
            events_committed=sum(tally.events for tally in self.tallies),
            committed=self._outcome(Outcome.COMMITTED) + self._outcome(Outcome.UNKNOWN_COMMITTED),
            rolled_back=self._outcome(Outcome.ROLLED_BACK),
            failed=self._outcome(Outcome.FAILED) + self._outcome(Outcome.UNKNOWN_ABORTED),
            unknown=sum(tally.unresolved for tally in self.tallies) + self._outcome(Outcome.UNKNOWN),
            behind_seconds=self._behind(),
            events_by_table=events_by_table(self.tallies),
        )

    def result(self) -> WorkloadResult:
        """What was done. Raises what ended the workload before its time. Call it once all connections are done."""
        self._record.close()
        if self._error is not None:
            raise self._error
        spec = self.specification
        asked = min(self._stop_at, spec.seconds)
        seconds = max([asked, *(tally.last_commit for tally in self.tallies)])
        events = sum(tally.events for tally in self.tallies)
        latencies = Latencies.merged(tally.latencies for tally in self.tallies)
        resolved = self._outcome(Outcome.UNKNOWN_COMMITTED) + self._outcome(Outcome.UNKNOWN_ABORTED)
        # a server that says nothing at all leaves a transaction in flight
        unresolved = self._outcome(Outcome.UNKNOWN) + sum(tally.in_flight for tally in self.tallies)
        return WorkloadResult(
            seed=spec.seed,
            rate=spec.rate,
            seconds=seconds,
            connections=spec.connections,
            committed=self._outcome(Outcome.COMMITTED),
            rolled_back=self._outcome(Outcome.ROLLED_BACK),
            failed=self._outcome(Outcome.FAILED),
            unknown=resolved + unresolved,
            unknown_committed=self._outcome(Outcome.UNKNOWN_COMMITTED),
            unknown_aborted=self._outcome(Outcome.UNKNOWN_ABORTED),
            unresolved=unresolved,
            reconnects=sum(tally.reconnects for tally in self.tallies),
            events=events,
            key_changes=sum(tally.key_changes for tally in self.tallies),
            events_by_table=events_by_table(self.tallies),
            achieved_rate=events / seconds if seconds > 0 else 0.0,
            behind_seconds=max(tally.behind for tally in self.tallies),
            behind_seconds_max=max(tally.behind_max for tally in self.tallies),
            commit_latency_seconds={f"p{share}": latencies.percentile(share / 100) for share in (50, 95, 99)},
            cpu_seconds=time.process_time() - self._cpu_start,
            stopped=self._stop_at < spec.seconds,
            record=Path(spec.record) if spec.record else None,
        )


def _send(out: IO[str], kind: str, value: object) -> None:
    out.write(json.dumps({kind: value}, default=str) + "\n")
    out.flush()


def _obey(commands: Iterable[str], crew: Crew) -> None:
    """Stop at `stop`. The end of the commands is the end of the parent: then nobody waits for a result."""
    for command in commands:
        if command.strip() == "stop":
            crew.stop()
    _abandon(crew)


def _abandon(crew: Crew) -> NoReturn:
    """End this process: nobody waits for its result. What is running may still commit, and gets into the record."""
    crew.stop()
    crew.join(_RESOLVE_SECONDS)
    crew.flush()
    os._exit(1)


def main(commands: IO[str], out: IO[str], *, interval_seconds: float = 0.2) -> int:
    """Run the workload that stdin asks for. Gives the exit code."""
    order: dict[str, Any] = json.loads(commands.readline() or "null") or {}
    if not order:
        return 2
    try:
        crew = Crew(Specification(**order["specification"]), order["conninfo"])
        crew.prepare()
        _send(out, "ready", True)
        if commands.readline().strip() != "go":
            return 1
        parent = os.getppid()
        crew.go()
        threading.Thread(target=_obey, args=(commands, crew), daemon=True).start()
        # A server that doesn't answer at all holds nobody up.
        while not crew.join(interval_seconds) and crew.elapsed < crew.finished_by + 1:
            crew.flush()
            _send(out, "progress", dataclasses.asdict(crew.progress()))
            if os.getppid() != parent:  # stdin may be held open by a fork of the parent that outlives it
                _abandon(crew)
        _send(out, "progress", dataclasses.asdict(crew.progress()))
        _send(out, "result", dataclasses.asdict(crew.result()))
    except BrokenPipeError:
        _abandon(crew)
    except CdcpipeError as error:
        found = {"type": type(error).__name__, "message": error.message, "hint": error.hint, "detail": error.detail}
        _send(out, "error", found)
    return 0


def run_from_stdin() -> NoReturn:
    """What `python -m cdcpipe.workload` does."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    # What is imported stays: the collector needn't walk it again in the middle of a transaction.
    gc.collect()
    gc.freeze()
    code = main(sys.stdin, sys.stdout)
    # Not `sys.exit`: a thread still reads stdin, and the interpreter can't take that down in order.
    os._exit(code)
