"""The workload's claims, held against what PostgreSQL itself says: its tables, and its WAL by `test_decoding`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import psycopg
import pytest

from cdcpipe.errors import PostgresError, StackError, UsageError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import PostgresEndpoint, Role, Secret
from cdcpipe.stack.local.postgres import Postgres
from cdcpipe.workload import Shop, Workload, WorkloadResult
from cdcpipe.workload.operations import DOOMED, HOT_CUSTOMERS, STRIDE

pytestmark = pytest.mark.postgres

_OPS = {"INSERT": "c", "UPDATE": "u", "DELETE": "d", "TRUNCATE": "t"}


@dataclass
class Wal:
    """What a slot has seen: changes by table and op, and by transaction; every line."""

    by_table: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_xid: Counter[int] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)


@pytest.fixture
def shop(postgres: PostgresEndpoint) -> Shop:
    """A shop in the module's database, with carts; its tables are new for each test."""
    shop = Shop(seed=23, truncate=True)
    _drop(postgres)
    shop.create(postgres)
    return shop


def _drop(postgres: PostgresEndpoint) -> None:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        for table in Shop(truncate=True).tables:
            connection.execute(f"DROP TABLE IF EXISTS {table}")


@contextmanager
def watched(postgres: PostgresEndpoint) -> Iterator[Wal]:
    """Decode what is written within the block. The slot is not a temporary one: it must outlive a server's crash."""
    wal = Wal()

    def ask(sql: str) -> list[tuple[str]]:
        with psycopg.connect(postgres.conninfo("witness"), autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    ask("SELECT pg_create_logical_replication_slot('workload_test', 'test_decoding')::text")
    try:
        yield wal
        wal.lines += [
            line for (line,) in ask("SELECT data FROM pg_logical_slot_get_changes('workload_test', NULL, NULL)")
        ]
        xid = 0
        for line in wal.lines:
            if line.startswith("BEGIN "):
                xid = int(line.split()[1])
            elif line.startswith("table public."):
                table, verb = line.removeprefix("table ").split(": ", 2)[:2]
                for name in table.split(", "):
                    wal.by_table[name, _OPS[verb]] += 1
                    wal.by_xid[xid] += 1
    finally:
        ask("SELECT pg_drop_replication_slot('workload_test')::text")


def claimed(result: WorkloadResult) -> Counter[tuple[str, str]]:
    """The result's events by table and op, without zeros."""
    ops = result.events_by_table.items()
    return Counter({(table, op): count for table, by_op in ops for op, count in by_op.items() if count})


def recorded(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def assert_honest(result: WorkloadResult, wal: Wal) -> None:
    """Every claim of `result` and of its record equals what the WAL holds."""
    assert result.unresolved == 0
    assert claimed(result) == wal.by_table
    assert result.events == sum(wal.by_table.values())
    assert result.record is not None
    rows = recorded(result.record)
    committed = {row["xid"]: row["events"] for row in rows if str(row["outcome"]) in ("committed", "unknown_committed")}
    assert committed == dict(wal.by_xid)
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes["committed"] == result.committed
    assert outcomes["rolled_back"] == result.rolled_back
    assert outcomes["failed"] == result.failed
    assert outcomes["unknown_committed"] == result.unknown_committed
    assert outcomes["unknown_aborted"] == result.unknown_aborted
    assert len(rows) == sum(outcomes.values())
    doomed = [line for line in wal.lines if "id[bigint]:" in line and int(_id(line)) % STRIDE > DOOMED]
    assert doomed == []


def _id(line: str) -> str:
    return line.split("id[bigint]:", 1)[1].split(maxsplit=1)[0]


def test_what_it_claims_is_what_the_wal_and_the_tables_hold(
    postgres: PostgresEndpoint, shop: Shop, tmp_path: Path
) -> None:
    with watched(postgres) as wal:
        work = Workload(postgres, shop, rate=4000, seconds=4, record=tmp_path / "record.jsonl")
        work.start()
        result = work.wait()
    assert_honest(result, wal)
    assert result.rolled_back > 0
    assert result.failed == result.unknown == result.reconnects == 0
    assert result.key_changes > 0
    assert {op for _, op in claimed(result)} == set("cudt")
    with psycopg.connect(postgres.conninfo("owner")) as connection:
        for table in Shop.TABLES:
            ops, first = result.events_by_table[table], HOT_CUSTOMERS if table == "public.customers" else 0
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (first + ops["c"] - ops["d"],)


def test_the_rate_is_held_and_told(postgres: PostgresEndpoint, shop: Shop) -> None:
    work = Workload(postgres, shop, rate=1500, seconds=4)
    work.start()
    seen = wait_until(
        lambda: work.progress() if work.progress().events_committed > 2000 else None,
        what=lambda: f"2,000 events committed ({work.progress()})",
        timeout_seconds=30,
        error=StackError,
    )
    result = work.wait()
    assert seen is not None
    assert 0 < seen.seconds < 4
    assert seen.events_target == pytest.approx(1500 * seen.seconds, abs=1500)
    assert sum(count for ops in seen.events_by_table.values() for count in ops.values()) >= seen.events_committed
    assert result.achieved_rate == pytest.approx(1500, rel=0.05)
    assert result.achieved_rate == pytest.approx(result.events / result.seconds)
    latency = result.commit_latency_seconds
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < 4
    assert 0 < result.cpu_seconds < 4
    assert not result.stopped


def test_a_server_too_slow_for_the_rate_shows_in_latency_and_lag(postgres: PostgresEndpoint, shop: Shop) -> None:
    """An open loop: what is late counts from when it was due. Nothing here may depend on how fast this machine is."""
    work = Workload(postgres, shop, rate=2000, seconds=3, connections=2)
    with psycopg.connect(postgres.conninfo("owner")) as blocker:
        work.start()
        wait_until(
            lambda: work.progress().events_committed > 500,
            what="500 events committed",
            timeout_seconds=30,
            error=StackError,
        )
        blocker.execute("LOCK TABLE public.orders, public.customers IN ACCESS EXCLUSIVE MODE")
        wait_until(
            lambda: work.progress().behind_seconds > 1, what="a second behind", timeout_seconds=30, error=StackError
        )
        blocker.rollback()
    result = work.wait()
    assert result.behind_seconds_max > 1
    # All that was due in that second is late, not the two transactions alone that waited for the lock.
    assert result.commit_latency_seconds["p95"] > 0.3
    assert result.events >= 6000


def _digest(postgres: PostgresEndpoint) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.conninfo("owner")) as connection:
        found = []
        for table in Shop(truncate=True).tables:
            sql = f"SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY id)) FROM {table} AS t"
            found += connection.execute(sql).fetchall()
        return found


def _run(postgres: PostgresEndpoint, seed: int, disturb: Callable[[Workload], None] | None = None) -> WorkloadResult:
    _drop(postgres)
    shop = Shop(seed=seed, truncate=True)
    shop.create(postgres)
    work = Workload(postgres, shop, rate=1500, seconds=2, connections=1, overtime_seconds=60)
    work.start()
    if disturb is not None:
        disturb(work)
    return work.wait()


def _kill_backends(postgres: PostgresEndpoint) -> Callable[[Workload], None]:
    def disturb(work: Workload) -> None:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdcpipe workload'"
        with psycopg.connect(postgres.conninfo("admin"), autocommit=True) as connection:
            while work.running:
                connection.execute(sql)
                time.sleep(0.25)  # a pace, not a wait: it must get some work done in between

    return disturb


def test_one_connection_leaves_the_same_rows_for_the_same_seed_even_when_disturbed(postgres: PostgresEndpoint) -> None:
    quiet = _run(postgres, 31)
    first = _digest(postgres)
    disturbed = _run(postgres, 31, _kill_backends(postgres))
    second = _digest(postgres)
    assert disturbed.failed + disturbed.unknown > 0
    assert second == first
    assert claimed(disturbed) == claimed(quiet)
    _run(postgres, 32)
    assert _digest(postgres) != first


def test_killed_backends_cost_no_claim(postgres: PostgresEndpoint, shop: Shop, tmp_path: Path) -> None:
    with watched(postgres) as wal:
        work = Workload(postgres, shop, rate=2000, seconds=4, record=tmp_path / "record.jsonl")
        work.start()
        _kill_backends(postgres)(work)
        result = work.wait()
    assert result.failed + result.unknown > 5
    assert result.reconnects > 10
    assert_honest(result, wal)
    assert result.events >= 8000


class Cutter:
    """A proxy that cuts the connection at every n-th COMMIT: by turns before it gets through, and after."""

    def __init__(self, port: int, every: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._target, self._every, self._commits, self.cut = port, every, 0, Counter[str]()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as upstream:
            back = threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True)
            back.start()
            self._pump(client, upstream, True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, watch: bool) -> None:
        try:
            while block := source.recv(65536):
                if watch and b"COMMIT" in block and (how := self._verdict()):
                    if how == "after":
                        source.shutdown(socket.SHUT_RDWR)  # the answer finds nobody
                        target.sendall(block)
                        time.sleep(0.05)  # a server that sees the connection closed at once may not commit
                    break
                target.sendall(block)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):  # the other direction may have done it
                end.shutdown(socket.SHUT_RDWR)

    def _verdict(self) -> str | None:
        with self._lock:
            self._commits += 1
            if self._commits % self._every:
                return None
            how = "after" if self._commits // self._every % 2 else "before"
            self.cut[how] += 1
            return how

    def close(self) -> None:
        self._server.close()


