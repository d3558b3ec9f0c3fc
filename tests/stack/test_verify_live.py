"""`cdcpipe.verify` on the real pipeline: nothing found while it works, and found by name what was planted."""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cdcpipe.ledger.objects import Bucket
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.registry import Registry
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.verify import Verdict, events_of, judge_run, state
from cdcpipe.verify.progress import Watch
from cdcpipe.verify.sampling import Sampler
from cdcpipe.verify.settle import mark, settle

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TABLE = "public.verify_live"


@pytest.fixture(scope="module")
def endpoints(stack: LocalStack) -> Endpoints:
    return stack.endpoints


class Writer:
    """Small transactions on the table, until it is left."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints, self._done = endpoints, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.committed = 0

    def _run(self) -> None:
        rng = random.Random(5)
        with psycopg.connect(self._endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            while not self._done.wait(0.005):
                with connection.transaction():
                    for _ in range(rng.randrange(1, 4)):
                        key = rng.randrange(300)
                        if rng.random() < 0.15:
                            connection.execute(f"DELETE FROM {TABLE} WHERE id = %s", [key])
                        else:
                            connection.execute(
                                f"INSERT INTO {TABLE} VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE "
                                "SET amount = excluded.amount, note = excluded.note",
                                [key, rng.randrange(10_000) / 100, f"note {rng.random()}"],
                            )
                self.committed += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)


@pytest.fixture(scope="module")
def writer(endpoints: Endpoints) -> Iterator[Writer]:
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, amount numeric(12,2), note text)")
        connection.execute(f"ALTER TABLE {TABLE} REPLICA IDENTITY FULL")
    with Writer(endpoints) as running:
        yield running


def test_a_running_pipeline_is_verified_change_by_change(endpoints: Endpoints, writer: Writer, tmp_path: Path) -> None:
    before = writer.committed
    report = events_of(endpoints, seconds=15, folder=tmp_path)
    assert writer.committed > before + 50, "nothing was written: nothing was tried"
    assert report.verdict is Verdict.PASS, [
        (each.id, each.reason, each.witnesses[:2])
        for each in report.results
        if each.applies and each.verdict is not Verdict.PASS
    ]
    assert report["lost-change@source"].looked_at > 50
    assert report["lost-change@sink"].looked_at > 50
    again = judge_run(tmp_path)
    assert again.verdict is Verdict.PASS
    assert again.verified_through == report.verified_through


def test_cuts_through_the_running_pipeline_agree(endpoints: Endpoints, writer: Writer) -> None:
    for _ in range(3):
        before = writer.committed
        report = state(endpoints, tables=[TABLE])
        assert writer.committed > before
        assert report.verdict is Verdict.PASS, [(each.reason, each.witnesses[:2]) for each in report.results]
        assert report.facts["rows"] > 100


def test_a_working_pipeline_raises_no_alarm_of_the_monitors(endpoints: Endpoints, writer: Writer) -> None:
    watch = Watch()
    with Sampler(
        endpoints, source=SOURCE, sink=SINK, slot="cdcpipe_source", prefixes=["warehouse/"], list_every=5, writers=True
    ) as sampler:
        samples = sampler.every(1.0)
        for _ in range(25):
            watch.feed(next(samples))
    results = {each.name: each for each in watch.results()}
    assert {name: each.witnesses[:2] for name, each in results.items() if each.verdict is Verdict.FAIL} == {}
    looked = {name for name, each in results.items() if each.looked_at}
    assert looked == set(results), "a monitor saw nothing"


def test_a_wait_that_runs_out_says_what_for(endpoints: Endpoints, writer: Writer) -> None:
    settled = settle(endpoints, marker=mark(endpoints), timeout_seconds=0.1)
    assert not settled.cut.reached
    assert "watermark" in settled.cut.waiting_for or "offsets" in settled.cut.waiting_for


def test_the_commands_answer_in_json_and_by_exit_code(
    stack: LocalStack, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdcpipe.cli import cli

    monkeypatch.chdir(tmp_path)
    page = tmp_path / "state.html"
    arguments = ["verify", "state", "--stack", str(stack.folder), "--table", TABLE, "--json", "--html", str(page)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert page.read_text().startswith("<!doctype html>")
    done = CliRunner().invoke(cli, ["verify", "state", "--stack", str(stack.folder), "--table", "public.nothing"])
    assert done.exception is not None


def test_watching_keeps_how_far_it_is_verified(
    stack: LocalStack, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cdcpipe.cli import cli

    monkeypatch.chdir(tmp_path)
    options = ["--stack", str(stack.folder), "--table", TABLE, "--watch", "--times", "2", "--every", "0", "--json"]
    done = CliRunner().invoke(cli, ["verify", "state", *options])
    assert done.exit_code == 0, done.output
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["verdict"], second["verdict"]) == ("pass", "pass")
    marks = [each["verified_through"]["xid"] for each in (first, second)]
    assert marks[0] < marks[1], "the writers went on between the cuts"


def test_a_version_that_older_data_cannot_be_read_with_is_found(endpoints: Endpoints, writer: Writer) -> None:
    subject = f"{endpoints.topic_prefix}.{TABLE}-value"
    good = events_of(endpoints, seconds=3)
    for name in ("illegal-evolution", "unreadable-hour", "schema-flap"):
        assert good[name].verdict is Verdict.PASS, (name, good[name].witnesses)
        assert good[name].looked_at
    with Registry(endpoints.registry_url) as registry:
        registry.set_mode(Mode.NONE, subject)
        registry.register(subject, {"type": "record", "name": "Other", "fields": [{"name": "zz", "type": "long"}]})
        registry.set_mode(Mode.FULL_TRANSITIVE, subject)
        try:
            report = events_of(endpoints, seconds=3)
        finally:
            url = f"{endpoints.registry_url}/subjects/{subject}/versions/latest"
            httpx2.delete(url, timeout=20, trust_env=False).raise_for_status()
    assert report.anomalies == ("illegal-evolution",)
    assert subject in report["illegal-evolution"].witnesses[0].note


def test_an_archive_in_hive_style_folders_is_compared_too(endpoints: Endpoints) -> None:
    """The files are the sink's own, laid out as Confluent's sink does: no catalog says which there are."""
    import boto3

    table, topic = "public.verify_folders", f"{endpoints.topic_prefix}.public.verify_folders"
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, note text)")
        for begin in (1, 101):
            fill = f"INSERT INTO {table} SELECT g, 'x' FROM generate_series(%s::int, %s::int) g"
            connection.execute(fill, [begin, begin + 99])
            assert state(endpoints, tables=[table]).verdict is Verdict.PASS  # so that there are two files
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoints.s3.url,
        region_name=endpoints.s3.region,
        aws_access_key_id=endpoints.s3.access_key_id,
        aws_secret_access_key=str(endpoints.s3.secret_access_key),
    )
    bucket = endpoints.s3.bucket
    copies: list[str] = []
    for each in list(Bucket(endpoints.s3).list("warehouse/")):
        if "verify_folders" in each.name and each.name.endswith(".parquet"):
            hour = each.name.partition("event_time_hour=")[2].partition("/")[0].split("-")
            place = "year={}/month={}/day={}/hour={}".format(*hour)
            copies.append(f"hive/{topic}/{place}/{len(copies)}.parquet")
            s3.copy_object(Bucket=bucket, Key=copies[-1], CopySource={"Bucket": bucket, "Key": each.name})
    assert len(copies) > 1
    hive = replace(endpoints, catalog=None, archive_prefix="hive/")
    report = state(hive, tables=[table])
    assert report.verdict is Verdict.PASS, report.sentence()
    s3.delete_object(Bucket=bucket, Key=copies[0])
    report = state(hive, tables=[table])
    assert report.anomalies == ("cut-divergence",), report.sentence()


def changed(table: pa.Table) -> tuple[pa.Table, int]:
    """One row of the file with another amount; gives its key."""
    rows = table.to_pylist()
    row: dict[str, Any] = next(each for each in reversed(rows) if each["after"])
    row["after"]["note"] = "altered in the archive"
    return pa.Table.from_pylist(rows, schema=table.schema), int(row["after"]["id"])


def test_one_row_altered_in_the_archive_is_found_and_named(endpoints: Endpoints, stack: LocalStack) -> None:
    """The last test of this file: it damages the archive of its own table."""
    import boto3

    table = "public.verify_altered"
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, note text)")
        connection.execute(f"INSERT INTO {table} SELECT g, 'note ' || g FROM generate_series(1, 500) g")
    assert state(endpoints, tables=[table]).verdict is Verdict.PASS
    bucket = Bucket(endpoints.s3)
    prefix = f"warehouse/{endpoints.topic_prefix}/"
    name = next(
        each.name for each in bucket.list(prefix) if "verify_altered" in each.name and each.name.endswith(".parquet")
    )
    with bucket.open(name) as file:
        damaged, key = changed(pq.read_table(file))
    buffer = io.BytesIO()
    pq.write_table(damaged, buffer)
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoints.s3.url,
        region_name=endpoints.s3.region,
        aws_access_key_id=endpoints.s3.access_key_id,
        aws_secret_access_key=str(endpoints.s3.secret_access_key),
    )
    s3.put_object(Bucket=endpoints.s3.bucket, Key=name, Body=buffer.getvalue())
    report = state(endpoints, tables=[table])
    assert report.anomalies == ("cut-divergence",), report.sentence()
    (witness,) = report["cut-divergence"].witnesses
    assert witness.key == f"2:idn{len(str(key))}:{key}"
    assert witness.object is not None
    assert witness.object.endswith(name)
