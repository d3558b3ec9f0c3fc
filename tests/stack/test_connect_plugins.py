"""Builders, guards and catalogues against the plugins that are installed, and the servers that run."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import typing
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from cdcpipe.connect import (
    ApicurioAvroConverter,
    ByteArrayConverter,
    DebeziumTransform,
    ExtractNewRecordState,
    Filter,
    HasHeaderKey,
    InsertField,
    JsonConverter,
    PostgresSource,
    RecordIsTombstone,
    RegexRouter,
    ReplaceField,
    StringConverter,
    TopicNameMatches,
)
from cdcpipe.connect.asking import Servers, gather
from cdcpipe.connect.cataloguing import generate
from cdcpipe.connect.guards import check
from cdcpipe.connect.marked import Scalar, read_properties
from cdcpipe.connect.model import Config, Key, codecs
from cdcpipe.connect.pipeline import Part, Pipeline, connector_part
from cdcpipe.connect.plugins import FOLDER, plugin
from cdcpipe.connect.properties import write_properties
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

COMMAND = (sys.executable, "-c", "from cdcpipe.cli import main; main()", "config")
INSTALLED: tuple[type[Config], ...] = (
    ApicurioAvroConverter,
    ByteArrayConverter,
    DebeziumTransform,
    ExtractNewRecordState,
    Filter,
    HasHeaderKey,
    InsertField,
    JsonConverter,
    RecordIsTombstone,
    RegexRouter,
    ReplaceField,
    StringConverter,
    TopicNameMatches,
)


@pytest.fixture(scope="module")
def connect(stack: LocalStack) -> Iterator[ConnectClient]:
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def servers(stack: LocalStack) -> Servers:
    endpoints = stack.endpoints
    return Servers(
        postgres=endpoints.postgres.conninfo("witness"),
        kafka=endpoints.bootstrap_servers,
        connect=endpoints.connect_url,
        registry=endpoints.registry_url,
    )


@pytest.fixture(scope="module")
def worker_properties(stack: LocalStack) -> dict[str, str]:
    text = (stack.folder / "connect" / "worker.properties").read_text()
    return {key: value.text for key, _, value in read_properties(text).items if isinstance(value, Scalar)}


@pytest.fixture(scope="module")
def pipeline(connect: ConnectClient, worker_properties: dict[str, str]) -> Pipeline:
    """What is deployed: the stack's own configs."""
    return Pipeline(
        connectors=tuple(connector_part(connect.config(name), file=f"{name}.json") for name in (SOURCE, SINK)),
        worker=Part("worker", "connect", worker_properties),
    )


def test_the_shipped_pipeline_breaks_no_guard_and_every_server_answers(pipeline: Pipeline, servers: Servers) -> None:
    facts = gather(pipeline, servers)
    assert facts.answered == {"postgres", "kafka", "connect", "registry"}
    assert facts.transaction_version == 2
    report = check(pipeline, facts=facts)
    # What other tests create in the captured schema is theirs: the guards of replica identity look at every table.
    own = {"PG-RID-01", "PG-RID-02"}
    assert [found.message for found in report.findings if found.rule not in own] == []
    assert report.unanswered == ()


def test_the_shipped_configs_pass_the_plugins_own_validation(pipeline: Pipeline, connect: ConnectClient) -> None:
    for part in pipeline.connectors:
        assert connect.validate(part.config).errors == {}


def test_a_worker_without_exactly_once_would_be_refused_by_the_plugin(connect: ConnectClient) -> None:
    said = connect.validate({**connect.config(SOURCE), "exactly.once.support": "sometimes"})
    assert "exactly.once.support" in said.errors


def _choices() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for field, codec in codecs(PostgresSource).items():
        if isinstance(codec, Key):
            found.extend((codec.name, word) for word in _words(PostgresSource.model_fields[field].annotation))
    return found


