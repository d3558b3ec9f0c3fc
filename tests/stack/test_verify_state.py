"""State at a cut on a real, live PostgreSQL: no false alarm while writers go on, and a planted difference is found.

The archive here is made of the WAL, so that nothing but the cut and the fold is under test.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from cdcpipe.ledger.change import SCHEMA
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.endpoints import PostgresEndpoint
from cdcpipe.verify import Verdict
from cdcpipe.verify.cut import StateRead, read_state
from cdcpipe.verify.fold import compare_state

pytestmark = pytest.mark.postgres

TABLES = ("public.accounts", "public.parts")
NOTES = (None, "", 'ä, "b"\nc', "x" * 50)


@pytest.fixture(scope="module")
def database(postgres: PostgresEndpoint) -> PostgresEndpoint:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE accounts "
            "(id bigint PRIMARY KEY, balance numeric(12,2), note text, at timestamptz, tags text[])"
        )
        connection.execute("CREATE TABLE parts (a int, b text, n float8, PRIMARY KEY (a, b))")
        connection.execute("ALTER TABLE accounts REPLICA IDENTITY FULL")
        connection.execute("CREATE TABLE loose (v text)")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
    with psycopg.connect(postgres.conninfo("admin"), autocommit=True) as connection:
        connection.execute("CREATE PUBLICATION cdc FOR ALL TABLES")
        # The writers run into each other often, and would stand still for a second each time.
        connection.execute(f"ALTER DATABASE {postgres.database} SET deadlock_timeout = '20ms'")
    return postgres


def write(connection: psycopg.Connection[Any], rng: random.Random) -> None:
    """One transaction: a few statements, some of them far-reaching, some rolled back to a savepoint or whole."""
    with connection.transaction(force_rollback=rng.random() < 0.1):
        for _ in range(rng.randrange(1, 6)):
            key = rng.randrange(400)
            kind = rng.random()
            if kind < 0.5:
                connection.execute(
                    "INSERT INTO accounts VALUES (%s, %s, %s, clock_timestamp(), %s) ON CONFLICT (id) DO UPDATE SET "
                    "balance = accounts.balance + 1, note = excluded.note",
                    [key, rng.randrange(10_000) / 100, rng.choice([None, "", 'ä, "b"\nc', "x" * 50]), ["a", None, ""]],
                )
            elif kind < 0.65:
                connection.execute("DELETE FROM accounts WHERE id = %s", [key])
            elif kind < 0.72:
                # A changed primary key, to one that is free.
                moved = rng.randrange(1_000_000, 1 << 40)
                connection.execute("UPDATE accounts SET id = %s WHERE id = %s", [moved, key])
            elif kind < 0.97:
                connection.execute(
                    "INSERT INTO parts VALUES (%s, %s, %s) ON CONFLICT (a, b) DO UPDATE SET n = excluded.n",
                    [key % 7, f"b{key}", rng.random()],
                )
            elif kind < 0.9705:
                connection.execute("TRUNCATE parts")
            with connection.transaction(force_rollback=rng.random() < 0.2):
                connection.execute("UPDATE parts SET n = n + 1 WHERE a = %s", [key % 7])


class Writers:
    """Transactions from several sessions until it is left. A deadlock is the database's own business."""

    def __init__(self, endpoint: PostgresEndpoint, seeds: range) -> None:
        self._done = threading.Event()
        self.committed = 0
        self._threads = [threading.Thread(target=self._run, args=(endpoint, seed)) for seed in seeds]

    def _run(self, endpoint: PostgresEndpoint, seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(endpoint.conninfo("owner"), autocommit=True) as connection:
            while not self._done.is_set():
                try:
                    write(connection, rng)
                except psycopg.errors.DeadlockDetected:
                    continue
                except psycopg.errors.UniqueViolation:
                    continue
                self.committed += 1

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)


def as_archive(wal: pa.Table) -> pa.Table:
    """The WAL as an archive has it: records of three partitions by key, in the order of commits, no commit LSN."""
    rows = wal.to_pylist()
    offsets: dict[int, int] = {}
    for row in rows:
        partition = 0 if row["key"] is None else hashlib.md5(row["key"]).digest()[0] % 3
        offsets[partition] = offset = offsets.get(partition, -1) + 2
        row |= {
            "topic": f"t.{row['table']}",
            "partition": partition,
            "offset": offset,
            "object": "o",
            "commit_lsn": None,
        }
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def run(database: PostgresEndpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StateRead], pa.Table]:
    """Eight cuts through two live tables, and the archive of all that happened."""
    folder = tmp_path_factory.mktemp("state")
    cuts = []
    with WalWitness(database, folder / "wal", publication="cdc") as witness:
        with Writers(database, range(4)) as writers:
            for number in range(8):
                before = writers.committed
                deadline = time.monotonic() + 30
                while writers.committed < before + 60 and time.monotonic() < deadline:
                    time.sleep(0.01)
                cuts.append(read_state(database, folder / f"cut-{number}", tables=TABLES, publication="cdc"))
        ledger = witness.stop()
    assert ledger.manifest.complete, ledger.manifest.reasons
    return cuts, as_archive(ledger.read())


