"""The archive ledger over Parquet folders, as Confluent's and Aiven's S3 sinks lay them out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdcpipe.ledger import canonical
from cdcpipe.ledger.archive import read_folders
from cdcpipe.ledger.canonical import encode
from cdcpipe.ledger.catalogue import Catalogue, Column, Table, Type
from cdcpipe.ledger.objects import Folder, Listed, hour_of
from cdcpipe.ledger.room import SMALL
from cdcpipe.ledger.store import Ledger

VALUE = pa.struct([pa.field("id", pa.int64(), nullable=False), ("name", pa.string()), ("at", pa.int64())])
SOURCE = pa.struct(
    [
        pa.field("ts_us", pa.int64()),
        pa.field("schema", pa.string(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("txId", pa.int64()),
        pa.field("lsn", pa.int64()),
        pa.field("version", pa.string()),
    ]
)
ENVELOPE = pa.schema(
    [
        ("before", VALUE),
        ("after", VALUE),
        ("source", SOURCE),
        ("transaction", pa.struct([("id", pa.string()), ("total_order", pa.int64())])),
        ("op", pa.string()),
    ]
)
TOPIC = "cdc.public.customers"
TOPICS = {"public.customers": TOPIC}
EPOCH_2 = 2 << 32
CATALOGUE = Catalogue(
    {
        "public.customers": Table(
            "public.customers",
            (Column("id", Type("int8")), Column("name", Type("text")), Column("at", Type("timestamp", typmod=3))),
            ("id",),
            "full",
            ("at", "id", "name"),
        )
    },
    xid_next=EPOCH_2 + 100,
)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def event(number: int, op: str = "c", **values: Any) -> dict[str, Any]:
    row = {"id": number, "name": f"name {number}", "at": 1500, **values}
    return {
        "before": None if op == "c" else row,
        "after": None if op == "d" else row,
        "source": {
            "ts_us": 1_764_000_000_000_000,
            "schema": "public",
            "table": "customers",
            "txId": 50,
            "lsn": 7,
            "version": "3.7",
        },
        "transaction": {"id": "50:7", "total_order": number},
        "op": op,
    }


def confluent(folder: Path, events: list[dict[str, Any]], *, offset: int = 0, hour: int = 12) -> Path:
    path = folder / f"topics/{TOPIC}/year=2026/month=11/day=24/hour={hour:02d}/{TOPIC}+1+{offset:010d}.snappy.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.Table.from_pylist(events, ENVELOPE)
    count = len(events)
    rows = rows.append_column("kafka_topic", pa.array([TOPIC] * count))
    rows = rows.append_column("kafka_partition", pa.array([1] * count, pa.int32()))
    rows = rows.append_column("kafka_offset", pa.array(range(offset, offset + count), pa.int64()))
    stamps = pa.array([NOON.replace(hour=hour)] * count, pa.timestamp("ms", "UTC"))
    pq.write_table(rows.append_column("event_time", stamps), path)
    return path


def aiven(folder: Path, events: list[dict[str, Any]], *, offset: int = 0, hour: int = 12) -> Path:
    path = folder / f"topics/{TOPIC}/year=2026/month=11/day=24/hour={hour:02d}/{TOPIC}-1-{offset}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(events)
    columns = {
        "key": pa.array([b"k"] * count),
        "offset": pa.array(range(offset, offset + count), pa.int64()),
        "timestamp": pa.array([int(NOON.replace(hour=hour).timestamp() * 1000)] * count, pa.int64()),
        "value": pa.Table.from_pylist(events, ENVELOPE).to_struct_array().combine_chunks(),
    }
    pq.write_table(pa.table(columns), path)
    return path


def read(folder: Path, to: Path, **options: Any) -> Ledger:
    return read_folders(Folder(folder), to, topics=TOPICS, catalogue=CATALOGUE, **options)


EVENTS = [event(1), event(2, name=None), event(3, "u"), event(4, "d")]


def test_small_buffers_give_the_same_ledger_in_more_files(tmp_path: Path) -> None:
    confluent(tmp_path / "lake", [event(number) for number in range(25)])
    confluent(tmp_path / "lake", [event(number) for number in range(25, 30)], offset=25)
    small = replace(SMALL, batch_rows=4, file_rows=8)
    ledgers = read(tmp_path / "lake", tmp_path / "one"), read(tmp_path / "lake", tmp_path / "two", room=small)
    one, two = ledgers[0].read(), ledgers[1].read()
    assert one.num_rows == 30
    assert one.sort_by("offset").equals(two.sort_by("offset"))
    assert len(ledgers[0].files()) == 1
    assert len(ledgers[1].files()) >= 3


def test_each_row_is_a_change_with_its_record_and_its_object(tmp_path: Path) -> None:
    path = confluent(tmp_path / "lake", EVENTS, offset=7)
    ledger = read(tmp_path / "lake", tmp_path / "ledger")
    assert ledger.manifest.complete
    rows = ledger.read().to_pylist()
    assert [(r["op"], r["seq"], r["topic"], r["partition"], r["offset"]) for r in rows] == [
        ("c", 1, TOPIC, 1, 7),
        ("c", 2, TOPIC, 1, 8),
        ("u", 3, TOPIC, 1, 9),
        ("d", 4, TOPIC, 1, 10),
    ]
    one = {"id": encode("n", "1"), "name": encode("s", "name 1"), "at": encode("w", "1500000")}
    assert rows[0]["after"] == hashlib.md5(canonical.image(one).encode()).digest(), "timestamp(3) counts milliseconds"
    two = {"id": encode("n", "2"), "at": encode("w", "1500000")}
    assert rows[1]["after"] == hashlib.md5(canonical.image(two).encode()).digest()
    assert rows[3]["key"] == canonical.image({"id": encode("n", "4")}).encode()
    assert rows[3]["before"] is not None
    assert rows[3]["after"] is None
    assert {r["xid"] for r in rows} == {EPOCH_2 + 50}
    name = path.relative_to(tmp_path / "lake").as_posix()
    assert {r["object"] for r in rows} == {name}
    (read_object,) = ledger.manifest.objects
    assert (read_object.name, read_object.bytes, read_object.rows) == (name, path.stat().st_size, 4)
    (seen,) = ledger.read("objects").to_pylist()
    assert seen["hour"] == seen["event_time_min"] == NOON


def test_confluents_and_aivens_layouts_give_the_same_ledger(tmp_path: Path) -> None:
    confluent(tmp_path / "a", EVENTS, offset=5)
    aiven(tmp_path / "b", EVENTS, offset=5)
    one = read(tmp_path / "a", tmp_path / "one").read().drop_columns("object")
    other = read(tmp_path / "b", tmp_path / "other").read().drop_columns("object")
    assert one.equals(other)


def test_only_the_hours_that_were_asked_for_are_read(tmp_path: Path) -> None:
    for hour in (11, 12, 13):
        confluent(tmp_path / "lake", [event(hour)], offset=hour, hour=hour)
    ledger = read(tmp_path / "lake", tmp_path / "ledger", begin=NOON, end=NOON.replace(hour=13))
    assert ledger.read()["offset"].to_pylist() == [12]


def test_files_of_an_older_schema_say_the_same_of_a_row_as_newer_ones(tmp_path: Path) -> None:
    confluent(tmp_path / "lake", [event(1, at=None)])
    narrow = pa.struct([field for field in VALUE if field.name != "at"])
    path = confluent(tmp_path / "lake", [event(1, at=None)], offset=9)
    table = pq.read_table(path, partitioning=None)
    for side in ("before", "after"):
        place = table.schema.get_field_index(side)
        kept = [None if v is None else {"id": v["id"], "name": v["name"]} for v in table[side].to_pylist()]
        table = table.set_column(place, side, pa.array(kept, narrow))
    pq.write_table(table, path)
    first, second = read(tmp_path / "lake", tmp_path / "ledger").read()["after"].to_pylist()
    assert first == second


def test_a_placeholder_is_unknown_and_no_value(tmp_path: Path) -> None:
    confluent(
        tmp_path / "lake", [event(1, name="__debezium_unavailable_value"), event(1, name=None), event(1, name="?")]
    )
    hidden, null, mark = read(tmp_path / "lake", tmp_path / "ledger").read().to_pylist()
    assert hidden["unknown"] == ["after.name: toast"]
    assert null["unknown"] is mark["unknown"] is None
    assert len({hidden["after"], null["after"], mark["after"]}) == 3


def test_a_broken_file_makes_the_ledger_incomplete_and_the_others_are_read(tmp_path: Path) -> None:
    confluent(tmp_path / "lake", EVENTS)
    broken = confluent(tmp_path / "lake", EVENTS, offset=10)
    broken.write_bytes(broken.read_bytes()[:-9])
    ledger = read(tmp_path / "lake", tmp_path / "ledger")
    assert not ledger.manifest.complete
    assert "not a whole Parquet file" in ledger.manifest.reasons[0]
    assert len(ledger.read()) == 4


class Vanishing(Folder):
    """A folder in which the sink is still at work: after the first listing one object is gone, one written anew."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.listings = 0
        self.path = path

    def list(self, prefix: str) -> Any:
        self.listings += 1
        found: list[Listed] = list(super().list(prefix))
        if self.listings == 2:
            found = [Listed(each.name, each.bytes + 1, each.etag) for each in found[1:]]
        return iter(found)


