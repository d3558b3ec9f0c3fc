"""Migrations run for real: what the plan said before equals what happened after.

Each migration has a table of its own. Rows are written before and after it; then the registry, the source's task, the
archive's columns and every record of the topic, read with the schema before and with the one after, are compared with
the plan, which was made before the migration ran.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import fastavro
import httpx2
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.schemas.catalog import Catalog
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.migration import Plan, TablePlan, plan_evolution
from cdcpipe.schemas.registry import Registry
from cdcpipe.stack.catalog import archived_offsets, open_catalog
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.stack.local.stack import LocalStack

RUN = int(time.time()) % 100_000
"""In the tables' names, so that the module can run again on a stack that is kept."""

pytestmark = [pytest.mark.stack, pytest.mark.slow]


@dataclass(frozen=True)
class Migration:
    """`make` and `before` set the table `{t}` up, `ddl` is the migration, `after` writes rows again."""

    name: str
    ddl: str
    make: str = "CREATE TABLE {t} (id int PRIMARY KEY, a text, n int)"
    before: str = "INSERT INTO {t} VALUES (1, 'x', 1), (2, NULL, NULL)"
    after: str = "UPDATE {t} SET a = 'y' WHERE id = 1; INSERT INTO {t} (id) VALUES (3); DELETE FROM {t} WHERE id = 2"
    rows_first: str = ""
    partition: str = ""

    @property
    def table(self) -> str:
        return f"m{RUN}_" + self.name.replace("-", "_")

    @property
    def captured(self) -> str:
        """The table whose topic has the rows."""
        return self.table + self.partition

    def sql(self, text: str) -> str:
        return text.replace("{t}", self.table)


