"""R5, schemas: a registry with Confluent's API, compatible both ways, checked at registration."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.evolving import Evolution
    from cdcpipe.conformance.pipeline import Pipeline

ROWS = 25


@pytest.mark.criterion("R5.1")
def test_records_are_read_alike_by_confluents_client_and_by_ours(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.schema_registry.error import SchemaRegistryError
    from confluent_kafka.serialization import MessageField, SerializationContext

    from cdcpipe.conformance.records import await_records
    from cdcpipe.errors import ConnectUnavailable

    table, topic = tables["read"], pipeline.topic_of(tables["read"])
    pipeline.execute(
        f"INSERT INTO {table} SELECT i, 'wörd ' || i, i * 1.25, now(), ARRAY[i % 2 = 0, NULL] "
        f"FROM generate_series(1, {ROWS}) i"
    )
    try:
        found = await_records(pipeline, table, ROWS, timeout_seconds=45)
    except ConnectUnavailable as error:
        pytest.fail(error.message)
    client = SchemaRegistryClient({"url": pipeline.endpoints.registry_url})
    try:
        deserializer = AvroDeserializer(client)
        context = SerializationContext(topic, MessageField.VALUE)
        by_confluent = [deserializer(record.raw, context) for record in found]
        version = client.get_latest_version(f"{topic}-value")
        key_version = client.get_latest_version(f"{topic}-key")
        compatible = client.test_compatibility(f"{topic}-value", version.schema)
    except SchemaRegistryError as error:
        if error.http_status_code != 404:
            raise
        evidence.figure("records read by both", 0)
        pytest.fail(f"what the records need is not in the registry: {error.error_message}")
    finally:
        client.close()
    evidence.figure("records read by both", len(found))
    evidence.figure("different values", sum(a != b.value for a, b in zip(by_confluent, found, strict=True)))
    evidence.figure("magic byte", found[0].raw[0] if found[0].raw else "none")
    evidence.figure("schema id", version.schema_id or "none")
    evidence.figure("subjects", f"{topic}-key, {topic}-value")
    assert all(record.raw is not None and record.raw[:1] == b"\0" for record in found), "not Confluent's wire format"
    assert by_confluent == [record.value for record in found]
    assert {record.schema_id for record in found} == {version.schema_id}
    assert compatible, "the registry finds a schema incompatible with itself"
    assert json.loads(key_version.schema.schema_str or "{}")["type"] == "record"


@pytest.mark.criterion("R5.2")
def test_each_version_reads_what_the_other_wrote(pipeline: Pipeline, evolution: Evolution, evidence: Evidence) -> None:
    import fastavro

    from cdcpipe.schemas.compatibility import Mode
    from cdcpipe.schemas.registry import decode_frame

    topic = pipeline.topic_of(evolution.table)
    with pipeline.registry() as registry:
        modes = {subject: registry.mode(subject) for subject in (f"{topic}-key", f"{topic}-value")}
        writers = {
            record.schema_id: registry.schema(record.schema_id) for record in evolution.records if record.schema_id
        }
    versions = [fastavro.parse_schema(json.loads(text)) for text in evolution.versions]
    parsed = {id_: fastavro.parse_schema(json.loads(text)) for id_, text in writers.items()}
    read, refused = 0, []
    for record in evolution.records:
        assert record.raw is not None
        schema_id, payload = decode_frame(record.raw)
        for number, reader in enumerate(versions, start=1):
            try:
                fastavro.schemaless_reader(io.BytesIO(payload), parsed[schema_id], reader)
                read += 1
            except Exception as error:  # noqa: BLE001 - whatever keeps a reader from reading
                refused.append(f"a record of id {schema_id} by version {number}: {error}")
    evidence.figure("versions", len(versions))
    evidence.figure("records", len(evolution.records))
    evidence.figure("readings, each record by each version", read)
    evidence.figure("refused", len(refused))
    evidence.figure("mode in force", ", ".join(sorted({mode.value for mode in modes.values()})))
    if evolution.problem or len(versions) < 2:
        evidence.inconclusive(f"there are {len(versions)} versions to compare: {evolution.problem or 'no new schema'}")
    assert refused == [], refused[0]
    wanted = {Mode.FULL, Mode.FULL_TRANSITIVE}
    weak = [f"{subject} is {mode.value}" for subject, mode in modes.items() if mode not in wanted]
    assert weak == [], f"the next version may break readers or writers: {weak[0]}"


@pytest.mark.criterion("R5.3")
def test_an_incompatible_schema_is_refused_at_registration(
    pipeline: Pipeline, tables: dict[str, str], evidence: Evidence
) -> None:
    from cdcpipe.errors import RegistryError

    subject = f"{pipeline.topic_of(tables['read'])}-probe-{pipeline.token}"
    good = {
        "type": "record",
        "name": "Probe",
        "fields": [{"name": "id", "type": "int"}, {"name": "word", "type": "string"}],
    }
    bad: dict[str, Any] = {
        "a changed type": {**good, "fields": [{"name": "id", "type": "string"}, good["fields"][1]]},
        "a type that was narrowed": {**good, "fields": [good["fields"][0], {"name": "word", "type": "int"}]},
        "a field for another, without a default": {
            **good,
            "fields": [good["fields"][0], {"name": "more", "type": "int"}],
        },
    }
    refused: dict[str, int] = {}
    with pipeline.registry() as registry:
        try:
            registry.register(subject, good)
            for name, schema in bad.items():
                try:
                    registry.register(subject, schema)
                except RegistryError as error:
                    refused[name] = error.status or 0
            added = len(registry.versions(subject)) - 1
        finally:
            registry.delete(subject)
            registry.delete(subject, permanent=True)
    evidence.figure("incompatible schemas tried", len(bad))
    evidence.figure("refused", len(refused))
    evidence.figure("answers", ", ".join(f"{name}: {status}" for name, status in refused.items()) or "none")
    evidence.figure("versions added", added)
    assert "a changed type" in refused, "a schema that no reader could read was registered"
    assert added == 0, f"accepted: {', '.join(name for name in bad if name not in refused)}"


@pytest.mark.criterion("R5.5")
def test_consumers_of_the_first_schema_go_on_unchanged(evolution: Evolution, evidence: Evidence) -> None:
    counts = {name: len(values) for name, values in evolution.read.items()}
    evidence.figure("records written", evolution.written)
    for name, count in counts.items():
        evidence.figure(f"read with the first schema by {name}", count)
    evidence.figure("schema changes meanwhile", len(evolution.ddl))
    evidence.figure("errors", len(evolution.errors))
    if evolution.problem and not evolution.errors:
        evidence.inconclusive(evolution.problem)
    assert evolution.errors == (), evolution.errors[0]
    assert set(counts.values()) == {evolution.written}, "the old consumer did not get every record"
    by_confluent, by_ours = (evolution.read[name] for name in ("confluent", "fastavro"))
    assert by_confluent == by_ours, "the two readers disagree"
    assert all("added" not in (value["after"] or {}) for value in by_ours), "it was not read with the first schema"