def test_an_object_that_vanished_or_changed_while_it_was_read_is_told(tmp_path: Path) -> None:
    confluent(tmp_path / "lake", EVENTS)
    confluent(tmp_path / "lake", EVENTS, offset=10)
    ledger = read_folders(Vanishing(tmp_path / "lake"), tmp_path / "ledger", topics=TOPICS, catalogue=CATALOGUE)
    gone, changed = ledger.manifest.reasons
    assert "vanished" in gone
    assert "overwritten" in changed


def test_rows_that_do_not_say_which_record_they_are_cannot_be_judged(tmp_path: Path) -> None:
    path = confluent(tmp_path / "lake", EVENTS)
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["kafka_offset"]), path)
    ledger = read(tmp_path / "lake", tmp_path / "ledger")
    assert not ledger.manifest.complete
    assert "don't say which record they are" in ledger.manifest.reasons[0]


def test_an_empty_archive_is_a_whole_ledger_without_rows(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    ledger = read(tmp_path / "lake", tmp_path / "ledger")
    assert (ledger.manifest.complete, ledger.manifest.counts) == (True, {"changes": 0})


@pytest.mark.parametrize(
    ("name", "hour"),
    [
        ("topics/t/year=2026/month=11/day=24/hour=13/t+0+1.parquet", datetime(2026, 11, 24, 13, tzinfo=UTC)),
        ("t/year=2026/month=11/day=24/t-0-1.parquet", datetime(2026, 11, 24, tzinfo=UTC)),
        ("w/t/data/event_time_hour=2026-11-24-13/x.parquet", datetime(2026, 11, 24, 13, tzinfo=UTC)),
        ("w/t/data/x.parquet", None),
    ],
)
def test_an_objects_folders_name_its_hour(name: str, hour: datetime | None) -> None:
    assert hour_of(name) == hour