M = Migration
MIGRATIONS = (
    M("add-nullable", "ALTER TABLE {t} ADD COLUMN c text"),
    M("add-default", "ALTER TABLE {t} ADD COLUMN c int DEFAULT 7"),
    M("add-not-null-default", "ALTER TABLE {t} ADD COLUMN c int NOT NULL DEFAULT 7"),
    M("add-volatile-default", "ALTER TABLE {t} ADD COLUMN c uuid DEFAULT gen_random_uuid()"),
    M("add-now-default", "ALTER TABLE {t} ADD COLUMN c timestamptz NOT NULL DEFAULT now()"),
    M(
        "add-not-null",
        "ALTER TABLE {t} ADD COLUMN c int NOT NULL",
        before="",
        after="INSERT INTO {t} (id, c) VALUES (3, 4)",
        rows_first="INSERT INTO {t} VALUES (1); DELETE FROM {t}",
    ),
    M("add-array", "ALTER TABLE {t} ADD COLUMN c int[]"),
    M("add-unknown-type", "ALTER TABLE {t} ADD COLUMN c xid8"),
    M("drop-nullable", "ALTER TABLE {t} DROP COLUMN n"),
    M(
        "drop-required",
        "ALTER TABLE {t} DROP COLUMN n",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n int NOT NULL)",
        before="INSERT INTO {t} VALUES (1, 'x', 1), (2, NULL, 2)",
    ),
    M(
        "drop-with-default",
        "ALTER TABLE {t} DROP COLUMN n",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n int NOT NULL DEFAULT 5)",
        before="INSERT INTO {t} VALUES (1, 'x', 1), (2, NULL, 2)",
    ),
    M("rename-nullable", "ALTER TABLE {t} RENAME COLUMN n TO m"),
    M(
        "rename-required",
        "ALTER TABLE {t} RENAME COLUMN n TO m",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n int NOT NULL)",
        before="INSERT INTO {t} VALUES (1, 'x', 1), (2, NULL, 2)",
        after="UPDATE {t} SET a = 'y' WHERE id = 1",
    ),
    M("widen-int", "ALTER TABLE {t} ALTER COLUMN n TYPE bigint"),
    M("int-to-text", "ALTER TABLE {t} ALTER COLUMN n TYPE text"),
    M(
        "varchar-to-text",
        "ALTER TABLE {t} ALTER COLUMN a TYPE text",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a varchar(5), n int)",
    ),
    M(
        "numeric-scale",
        "ALTER TABLE {t} ALTER COLUMN n TYPE numeric(14,4)",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n numeric(12,2))",
        after="UPDATE {t} SET n = 1.2355 WHERE id = 1",
    ),
    M(
        "numeric-precision",
        "ALTER TABLE {t} ALTER COLUMN n TYPE numeric(14,2)",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n numeric(12,2))",
    ),
    M(
        "timestamp-precision",
        "ALTER TABLE {t} ALTER COLUMN n TYPE timestamp(6)",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n timestamp(3))",
        before="INSERT INTO {t} VALUES (1, 'x', '2024-01-01'), (2, NULL, NULL)",
    ),
    M(
        "set-not-null",
        "UPDATE {t} SET n = 0 WHERE n IS NULL; ALTER TABLE {t} ALTER COLUMN n SET NOT NULL",
        after="UPDATE {t} SET a = 'y' WHERE id = 1; INSERT INTO {t} VALUES (3, 'z', 3)",
    ),
    M(
        "check-not-null",
        "UPDATE {t} SET n = 0 WHERE n IS NULL; ALTER TABLE {t} ADD CHECK (n IS NOT NULL)",
        after="UPDATE {t} SET a = 'y' WHERE id = 1; INSERT INTO {t} VALUES (3, 'z', 3)",
    ),
    M(
        "drop-not-null",
        "ALTER TABLE {t} ALTER COLUMN n DROP NOT NULL",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n int NOT NULL)",
        before="INSERT INTO {t} VALUES (1, 'x', 1), (2, NULL, 2)",
    ),
    M("set-default", "ALTER TABLE {t} ALTER COLUMN n SET DEFAULT 9"),
    M(
        "add-enum-value",
        "ALTER TYPE {t}_mood ADD VALUE 'ok'",
        make="CREATE TYPE {t}_mood AS ENUM ('sad'); CREATE TABLE {t} (id int PRIMARY KEY, a text, n {t}_mood)",
        before="INSERT INTO {t} VALUES (1, 'x', 'sad'), (2, NULL, NULL)",
        after="INSERT INTO {t} VALUES (3, 'z', 'ok'); UPDATE {t} SET a = 'y' WHERE id = 1",
    ),
    M("add-generated", "ALTER TABLE {t} ADD COLUMN c int GENERATED ALWAYS AS (n + 1) STORED"),
    M("add-identity", "ALTER TABLE {t} ADD COLUMN c int GENERATED ALWAYS AS IDENTITY"),
    M(
        "add-key-column",
        "ALTER TABLE {t} DROP CONSTRAINT {t}_pkey; ALTER TABLE {t} ADD COLUMN k int NOT NULL DEFAULT 0; "
        "ALTER TABLE {t} ADD PRIMARY KEY (id, k)",
    ),
    M(
        "widen-key",
        "ALTER TABLE {t} ALTER COLUMN id TYPE bigint",
    ),
    M("drop-key", "ALTER TABLE {t} REPLICA IDENTITY FULL; ALTER TABLE {t} DROP CONSTRAINT {t}_pkey"),
    M("replica-identity-full", "ALTER TABLE {t} REPLICA IDENTITY FULL"),
    M(
        "new-partition",
        "CREATE TABLE {t}_2 PARTITION OF {t} FOR VALUES FROM (10) TO (20)",
        make="CREATE TABLE {t} (id int PRIMARY KEY, a text, n int) PARTITION BY RANGE (id); "
        "CREATE TABLE {t}_1 PARTITION OF {t} FOR VALUES FROM (0) TO (10)",
        after="INSERT INTO {t} VALUES (11, 'q', 1)",
        partition="_1",
    ),
    M("add-and-drop", "ALTER TABLE {t} ADD COLUMN c text, DROP COLUMN n"),
    M("comment", "COMMENT ON COLUMN {t}.a IS 'words'"),
)


