"""Faults of the source database: crashes, lost connections, slots and publications tampered with, late commits.

What needs no right beyond those of the pipeline's own roles runs on every stack; the rest says what it lacks. Some of
it loses data by design (a slot dropped or moved, a schema taken out of the publication): there a pipeline is right
when it *says* so, and a suite when it finds it.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import psutil
import psycopg
from psycopg import sql

from cdcpipe.errors import FaultError, PostgresError, UsageError
from cdcpipe.faults.fault import Fault, Trace, register
from cdcpipe.faults.targets import check_target
from cdcpipe.stack.component import ComponentState, wait_until
from cdcpipe.stack.endpoints import WATERMARK_TABLE
from cdcpipe.stack.stack import Stack

__all__ = [
    "Failover",
    "OpenTransaction",
    "PostgresCrash",
    "PublicationAltered",
    "SlotAdvanced",
    "SlotDropped",
    "WalsenderTerminated",
]

_ROW = (
    f"INSERT INTO {WATERMARK_TABLE} (name, token) VALUES (%s, 1) ON CONFLICT (name) "
    "DO UPDATE SET token = watermark.token + 1, at = clock_timestamp()"
)


@contextlib.contextmanager
def _session(conninfo: str, name: str = "cdcpipe-fault") -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode. Raises `PostgresError`."""
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=10, application_name=name) as connection:
            yield connection
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL refuses: {str(error).strip()}") from error


def _one(connection: psycopg.Connection[Any], statement: str, *values: object) -> Any:
    """The first column of the first row; None without one."""
    row = connection.execute(statement, values).fetchone()
    return None if row is None else row[0]


def _answering(ask: Callable[[], str | None]) -> str | None:
    """`ask`, where a server that doesn't answer yet is one more thing that is missing."""
    try:
        return ask()
    except PostgresError as error:
        return error.message


@dataclass(frozen=True, slots=True)
class PostgresFault(Fault):
    """Base of what is done to the database by a session."""

    @property
    def target(self) -> str:
        return "postgres"

    def supports(self, stack: Stack) -> str | None:
        return None


def _replication(stack: Stack) -> str:
    return stack.endpoints.postgres.conninfo("replication")


def _active_pid(stack: Stack) -> int | None:
    with _session(_replication(stack)) as connection:
        found = _one(
            connection, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", stack.settings.slot
        )
    return None if found is None else int(found)


def _streaming(stack: Stack) -> str | None:
    return _answering(lambda: None if _active_pid(stack) else f"nobody reads slot `{stack.settings.slot}`")


@register
@dataclass(frozen=True, slots=True)
class WalsenderTerminated(PostgresFault):
    """`pg_terminate_backend` of the source's walsender, as an administrator or a pooler does it."""

    kind: ClassVar[str] = "walsender-terminated"
    provokes: ClassVar[tuple[str, ...]] = ("D2", "D3", "D4", "D26")

    def resolve(self, stack: Stack) -> Trace:
        pid = _active_pid(stack)
        if pid is None:
            raise FaultError(f"nobody reads slot `{stack.settings.slot}` now, so no walsender can be ended")
        return {"pid": pid}

    def inject(self, stack: Stack, trace: Trace) -> None:
        with _session(_replication(stack)) as connection:
            _one(connection, "SELECT pg_terminate_backend(%s, 10000)", trace["pid"])

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: "the walsender is still there" if _active_pid(stack) == trace["pid"] else None)

    def recover(self, stack: Stack, trace: Trace) -> None:
        """The source connects again by itself."""

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return _streaming(stack)


@register
@dataclass(frozen=True, slots=True)
class Failover(PostgresFault):
    """What clients see of a failover that keeps the slot: every session of the pipeline ends, and for `seconds` nobody
    gets a new one. Where links have no proxies the sessions end all the same, and new ones are taken at once."""

    kind: ClassVar[str] = "failover"
    needs: ClassVar[str] = "any stack; with proxied links new connections are refused too"
    provokes: ClassVar[tuple[str, ...]] = ("D2", "D5", "D9", "D26", "I4")

    _LINKS: ClassVar[tuple[str, ...]] = ("connect-postgres", "connect-catalog", "registry-postgres")

    def resolve(self, stack: Stack) -> Trace:
        return {"links": [name for name in self._LINKS if name in stack.links], "pid": _active_pid(stack)}

    def inject(self, stack: Stack, trace: Trace) -> None:
        for name in trace["links"]:
            stack.links[name].cut()
        catalog = stack.endpoints.catalog
        conninfos = [_replication(stack)]
        if catalog is not None:
            conninfos.append(catalog.postgres.conninfo(catalog.role))
        for conninfo in conninfos:
            with _session(conninfo) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = current_user AND pid <> pg_backend_pid()"
                )

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        taking = [name for name in trace["links"] if not stack.links[name].is_cut()]
        if taking:
            return f"`{taking[0]}` takes connections"
        if trace["pid"] is None:
            return None
        return _answering(lambda: "the walsender is still there" if _active_pid(stack) == trace["pid"] else None)

    def recover(self, stack: Stack, trace: Trace) -> None:
        for name in trace["links"]:
            stack.links[name].mend()

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return None if trace["pid"] is None else _streaming(stack)


