"""The three ledgers of one real pipeline are the same, value by value."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdcpipe.errors import EvidenceError, RegistryError
from cdcpipe.ledger.archive import read_iceberg
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.catalogue import Catalogue
from cdcpipe.ledger.kafka import PartitionReader
from cdcpipe.ledger.log import read_log
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.ledger.wal import connect as connect_postgres
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

_numbers = itertools.count(time.time_ns() // 1_000_000 % 1_000_000)

COLUMNS = """
  id bigint PRIMARY KEY, i2 smallint, i4 int, t text, vc varchar(20), bp char(6), n numeric(12, 4), nn numeric, f4 real,
  f8 double precision, b boolean, d date, tm time, tm3 time(3), tz timetz, ts timestamp, ts3 timestamp(3),
  tsz timestamptz, iv interval, js json, jb jsonb, u uuid, by bytea, ip inet, ci cidr, ma macaddr, bt bit(1),
  b8 bit(12), vb varbit(33), pt point, i4r int4range, nr numrange, tsr tsrange, tszr tstzrange, dr daterange,
  ia int[], ta text[], na numeric(10, 2)[], tsa timestamptz[], da date[], ua uuid[], ba boolean[], fa float8[],
  ja jsonb[], mo money, o oid, h hstore, e mood, pol polygon, big text
"""

BIG = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 400) g)"

ROW = f"""
  (1, 5, -6, 'text', 'vc', 'bp', 12.3400, 0.00010, 0.1, 0.1, true, '2026-11-24', '10:11:12.123456', '10:11:12.123',
   '10:11:12.5+02', '2026-11-24 10:11:12.123456', '2026-11-24 10:11:12.1', '2026-11-24 10:11:12.123456+01',
   '1 year 2 mons 3 days 04:05:06.7', '{{"b":1.0, "aa": [ ], "b": 2e1}}', '{{"b":1.0, "aa": [ ]}}',
   'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '\\xdeadbeef', '10.0.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'1',
   B'000000000101', B'00101', '(1.5,-0)', '[1,5)', '[1.50,2]', '[2026-01-01 00:00,2026-01-02 00:00)',
   '[2026-01-01 00:00+02,2026-01-02 00:00+02)', '[2026-01-01,2026-02-01)', '{{1,NULL,3}}',
   '{{"a b",NULL,"q\\"uote",""}}', '{{1.50,NULL}}', '{{"2026-11-24 10:11:12.5+01",NULL}}', '{{2026-11-24,NULL}}',
   '{{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}}', '{{t,f,NULL}}', '{{0.1,NULL,1e20}}', ARRAY['{{"b": 1}}'::jsonb],
   '-1234.56', 4000000000, 'b=>"1", a=>NULL, "q\\"k"=>"v\\\\w"', 'ok', '((0,0),(1,1))', {BIG})
"""

EDGES = """
  (id, d, ts, tsz, n, f8, f4, tm, iv, ts3, t) VALUES
  (2, '0044-03-15 BC', '0044-03-15 BC', '0044-03-15 BC', -0.0001, '-0', 'NaN', '24:00', '-1 mons -3 days +04:05:06',
   '1969-12-31 23:59:59.999', ''),
  (3, '9999-12-31', '9999-12-31 23:59:59.999999', '9999-12-31 23:59:59.999999+00', 0,
   'Infinity', '-Infinity', '00:00', '-1 years -2 mons +3 days -04:05:06.789', '9999-12-31 23:59:59.999', 'é \\u20ac')