def test_cuts_through_a_live_table_equal_its_archive(run: tuple[list[StateRead], pa.Table]) -> None:
    cuts, archive = run
    assert any(cut.snapshot.in_progress for cut in cuts), "no cut had a transaction in progress: nothing was tried"
    passed = 0
    for cut in cuts:
        report = compare_state(cut, archive)
        assert not report.failed, [each.witnesses[:2] for each in report.failed]
        assert report.verdict is Verdict.PASS or cut.rewritten, report.sentence()
        passed += report.verdict is Verdict.PASS
    assert passed > len(cuts) // 2


def test_a_table_truncated_after_the_snapshot_is_not_taken_for_the_cut(
    database: PostgresEndpoint, run: tuple[list[StateRead], pa.Table], tmp_path: Path
) -> None:
    """TRUNCATE is not MVCC-safe: it empties the table for older snapshots too."""

    def truncate(_: object) -> None:
        with psycopg.connect(database.conninfo("owner"), autocommit=True) as connection:
            connection.execute("INSERT INTO late VALUES (2)")
            connection.execute("TRUNCATE late")

    with psycopg.connect(database.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS late (id int PRIMARY KEY)")
        connection.execute("INSERT INTO late VALUES (1)")
    cut = read_state(database, tmp_path, tables=["public.late"], publication="cdc", on_snapshot=truncate)
    assert cut.rewritten == ("public.late",)
    report = compare_state(cut, run[1])
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "take another cut" in report.sentence()


def test_a_cut_by_lsn_would_not_do(run: tuple[list[StateRead], pa.Table]) -> None:
    """The cut before and the one after are told apart, so the fold does depend on the snapshot."""
    cuts, archive = run
    later = StateRead(cuts[-1].snapshot, cuts[0].tables, cuts[0].rows, cuts[0].files)
    assert compare_state(later, archive).verdict is Verdict.FAIL


def damaged(archive: pa.Table, row: int, **values: Any) -> pa.Table:
    rows = archive.to_pylist()
    rows[row] |= values
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def last_events(archive: pa.Table, op: str, cut: StateRead) -> list[int]:
    """Rows that are the last of their key, of transactions that `cut` sees for sure."""
    last: dict[tuple[str, bytes], int] = {}
    for index, row in enumerate(archive.to_pylist()):
        if row["key"] is not None and row["table"] == "public.accounts":
            last[row["table"], row["key"]] = index
    sees = cut.snapshot.xmin
    rows = archive.select(["op", "xid"]).to_pylist()
    return [index for index in last.values() if rows[index]["op"] == op and rows[index]["xid"] < sees]


@pytest.mark.parametrize("number", range(5))
def test_one_altered_row_is_found_and_named(run: tuple[list[StateRead], pa.Table], number: int) -> None:
    cuts, archive = run
    row = last_events(archive, "u", cuts[-1])[number]
    report = compare_state(cuts[-1], damaged(archive, row, after=bytes(16)))
    assert report.anomalies == ("cut-divergence",)
    (witness,) = report["cut-divergence"].witnesses
    assert witness.key == archive["key"][row].as_py().decode()
    assert witness.note == "another row in the archive"


@pytest.mark.parametrize("number", range(5))
def test_one_row_that_the_archive_lost_is_found(run: tuple[list[StateRead], pa.Table], number: int) -> None:
    cuts, archive = run
    row = last_events(archive, "c", cuts[-1])[number]
    rest = archive.filter(pa.array([index != row for index in range(archive.num_rows)]))
    report = compare_state(cuts[-1], rest)
    assert report.anomalies == ("cut-divergence",)
    assert report["cut-divergence"].witnesses[0].key == archive["key"][row].as_py().decode()


@pytest.mark.parametrize("number", range(5))
def test_one_deletion_that_the_archive_lost_is_found(run: tuple[list[StateRead], pa.Table], number: int) -> None:
    cuts, archive = run
    row = last_events(archive, "d", cuts[-1])[number]
    rest = archive.filter(pa.array([index != row for index in range(archive.num_rows)]))
    report = compare_state(cuts[-1], rest)
    assert report.anomalies == ("cut-divergence",)
    assert "in the archive, not in the table" in {each.note for each in report["cut-divergence"].witnesses}


def test_an_archive_that_has_not_settled_is_no_divergence(run: tuple[list[StateRead], pa.Table]) -> None:
    cuts, archive = run
    report = compare_state(cuts[-1], archive.slice(0, archive.num_rows // 2), reached=False, waiting_for="the sink")
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "the sink" in report.sentence()


def test_a_table_without_a_key_is_refused_with_the_reason(
    database: PostgresEndpoint, run: tuple[list[StateRead], pa.Table], tmp_path: Path
) -> None:
    cut = read_state(database, tmp_path, tables=["public.loose"], publication="cdc")
    assert "no primary key" in cut.refused["public.loose"]
    report = compare_state(cut, run[1])
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "public.loose" in report.notes[0]


def test_an_unchanged_toast_value_is_never_taken_as_equal(run: tuple[list[StateRead], pa.Table]) -> None:
    cuts, archive = run
    row = last_events(archive, "u", cuts[-1])[0]
    hole = damaged(archive, row, after=bytes(16), unknown=["after.note: toast"])
    report = compare_state(cuts[-1], hole)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "TOAST" in report.sentence()
