"""One connection of a workload: runs plans as transactions, and finds out what became of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from cdcpipe.errors import PostgresError
from cdcpipe.workload.plan import Plan, Step
from cdcpipe.workload.tally import Outcome

__all__ = ["Attempt", "Session"]

_log = logging.getLogger("cdcpipe.workload")

_SETTINGS = """
    SET timezone = 'UTC'; SET datestyle = 'ISO'; SET jit = off;
    -- every plan finds its rows by primary key, and was made when the tables were empty
    SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off;
    -- a client that was cut off must not hold its locks for hours: the same rows are needed by its next attempt
    SET idle_in_transaction_session_timeout = '10s';
    SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3
"""
# Lost connections, conflicts, resources, locks, operator intervention, the system around the server.
_PASSING = ("08", "40", "53", "55", "57", "58")
_CONNECTION = {
    "application_name": "cdcpipe workload",
    "connect_timeout": "5",
    "client_encoding": "UTF8",
    # A server that has gone without a word is noticed within about 15 s.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One transaction that was run: its id as PostgreSQL's xid8 (None if it never got one) and how it ended.

    `may_pass` says whether its error may be over at the next attempt.
    """

    xid: int | None
    outcome: Outcome
    error: str = ""
    may_pass: bool = True


class Session:
    """A connection that comes back when it is lost.

    While it has to wait it calls `stopped(seconds)`, which waits that long and says whether to give up; while it
    looks for the outcome of a transaction it calls `hopeless(seconds)` instead, which is more patient.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        stopped: Callable[[float], bool],
        hopeless: Callable[[float], bool],
        renamed: Callable[[str], str] = str,
    ) -> None:
        self._conninfo = conninfo
        self._renamed = renamed  # the shop's own names of its tables
        self._stopped = stopped
        self._hopeless = hopeless
        self._connection: psycopg.Connection | None = None
        self._jitter = random.Random()
        self.reconnects = -1

    def connect(self) -> psycopg.Connection:
        """Connect once. Raises `PostgresError` when that fails."""
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=0, **_CONNECTION)  # type: ignore[arg-type]
            connection.prepared_max = 200
            connection.execute(_SETTINGS, prepare=False)
        except psycopg.Error as error:
            raise PostgresError(f"no connection for the workload: {str(error).strip()}") from error
        self._connection = connection
        self.reconnects += 1
        return connection

    def _reconnected(self, given_up: Callable[[float], bool]) -> psycopg.Connection | None:
        """The connection, opened again if it was lost, with growing pauses between attempts; None if given up."""
        pause = 0.05
        while True:
            if self._connection is not None and not self._connection.closed:
                return self._connection
            if given_up(0):
                return None
            try:
                return self.connect()
            except PostgresError as error:
                _log.debug("not reconnected: %s", error)
            if given_up(pause * self._jitter.uniform(0.5, 1.0)):
                return None
            pause = min(pause * 2, 1.0)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def run(self, plan: Plan) -> Attempt | None:
        """Run `plan` once. None when there was no connection to run it on and the workload was stopped."""
        connection = self._reconnected(self._stopped)
        if connection is None:
            return None
        xid: int | None = None
        try:
            xid = self._statements(connection, plan)
            if not plan.commit:
                connection.execute("ROLLBACK", prepare=False)
                return Attempt(xid, Outcome.ROLLED_BACK)
        except psycopg.Error as error:
            return self._failed(connection, xid, error)
        try:
            connection.execute("COMMIT", prepare=False)
        except psycopg.Error as error:
            if connection.closed:
                # The COMMIT may have got through, or not: `resolve` will tell.
                return Attempt(xid, Outcome.UNKNOWN, str(error).strip())
            return self._failed(connection, xid, error)
        return Attempt(xid, Outcome.COMMITTED)

    def _failed(self, connection: psycopg.Connection, xid: int | None, error: psycopg.Error) -> Attempt:
        may_pass = connection.closed or (error.sqlstate or "").startswith(_PASSING)
        if not connection.closed:
            try:
                connection.execute("ROLLBACK", prepare=False)
            except psycopg.Error:
                connection.close()
        return Attempt(xid, Outcome.FAILED, str(error).strip(), may_pass)

    def _statements(self, connection: psycopg.Connection, plan: Plan) -> int:
        """Everything up to the COMMIT, in one round trip unless a COPY is among it. Gives the transaction's id."""
        if any(step.copy is not None for step in plan.steps):
            connection.execute("BEGIN", prepare=False)
            cursors = [connection.execute("SELECT pg_current_xact_id()::text")]
            for step in plan.steps:
                cursors.append(
                    self._copy(connection, step) if step.copy is not None else self._execute(connection, step)
                )
        else:
            with connection.pipeline():
                connection.execute("BEGIN", prepare=False)
                cursors = [connection.execute("SELECT pg_current_xact_id()::text")]
                cursors += [self._execute(connection, step) for step in plan.steps]
        for step, cursor in zip(plan.steps, cursors[1:], strict=True):
            # A plan knows how many rows it changes. If that ever fails, the counts would be wrong: never commit it.
            if step.table is not None and step.op != "t" and cursor.rowcount != step.rows:
                raise psycopg.DataError(
                    f"`{plan.kind}` changed {cursor.rowcount} rows of {step.table} instead of {step.rows}"
                )
        row = cursors[0].fetchone()
        assert row is not None
        return int(row[0])

    def resolve(self, plan: Plan, xid: int | None) -> Outcome:
        """What became of a transaction whose COMMIT got no answer. UNKNOWN when that can't be found out."""
        while (connection := self._reconnected(self._hopeless)) is not None:
            try:
                if not _in_progress(connection, xid):
                    assert plan.proof is not None
                    row = self._execute(connection, plan.proof).fetchone()
                    return Outcome.UNKNOWN_COMMITTED if row and row[0] else Outcome.UNKNOWN_ABORTED
            except psycopg.Error as error:
                _log.debug("not resolved: %s", error)
            if self._hopeless(0.05):
                break
        return Outcome.UNKNOWN

    def _execute(self, connection: psycopg.Connection, step: Step) -> psycopg.Cursor[tuple[object, ...]]:
        return connection.execute(self._renamed(step.sql), step.parameters, prepare=None if step.parameters else False)

    def _copy(self, connection: psycopg.Connection, step: Step) -> psycopg.Cursor[tuple[object, ...]]:
        cursor = connection.cursor()
        with cursor.copy(self._renamed(step.sql)) as copy:
            copy.write(step.copy or b"")
        return cursor


def _in_progress(connection: psycopg.Connection, xid: int | None) -> bool:
    """Whether the transaction may still commit. After a crash the id may be another's: then the answer only delays."""
    try:
        row = connection.execute("SELECT pg_xact_status(%s::text::xid8)", (str(xid),), prepare=False).fetchone()
    except psycopg.errors.InvalidParameterValue:
        return False  # "in the future": the server crashed before it had written anything of this id
    return row is not None and row[0] == "in progress"