@runtime_checkable
class _Hosted(Protocol):
    """A component whose main process is on this machine."""

    def find(self) -> psutil.Process | None: ...


@register
@dataclass(frozen=True, slots=True)
class PostgresCrash(Fault):
    """The server goes down without a shutdown checkpoint, and recovers from its WAL when it is started again.

    `immediate`: SIGQUIT, backends are told. `postmaster`: SIGKILL of the first process alone, the others find out. The
    end of all at once is `kill`.
    """

    kind: ClassVar[str] = "postgres-crash"
    needs: ClassVar[str] = "a PostgreSQL that is a process on this machine: a local stack"
    provokes: ClassVar[tuple[str, ...]] = ("D2", "D4", "D5", "D26", "I4")

    how: Literal["immediate", "postmaster"] = "immediate"
    component: str = "postgres"

    @property
    def target(self) -> str:
        return self.component

    def supports(self, stack: Stack) -> str | None:
        if not stack.components:
            return "this kind of stack can't manage its servers"
        check_target(stack, self.component)
        if not isinstance(stack.components[self.component], _Hosted):
            return f"`{self.component}` is no process on this machine"
        return None

    def inject(self, stack: Stack, trace: Trace) -> None:
        component = stack.components[self.component]
        assert isinstance(component, _Hosted)
        postmaster = component.find()
        if postmaster is None:
            raise FaultError(f"`{self.component}` doesn't run, so it can't crash")
        postmaster.send_signal(signal.SIGQUIT if self.how == "immediate" else signal.SIGKILL)

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        component = stack.components[self.component]
        return None if component.state() is ComponentState.STOPPED else f"it is {component.state()}"

    def recover(self, stack: Stack, trace: Trace) -> None:
        stack.components[self.component].start()

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        readiness = stack.components[self.component].readiness()
        return None if readiness.ready else readiness.reason


def _on_idle_slot(stack: Stack, statement: str) -> None:
    """End who reads the slot and run `statement` of the slot's name, until nobody was faster."""
    slot = stack.settings.slot

    def tried() -> bool:
        with _session(_replication(stack)) as connection:
            _one(
                connection,
                "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots "
                "WHERE slot_name = %s AND active_pid IS NOT NULL",
                slot,
            )
            try:
                _one(connection, statement, slot)
            except psycopg.errors.ObjectInUse:  # the source has connected again in between
                return False
        return True

    wait_until(tried, what=f"slot `{slot}` without a reader", timeout_seconds=60, error=FaultError)


def _slot_exists(stack: Stack) -> bool:
    with _session(_replication(stack)) as connection:
        return bool(_one(connection, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", stack.settings.slot))


@register
@dataclass(frozen=True, slots=True)
class SlotDropped(PostgresFault):
    """The source's slot is dropped, and after `seconds` made anew at the then current position.

    What was committed in between is in no slot, **by design**: the pipeline must say so, not go on.
    """

    kind: ClassVar[str] = "slot-dropped"
    provokes: ClassVar[tuple[str, ...]] = ("D6", "D7", "D9")
    persists: ClassVar[bool] = True

    def inject(self, stack: Stack, trace: Trace) -> None:
        _on_idle_slot(stack, "SELECT pg_drop_replication_slot(%s)")

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: "the slot is still there" if _slot_exists(stack) else None)

    def recover(self, stack: Stack, trace: Trace) -> None:
        with _session(_replication(stack)) as connection:
            _one(
                connection,
                "SELECT pg_create_logical_replication_slot(name, 'pgoutput') FROM (SELECT %s AS name) AS wanted "
                "WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = wanted.name)",
                stack.settings.slot,
            )

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: None if _slot_exists(stack) else "the slot is not there")


@register
@dataclass(frozen=True, slots=True)
class SlotAdvanced(PostgresFault):
    """The source's slot is moved to the current position, past what it has not delivered. It can't be undone.

    Where something was undelivered (while `connect` is paused, or its link is cut) that is lost, **by design**.
    """

    kind: ClassVar[str] = "slot-advanced"
    provokes: ClassVar[tuple[str, ...]] = ("D7", "D8")

    def inject(self, stack: Stack, trace: Trace) -> None:
        with _session(_replication(stack)) as connection:
            trace["lsn"] = str(_one(connection, "SELECT pg_current_wal_lsn()"))
        _on_idle_slot(stack, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())")

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        def ask() -> str | None:
            with _session(_replication(stack)) as connection:
                reached = _one(
                    connection,
                    "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
                    trace["lsn"],
                    stack.settings.slot,
                )
            return None if reached else f"the slot has not passed {trace['lsn']}"

        return _answering(ask)

    def recover(self, stack: Stack, trace: Trace) -> None:
        """A slot can't be moved back."""


@runtime_checkable
class _Administered(Protocol):
    """A component that says how its superuser connects."""

    def conninfo(self, database: str = ...) -> str: ...