def _words(annotation: object) -> Iterator[str]:
    for argument in typing.get_args(annotation):
        if typing.get_origin(annotation) is typing.Literal:
            yield argument
        else:
            yield from _words(argument)


# Words that need a key, a class or a server that isn't there.
_NEED_MORE = {("snapshot.mode", "custom"), ("snapshot.locking.mode", "custom"), ("snapshot.query.mode", "custom")}
_NEED_MORE |= {("plugin.name", "decoderbufs"), ("database.sslmode", "verify-ca"), ("database.sslmode", "verify-full")}
_NEED_MORE |= {("database.sslmode", "require"), ("transaction.boundary", "connector")}


def test_every_choice_of_the_source_is_taken_by_the_plugin(connect: ConnectClient) -> None:
    base = connect.config(SOURCE)
    words: dict[str, list[str]] = {}
    for key, word in _choices():
        if (key, word) not in _NEED_MORE:
            words.setdefault(key, []).append(word)
    assert sum(map(len, words.values())) > 60
    refused = {}
    # One word of every key at a time: Connect gives errors by key, and each validation asks the database.
    for index in range(max(map(len, words.values()))):
        asked = {key: some[min(index, len(some) - 1)] for key, some in words.items()}
        errors = connect.validate({**base, **asked}).errors
        refused.update({f"{key}={word}": errors[key] for key, word in asked.items() if key in errors})
    assert refused == {}


def test_a_word_that_is_none_is_refused_by_the_plugin(connect: ConnectClient) -> None:
    for key in ("snapshot.mode", "decimal.handling.mode", "lsn.flush.mode", "publication.autocreate.mode"):
        assert connect.validate({**connect.config(SOURCE), key: "sideways"}).errors.get(key), key


@pytest.mark.parametrize("model", INSTALLED, ids=lambda model: model.__name__)
def test_every_key_of_a_builder_is_in_its_plugins_own_definition(model: type[Config], connect: ConnectClient) -> None:
    java_class = getattr(model, "class_name", "")
    own = {
        key.name for key in connect.plugin_keys(java_class + ("$Value" if getattr(model, "targeted", False) else ""))
    }
    supplement = json.loads((FOLDER / "supplement.json").read_text()).get(java_class, {}).get("keys", {})
    of_connect = {"predicate", "negate"}
    assert [key for key in model.known_keys() if key not in own | set(supplement) | of_connect] == []


def test_the_catalogue_is_what_the_plugins_say_today(connect: ConnectClient, tmp_path: Path) -> None:
    converter = {"io.apicurio.registry.utils.converter": "2.6.13.Final"}
    written = generate(connect, tmp_path, versions=converter)
    assert len(written) >= 4
    for path in written:
        if (FOLDER / path.name).exists():
            assert json.loads(path.read_text()) == json.loads((FOLDER / path.name).read_text()), path.name
    names = {path.name for path in written}
    generated = {path.name for path in FOLDER.glob("*@*.json") if json.loads(path.read_text())["origin"] == "generated"}
    assert generated <= names


