"""`trace` on the real pipeline: each hop that it names is held against the server that has it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pyiceberg.exceptions import NoSuchTableError

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import UsageError
from cdcpipe.ledger.objects import Bucket
from cdcpipe.observe.lineage import Emitter, FileTarget, problems, read_facts
from cdcpipe.observe.quality import History, profile_archive, stream_rows
from cdcpipe.observe.quality.profiling import profile
from cdcpipe.observe.quality.sources import archive_rows
from cdcpipe.observe.trace import trace, trace_key, trace_object, trace_transaction
from cdcpipe.settings import QualitySettings
from cdcpipe.stack.catalog import archived_offsets, open_catalog
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK, Endpoints
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

ITEMS, NOTES = "public.traced_items", "public.traced_notes"


@dataclass(frozen=True)
class Written:
    """What was written, as PostgreSQL says it: the transaction and the time before and after it."""

    endpoints: Endpoints
    xid: int
    begin: datetime
    end: datetime


@pytest.fixture(scope="module")
def written(stack: LocalStack) -> Written:
    """Two hundred rows in one commit of the sink, then one transaction of four changes of two tables in another."""
    endpoints = stack.endpoints
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE {ITEMS} (order_id int, line text, amount numeric(10,2), PRIMARY KEY (order_id, line))"
        )
        connection.execute(f"ALTER TABLE {ITEMS} REPLICA IDENTITY FULL")
        connection.execute(f"CREATE TABLE {NOTES} (id bigint PRIMARY KEY, body text)")
        connection.execute(
            f"INSERT INTO {ITEMS} SELECT g, 'a', CASE WHEN g % 4 <> 0 THEN g END FROM generate_series(1, 200) g"
        )
        _await_archived(endpoints, ITEMS, 200)
        begin = connection.execute("SELECT clock_timestamp()").fetchone()
        with connection.transaction():
            connection.execute(f"UPDATE {ITEMS} SET amount = 0 WHERE order_id = 77")
            connection.execute(f"INSERT INTO {NOTES} VALUES (1, 'one'), (2, 'two')")
            connection.execute(f"DELETE FROM {ITEMS} WHERE order_id = 77")
            xid = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        end = connection.execute("SELECT clock_timestamp()").fetchone()
    assert begin is not None
    assert end is not None
    assert xid is not None
    _await_archived(endpoints, ITEMS, 202)
    _await_archived(endpoints, NOTES, 2)
    return Written(endpoints, int(xid[0]), begin[0], end[0])


def _await_archived(endpoints: Endpoints, table: str, rows: int) -> None:
    topic = f"{endpoints.topic_prefix}.{table}"

    def archived() -> bool:
        with ConnectClient(endpoints.connect_url, timeout_seconds=60) as client:
            assert client.status(SINK).failure is None, client.status(SINK).failure
        with closing(open_catalog(endpoints)) as catalog:
            try:
                scan = catalog.load_table(topic).scan(selected_fields=("kafka_offset",))
            except NoSuchTableError:
                return False
            return bool(scan.to_arrow().num_rows >= rows)

    wait_until(archived, what=f"{rows} rows of {table} in the archive", timeout_seconds=120, error=UsageError)


def test_a_key_is_traced_from_its_commit_to_its_row(written: Written) -> None:
    found = trace_key(written.endpoints, ITEMS, "order_id=77,line=a")
    assert [change.op for change in found.changes] == ["c", "u", "d"]
    assert found.notes == ()
    assert len({change.partition for change in found.changes}) == 1
    offsets = [change.offset for change in found.changes]
    assert offsets == sorted(set(offsets))
    for change in found.changes:
        assert change.key == {"order_id": 77, "line": "a"}
        assert change.state == "archived"
        assert change.committed_at is not None
        assert change.captured_at is not None
        assert change.produced_at is not None
        assert change.archived_at is not None
        assert change.committed_at <= change.captured_at + timedelta(milliseconds=1)
        assert change.produced_at <= change.archived_at
    _, update, delete = found.changes
    assert update.xid == delete.xid == written.xid
    assert [update.seq, delete.seq] == [1, 4]
    assert update.committed_at is not None
    assert written.begin <= update.committed_at <= written.end
    assert found.looked_at["objects_passed"] >= 0
    assert found.looked_at["log_records"] == 0, "all of it is archived: nothing of the log had to be read"


def test_the_object_and_row_that_a_trace_names_hold_the_change(written: Written) -> None:
    (*_, change) = trace_key(written.endpoints, ITEMS, "order_id=77,line=a").changes
    assert change.object is not None
    with Bucket(written.endpoints.s3).open(change.object.partition("://lake/")[2]) as file:
        row = pq.read_table(file).slice(change.row, 1).to_pylist()[0]
    assert (row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]) == change.order
    assert row["op"] == "d"
    assert row["before"]["order_id"] == 77
    with closing(open_catalog(written.endpoints)) as catalog:
        snapshot = catalog.load_table(change.topic).snapshot_by_id(change.snapshot or 0)
    assert snapshot is not None
    assert datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC) == change.archived_at


def test_files_that_cannot_hold_a_key_are_not_opened(written: Written) -> None:
    found = trace_key(written.endpoints, NOTES, "1")
    assert [change.op for change in found.changes] == ["c"]
    early = trace_key(written.endpoints, ITEMS, "order_id=150,line=a")
    assert [change.op for change in early.changes] == ["c"]
    assert early.looked_at["objects_passed"] >= 1, "the file of the later commit has other keys only"


def test_a_transaction_is_traced_whole(written: Written) -> None:
    found = trace_transaction(written.endpoints, written.xid)
    assert [(change.table, change.op, change.seq) for change in found.changes] == [
        (ITEMS, "u", 1),
        (NOTES, "c", 2),
        (NOTES, "c", 3),
        (ITEMS, "d", 4),
    ]
    assert found.transaction["event_count"] == 4
    assert found.transaction["status"] == "committed"
    assert found.notes == ()
    nothing = trace_transaction(written.endpoints, written.xid + 4_000_000)
    assert not nothing.found
    assert "rolled back" in nothing.notes[-1]


def test_an_object_says_what_it_holds(written: Written) -> None:
    (change,) = trace_key(written.endpoints, NOTES, "2").changes
    assert change.object is not None
    held = trace_object(written.endpoints, change.object).object
    assert held is not None
    assert held == trace(written.endpoints, change.object.rpartition("/")[2]).object
    assert (held.table, held.operations, held.current) == (NOTES, {"c": held.rows}, True)
    (own,) = [each for each in held.ranges if each.partition == change.partition]
    assert own.first <= change.offset <= own.last
    assert (held.snapshot, held.archived_at) == (change.snapshot, change.archived_at)
    assert (held.first_xid, held.transactions) == (written.xid, 1)
    assert held.written_at is not None


def test_a_change_that_is_not_archived_yet_is_found_in_the_log(written: Written, stack: LocalStack) -> None:
    """With the sink paused, it stays there."""
    endpoints = written.endpoints
    topic = f"{endpoints.topic_prefix}.{NOTES}"
    with ConnectClient(endpoints.connect_url, timeout_seconds=60) as client:
        client.pause(SINK)
        try:
            client.wait_until_paused(SINK)
            with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
                connection.execute(f"INSERT INTO {NOTES} VALUES (3, 'three')")
            await_flow(endpoints, archive=False)
            (change,) = trace_key(endpoints, NOTES, "3").changes
            assert change.state == "in the log"
            assert change.object is None
            assert change.offset > archived_offsets(endpoints, topic).get(change.partition, -1)
        finally:
            client.resume(SINK)
            client.wait_until_running(SINK, timeout_seconds=90)
    _await_archived(endpoints, NOTES, 3)
    (again,) = trace_key(endpoints, NOTES, "3").changes
    assert again.state == "archived"
    assert again.order == change.order


def test_what_can_not_be_traced_is_told(written: Written) -> None:
    for subject, says in (
        ("orders", "neither a key"),
        (f"{ITEMS}:77", "has 2 columns"),
        (f"{NOTES}:seven", "no long"),
        (f"{NOTES}:colour=red", "no column `colour`"),
    ):
        with pytest.raises(UsageError, match=says):
            trace(written.endpoints, subject)
    assert not trace(written.endpoints, "nothing.parquet").found


def test_the_command_answers_in_text_and_json(
    stack: LocalStack, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdcpipe.cli import cli

    monkeypatch.chdir(tmp_path)
    options = ["--stack", str(stack.folder)]
    done = CliRunner().invoke(cli, ["trace", f"{NOTES}:1", *options])
    assert done.exit_code == 0, done.output
    assert f"insert {NOTES} id=1" in done.stdout
    assert "archived" in done.stdout
    done = CliRunner().invoke(cli, ["trace", str(written.xid), *options, "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["changes"]) == 4
    assert CliRunner().invoke(cli, ["trace", f"{NOTES}:999", *options]).exit_code == 3


def test_lineage_of_the_running_pipeline_is_openlineage(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    facts = read_facts(written.endpoints)
    count = Emitter(FileTarget(path), tmp_path / "told.json").emit(facts)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == count
    assert [problems(event) for event in events] == [[]] * count
    database = written.endpoints.postgres.database
    names = {event["dataset"]["name"] for event in events if "dataset" in event}
    assert {f"{database}.{ITEMS}", f"cdc.{ITEMS}"} <= names
    added = [
        event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"]
        for event in events
        if event.get("eventType") == "RUNNING" and event["inputs"][0]["name"] == f"cdc.{ITEMS}"
    ]
    assert sum(added) == 202
    assert len(added) >= 2, "an event for each commit"
    assert Emitter(FileTarget(path), tmp_path / "told.json").emit(facts) == 0


def test_profiles_of_archive_and_stream_agree_with_the_database(written: Written, tmp_path: Path) -> None:
    import duckdb

    settings = QualitySettings(bucket_seconds=86_400)
    history = History(tmp_path)
    later = datetime.now(UTC) + timedelta(days=2)
    assert profile_archive(written.endpoints, history, settings, tables=[ITEMS], now=later)[ITEMS] >= 1

    def sums(rows: list[dict[str, object]]) -> dict[tuple[object, object], object]:
        return {
            (row["column"], row["measure"]): row["value"] for row in rows if row["count"] and row["value"] is not None
        }

    kept = sums(history.load().to_pylist())
    assert kept[None, "rows"] == 202
    # 200 inserts and an update; amounts of 50 are null, and the update's is 0.
    assert kept["amount", "null_rate"] == pytest.approx(50 / 201)
    assert kept["amount", "zero_rate"] == pytest.approx(1 / 151)
    assert (kept["order_id", "min"], kept["order_id", "max"]) == (1, 200)
    assert kept["line", "length_max"] == 1
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        with stream_rows(connection, written.endpoints, ITEMS) as rows:
            assert rows is not None
            streamed = sums(profile(connection, rows, table=ITEMS, bucket_seconds=86_400).to_pylist())
        with archive_rows(connection, written.endpoints, "public.nothing_of_that_name") as nothing:
            assert nothing is None
    same = [(None, "rows"), (None, "delete_rate"), ("order_id", "max"), ("line", "length_max"), ("line", "null_rate")]
    assert {key: streamed[key] for key in same} == {key: kept[key] for key in same}


def test_quality_without_history_is_inconclusive_and_not_a_pass(
    stack: LocalStack, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdcpipe.cli import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cdcpipe.toml").write_text(f'[quality]\nfolder = "{tmp_path}/q"\nbucket_seconds = 10\n')
    options = ["--stack", str(stack.folder)]
    done = CliRunner().invoke(cli, ["quality", "check", *options, "--json"])
    assert done.exit_code == 3, done.output
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "inconclusive"
    assert any("there is no baseline" in problem for problem in answer["problems"])
    settings = QualitySettings(bucket_seconds=10)
    soon = datetime.now(UTC) + timedelta(seconds=90)  # the span of what was written is closed by then
    profile_archive(written.endpoints, History(tmp_path / "q"), settings, tables=[ITEMS], now=soon)
    assert CliRunner().invoke(cli, ["quality", "learn", *options]).exit_code == 0
    (tmp_path / "expectations.py").write_text(
        "import pandera.ibis as pa\n"
        "amount = pa.Column(checks=pa.Check.lt(100), nullable=True)\n"
        f'EXPECTATIONS = [pa.DataFrameSchema({{"amount": amount}}, name="{ITEMS}")]\n'
    )
    done = CliRunner().invoke(cli, ["quality", "check", *options, "--since", written.begin.date().isoformat()])
    assert done.exit_code == 1, done.output
    assert f"`{ITEMS}.amount` does not meet less_than(100)" in done.stdout
