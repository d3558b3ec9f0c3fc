"""The wal ledger: what PostgreSQL committed, read through a replication slot of our own.

Debezium is not asked. The slot is temporary by default: it dies with its session, so a killed reader can't pin WAL.
A permanent slot (made before a run, or kept over many) is read by peek, then advanced, so nothing is lost between.

The server decodes a bounded batch at a time and keeps it in a tuplestore (on disk beyond `work_mem`), from which it is
streamed; a batch ends at a commit, so one transaction may be larger than a batch, and is still read in chunks.
Streaming of open transactions is off: only what was committed is seen, in commit order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psycopg
import pyarrow as pa
from psycopg import sql

from cdcpipe.errors import CdcpipeError, EvidenceError, PostgresError
from cdcpipe.ledger import pgoutput
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue, Column, Table, read_tables, read_types, read_xid_next, type_of
from cdcpipe.ledger.columns import Engine
from cdcpipe.ledger.pgoutput import Relation
from cdcpipe.ledger.rows import RowBuilder
from cdcpipe.ledger.store import Ledger, LedgerWriter, Manifest, SlotRead
from cdcpipe.stack.endpoints import PostgresEndpoint

__all__ = ["Lag", "WalWitness", "connect"]

log = logging.getLogger("cdcpipe.ledger.wal")

_SESSION = """
SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET bytea_output = 'hex';
SET lc_monetary = 'C'; SET extra_float_digits = 1; SET client_encoding = 'UTF8'; SET statement_timeout = 0;
SET idle_session_timeout = 0;
"""
"""What the canonical form needs: pgoutput writes values with the output functions of the session that reads."""


def connect(endpoint: PostgresEndpoint, role: str) -> psycopg.Connection[Any]:
    """A session for reading. PostgresError when it can't be had."""
    try:
        connection = psycopg.connect(endpoint.conninfo(role), autocommit=True, connect_timeout=10)
        connection.execute(_SESSION)
        encoding = connection.info.parameter_status("server_encoding")
    except KeyError:
        raise PostgresError(f"the endpoint has no role `{role}`", hint="add it to the endpoint's `roles`") from None
    except psycopg.Error as error:
        raise PostgresError(
            f"can't connect to {endpoint.host}:{endpoint.port}/{endpoint.database} as `{role}`: "
            f"{str(error).strip().splitlines()[-1]}",
            hint="the role needs LOGIN and REPLICATION, and SELECT on the captured tables",
        ) from error
    if encoding == "SQL_ASCII":
        connection.close()
        raise EvidenceError("a database with encoding SQL_ASCII does not say what its text is; it can't be compared")
    return connection


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the witness is behind the WAL. `bytes` counts what was written but not read yet."""

    bytes: int
    bytes_max: int
    read_lsn: int
    changes: int


class WalWitness:
    """Reads the WAL into a ledger while a workload runs.

        with WalWitness(endpoint, folder, publication="cdc") as witness:
            ...                       # changes committed from here on are in the ledger
            ledger = witness.stop()   # ... up to here

    `captures` says which tables count (all of the publication by default): it must be what the connector captures, or
    `seq` differs. `modes` are the connector's, see `canonical.Modes`.
    """

    def __init__(
        self,
        endpoint: PostgresEndpoint,
        folder: Path,
        *,
        publication: str,
        modes: Modes | None = None,
        slot: str | None = None,
        temporary: bool = True,
        role: str = "witness",
        captures: Callable[[str], bool] = lambda table: True,
        images: bool = False,
        batch_changes: int = 1_000_000,
        chunk_messages: int = 100_000,
        chunk_bytes: int = 64 << 20,
        poll_seconds: float = 0.5,
    ) -> None:
        self._endpoint = endpoint
        self._folder = folder
        self._publication = publication
        self._modes = modes or Modes()
        self._slot = slot or f"cdcpipe_witness_{time.time_ns():x}"[:63]
        self._temporary = temporary
        self._role = role
        self._captures = captures
        self._images = images
        self._batch_changes = batch_changes
        self._chunk_messages = chunk_messages
        self._chunk_bytes = chunk_bytes
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._target: int | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._lag = Lag(0, 0, 0, 0)
        self._cursor = pgoutput.Cursor()
        self._tables: dict[str, Table] = {}
        self._begin_lsn = 0
        self._may_mark = True
        self._marked_lsn = 0
        self._ledger: Ledger | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slot(self) -> str:
        """The slot's name."""
        return self._slot

    @property
    def begin_lsn(self) -> int:
        """The slot's consistent point: transactions that commit after it are in the ledger."""
        return self._begin_lsn

    @property
    def lag(self) -> Lag:
        """As of the last batch; read it while the workload runs, so that the witness can't fall behind unnoticed."""
        return self._lag

    def start(self) -> None:
        """Make (or find) the slot, then read in the background. Returns when the slot is there."""
        self._connection = connect(self._endpoint, self._role)
        self._side = connect(self._endpoint, self._role)
        self._engine = Engine()
        self._writer = LedgerWriter(self._folder, "wal")
        self._begun_at = datetime.now(UTC).isoformat()
        try:
            catalogue = Catalogue.read(self._side, publication=self._publication)
            self._tables.update(catalogue.tables)
            self._begin_lsn = self._open_slot()
        except psycopg.Error as error:
            self.close()
            raise PostgresError(
                f"can't open the replication slot `{self._slot}`: {str(error).strip().splitlines()[0]}",
                hint="the role needs REPLICATION; wal_level must be logical and max_replication_slots not used up",
            ) from error
        except CdcpipeError:
            self.close()
            raise
        self._builder = RowBuilder(
            self._engine, self._modes, self._describe, captures=self._captures, images=self._images
        )
        self._position = self._begin_lsn
        self._thread = threading.Thread(target=self._run, name="cdcpipe-wal-witness", daemon=True)
        self._thread.start()

    def _open_slot(self) -> int:
        if self._temporary:
            row = self._connection.execute(
                "SELECT lsn - '0/0'::pg_lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput', true)", [self._slot]
            ).fetchone()
            assert row is not None
            return int(row[0])
        query = (
            "SELECT confirmed_flush_lsn - '0/0'::pg_lsn, plugin, database, wal_status, invalidation_reason"
            " FROM pg_replication_slots WHERE slot_name = %s"
        )
        if self._server_version < 170_000:
            query = query.replace("invalidation_reason", "NULL")
        found = self._connection.execute(query, [self._slot]).fetchone()
        if found is None:
            row = self._connection.execute(
                "SELECT lsn - '0/0'::pg_lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput', false)",
                [self._slot],
            ).fetchone()
            assert row is not None
            return int(row[0])
        begin, plugin, database, status, reason = found
        if plugin != "pgoutput" or database != self._endpoint.database:
            raise EvidenceError(
                f"slot `{self._slot}` is of plugin {plugin} in database {database}; it is not a witness's"
            )
        if status == "lost" or reason is not None:
            raise EvidenceError(
                f"slot `{self._slot}` was invalidated ({reason or 'WAL removed'}): the changes since can't be read",
                hint="drop it, and begin a new ledger",
            )
        return int(begin)

    @property
    def _server_version(self) -> int:
        return self._connection.info.server_version

    def stop(self, *, timeout_seconds: float = 120.0) -> Ledger:
        """Read up to what is committed now, end the reader, and give the ledger.

        A reader that failed gives a ledger that is not complete, with the reason. EvidenceError only when the reader
        did not come to its end in time.
        """
        if self._ledger is not None:
            return self._ledger
        if self._thread is None:
            raise EvidenceError("the witness was not started")
        if self._failure is None:
            # A failure here is the reader's too: it finds the server gone as well.
            with suppress(psycopg.Error):
                self._target = self._committed_lsn()
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            raise EvidenceError(
                f"the witness was still {self._lag.bytes} bytes behind after {timeout_seconds:g} s", hint="wait longer"
            )
        return self._finish()

    def _finish(self) -> Ledger:
        reasons: list[str] = []
        if self._failure is not None:
            reasons.append(f"the WAL could be read only up to {self._position:X}: {self._failure}")
        elif self._target is None:
            reasons.append("the end of the WAL could not be asked for")
        if self._cursor.open:
            reasons.append("the reader ended within a transaction")
        manifest = Manifest(
            "wal",
            not reasons,
            tuple(reasons),
            slots=(
                SlotRead(
                    self._slot,
                    self._publication,
                    self._temporary,
                    self._begin_lsn,
                    self._position,
                    self._lag.bytes_max,
                ),
            ),
            modes=self._modes.to_json(),
            tables=Catalogue(self._tables).to_json(),
            xid_next=self._xid_next,
            begun_at=self._begun_at,
            ended_at=datetime.now(UTC).isoformat(),
        )
        self._ledger = self._writer.finish(manifest)
        self.close()
        return self._ledger

    def close(self) -> None:
        """End the reader and its sessions, and with them a temporary slot. Without `stop()` no ledger remains."""
        self._stopping.set()
        self._target = self._target or 0
        if self._thread is not None and self._thread.is_alive():
            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=5)
            self._thread.join(30)
        for name in ("_connection", "_side", "_engine"):
            each = getattr(self, name, None)
            if each is not None:
                each.close()

    def drop_slot(self) -> None:
        """Drop a permanent slot that is not in use any more."""
        with connect(self._endpoint, self._role) as connection:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [self._slot])

    # --- the reader's thread ------------------------------------------------------

    _xid_next: int = 0

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="cdcpipe-wal-decode") as pool:
                self._read(pool)
        except (psycopg.Error, CdcpipeError, pa.ArrowException) as error:
            self._failure = error
            log.warning("the witness stopped reading: %s", error)
        except Exception as error:
            self._failure = error
            log.exception("the witness failed")

    def _read(self, pool: ThreadPoolExecutor) -> None:
        while True:
            stopping = self._stopping.is_set()
            target = self._target if stopping and self._target is not None else self._flushed_lsn()
            self._measure(target)
            began = time.monotonic()
            read = self._batch(pool, target) if target > self._position else 0
            if read >= self._batch_changes:
                # The batch was full: there may be more below the same target.
                continue
            self._position = max(self._position, target)
            self._measure(target)
            if stopping:
                return
            # Each call decodes again from the slot's restart_lsn: a witness that asked all the time would be a load.
            self._mark(target)
            self._stopping.wait(max(self._poll_seconds, 4 * (time.monotonic() - began)))

    def _mark(self, lsn: int) -> None:
        """Let the slot's restart_lsn move on: it only can at a record of the running transactions.

        PostgreSQL writes one every 15 s. Where the role may (EXECUTE on pg_log_standby_snapshot, PostgreSQL 16), one is
        written after each 4 MB of WAL.
        """
        if self._may_mark and lsn - self._marked_lsn > 4 << 20:
            try:
                self._side.execute("SELECT pg_log_standby_snapshot()")
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
                self._may_mark = False
            self._marked_lsn = lsn

    def _batch(self, pool: ThreadPoolExecutor, target: int) -> int:
        pending: Future[None] | None = None
        read = 0
        for messages, lsns in self._chunks(target):
            read += len(messages)
            if pending is not None:
                pending.result()
            pending = pool.submit(self._take, messages, lsns, self._known_xid())
        if pending is not None:
            pending.result()
        self._position = max(self._position, self._cursor.end_lsn)
        if not self._temporary:
            self._advance(target if read < self._batch_changes else self._cursor.end_lsn)
        return read

    def _known_xid(self) -> int:
        self._xid_next = read_xid_next(self._side)
        return self._xid_next

    def _chunks(self, target: int) -> Iterator[tuple[list[bytes], bytes]]:
        call = "get" if self._temporary else "peek"
        query = sql.SQL(
            "SELECT pg_lsn_send(lsn), data FROM pg_logical_slot_{call}_binary_changes({slot}, '0/0'::pg_lsn + {target},"
            " {most}, 'proto_version', '1', 'publication_names', {publication}, 'messages', 'true')"
        ).format(
            call=sql.SQL(call),
            slot=sql.Literal(self._slot),
            target=sql.Literal(target),
            most=sql.Literal(self._batch_changes),
            publication=sql.Literal('"' + self._publication.replace('"', '""') + '"'),
        )
        messages: list[bytes] = []
        lsns: list[bytes] = []
        size = 0
        with self._connection.cursor(binary=True) as cursor:
            for lsn, data in cursor.stream(query, binary=True, size=5_000):
                messages.append(data)
                lsns.append(lsn)
                size += len(data)
                if len(messages) >= self._chunk_messages or size >= self._chunk_bytes:
                    yield messages, b"".join(lsns)
                    messages, lsns, size = [], [], 0
        if messages:
            yield messages, b"".join(lsns)

    def _take(self, messages: list[bytes], lsns: bytes, xid_next: int) -> None:
        chunk = pgoutput.decode(messages, lsns, self._cursor)
        for table, rows in self._builder.build(chunk, self._cursor, xid_next).items():
            self._writer.write(rows, table)

    def _advance(self, lsn: int) -> None:
        if lsn > self._begin_lsn:
            self._side.execute("SELECT pg_replication_slot_advance(%s, '0/0'::pg_lsn + %s::numeric)", [self._slot, lsn])

    def _flushed_lsn(self) -> int:
        return self._lsn("pg_current_wal_flush_lsn()")

    def _lsn(self, function: str) -> int:
        row = self._side.execute(f"SELECT {function} - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])

    def _committed_lsn(self) -> int:
        """An LSN at or above the commit of every transaction that has returned to its client."""
        with connect(self._endpoint, self._role) as connection:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
            assert row is not None
            inserted = int(row[0])
            # Only flushed WAL can be decoded; the WAL writer flushes asynchronous commits within 3 * wal_writer_delay.
            deadline = time.monotonic() + 2
            while True:
                row = connection.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
                assert row is not None
                if int(row[0]) >= inserted or time.monotonic() > deadline:
                    return int(row[0])
                time.sleep(0.02)

    def _measure(self, target: int) -> None:
        behind = max(0, target - self._position)
        changes = self._writer.counts["changes"]
        self._lag = Lag(behind, max(behind, self._lag.bytes_max), self._position, changes)

    # --- the catalogue, for the decoder's thread --------------------------------------

    def _describe(self, relation: Relation) -> Table:
        """The table of `relation` with the columns and types it had in the WAL, and its key as it is now."""
        now = read_tables(self._side, [relation.oid]).get(relation.table)
        types = read_types(self._side, {oid for _, oid, _, _ in relation.columns})
        columns: list[Column] = []
        for column, oid, typmod, _ in relation.columns:
            if oid not in types:
                raise EvidenceError(
                    f"the type of {relation.table}.{column} (OID {oid}) is gone; its values can't be read"
                )
            columns.append(Column(column, type_of(types[oid], typmod)))
        names = {column.name for column in columns}
        flagged = tuple(sorted(column for column, _, _, is_key in relation.columns if is_key))
        identity = {"f": "full", "d": "default", "i": "index"}.get(relation.identity, "nothing")
        if now is not None and names.issuperset(now.key):
            key = now.key
        else:
            # Dropped or renamed since: REPLICA IDENTITY DEFAULT flags the key's columns, FULL flags all.
            key = flagged if identity == "default" else ()
        table = Table(relation.table, tuple(columns), key, identity, flagged)  # type: ignore[arg-type]
        if relation.table in self._tables:
            table_known = self._tables[relation.table]
            extra = tuple(column for column in table_known.columns if column.name not in names)
            self._tables[relation.table] = Table(relation.table, table.columns + extra, key, table.identity, flagged)
        else:
            self._tables[relation.table] = table
        return table
