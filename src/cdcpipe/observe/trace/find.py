"""Finds a key, a transaction or an object in the archive, and in the log what is not archived yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaException, TopicPartition
from pyiceberg.exceptions import ValidationError
from pyiceberg.expressions import And, BooleanExpression, EqualTo, Or
from pyiceberg.schema import Schema

from cdcpipe.errors import EvidenceError, KafkaError, PostgresError, UsageError
from cdcpipe.ledger.objects import Bucket
from cdcpipe.observe.records import Decoded, decoded
from cdcpipe.observe.trace.archive import Archive, ArchiveFile, changes_of, micros
from cdcpipe.observe.trace.model import Change, ObjectTrace, Range, Trace, lsn_text
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["trace", "trace_key", "trace_object", "trace_transaction"]

Key = dict[str, str]

# pyiceberg's models take positions, which its pydantic plugin for mypy would know.
_equal: Any = EqualTo


def trace(endpoints: Endpoints, subject: str) -> Trace:
    """What `subject` means: `schema.table:key`, a transaction's number, or an object. Raises `UsageError`."""
    if subject.isdecimal():
        return trace_transaction(endpoints, int(subject))
    if subject.startswith(("s3://", "s3a://")) or subject.endswith(".parquet"):
        return trace_object(endpoints, subject)
    table, colon, key = subject.partition(":")
    if colon and key and table.count(".") == 1:
        return trace_key(endpoints, table, key)
    raise UsageError(
        f"`{subject}` is neither a key, nor a transaction, nor an object",
        hint="`public.orders:42`, `public.items:order_id=42,line=1`, `812` (a transaction), `s3://bucket/x.parquet`",
    )


# --- a key ----------------------------------------------------------------------------------------


def trace_key(endpoints: Endpoints, table: str, key: str) -> Trace:
    """Every change of the row of `table` with `key`: its value, or `column=value,...` where it has several columns."""
    wanted = _parse_key(key, primary_key(endpoints, table), table)
    topic = endpoints.topic_of(table)
    notes: list[str] = []
    with closing(Archive(endpoints)) as archive:
        iceberg = archive.table(topic)
        changes: list[Change] = []
        if iceberg is not None:
            row_filter = _key_filter(wanted, iceberg.schema())
            changes = list(archive.find(topic, row_filter, lambda rows: _key_hits(rows, wanted), list(wanted)))
        tail, records = _tail(
            endpoints, archive, [topic], lambda rows: _key_hits(rows, wanted), list(wanted), notes, changes
        )
        looked_at = _looked_at(archive, records)
    changes = sorted([*changes, *tail], key=lambda change: change.order)
    if not changes:
        notes.append("no change of it is in the archive or in the log; it may be from before the log's beginning")
    shown = ",".join(f"{name}={value}" for name, value in wanted.items())
    return Trace("key", f"{table}:{shown}", tuple(changes), notes=tuple(notes), looked_at=looked_at)


def primary_key(endpoints: Endpoints, table: str) -> tuple[str, ...]:
    """The columns of the table's primary key, in order; none when the database has no such table, or it has no key."""
    rows = _ask(
        endpoints,
        "SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY k.place",
        [table],
    )
    return tuple(str(row[0]) for row in rows)