def test_the_command_writes_the_same_catalogue(stack: LocalStack, tmp_path: Path) -> None:
    url = stack.endpoints.connect_url
    done = subprocess.run(
        [*COMMAND, "catalogue", "--connect", url, "--out", str(tmp_path), "--only", "org.apache.iceberg.connect"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    (path,) = done.stdout.splitlines()
    assert json.loads(Path(path).read_text()) == json.loads((FOLDER / Path(path).name).read_text())


def _constants(folder: Path, words: set[str]) -> set[str]:
    """Those of `words` that stand in a class of a jar below `folder` as a string constant."""
    found: set[str] = set()
    needles = {word: b"\x01" + struct.pack(">H", len(word.encode())) + word.encode() for word in words}
    for jar in folder.rglob("*.jar"):
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.endswith(".class"):
                    content = archive.read(name)
                    found |= {word for word, needle in needles.items() if word not in found and needle in content}
    return found


@pytest.mark.parametrize(
    ("java_class", "bundle"),
    [
        ("io.debezium.connector.postgresql.PostgresConnector", "debezium"),
        ("io.apicurio.registry.utils.converter.AvroConverter", "avro-converter"),
        ("org.apache.iceberg.connect.IcebergSinkConnector", "iceberg"),
    ],
)
def test_what_the_catalogue_adds_by_hand_stands_in_the_plugins_classes(
    java_class: str, bundle: str, worker_properties: dict[str, str]
) -> None:
    entry = json.loads((FOLDER / "supplement.json").read_text())[java_class]
    words = {
        *entry.get("keys", {}),
        *(value for one in entry.get("keys", {}).values() for value in one.get("values", ())),
    }
    words |= {prefix for prefix in entry.get("prefixes", ()) if prefix.startswith("iceberg.")}
    assert words
    assert words - _constants(Path(worker_properties["plugin.path"]) / bundle, words) == set()


@pytest.mark.parametrize(
    "key",
    [
        *("s3.endpoint", "s3.path-style-access", "s3.access-key-id", "s3.secret-access-key", "s3.sse.type"),
        *("s3.sse.key", "client.region", "client.assume-role.arn", "jdbc.schema-version", "io-impl", "catalog-impl"),
        "warehouse",
    ],
)
def test_a_catalogue_property_of_the_iceberg_builder_stands_in_icebergs_classes(
    key: str, worker_properties: dict[str, str]
) -> None:
    assert _constants(Path(worker_properties["plugin.path"]) / "iceberg", {key}) == {key}


def test_versions_are_read_from_the_worker_that_runs(pipeline: Pipeline, servers: Servers) -> None:
    facts = gather(pipeline, servers)
    known = plugin(pipeline.connectors[0].java_class)
    assert known is not None
    assert facts.plugins[pipeline.connectors[0].java_class] == known.version


def test_a_table_outside_the_publication_and_one_without_a_key_are_found(
    stack: LocalStack, pipeline: Pipeline, servers: Servers
) -> None:
    """A schema of its own, which the connector is said to capture, and which the publication doesn't hold."""
    source = pipeline.connectors[0]
    captured = f"{source.config['table.include.list']},lint\\..*"
    wider = replace(source, config={**source.config, "table.include.list": captured})
    with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA lint")
        try:
            connection.execute("CREATE TABLE lint.keyless (note text)")
            connection.execute("CREATE TABLE lint.wide (id int PRIMARY KEY, note text)")
            facts = gather(pipeline, servers)
        finally:
            connection.execute("DROP SCHEMA lint CASCADE")
    report = check(replace(pipeline, connectors=(wider, pipeline.connectors[1])), facts=facts)
    notes = {found.rule: found.message for found in report.findings}
    assert "`lint.keyless`, `lint.wide`" in notes["PG-PUB-02"]
    assert "`lint.keyless`" in notes["PG-RID-01"]
    assert "`lint.wide`" in notes["PG-RID-02"]


def test_lint_asks_the_servers_and_passes(
    stack: LocalStack, connect: ConnectClient, worker_properties: dict[str, str], tmp_path: Path
) -> None:
    for name in (SOURCE, SINK):
        (tmp_path / f"{name}.json").write_text(json.dumps(connect.config(name)))
    (tmp_path / "worker.properties").write_text(write_properties(worker_properties))
    endpoints = stack.endpoints
    asked = ["--kafka", endpoints.bootstrap_servers, "--connect", endpoints.connect_url]
    asked += ["--registry", endpoints.registry_url]
    done = subprocess.run(
        [*COMMAND, "lint", "--live", "--json", *map(str, sorted(tmp_path.iterdir())), *asked],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = json.loads(done.stdout)
    assert said["findings"] == []
    assert (done.returncode, said["verdict"]) == (0, "pass")
    assert {one["reason"] for one in said["unanswered"]} == {"postgres: was not asked"}