@register
@dataclass(frozen=True, slots=True)
class PublicationAltered(PostgresFault):
    """The publication is altered while a transaction that has written is open, and again after `seconds`.

    By default `table` is added, which changes nothing of what is published: not a change may be lost. With `schema`
    that schema is taken out instead, and what is written there meanwhile is not published, **by design**.
    """

    kind: ClassVar[str] = "publication-altered"
    needs: ClassVar[str] = "a superuser of the database: a local stack"
    provokes: ClassVar[tuple[str, ...]] = ("D11", "D12")
    persists: ClassVar[bool] = True

    table: str = WATERMARK_TABLE
    schema: str = ""

    @property
    def target(self) -> str:
        return self.schema or self.table

    def check(self) -> None:
        if self.table.count(".") != 1:
            raise UsageError(f"`{self.kind}`: a table is written `schema.table`, not `{self.table}`")

    def supports(self, stack: Stack) -> str | None:
        if not isinstance(stack.components.get("postgres"), _Administered):
            return "the publication belongs to a superuser, whom this stack doesn't know"
        return None

    def _conninfo(self, stack: Stack) -> str:
        component = stack.components["postgres"]
        assert isinstance(component, _Administered)
        return component.conninfo(stack.endpoints.postgres.database)

    def _alter(self, stack: Stack, verb: str) -> None:
        what = "TABLES IN SCHEMA {}" if self.schema else "TABLE {}"
        name = sql.Identifier(self.schema) if self.schema else sql.Identifier(*self.table.split("."))
        statement = sql.SQL("ALTER PUBLICATION {} " + verb + " " + what)
        with _session(self._conninfo(stack)) as connection:
            connection.execute(statement.format(sql.Identifier(stack.endpoints.publication), name))

    def _altered(self, stack: Stack) -> bool:
        with _session(self._conninfo(stack)) as connection:
            if self.schema:
                return not _one(
                    connection,
                    "SELECT 1 FROM pg_publication_namespace n JOIN pg_publication p ON p.oid = n.pnpubid "
                    "WHERE p.pubname = %s AND n.pnnspid = %s::regnamespace",
                    stack.endpoints.publication,
                    self.schema,
                )
            return bool(
                _one(
                    connection,
                    "SELECT 1 FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
                    "WHERE p.pubname = %s AND r.prrelid = %s::regclass",
                    stack.endpoints.publication,
                    self.table,
                )
            )

    def inject(self, stack: Stack, trace: Trace) -> None:
        if self._altered(stack):
            raise FaultError(f"the publication is already without or with `{self.target}`: nothing to alter")
        with _session(stack.endpoints.postgres.conninfo("owner")) as writer, writer.transaction():
            writer.execute(_ROW, ["fault"])
            self._alter(stack, "DROP" if self.schema else "ADD")
            writer.execute(_ROW, ["fault"])

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: None if self._altered(stack) else "the publication is as it was")

    def recover(self, stack: Stack, trace: Trace) -> None:
        if self._altered(stack):
            self._alter(stack, "ADD" if self.schema else "DROP")

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: "the publication is still altered" if self._altered(stack) else None)


@register
@dataclass(frozen=True, slots=True)
class OpenTransaction(PostgresFault):
    """A transaction that has written stays open for `seconds` before it commits. Everything committed meanwhile is read
    by the source first, and no slot can let go of the WAL from its begin on."""

    kind: ClassVar[str] = "open-transaction"
    provokes: ClassVar[tuple[str, ...]] = ("D5", "D18", "D23")

    def resolve(self, stack: Stack) -> Trace:
        return {"session": f"cdcpipe-fault-{secrets.token_hex(4)}"}

    def inject(self, stack: Stack, trace: Trace) -> None:
        conninfo = stack.endpoints.postgres.conninfo("owner")
        try:
            connection = psycopg.connect(conninfo, connect_timeout=10, application_name=trace["session"])
            with _LOCK:
                _OPEN[trace["session"]] = connection
            connection.execute(_ROW, ["open-transaction"])
        except psycopg.Error as error:
            raise PostgresError(f"PostgreSQL refuses: {str(error).strip()}") from error

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: None if self._is_open(stack, trace) else "the transaction is not open")

    def _is_open(self, stack: Stack, trace: Trace) -> bool:
        with _session(stack.endpoints.postgres.conninfo("owner")) as connection:
            return bool(
                _one(connection, "SELECT 1 FROM pg_stat_activity WHERE application_name = %s", trace["session"])
            )

    def recover(self, stack: Stack, trace: Trace) -> None:
        """Commit. One whose process is gone was rolled back by the server, or is ended now."""
        with _LOCK:
            connection = _OPEN.pop(trace["session"], None)
        if connection is not None:
            with contextlib.suppress(psycopg.Error):  # the server may have gone down meanwhile: rolled back
                connection.commit()
            connection.close()
            return
        with _session(stack.endpoints.postgres.conninfo("owner")) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s",
                [trace["session"]],
            )

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return _answering(lambda: "the transaction is still open" if self._is_open(stack, trace) else None)


_OPEN: dict[str, psycopg.Connection[Any]] = {}  # transactions of ours that are to be committed
_LOCK = threading.Lock()