class Pipeline:
    """What the tests ask of the running pipeline."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.connect = ConnectClient(endpoints.connect_url, timeout_seconds=60)
        self._schemas: dict[int, Any] = {}

    def sql(self, text: str) -> None:
        with psycopg.connect(self.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
            for statement in text.split(";"):
                if statement.strip():
                    connection.execute(statement.encode())

    def registry(self, path: str, method: str = "GET", body: Any = None) -> Any:
        answer = httpx2.request(method, self.endpoints.registry_url + path, json=body, timeout=30, trust_env=False)
        return None if answer.status_code == 404 else answer.json()

    def topic(self, table: str) -> str:
        return f"{self.endpoints.topic_prefix}.public.{table}"

    def versions(self, table: str, part: str = "value") -> list[Any]:
        subject = f"{self.topic(table)}-{part}"
        numbers = self.registry(f"/subjects/{subject}/versions") or []
        return [json.loads(self.registry(f"/subjects/{subject}/versions/{n}")["schema"]) for n in numbers]

    def task_state(self, name: str = SOURCE) -> tuple[str, str]:
        status = self.connect.status(name)
        task = status.tasks[0] if status.tasks else None
        return (task.state, task.trace) if task else ("NONE", "")

    def records(self, table: str) -> list[tuple[bytes | None, bytes | None]]:
        """Every committed record of the table's topic."""
        return [(key, value) for _, _, key, value in self.messages(table)]

    def last_offsets(self, table: str) -> dict[int, int]:
        """Partition -> offset of its last committed record."""
        return {partition: offset for partition, offset, _, _ in self.messages(table)}

    def messages(self, table: str) -> list[tuple[int, int, bytes | None, bytes | None]]:
        """Partition, offset, key, value of every committed record of the table's topic."""
        topic = self.topic(table)
        consumer = Consumer(
            {
                "bootstrap.servers": self.endpoints.bootstrap_servers,
                "group.id": "schemas-test",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        found: list[tuple[int, int, bytes | None, bytes | None]] = []
        try:
            metadata = consumer.list_topics(topic, timeout=20).topics[topic]
            open_ = set(metadata.partitions)
            consumer.assign([TopicPartition(topic, number, 0) for number in open_])
            deadline = time.monotonic() + 20
            while open_ and time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is None:
                    continue
                if message.error():
                    open_.discard(message.partition() or 0)
                    continue
                found.append((message.partition() or 0, message.offset() or 0, message.key(), message.value()))
        finally:
            consumer.close()
        return found

    def schema(self, identifier: int) -> Any:
        if identifier not in self._schemas:
            self._schemas[identifier] = json.loads(self.registry(f"/schemas/ids/{identifier}")["schema"])
        return self._schemas[identifier]

    def decode(self, payload: bytes, reader: Any = None) -> Any:
        writer = self.schema(int.from_bytes(payload[1:5], "big"))
        parsed = fastavro.parse_schema(writer, {})
        read = None if reader is None else fastavro.parse_schema(reader, {})
        return fastavro.schemaless_reader(io.BytesIO(payload[5:]), parsed, read)

    def archive(self, table: str) -> dict[str, str]:
        """Column -> type of the row images in the archive, `*` behind a required one."""
        try:
            loaded = open_catalog(self.endpoints).load_table(self.topic(table))
        except (NoSuchTableError, NoSuchNamespaceError):
            return {}
        after = next(item for item in loaded.schema().fields if item.name == "after")
        return {f.name: f"{f.field_type}{'*' if f.required else ''}" for f in after.field_type.fields}  # type: ignore[attr-defined] # a struct


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Wait for `condition`; its last value is in the message."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s; last seen {value!r}")
        time.sleep(0.5)


@pytest.fixture(scope="module")
def pipeline(stack: LocalStack, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """The pipeline with the table of every migration that is tested made, filled and archived."""
    found = Pipeline(stack.endpoints)
    chosen = [m for m in MIGRATIONS if any(f"[{m.name}]" in item.name for item in request.session.items)]
    with found.connect:
        for migration in chosen:
            found.sql(migration.sql(migration.make))
            found.sql(migration.sql(migration.rows_first))
            found.sql(migration.sql(migration.before))
            until(lambda: found.versions(migration.captured), f"{migration.name} registered")  # noqa: B023 - called now
        # The Iceberg sink elects its coordinator when partitions are assigned. So many new topics in so short a time
        # can leave it without one: RUNNING, and nothing committed. A restart with all topics there is the way out.
        found.connect.restart(SINK, include_tasks=True)
        for migration in chosen:
            until(lambda: found.archive(migration.captured), f"{migration.name} archived", 240)  # noqa: B023 - called now
        yield found


def _plan(pipeline: Pipeline, migration: Migration) -> Plan:
    endpoints = pipeline.endpoints
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        catalog = Catalog.from_database(connection)
    with Registry(endpoints.registry_url) as registry:
        return plan_evolution(
            catalog,
            migration.sql(migration.ddl),
            prefix=endpoints.topic_prefix,
            mode=registry.mode(),
            history=registry.history,
            publication=endpoints.publication,
        )


def _heal_registry(pipeline: Pipeline, table: TablePlan) -> None:
    """What an operator does: see the refusal, relax the mode for these subjects, start the task again."""

    def failed() -> str | None:
        state, trace = pipeline.task_state()
        return trace if state == "FAILED" else None

    trace = until(failed, f"the source stops at {table.name}", 90)
    refused = [part.subject for part in (table.key, table.value) if part.outcome == "refused"]
    assert any(subject in trace for subject in refused), trace[-2000:]
    with Registry(pipeline.endpoints.registry_url) as registry:
        for subject in refused:
            registry.set_mode(Mode.NONE, subject)
    pipeline.connect.restart(SOURCE, include_tasks=True, only_failed=True)


def _heal_archive(pipeline: Pipeline, table: TablePlan) -> None:
    """The sink stopped at a required column that records don't have any more: make it optional, start again."""

    def failed() -> str | None:
        state, trace = pipeline.task_state(SINK)
        return trace if state == "FAILED" else None

    trace = until(failed, f"the sink stops at {table.name}", 120)
    assert table.topic in trace
    loaded = open_catalog(pipeline.endpoints).load_table(table.topic)
    with loaded.update_schema() as update:
        for change in table.archive:
            if change.action == "stop":
                update.make_column_optional(("before", change.column)).make_column_optional(("after", change.column))
    pipeline.connect.restart(SINK, include_tasks=True, only_failed=True)


def _readable(pipeline: Pipeline, records: list[tuple[bytes | None, bytes | None]], reader: Any) -> bool:
    try:
        for _, value in records:
            if value is not None:
                pipeline.decode(value, reader)
    except Exception:  # noqa: BLE001 - whatever a reader raises, it couldn't read
        return False
    return True


@pytest.mark.parametrize("migration", MIGRATIONS, ids=[migration.name for migration in MIGRATIONS])
def test_prediction_equals_what_happened(pipeline: Pipeline, migration: Migration) -> None:
    topic_table = migration.captured
    plan = _plan(pipeline, migration)
    tables = {table.name: table for table in plan.tables}
    table = tables.get(f"public.{topic_table}")
    before = {part: pipeline.versions(topic_table, part) for part in ("key", "value")}
    archive_before = pipeline.archive(topic_table)

    pipeline.sql(migration.sql(migration.ddl))
    pipeline.sql(migration.sql(migration.after))
    if table is not None and table.refused:
        _heal_registry(pipeline, table)
    await_flow(pipeline.endpoints, archive=False, timeout_seconds=90)
    assert pipeline.task_state()[0] == "RUNNING"

    for part, planned in (("key", table.key), ("value", table.value)) if table is not None else ():
        after = pipeline.versions(topic_table, part)
        if planned.outcome in ("unchanged", "no-key"):
            assert after == before[part]
        else:
            assert after[-1] == planned.versions[-1]
            assert len(after) > len(before[part])
    if migration.name == "new-partition":
        assert pipeline.versions(f"{migration.table}_2")

    if table is not None and any(change.action == "stop" for change in table.archive):
        _heal_archive(pipeline, table)
    records = pipeline.records(topic_table)
    _await_archived(pipeline, topic_table)
    _assert_archive(archive_before, pipeline.archive(topic_table), table)

    if migration.name == "numeric-scale":  # told as `lossy`: and so it is
        assert Decimal("1.24") in _archived_values(pipeline, topic_table, "n")
    old, new = before["value"][-1], pipeline.versions(topic_table)[-1]
    assert _readable(pipeline, records, old) is not bool(table is not None and table.value.old_readers)
    assert _readable(pipeline, records, new) is not bool(table is not None and table.value.new_readers)


def _archived_values(pipeline: Pipeline, table: str, column: str) -> list[Any]:
    loaded = open_catalog(pipeline.endpoints).load_table(pipeline.topic(table))
    rows = loaded.scan(selected_fields=("after",)).to_arrow()["after"].to_pylist()
    return [row[column] for row in rows if row is not None]


def test_a_new_enum_value_is_registered_by_the_running_connector(pipeline: Pipeline) -> None:
    """ALTER TYPE doesn't touch the table, but pgoutput describes it anew after that, and Debezium reads the type."""
    name = f"m{RUN}_enum"
    pipeline.sql(f"CREATE TYPE {name}_mood AS ENUM ('sad'); CREATE TABLE {name} (id int PRIMARY KEY, n {name}_mood)")
    pipeline.sql(f"INSERT INTO {name} VALUES (1, 'sad')")
    until(lambda: pipeline.versions(name), "registered")
    migration = M("enum", "ALTER TYPE {t}_mood ADD VALUE 'ok'")
    (table,) = _plan(pipeline, migration).tables
    pipeline.sql(migration.sql(migration.ddl))
    pipeline.sql(f"INSERT INTO {name} VALUES (2, 'ok')")
    until(lambda: len(pipeline.versions(name)) == 2, "the new version")
    assert pipeline.versions(name)[-1] == table.value.versions[-1]
    values = [pipeline.decode(value)["after"]["n"] for _, value in pipeline.records(name) if value]
    assert sorted(values) == ["ok", "sad"]


def _await_archived(pipeline: Pipeline, table: str) -> None:
    """Until the archive has the last record of every partition of the table's topic."""
    ends = pipeline.last_offsets(table)

    def there() -> bool:
        found = archived_offsets(pipeline.endpoints, pipeline.topic(table))
        return all(found.get(partition, -1) >= offset for partition, offset in ends.items())

    until(there, f"{table} archived up to {ends}", 120)
    assert pipeline.task_state(SINK)[0] == "RUNNING"


def _assert_archive(before: dict[str, str], after: dict[str, str], table: TablePlan | None) -> None:
    """The columns are those before and those that the plan adds, of the types that it says."""
    expected = dict(before)
    for change in table.archive if table is not None else ():
        match change.action:
            case "add":
                expected[change.column] = change.text.removeprefix("new column, ").split(";")[0]
            case "widen":
                required = "*" if expected[change.column].endswith("*") else ""
                expected[change.column] = change.text.split(" becomes ")[1] + required
            case "optional" | "stop":
                expected[change.column] = expected[change.column].removesuffix("*")
    assert after == expected