def _ask(endpoints: Endpoints, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    try:
        conninfo = f"{endpoints.postgres.conninfo('witness')} application_name=cdcpipe-trace connect_timeout=10"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()
    except psycopg.Error as error:
        raise PostgresError(f"PostgreSQL can't be asked: {str(error).strip()}") from error


def _parse_key(text: str, columns: tuple[str, ...], table: str) -> Key:
    parts = [part.partition("=") for part in text.split(",")] if "=" in text else []
    if parts:
        return {name.strip(): value for name, _, value in parts}
    if len(columns) == 1:
        return {columns[0]: text}
    if not columns:
        raise UsageError(f"`{table}` has no primary key in the database", hint="name the columns: `column=value`")
    raise UsageError(
        f"the key of `{table}` has {len(columns)} columns", hint=f"`{','.join(f'{each}=…' for each in columns)}`"
    )


def _key_filter(key: Key, schema: Schema) -> BooleanExpression:
    """What the table's metadata is asked. Raises `UsageError` for a column that is not there, or a value that is none
    of its type.
    """
    sides: list[BooleanExpression] = []
    for side in ("after", "before"):
        parts: list[BooleanExpression] = []
        for name, value in key.items():
            try:
                field = schema.find_field(f"{side}.{name}")
            except ValueError as error:
                raise UsageError(f"the archive has no column `{name}`", hint="is the key's name right?") from error
            try:
                part = _equal(f"{side}.{name}", value)
                part.bind(schema)
            except (ValueError, TypeError, ValidationError) as error:
                raise UsageError(f"`{value}` is no {field.field_type}, the type of `{name}`") from error
            parts.append(part)
        sides.append(parts[0] if len(parts) == 1 else And(*parts))
    return Or(*sides)


def _key_hits(rows: pa.Table, key: Key) -> pa.Array | pa.ChunkedArray:
    hits: Any = None
    for side in ("after", "before"):
        if side not in rows.column_names or not pa.types.is_struct(rows[side].type):
            continue
        here: Any = None
        for name, value in key.items():
            if rows[side].type.get_field_index(name) < 0:
                here = pa.scalar(False)
                break
            column = pc.struct_field(rows[side], name)
            equal = pc.equal(column.cast(pa.string()), value)
            here = equal if here is None else pc.and_kleene(here, equal)
        here = pc.fill_null(here, False)
        hits = here if hits is None else pc.or_(hits, here)
    nothing = pa.array([False] * rows.num_rows)
    return nothing if hits is None or isinstance(hits, pa.Scalar) else hits


# --- a transaction ----------------------------------------------------------------------------------


def trace_transaction(endpoints: Endpoints, xid: int) -> Trace:
    """Every change of transaction `xid`, and whether all that it announced are there."""
    notes: list[str] = []
    number = xid & 0xFFFFFFFF  # Debezium has the 32 bits of the WAL
    topics = change_topics(endpoints)
    keys = {topic: primary_key(endpoints, endpoints.table_of(topic)) for topic in topics}
    row_filter = _equal("source.txId", number)

    def hits(rows: pa.Table) -> Any:
        return pc.equal(pc.struct_field(rows["source"], "txId"), number)

    changes: list[Change] = []
    with closing(Archive(endpoints)) as archive:
        for topic in topics:
            changes.extend(archive.find(topic, row_filter, hits, keys[topic]))
        records = 0
        for topic in topics:
            tail, read = _tail(endpoints, archive, [topic], hits, keys[topic], notes, changes)
            changes.extend(tail)
            records += read
        looked_at = _looked_at(archive, records)
    changes.sort(key=lambda change: (change.seq or 0, change.order))
    facts = _announced(endpoints, number, changes) | _status(endpoints, xid)
    announced = facts.get("event_count")
    if announced is not None and announced != len(changes):
        notes.append(f"it announced {announced} changes, and {len(changes)} were found")
    if not changes:
        notes.append(
            "no change of it is in the archive or in the log: it changed no captured table, or was rolled back"
        )
    return Trace("transaction", str(xid), tuple(changes), transaction=facts, notes=tuple(notes), looked_at=looked_at)


def change_topics(endpoints: Endpoints) -> list[str]:
    """The topics of captured tables that there are."""
    consumer = Consumer({"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "cdcpipe-trace", "log_level": 0})
    try:
        known = consumer.list_topics(timeout=20).topics
    except KafkaException as error:
        raise KafkaError(f"the brokers don't answer: {error.args[0].str()}") from error
    finally:
        consumer.close()
    prefixes = endpoints.change_topic_prefixes
    return sorted(topic for topic in known if topic.startswith(prefixes))


def _status(endpoints: Endpoints, xid: int) -> dict[str, Any]:
    """What PostgreSQL still knows of the transaction; nothing when it is too old, or no number of its."""
    try:
        rows = _ask(endpoints, "SELECT pg_xact_status(%s::text::xid8)", [str(xid)])
    except PostgresError:
        return {}
    return {"status": rows[0][0]} if rows and rows[0][0] else {}


def _announced(endpoints: Endpoints, number: int, changes: Sequence[Change]) -> dict[str, Any]:
    """What the transaction's END record says. Looked for around the time of its changes only."""
    times = [change.produced_at for change in changes if change.produced_at is not None]
    if not times or not endpoints.transaction_topic:
        return {}
    topic = endpoints.transaction_topic
    begin = _offset_at(endpoints, topic, min(times), -10_000)
    found: dict[str, Any] = {}
    try:
        for batch in decoded(endpoints.bootstrap_servers, endpoints.registry_url, [topic], begin={(topic, 0): begin}):
            for row, offset in zip(batch.rows.to_pylist(), batch.offsets, strict=True):
                if str(row.get("id", "")).partition(":")[0] == str(number) and row.get("status") == "END":
                    found = {"event_count": row.get("event_count"), "end_record": f"{topic}/0:{offset}"}
            if found:
                break
    except EvidenceError:
        return {}
    return found


def _offset_at(endpoints: Endpoints, topic: str, at: datetime, shift_ms: int) -> int:
    consumer = Consumer({"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "cdcpipe-trace", "log_level": 0})
    try:
        place = TopicPartition(topic, 0, int(at.timestamp() * 1000) + shift_ms)
        low = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[0]
        offset = consumer.offsets_for_times([place], timeout=20)[0].offset
        return max(low, offset) if offset >= 0 else low
    except KafkaException as error:
        raise KafkaError(f"`{topic}` can't be searched by time: {error.args[0].str()}") from error
    finally:
        consumer.close()


# --- what is not archived yet -----------------------------------------------------------------------


def _tail(
    endpoints: Endpoints,
    archive: Archive,
    topics: Sequence[str],
    hits: Callable[[pa.Table], Any],
    keys: Sequence[str],
    notes: list[str],
    known: Iterable[Change],
) -> tuple[list[Change], int]:
    """Changes in the log behind what is archived, and how many records were read for them."""
    begin: dict[tuple[str, int], int] = {}
    for topic in topics:
        for partition, offset in archive.ends(topic, _partitions(endpoints, topic)).items():
            begin[topic, partition] = offset + 1
    have = {change.order for change in known}
    found: list[Change] = []
    records = 0
    try:
        for batch in decoded(
            endpoints.bootstrap_servers, endpoints.registry_url, topics, begin=begin, unreadable=notes
        ):
            records += batch.rows.num_rows
            found.extend(change for change in _in_batch(batch, hits, keys) if change.order not in have)
    except EvidenceError as error:
        notes.append(error.message)
    return _dead(endpoints, found), records


def _partitions(endpoints: Endpoints, topic: str) -> list[int]:
    consumer = Consumer({"bootstrap.servers": endpoints.bootstrap_servers, "group.id": "cdcpipe-trace", "log_level": 0})
    try:
        known = consumer.list_topics(topic, timeout=20).topics[topic]
        return [] if known.error is not None else list(known.partitions)
    except KafkaException as error:
        raise KafkaError(f"the brokers don't answer: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _in_batch(batch: Decoded, hits: Callable[[pa.Table], Any], keys: Sequence[str]) -> list[Change]:
    size = batch.rows.num_rows
    placed = batch.rows
    for name, values, type_ in (
        ("kafka_topic", [batch.topic] * size, pa.string()),
        ("kafka_partition", batch.partitions, pa.int32()),
        ("kafka_offset", batch.offsets, pa.int64()),
        ("event_time", batch.timestamps_ms, pa.timestamp("ms", "UTC")),
    ):
        placed = placed.append_column(name, pa.array(values, type_))
    if "source" not in placed.column_names:
        return []
    return list(changes_of(placed.filter(pc.fill_null(hits(placed), False)), keys))


def _dead(endpoints: Endpoints, found: list[Change]) -> list[Change]:
    """Those that the sink refused, marked."""
    if not found or not endpoints.dead_letter_topic:
        return found
    from cdcpipe.schemas.deadletters import read

    letters = read(endpoints.bootstrap_servers, endpoints.dead_letter_topic)
    dead = {(letter.topic, letter.partition, letter.offset) for letter in letters if not letter.replayed}
    return [replace(change, state="dead letter") if change.order in dead else change for change in found]


def _looked_at(archive: Archive, records: int) -> dict[str, int]:
    return {"objects_read": archive.files_read, "objects_passed": archive.files_passed, "log_records": records}


# --- an object ----------------------------------------------------------------------------------------


def trace_object(endpoints: Endpoints, name: str) -> Trace:
    """What an object of the archive holds, and which commit brought it. `name` is its address, key or file name."""
    bucket = Bucket(endpoints.s3)
    key = name.partition(f"://{endpoints.s3.bucket}/")[2] if "://" in name else name
    with closing(Archive(endpoints)) as archive:
        for topic in change_topics(endpoints):
            table = archive.table(topic)
            if table is None:
                continue
            files = archive.files(table)
            chosen = [file for path, file in files.items() if archive.key_of(path) == key or path.endswith(f"/{key}")]
            if chosen:
                held = _held(archive, chosen[0], topic, endpoints, current=True)
                return Trace("object", chosen[0].path, (), held, looked_at=_looked_at(archive, 0))
            prefix = archive.key_of(table.location()).rstrip("/") + "/data/"
            if key.startswith(prefix):
                listed = next((each for each in bucket.list(key) if each.name == key), None)
                if listed is not None:
                    path = f"s3://{endpoints.s3.bucket}/{key}"
                    file = ArchiveFile(path, 0, listed.bytes, None, 0, None)
                    note = "no snapshot of now has it: it was never committed, or was taken out since"
                    held = _held(archive, file, topic, endpoints, current=False)
                    return Trace("object", path, (), held, notes=(note,), looked_at=_looked_at(archive, 0))
    return Trace("object", name, (), notes=("no table of the archive knows it, and it is under none's prefix",))


def _held(archive: Archive, file: ArchiveFile, topic: str, endpoints: Endpoints, *, current: bool) -> ObjectTrace:
    wanted = ("op", "source", "kafka_topic", "kafka_partition", "kafka_offset", "event_time")
    rows = pa.Table.from_batches(list(archive.batches(file.path, wanted)))
    archive.files_read += 1
    source = rows["source"]
    names = {each.name for each in source.type}
    ends = rows.group_by(["kafka_topic", "kafka_partition"]).aggregate(
        [("kafka_offset", "min"), ("kafka_offset", "max"), ("kafka_offset", "count")]
    )
    ranges = [
        Range(
            each["kafka_topic"],
            each["kafka_partition"],
            each["kafka_offset_min"],
            each["kafka_offset_max"],
            each["kafka_offset_count"],
        )
        for each in ends.to_pylist()
    ]
    xids, lsns = (pc.struct_field(source, name) if name in names else None for name in ("txId", "lsn"))
    times = pc.struct_field(source, "ts_us" if "ts_us" in names else "ts_ms")
    first_xid, last_xid = _ends(xids)
    first_lsn, last_lsn = _ends(lsns)
    committed = tuple(micros(each if each is None or "ts_us" in names else each * 1000) for each in _ends(times))
    produced = _ends(rows["event_time"])
    return ObjectTrace(
        name=file.path,
        table=endpoints.table_of(topic),
        bytes=file.bytes,
        rows=rows.num_rows,
        ranges=tuple(sorted(ranges, key=lambda each: (each.topic, each.partition))),
        operations=dict(sorted(Counter(rows["op"].to_pylist()).items())),
        transactions=0 if xids is None else pc.count_distinct(xids).as_py(),
        first_xid=first_xid,
        last_xid=last_xid,
        first_lsn=lsn_text(first_lsn),
        last_lsn=lsn_text(last_lsn),
        committed=(committed[0], committed[1]),
        produced=(produced[0], produced[1]),
        written_at=_written_at(endpoints, archive.key_of(file.path)),
        snapshot=file.snapshot,
        archived_at=file.archived_at,
        current=current,
    )


def _ends(column: Any) -> tuple[Any, Any]:
    if column is None or not len(column):
        return None, None
    ends = pc.min_max(column).as_py()
    return ends["min"], ends["max"]


def _written_at(endpoints: Endpoints, key: str) -> datetime | None:
    from botocore.exceptions import BotoCoreError, ClientError

    from cdcpipe.stack.local.s3 import s3_client

    client: Any = s3_client(endpoints.s3)
    try:
        at = client.head_object(Bucket=endpoints.s3.bucket, Key=key)["LastModified"]
        return at if isinstance(at, datetime) else None
    except (BotoCoreError, ClientError):
        return None
    finally:
        client.close()
