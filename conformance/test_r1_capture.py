"""R1, capture: PostgreSQL's changes reach Kafka by logical replication, whole, and can be followed."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.evolving import Evolution
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.conformance.verifying import Verifier

KNOWN_PUBLISHERS = (
    "io.debezium.",
    "org.apache.kafka.",
    "org.apache.iceberg.",
    "io.confluent.",
    "io.aiven.",
    "io.apicurio.",
)
"""Packages of the projects whose plugins this pipeline is made of. A class from elsewhere is somebody's own code."""


@pytest.mark.criterion("R1.1")
def test_every_event_comes_from_a_transaction_of_this_postgresql(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import await_records
    from cdcpipe.errors import ConnectUnavailable

    table = tables["traced"]
    try:
        # Some time apart: whoever else writes to the topic has it, too.
        pipeline.execute(f"INSERT INTO {table} SELECT i, 'origin' FROM generate_series(1001, 1005) i")
        await_records(pipeline, table, 5, timeout_seconds=45)
        for _ in range(3):
            pipeline.probe()
        pipeline.execute(f"INSERT INTO {table} SELECT i, 'origin' FROM generate_series(1006, 1010) i")
        found = [record.value for record in await_records(pipeline, table, 10, timeout_seconds=45)]
    except ConnectUnavailable as error:
        pytest.fail(error.message)
    with pipeline.sql("witness") as connection:
        version, system, database = connection.execute(
            "SELECT version(), system_identifier::text, current_database() FROM pg_control_system()"
        ).fetchone() or ("", "", "")
        states = [_transaction_state(connection, value) for value in found]
    with pipeline.connect() as client:
        config = client.config(pipeline.source)
        sources = [name for name in client.connectors() if client.status(name).type == "source"]
        prefix = pipeline.endpoints.topic_prefix
        writers = [name for name in sources if client.config(name).get("topic.prefix") == prefix]
    evidence.figure("server", str(version).split(" on ")[0])
    evidence.figure("system identifier", str(system))
    evidence.figure("events", len(found))
    evidence.figure("transactions that PostgreSQL has committed", sum(state == "committed" for state in states))
    assert config["connector.class"] == "io.debezium.connector.postgresql.PostgresConnector"
    assert (config["database.dbname"], config["topic.prefix"]) == (database, pipeline.endpoints.topic_prefix)
    assert writers == [pipeline.source], f"more than one source connector writes to topics of `{prefix}`: {writers}"
    origins = {(value["source"]["connector"], value["source"]["db"]) for value in found if value}
    assert origins == {("postgresql", database)}, f"events say that they come from {origins}"
    assert set(states) == {"committed"}, "events name transactions that PostgreSQL did not commit"


def _transaction_state(connection: Any, value: dict[str, Any] | None) -> str:
    assert value is not None
    # Debezium tells 32 bits; the epoch is that of now, since these transactions are seconds old.
    row = connection.execute(
        "SELECT pg_xact_status(((pg_current_xact_id()::text::bigint >> 32 << 32) + %s)::text::xid8)",
        [value["source"]["txId"] & 0xFFFFFFFF],
    ).fetchone()
    return str(row[0])


@pytest.mark.criterion("R1.2")
def test_every_kind_of_row_change_reaches_kafka_with_before_and_after(
    pipeline: Pipeline, tables: dict[str, str], verify: Verifier, evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import await_records
    from cdcpipe.errors import ConnectUnavailable

    table = tables["dml"]
    expected = _each_kind_of_statement(pipeline, table)
    try:
        found = await_records(pipeline, table, len(expected), timeout_seconds=45)
    except ConnectUnavailable as error:
        pytest.fail(error.message)
    seen = {
        (value["op"], _name(value["before"]), _name(value["after"]))
        for value in (record.value for record in found)
        if value
    }
    report = verify.events()
    evidence.figure("statements", 9)
    evidence.figure("changes", len(found))
    for op, word in (("c", "creates"), ("u", "updates"), ("d", "deletes")):
        evidence.figure(word, sum((record.value or {}).get("op") == op for record in found))
    evidence.figure("changes compared with the WAL", report.facts.get("changes", 0))
    evidence.artefact("verification.json", report.to_json())
    missing = expected - seen
    assert not missing, f"{len(missing)} kinds of change did not arrive as they were made, such as {sorted(missing)[0]}"
    for check in ("lost-change@source", "value-drift", "phantom-change"):
        assert report[check].found == 0, f"{check}: {report[check].found} found"
    amounts = {value["after"]["amount"] for value in (record.value for record in found) if value and value["after"]}
    assert Decimal("12.50") in amounts, "a numeric came out as another value"


def _name(image: dict[str, Any] | None) -> str:
    return "" if image is None else str(image["name"])


def _each_kind_of_statement(pipeline: Pipeline, table: str) -> set[tuple[str, str, str]]:
    """Run every kind of DML: `(op, name before, name after)` of each change that must come of it."""
    pipeline.execute(
        f"""
        INSERT INTO {table} (id, name, amount, at, tags) VALUES (1, 'one', 12.50, now(), ARRAY['a', NULL]);
        INSERT INTO {table} (id, name) SELECT i, 'many' FROM generate_series(2, 6) i;
        UPDATE {table} SET name = 'one again' WHERE id = 1;
        UPDATE {table} SET name = 'some' WHERE id BETWEEN 2 AND 3;
        INSERT INTO {table} (id, name) VALUES (4, 'x'), (7, 'upserted') ON CONFLICT (id) DO UPDATE SET name = 'merged';
        MERGE INTO {table} t USING (VALUES (5), (8)) AS s (id) ON t.id = s.id
          WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, 'by merge');
        UPDATE {table} SET id = 100, name = 'moved' WHERE id = 6;
        DELETE FROM {table} WHERE id = 1
        """
    )
    with pipeline.sql() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} (id, name) FROM STDIN") as copy:
            copy.write("20\tcopied\n21\tcopied too\n")
    return {
        ("c", "", "one"),
        ("c", "", "many"),
        ("u", "one", "one again"),
        ("u", "many", "some"),
        ("u", "many", "merged"),
        ("c", "", "upserted"),
        ("d", "many", ""),
        ("c", "", "by merge"),
        ("c", "", "moved"),
        ("d", "one again", ""),
        ("c", "", "copied"),
        ("c", "", "copied too"),
    }


@pytest.mark.criterion("R1.3")
def test_changes_are_read_by_logical_replication_without_code_of_our_own(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    slot = pipeline.stack.settings.slot
    with pipeline.sql("witness") as connection:
        level = connection.execute("SHOW wal_level").fetchone()
        row = connection.execute(
            "SELECT plugin::text, slot_type, active, database::text FROM pg_replication_slots WHERE slot_name = %s",
            [slot],
        ).fetchone()
        found = connection.execute(
            "SELECT c.oid::regclass::text, t.tgname::text, f.prosrc FROM pg_trigger t JOIN pg_class c "
            "ON c.oid = t.tgrelid JOIN pg_proc f ON f.oid = t.tgfoid "
            "JOIN pg_publication_tables p ON p.schemaname = c.relnamespace::regnamespace::text "
            "AND p.tablename = c.relname WHERE NOT t.tgisinternal AND p.pubname = %s",
            [pipeline.endpoints.publication],
        ).fetchall()
    # One that gives each row back as it came captures nothing and changes nothing: `cdcpipe.stack.rowwise` says what
    # it is for.
    triggers = [(table, name) for table, name, source in found if source.split() != ["BEGIN", "RETURN", "NEW;", "END"]]
    with pipeline.connect() as client:
        configs = {name: client.config(name) for name in (pipeline.source, pipeline.sink)}
    classes = {value for config in configs.values() for key, value in config.items() if _names_a_class(key)}
    foreign = sorted(name for name in classes if not name.startswith(KNOWN_PUBLISHERS))
    evidence.figure("slot", slot)
    evidence.figure("plugin", "" if row is None else str(row[0]))
    evidence.figure("classes", len(classes))
    evidence.figure("classes of unknown origin", len(foreign))
    evidence.figure("triggers that do something", len(triggers))
    evidence.figure("triggers that let rows be written one by one", len(found) - len(triggers))
    assert level == ("logical",)
    assert row is not None, f"there is no replication slot `{slot}`"
    assert row[0] in ("pgoutput", "decoderbufs"), f"the slot's plugin is {row[0]}"
    assert (row[1], row[2]) == ("logical", True), "nobody reads the slot"
    assert foreign == [], f"{foreign[0]} is none of the known projects' classes"
    assert triggers == [], f"trigger {triggers[0][1]} on {triggers[0][0]} could capture or change rows"


def _names_a_class(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last in ("class", "converter", "type") and (key.startswith(("transforms.", "predicates.")) or last != "type")


@pytest.mark.criterion("R1.4")
def test_a_change_is_followed_from_transaction_to_object_and_back(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import await_archived, records
    from cdcpipe.observe.trace import trace_key, trace_object, trace_transaction

    table, endpoints = tables["traced"], pipeline.endpoints
    before = len(records(pipeline, table))
    with pipeline.sql() as connection, connection.transaction():
        connection.execute(f"INSERT INTO {table} SELECT i, 'followed' FROM generate_series(1, 3) i")
        connection.execute(f"UPDATE {table} SET note = 'again' WHERE id = 2")
        xid = int((connection.execute("SELECT pg_current_xact_id()::text").fetchone() or ["0"])[0])
    await_archived(pipeline, table, before + 4)
    by_key = trace_key(endpoints, table, "2").changes
    by_transaction = [change for change in trace_transaction(endpoints, xid).changes if change.table == table]
    evidence.figure("transaction", xid)
    evidence.figure("changes of its row 2, followed forward", len(by_key))
    evidence.figure("changes of the transaction", len(by_transaction))
    assert [change.op for change in by_key] == ["c", "u"], "the changes of a row were not all found"
    assert {change.xid for change in by_key} == {xid}
    assert len(by_transaction) == 4
    assert sorted(change.seq or 0 for change in by_transaction) == [1, 2, 3, 4]
    back = 0
    for change in by_transaction:
        assert change.object is not None, f"the object of change {change.seq} was not found"
        held = trace_object(endpoints, change.object).object
        assert held is not None, f"{change.object} could not be followed back"
        assert (held.first_xid or 0) <= xid <= (held.last_xid or 0)
        ranges = {(each.topic, each.partition): range(each.first, each.last + 1) for each in held.ranges}
        assert change.offset in ranges[change.topic or "", change.partition or 0], "the object does not hold its record"
        back += 1
    evidence.figure("followed back from their objects", back)
    first = by_key[0]
    for name, at in (
        ("committed", first.committed_at),
        ("produced", first.produced_at),
        ("archived", first.archived_at),
    ):
        evidence.figure(name, "not told" if at is None else at.strftime("%H:%M:%S.%f")[:12])
    assert first.committed_at is not None
    assert first.archived_at is not None
    assert first.committed_at <= first.archived_at


@pytest.mark.criterion("R1.4")
def test_lineage_events_tell_the_way_from_table_to_topic_to_archive(
    pipeline: Pipeline, tables: dict[str, str], tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.records import archived_rows, await_archived, records
    from cdcpipe.observe.lineage import Emitter, FileTarget, read_facts

    table = tables["traced"]
    pipeline.execute(f"INSERT INTO {table} VALUES (4, 'told of')")
    await_archived(pipeline, table, len(records(pipeline, table)))
    file = tmp_path / "lineage.jsonl"
    # `Emitter` sends what OpenLineage's own classes take, and nothing else.
    Emitter(FileTarget(file), tmp_path / "told.json").emit(
        read_facts(pipeline.endpoints, source=pipeline.source, sink=pipeline.sink)
    )
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    runs = [event for event in events if "run" in event]
    topic = pipeline.topic_of(table)
    read, written = (_edges(runs, "START", job) for job in (pipeline.source, pipeline.sink))
    archives = {
        name for inputs, outputs in written for name in outputs if topic in inputs and table.replace(".", "/") in name
    }
    commits = [
        output["outputFacets"]["outputStatistics"]["rowCount"]
        for event in runs
        for output in event["outputs"]
        if event["eventType"] == "RUNNING" and output["name"] in archives
    ]
    held = len(archived_rows(pipeline, table))
    evidence.figure("OpenLineage events", len(events))
    evidence.figure("data sets", sum("dataset" in event for event in events))
    evidence.figure("commits of the archive told", len(commits))
    evidence.figure("rows of its table, by lineage", sum(commits))
    evidence.artefact("lineage.jsonl", file.read_text(encoding="utf-8"))
    name = f"{pipeline.endpoints.postgres.database}.{table}"
    assert any(name in inputs and topic in outputs for inputs, outputs in read), f"nothing leads from {name} to {topic}"
    assert archives, f"nothing leads from {topic} to an archive"
    assert sum(commits) == held, f"lineage tells of {sum(commits)} rows, the archive holds {held}"


def _edges(runs: list[dict[str, Any]], kind: str, job: str) -> list[tuple[set[str], set[str]]]:
    """Of each event of `kind` of `job`: the names of what it reads and of what it writes."""
    return [
        ({each["name"] for each in event["inputs"]}, {each["name"] for each in event["outputs"]})
        for event in runs
        if (event["eventType"], event["job"]["name"]) == (kind, job)
    ]


@pytest.mark.criterion("R1.5")
def test_columns_are_added_under_load_without_a_stop_or_a_loss(evolution: Evolution, evidence: Evidence) -> None:
    columns = set(evolution.rows[-1]["after"] or evolution.rows[-1]["before"]) if evolution.rows else set()
    evidence.figure("schema changes", len(evolution.ddl))
    evidence.figure("changes written", evolution.written)
    evidence.figure("changes in Kafka", len(evolution.records))
    evidence.figure("rows archived", len(evolution.rows))
    evidence.figure("tasks that failed", evolution.restarts)
    evidence.figure("seconds", round(evolution.seconds, 1))
    assert not evolution.problem, f"the schema change did not go through: {evolution.problem}"
    assert evolution.restarts == 0, "a task did not go on running"
    assert len(evolution.records) == len(evolution.rows) == evolution.written
    assert {"added", "counted"} <= columns, f"the archive has no column of the new ones, only {sorted(columns)}"
    places = {(row["kafka_partition"], row["kafka_offset"]) for row in evolution.rows}
    assert places == {(record.partition, record.offset) for record in evolution.records}
    later = [record.value for record in evolution.records if record.value and record.value["after"]]
    assert {row["after"]["counted"] for row in later if row["after"].get("added") == "now"} == {8}