"""


@pytest.fixture(scope="module")
def endpoints(stack: LocalStack) -> Endpoints:
    return stack.endpoints


@pytest.fixture(scope="module")
def shop(endpoints: Endpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS hstore")
        if connection.execute("SELECT 1 FROM pg_type WHERE typname = 'mood'").fetchone() is None:
            connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
        yield connection


def catalogue_of(endpoints: Endpoints) -> Catalogue:
    with connect_postgres(endpoints.postgres, "witness") as connection:
        return Catalogue.read(connection, publication=endpoints.publication)


Where = Callable[[], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Where:
    numbers = itertools.count()
    return lambda: tmp_path / f"ledger-{next(numbers)}"


def await_changes(read: Callable[[], Ledger], count: int) -> Ledger:
    """The ledger once it has `count` changes."""
    deadline = time.monotonic() + 120
    while True:
        got: object
        try:
            ledger = read()
            got = ledger.manifest.counts["changes"]
            if got == count:
                return ledger
            got = f"{got} and {ledger.read('undecoded')['reason'].to_pylist()[:3]}"
        except EvidenceError as error:
            # The topic of a new table comes with its first change.
            got = error
        assert time.monotonic() < deadline, f"after 120 s: {got}, not {count} changes"


def identified(ledger: Ledger) -> dict[tuple[int, int], dict[str, Any]]:
    rows = {(row["xid"], row["seq"]): row for row in ledger.read().to_pylist()}
    assert len(rows) == ledger.manifest.counts["changes"]
    return rows


COMPARED = ("table", "op", "key", "before", "after", "lsn", "committed_at", "unknown")


def differences(wal: Ledger, other: Ledger) -> list[str]:
    """What differs, with both images side by side."""
    mine, theirs = identified(wal), identified(other)
    assert mine.keys() == theirs.keys()
    images = {row["hash"]: row["image"] for each in (wal, other) for row in each.read("images").to_pylist()}
    found: list[str] = []
    for identity, row in mine.items():
        for column in COMPARED:
            a, b = row[column], theirs[identity][column]
            if a != b:
                found.append(f"{identity} {row['op']} {column}: {images.get(a, a)!r} != {images.get(b, b)!r}")
    return found


def write(shop: psycopg.Connection[Any], table: str) -> None:
    shop.execute(f"INSERT INTO {table} VALUES {ROW}")
    shop.execute(f"UPDATE {table} SET t = 'changed' WHERE id = 1")
    shop.execute(f"UPDATE {table} SET id = 10 WHERE id = 1")
    shop.execute(
        f"INSERT INTO {table} {EDGES.replace(chr(39) + 'Infinity' + chr(39) + '::float8::text::float8::int8', '0')}"
    )
    shop.execute(f"DELETE FROM {table} WHERE id IN (10, 2)")
    shop.execute(
        f"BEGIN; INSERT INTO {table} (id) VALUES (50); TRUNCATE {table}; INSERT INTO {table} (id) VALUES (51); COMMIT"
    )


@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_wal_log_and_archive_say_the_same_of_every_value(
    endpoints: Endpoints, shop: psycopg.Connection[Any], folder: Where, identity: str
) -> None:
    name = f"wide_{next(_numbers)}"
    table = f"public.{name}"
    shop.execute(f"CREATE TABLE {name} ({COLUMNS}); ALTER TABLE {name} REPLICA IDENTITY {identity}")
    with WalWitness(
        endpoints.postgres, folder(), publication=endpoints.publication, images=True, captures=table.__eq__
    ) as witness:
        write(shop, name)
        wal = witness.stop()
    count = wal.manifest.counts["changes"]
    assert count == 11
    catalogue = catalogue_of(endpoints)
    topics = {table: f"{endpoints.topic_prefix}.{table}"}

    def log() -> Ledger:
        return read_log(
            endpoints.bootstrap_servers,
            folder(),
            topics=topics,
            catalogue=catalogue,
            registry_url=endpoints.registry_url,
            images=True,
        )

    def archive() -> Ledger:
        return read_iceberg(endpoints, folder(), topics=topics, catalogue=catalogue, images=True)

    from_log = await_changes(log, count)
    from_archive = await_changes(archive, count)
    assert from_log.manifest.complete, from_log.manifest.reasons
    assert from_archive.manifest.complete, from_archive.manifest.reasons
    assert differences(wal, from_log) == []
    assert differences(wal, from_archive) == []
    updated = next(row for row in wal.read().to_pylist() if row["op"] == "u")
    hidden = ["after.big: toast"] if identity == "DEFAULT" else []
    assert set(hidden) < set(updated["unknown"])
    places = [(row["topic"], row["partition"], row["offset"]) for row in from_log.read().to_pylist()]
    assert sorted(places) == sorted((r["topic"], r["partition"], r["offset"]) for r in from_archive.read().to_pylist())
    objects = {each.name: each for each in from_archive.manifest.objects}
    assert {row["object"] for row in from_archive.read().to_pylist()} == objects.keys()
    assert all(each.bytes > 0 and each.etag for each in objects.values())


MODES = [
    Modes("double", "connect", "numeric", "map", "base64"),
    Modes("string", "isostring", "string", "json", "hex"),
    Modes("precise", "nanoseconds", "string", "map", "base64-url-safe"),
    Modes("precise", "microseconds", "numeric", "json", "bytes"),
    Modes("precise", "adaptive_time_microseconds", "numeric", "json", "bytes"),
]


def mode_settings(modes: Modes) -> dict[str, str]:
    return {
        "decimal.handling.mode": modes.decimal,
        "time.precision.mode": modes.time,
        "interval.handling.mode": modes.interval,
        "hstore.handling.mode": modes.hstore,
        "binary.handling.mode": modes.binary,
    }


@pytest.fixture
def second_source(endpoints: Endpoints) -> Iterator[Callable[[str, dict[str, str]], str]]:
    """Deploys another source of one table, and gives the prefix of its topics."""
    deployed: list[str] = []

    def deploy(table: str, settings: dict[str, str]) -> str:
        name = f"second-{next(_numbers)}"
        base = httpx2.get(f"{endpoints.connect_url}/connectors/cdcpipe-source/config", trust_env=False).json()
        config = base | {
            "name": name,
            "topic.prefix": name,
            "slot.name": name.replace("-", "_"),
            "table.include.list": table.replace(".", "\\."),
            "heartbeat.interval.ms": "0",
            "snapshot.mode": "no_data",
            **settings,
        }
        answer = httpx2.put(
            f"{endpoints.connect_url}/connectors/{name}/config", json=config, timeout=90, trust_env=False
        )
        assert answer.status_code in (200, 201), answer.text
        deployed.append(name)
        deadline = time.monotonic() + 120
        with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
            while connection.execute(query, [config["slot.name"]]).fetchone() is None:
                assert time.monotonic() < deadline, f"{name} did not open its slot in 120 s"
                time.sleep(0.2)
        return name

    yield deploy
    for name in deployed:
        httpx2.delete(f"{endpoints.connect_url}/connectors/{name}", timeout=90, trust_env=False)
        deadline = time.monotonic() + 60
        with connect_postgres(endpoints.postgres, "witness") as connection:
            slot = name.replace("-", "_")
            while connection.execute(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", [slot]
            ).fetchone():
                assert time.monotonic() < deadline, f"{name} did not give up its slot in 60 s"
                time.sleep(0.2)
            connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])


@pytest.mark.slow
@pytest.mark.parametrize("modes", MODES, ids=lambda modes: f"{modes.decimal}-{modes.time}-{modes.interval}")
def test_in_each_of_debeziums_modes_the_log_says_what_the_wal_says(
    endpoints: Endpoints,
    shop: psycopg.Connection[Any],
    folder: Where,
    second_source: Callable[[str, dict[str, str]], str],
    modes: Modes,
) -> None:
    name = f"modes_{next(_numbers)}"
    table = f"public.{name}"
    shop.execute(f"CREATE TABLE {name} ({COLUMNS}); ALTER TABLE {name} REPLICA IDENTITY FULL")
    converters: dict[str, str] = {}
    if modes.binary == "hex":
        for side in ("key", "value"):
            converters |= {
                f"{side}.converter": "org.apache.kafka.connect.json.JsonConverter",
                f"{side}.converter.schemas.enable": "true",
            }
    prefix = second_source(table, mode_settings(modes) | converters)
    with WalWitness(
        endpoints.postgres,
        folder(),
        publication=endpoints.publication,
        images=True,
        captures=table.__eq__,
        modes=modes,
    ) as witness:
        write(shop, name)
        wal = witness.stop()
    catalogue = catalogue_of(endpoints)

    def log() -> Ledger:
        return read_log(
            endpoints.bootstrap_servers,
            folder(),
            topics={table: f"{prefix}.{table}"},
            catalogue=catalogue,
            registry_url=endpoints.registry_url,
            modes=modes,
            images=True,
            transaction_topic=f"{prefix}.transaction",
        )

    from_log = await_changes(log, wal.manifest.counts["changes"])
    assert from_log.manifest.complete, from_log.manifest.reasons
    found = differences(wal, from_log)
    if modes.time == "isostring":
        # 24:00 has no ISO form in Java: Debezium writes 00:00, and that must not pass for equal.
        assert len(found) == 2
        assert all("2:tmt11:86400000000" in each and "2:tmt1:0" in each for each in found)
    elif modes.time == "nanoseconds":
        # 64 bits of nanoseconds end in 1677 and 2262: Debezium wraps around, and that must not pass for equal.
        wrapped = [each for each in found if "3:ts" in each or "2:ts" in each]
        assert found == wrapped != []
    else:
        assert found == []
    counted = {row["xid"]: row["event_count"] for row in wal.read("transactions").to_pylist()}
    told = [row for row in from_log.read("transactions").to_pylist() if row["status"] == "END"]
    assert {row["xid"]: row["event_count"] for row in told if row["xid"] in counted} == counted


def test_poison_tombstones_and_records_of_a_lost_schema_are_told_apart(endpoints: Endpoints, folder: Where) -> None:
    topic = f"ledger-poison-{next(_numbers)}"
    dead = f"ledger-dead-{next(_numbers)}"
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers})
    for future in admin.create_topics([NewTopic(topic, 2, 1), NewTopic(dead, 1, 1)]).values():
        future.result()
    producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers})
    producer.produce(topic, value=b"garbage", partition=0)
    producer.produce(topic, value=None, key=None, partition=0)
    producer.produce(topic, value=json.dumps({"no": "schema"}).encode(), partition=1)
    headers = {"topic": topic, "partition": "0", "offset": "0", "connector.name": "sink", "stage": "VALUE_CONVERTER"}
    headers |= {"exception.class.name": "org.apache.kafka.connect.errors.DataException", "exception.message": "bad"}
    producer.produce(
        dead, value=b"garbage", headers=[(f"__connect.errors.{k}", v.encode()) for k, v in headers.items()]
    )
    producer.flush()

    def read(**options: Any) -> Ledger:
        arguments: dict[str, Any] = {
            "topics": {"public.x": topic},
            "catalogue": Catalogue(),
            "registry_url": endpoints.registry_url,
            "dead_letter_topic": dead,
        }
        return read_log(endpoints.bootstrap_servers, folder(), **(arguments | options))

    ledger = read()
    reasons = [row["reason"] for row in ledger.read("undecoded").to_pylist()]
    assert "neither Avro with a schema id nor JSON" in reasons
    assert len(ledger.read("tombstones")) == 1
    (letter,) = ledger.read("dead_letters").to_pylist()
    assert (letter["topic"], letter["partition"], letter["offset"]) == (topic, 0, 0)
    assert letter["exception"].endswith("DataException")
    assert {each.partition: each.records for each in ledger.manifest.partitions if each.topic == topic} == {0: 2, 1: 1}

    producer.produce(topic, value=b"\0\0\x7f\0\0rest", partition=0)
    producer.flush()
    lost = read()
    assert not lost.manifest.complete
    assert any("has no schema with id 8323072" in reason for reason in lost.manifest.reasons)
    bounded = read(end={(topic, 0): 2, (topic, 1): 0})
    assert {each.partition: each.records for each in bounded.manifest.partitions if each.topic == topic} == {0: 2, 1: 0}
    with pytest.raises(RegistryError, match="doesn't answer"):
        read(registry_url="http://127.0.0.1:9/")

    for future in admin.delete_topics([topic, dead]).values():
        future.result()
    deadline = time.monotonic() + 30
    while topic in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline, "the topic was not deleted in 30 s"
        time.sleep(0.1)
    with pytest.raises(EvidenceError, match=f"has no topic `{topic}`"):
        read()


def test_an_archive_whose_objects_are_gone_or_whose_key_is_refused_is_not_complete(
    endpoints: Endpoints, folder: Where
) -> None:
    from cdcpipe.errors import StorageError
    from cdcpipe.stack.endpoints import Secret

    refused = replace(endpoints, s3=replace(endpoints.s3, secret_access_key=Secret("wrong")))
    topics = {"cdcpipe.watermark": f"{endpoints.topic_prefix}.cdcpipe.watermark"}
    with pytest.raises(StorageError) as error:
        read_iceberg(refused, folder(), topics=topics, catalogue=Catalogue())
    assert "wrong" not in str(error.value)


def test_a_topic_that_vanishes_while_it_is_read_makes_the_ledger_incomplete(endpoints: Endpoints) -> None:
    topic = f"ledger-vanishing-{next(_numbers)}"
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": endpoints.bootstrap_servers})
    for _ in range(100):
        producer.produce(topic, value=os.urandom(200_000), partition=0)
    producer.flush()
    # Less is fetched ahead than there is.
    small = {"queued.max.messages.kbytes": 1024, "fetch.max.bytes": 1 << 20, "max.partition.fetch.bytes": 1 << 20}
    reader = PartitionReader(endpoints.bootstrap_servers, [topic], timeout_seconds=10, client=small)
    batches = reader.batches(records=1)
    read = len(next(batches))
    admin.delete_topics([topic])[topic].result()
    read += sum(len(batch) for batch in batches)
    assert read < 100
    assert [reason for reason in reader.reasons if topic in reason], "nothing is said of what is missing"
