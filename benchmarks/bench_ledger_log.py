"""Events a second from Kafka to a finished ledger, against a plain read of the same records. One JSON line.

Needs a running stack: give its folder. The records are written by the benchmark itself, in Debezium's envelope and the
Confluent wire format, so that what is measured is the reader.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import fastavro
import httpx2
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdcpipe.ledger.catalogue import Catalogue, Column, Table, Type
from cdcpipe.ledger.kafka import PartitionReader
from cdcpipe.ledger.log import read_log
from cdcpipe.settings import load_settings
from cdcpipe.stack.local.stack import LocalStack

PARTITIONS = 3
TABLE = Table(
    "public.orders",
    tuple(
        Column(name, Type(type_))
        for name, type_ in (
            ("id", "int8"),
            ("customer", "int8"),
            ("status", "text"),
            ("total", "numeric"),
            ("placed", "timestamptz"),
            ("note", "text"),
            ("paid", "bool"),
            ("quantity", "int4"),
        )
    ),
    ("id",),
    "full",
    (),
)

DECIMAL = {"type": "bytes", "scale": 2, "precision": 12, "logicalType": "decimal"}
DECIMAL["connect.name"] = "org.apache.kafka.connect.data.Decimal"
VALUE = {
    "type": "record",
    "name": "Value",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "customer", "type": ["null", "long"]},
        {"name": "status", "type": ["null", "string"]},
        {"name": "total", "type": ["null", DECIMAL]},
        {"name": "placed", "type": ["null", {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"}]},
        {"name": "note", "type": ["null", "string"]},
        {"name": "paid", "type": ["null", "boolean"]},
        {"name": "quantity", "type": ["null", "int"]},
    ],
}
SOURCE_FIELDS: list[tuple[str, Any]] = [
    ("version", "string"),
    ("connector", "string"),
    ("name", "string"),
    ("ts_ms", "long"),
    ("snapshot", ["string", "null"]),
    ("db", "string"),
    ("sequence", ["null", "string"]),
    ("ts_us", ["null", "long"]),
    ("ts_ns", ["null", "long"]),
    ("schema", "string"),
    ("table", "string"),
    ("txId", ["null", "long"]),
    ("lsn", ["null", "long"]),
    ("xmin", ["null", "long"]),
]
BLOCK = {
    "type": "record",
    "name": "block",
    "namespace": "event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "total_order", "type": "long"},
        {"name": "data_collection_order", "type": "long"},
    ],
}
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "bench.orders",
    "fields": [
        {"name": "before", "type": ["null", VALUE]},
        {"name": "after", "type": ["null", "Value"]},
        {
            "name": "source",
            "type": {
                "type": "record",
                "name": "Source",
                "fields": [{"name": name, "type": type_} for name, type_ in SOURCE_FIELDS],
            },
        },
        {"name": "transaction", "type": ["null", BLOCK]},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"]},
    ],
}
KEY = {"type": "record", "name": "Key", "namespace": "bench.orders", "fields": [{"name": "id", "type": "long"}]}


def main() -> None:
    """Write, read plainly, read into a ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=500_000)
    arguments = parser.parse_args()
    settings = load_settings()
    endpoints = LocalStack(arguments.folder, cache=settings.cache, maven_mirror=settings.maven_mirror).endpoints
    topic = f"bench-orders-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result()
    folder = Path(tempfile.mkdtemp(prefix="cdcpipe-bench-", dir="/var/tmp"))
    try:
        schemas = [
            _register(endpoints.registry_url, topic, side, each) for side, each in (("key", KEY), ("value", ENVELOPE))
        ]
        _produce(endpoints.bootstrap_servers, topic, arguments.events, *schemas)
        began = time.perf_counter()
        for _ in PartitionReader(endpoints.bootstrap_servers, [topic]).batches():
            pass
        plain = time.perf_counter() - began
        began, cpu = time.perf_counter(), time.process_time()
        ledger = read_log(
            endpoints.bootstrap_servers,
            folder / "ledger",
            topics={TABLE.name: topic},
            catalogue=Catalogue({TABLE.name: TABLE}, 1 << 33),
            registry_url=endpoints.registry_url,
        )
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        events = ledger.manifest.counts["changes"]
        figures = {
            "benchmark": "ledger_log",
            "events": events,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "events_per_second": round(events / seconds),
            "events_per_cpu_second": round(events / cpu),
            "plain_read_seconds": round(plain, 2),
            "ratio_to_plain_read": round(seconds / plain, 2),
            "complete": ledger.manifest.complete,
        }
        print(json.dumps(figures))
    finally:
        for future in admin.delete_topics([topic]).values():
            future.result()
        shutil.rmtree(folder, ignore_errors=True)


def _register(url: str, topic: str, side: str, schema: dict[str, Any]) -> int:
    answer = httpx2.post(
        f"{url}/subjects/{topic}-{side}/versions", json={"schema": json.dumps(schema)}, timeout=20, trust_env=False
    )
    answer.raise_for_status()
    return int(answer.json()["id"])


def _produce(bootstrap_servers: str, topic: str, events: int, key_id: int, value_id: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 50, "compression.type": "lz4"})
    key_schema, value_schema = fastavro.parse_schema(KEY), fastavro.parse_schema(ENVELOPE)
    source = {
        "version": "3.7.0.Final",
        "connector": "postgresql",
        "name": "cdc",
        "ts_ms": 1_795_531_810_395,
        "snapshot": "false",
        "db": "shop",
        "sequence": '["1465343248","1465343304"]',
        "ts_us": 1_795_531_810_395_731,
        "ts_ns": 1_795_531_810_395_731_000,
        "schema": "public",
        "table": "orders",
    }
    for number in range(events):
        row = {
            "id": number,
            "customer": number % 10_000,
            "status": "placed",
            "total": (number * 125).to_bytes(6, "big"),
            "placed": f"2026-11-24T14:{number % 60:02d}:00.{number % 999_999:06d}Z",
            "note": f"order number {number}",
            "paid": number % 2 == 0,
            "quantity": number % 7,
        }
        transaction = number // 10
        record = {
            "before": None,
            "after": row,
            "source": source | {"txId": transaction + 1, "lsn": number, "xmin": None},
            "transaction": {"id": f"{transaction}:1", "total_order": number % 10 + 1, "data_collection_order": 1},
            "op": "c",
            "ts_ms": 1_795_531_810_395,
        }
        producer.produce(
            topic,
            key=_payload(key_id, key_schema, {"id": number}),
            value=_payload(value_id, value_schema, record),
            partition=number % PARTITIONS,
        )
        if number % 10_000 == 0:
            producer.poll(0)
            producer.flush()
    producer.flush()


def _payload(number: int, schema: Any, record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(b"\0" + number.to_bytes(4, "big"))
    fastavro.schemaless_writer(out, schema, record)
    return out.getvalue()


if __name__ == "__main__":
    main()