def test_a_commit_without_an_answer_is_unknown_and_then_resolved(
    postgres: PostgresEndpoint, shop: Shop, tmp_path: Path
) -> None:
    cutter = Cutter(postgres.port, every=15)
    through = replace(postgres, port=cutter.port)
    try:
        with watched(postgres) as wal:
            work = Workload(through, shop, rate=600, seconds=4, record=tmp_path / "record.jsonl")
            work.start()
            result = work.wait()
    finally:
        cutter.close()
    assert result.unknown >= 6
    assert result.unknown == sum(cutter.cut.values())
    assert (result.unknown_committed, result.unknown_aborted) == (cutter.cut["after"], cutter.cut["before"])
    assert_honest(result, wal)


def test_it_goes_on_after_the_server_crashed(
    postgres_server: Postgres, postgres: PostgresEndpoint, shop: Shop, tmp_path: Path
) -> None:
    """After a crash the server gives out ids again that it had not written down: those must not be mistaken."""
    with watched(postgres) as wal:
        work = Workload(postgres, shop, rate=2000, seconds=5, record=tmp_path / "record.jsonl", overtime_seconds=60)
        work.start()
        for count in (1000, 4000):
            wait_until(
                lambda count=count: work.progress().events_committed > count,  # type: ignore[misc]
                what=lambda: f"more events ({work.progress()})",
                timeout_seconds=60,
                error=StackError,
            )
            postgres_server.kill()
            postgres_server.start()
            postgres_server.await_ready()
        result = work.wait()
    assert result.failed + result.unknown > 0
    assert result.events >= 10_000
    assert_honest(result, wal)


def test_a_second_run_goes_on_where_the_first_one_ended(postgres: PostgresEndpoint, shop: Shop) -> None:
    for _ in range(2):
        work = Workload(postgres, shop, rate=1000, seconds=2)
        work.start()
        result = work.wait()
        assert result.failed == 0
        assert result.events > 1500


def test_create_can_be_called_again_and_leaves_rows_alone(postgres: PostgresEndpoint, shop: Shop) -> None:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("UPDATE public.customers SET name = 'changed' WHERE id = 1")
        shop.create(postgres)
        assert connection.execute("SELECT name FROM public.customers WHERE id = 1").fetchone() == ("changed",)
        assert connection.execute("SELECT count(*) FROM public.customers").fetchone() == (HOT_CUSTOMERS,)
        sql = "SELECT relreplident FROM pg_class WHERE oid = ANY(%s::regclass[])"
        assert set(connection.execute(sql, (list(shop.tables),)).fetchall()) == {("f",)}


_VARIETY = {
    "customers": (
        "tier IS NULL",
        "tier = 'très chic'",
        "name = ''",
        "name ~ '[^\\x01-\\x7f]'",
        "balance < 0",
        "tags IS NULL",
        "tags = '{}'",
        "'a,b' = ANY(tags)",
        "preferences IS NULL",
        "birthday IS NULL",
        "birthday < '1970-01-01'",
        "seen_at IS NULL",
        "version > 5",
        "pg_column_toast_chunk_id(portrait) IS NOT NULL",
        "pg_column_toast_chunk_id(portrait) IS NOT NULL AND version > 1",
        "pg_column_toast_chunk_id(about) IS NOT NULL",
    ),
    "orders": ("note IS NULL", "shipping IS NOT NULL", "array_position(labels, NULL) = 2", "status = 'shipped'"),
    "order_items": ("discount IS NULL", "discount = 0 OR discount > 0.3", "gift", "updated_at IS NOT NULL"),
    "payments": ("fee IS NULL", "settled IS NULL", "answer IS NOT NULL", "length(authorisation) = 0", "settled"),
}


def test_the_rows_are_as_varied_as_promised(postgres: PostgresEndpoint, shop: Shop) -> None:
    work = Workload(postgres, shop, rate=8000, seconds=3)
    work.start()
    work.wait()
    with psycopg.connect(postgres.conninfo("owner")) as connection:
        missing = [
            f"{table}: {condition}"
            for table, conditions in _VARIETY.items()
            for condition in conditions
            if connection.execute(f"SELECT FROM public.{table} WHERE {condition} LIMIT 1").fetchone() is None
        ]
    assert missing == []


def test_stopped_early_it_gives_what_was_done(postgres: PostgresEndpoint, shop: Shop) -> None:
    with watched(postgres) as wal:
        work = Workload(postgres, shop, rate=500, seconds=600)
        work.start()
        wait_until(
            lambda: work.progress().events_committed > 300, what="300 events", timeout_seconds=30, error=StackError
        )
        work.stop()
        result = work.wait(timeout_seconds=30)
    assert result.stopped
    assert result.seconds < 60
    assert claimed(result) == wal.by_table
    assert result.achieved_rate == pytest.approx(500, rel=0.25)


def test_leaving_its_block_ends_the_process(postgres: PostgresEndpoint, shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        with Workload(postgres, shop, rate=500, seconds=600) as work:
            generator = psutil.Process(work.pid)
            raise ZeroDivisionError
    assert not generator.is_running()


_PARENT = """
import json, sys, time
from cdcpipe.stack.endpoints import PostgresEndpoint, Role, Secret
from cdcpipe.workload import Shop, Workload
port, database, name, password = json.loads(sys.stdin.readline())
postgres = PostgresEndpoint("127.0.0.1", port, database, {"owner": Role(name, Secret(password))})
work = Workload(postgres, Shop(seed=23, truncate=True), rate=500, seconds=600)
work.start()
print(work.pid, flush=True)
work.wait()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_when_its_parent_does(postgres: PostgresEndpoint, shop: Shop, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        owner = postgres.roles["owner"]
        parent.stdin.write(json.dumps([postgres.port, postgres.database, owner.name, str(owner.password)]) + "\n")
        parent.stdin.flush()
        generator = psutil.Process(int(parent.stdout.readline()))
        os.killpg(parent.pid, how)  # what Ctrl-C does: to all of the terminal's group
        parent.wait(30)
    gone, alive = psutil.wait_procs([generator], timeout=20)
    assert alive == []
    assert gone
    with psycopg.connect(postgres.conninfo("admin"), autocommit=True) as connection:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdcpipe workload'"
        wait_until(
            lambda: connection.execute(sql).fetchone() == (0,),
            what="no connection left",
            timeout_seconds=20,
            error=StackError,
        )


def test_no_credential_is_seen_from_outside(postgres: PostgresEndpoint, shop: Shop) -> None:
    password = str(postgres.roles["owner"].password)
    with Workload(postgres, shop, rate=100, seconds=600) as work:
        generator = psutil.Process(work.pid)
        assert password not in " ".join(generator.cmdline())
        assert password not in repr(generator.environ())
        assert password not in repr(work)


def test_a_missing_shop_is_told_with_what_to_do(postgres: PostgresEndpoint) -> None:
    _drop(postgres)
    with pytest.raises(PostgresError, match=r"the shop can't be read: .*does not exist") as caught:
        Workload(postgres, Shop(), rate=100, seconds=1).start()
    assert caught.value.hint == "call `Shop.create` first"


def test_a_refused_login_is_told_without_the_password(postgres: PostgresEndpoint, shop: Shop) -> None:
    role = Role(postgres.roles["owner"].name, Secret("wrong-and-secret"))
    with pytest.raises(PostgresError, match="password authentication failed") as caught:
        Workload(replace(postgres, roles={"owner": role}), shop, rate=100, seconds=1).start()
    assert "wrong-and-secret" not in str(caught.value)


def test_a_statement_that_fails_each_time_ends_it_with_that_error(postgres: PostgresEndpoint, shop: Shop) -> None:
    with psycopg.connect(postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("DELETE FROM public.customers")  # the hot rows that every plan counts on
    work = Workload(postgres, shop, rate=100, seconds=30)
    work.start()
    with pytest.raises(PostgresError, match=r"fails each time it is tried: .* changed 0 rows of public.customers"):
        work.wait()


def test_it_starts_once_only(postgres: PostgresEndpoint, shop: Shop) -> None:
    work = Workload(postgres, shop, rate=100, seconds=1)
    with pytest.raises(UsageError, match="not started"):
        work.wait()
    work.start()
    with pytest.raises(UsageError, match="started already"):
        work.start()
    work.wait()
