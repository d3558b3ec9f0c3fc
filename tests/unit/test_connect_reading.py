"""A pipeline is read out of files, everything with its place; what can't be read is said in one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcpipe.connect.marked import Array, Mark, Object, Scalar, Tree, read_json, read_properties
from cdcpipe.connect.pipeline import CONFLUENT_S3, DEBEZIUM_POSTGRES, Part
from cdcpipe.connect.properties import write_properties
from cdcpipe.connect.reading import read_files, read_text
from cdcpipe.errors import ConfigError

FLAT = f'{{"name": "s", "connector.class": "{DEBEZIUM_POSTGRES}", "slot.name": "a"}}'
AT_KEY, AT_VALUE = FLAT.index('"slot.name"') + 1, FLAT.index('"a"') + 1
POSTED = """{
  "name": "orders",
  "config": {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.port": 5432,
\t"tombstones.on.delete": false,
    "slot.name": "orders"
  }
}
"""
STRIMZI = """apiVersion: kafka.strimzi.io/v1
kind: KafkaConnector
metadata:
  name: orders
spec:
  class: io.debezium.connector.postgresql.PostgresConnector
  tasksMax: 1
  config:
    database.port: 5432
    tombstones.on.delete: no
    slot.name: "orders"
---
apiVersion: v1
kind: Secret
metadata: {name: pg}
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata:
  name: shop-orders
spec:
  topicName: shop.public.orders
  partitions: 3
  replicas: 3
  config:
    min.insync.replicas: 2
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaConnect
metadata:
  name: connect
spec:
  bootstrapServers: kafka:9092
  config:
    exactly.once.source.support: enabled
---
apiVersion: kafka.strimzi.io/v1
kind: KafkaNodePool
metadata: {name: pool}
spec:
  replicas: 3
  roles: [broker, controller]
"""


def only(parts: tuple[Part, ...]) -> Part:
    assert len(parts) == 1
    return parts[0]


def test_what_is_posted_to_connect_is_read_with_its_places() -> None:
    part = only(read_text(POSTED, "a.json").connectors)
    assert part.name == "orders"
    assert part.config["database.port"] == "5432"
    assert part.config["tombstones.on.delete"] == "false"
    place = part.where("slot.name")
    assert (place.file, place.path, place.line, place.column) == ("a.json", '$.config["slot.name"]', 7, 5)
    assert part.where("tombstones.on.delete").column == 2  # behind a tab, which YAML would refuse
    absent = part.where("heartbeat.interval.ms")
    assert (absent.path, absent.line) == ("$.config", 3)


def test_a_flat_config_a_list_and_the_answer_of_connect_are_read() -> None:
    assert only(read_text(FLAT).connectors).config["slot.name"] == "a"
    other = FLAT.replace('"s"', '"t"')
    assert [part.name for part in read_text(f"[{FLAT}, {other}]").connectors] == ["s", "t"]
    expanded = f'{{"s": {{"info": {{"name": "s", "config": {FLAT}, "tasks": []}}}}}}'
    part = only(read_text(expanded).connectors)
    assert part.where("slot.name").path == '$["s"].info.config["slot.name"]'


def test_strimzis_resources_are_read_and_others_left_alone() -> None:
    pipeline = read_text(STRIMZI, "all.yaml")
    part = only(pipeline.connectors)
    assert (part.name, part.java_class, part.config["tasks.max"]) == ("orders", DEBEZIUM_POSTGRES, "1")
    assert part.config["tombstones.on.delete"] == "false"
    assert part.where("slot.name").line == 11
    topic = only(pipeline.topics)
    assert (topic.name, topic.config["partitions"], topic.config["replication.factor"]) == (
        "shop.public.orders",
        "3",
        "3",
    )
    assert pipeline.worker is not None
    assert pipeline.worker.config["bootstrap.servers"] == "kafka:9092"
    assert pipeline.brokers == 3


def test_properties_are_read_as_java_reads_them() -> None:
    text = "# worker\ngroup.id = connect\nbootstrap.servers: a:1,\\\n   b:2\n! c\nplugin\\ path=\\u00e9\n\nempty\n"
    worker = read_text(text, "worker.properties").worker
    assert worker is not None
    assert worker.config == {
        "group.id": "connect",
        "bootstrap.servers": "a:1,b:2",
        "plugin path": "é",
        "empty": "",
    }
    assert worker.where("bootstrap.servers").line == 3


def test_several_files_are_one_pipeline(tmp_path: Path) -> None:
    for name, text in {
        "source.json": POSTED,
        "sink.json": f'{{"name": "sink", "connector.class": "{CONFLUENT_S3}", "topics": "t"}}',
        "worker.properties": "group.id=c\nbootstrap.servers=k:9092\n",
        "topic.json": '{"topic": "t", "partitions": 3, "config": {"retention.ms": -1}}',
        "registry.json": '{"compatibilityLevel": "FULL"}',
    }.items():
        (tmp_path / name).write_text(text)
    pipeline = read_files([str(path) for path in sorted(tmp_path.iterdir())], brokers=1)
    assert [part.name for part in pipeline.connectors] == ["sink", "orders"]
    assert pipeline.worker is not None
    assert only(pipeline.topics).config == {"retention.ms": "-1", "partitions": "3"}
    assert pipeline.registry is not None
    assert pipeline.registry.config["compatibility"] == "FULL"
    assert pipeline.brokers == 1


def test_a_class_may_be_given_without_its_package() -> None:
    for short in ("PostgresConnector", "Postgres"):
        assert only(read_text(FLAT.replace(DEBEZIUM_POSTGRES, short)).connectors).java_class == DEBEZIUM_POSTGRES


BAD = {
    "empty": ("", "f.json:1:1: the file is empty"),
    "blank": (" \n\t\n", "f.json:1:1: the file is empty"),
    "no_json": ('{\n  "a" 1\n}', "f.json:2:7: not JSON: expecting ':' delimiter"),
    "cut_off": ('{"a": ', "f.json:1:7: not JSON: expecting value"),
    "not_a_number": ('{"a": NaN}', "f.json:1:7: not JSON: expecting a value"),
    "text_alone": ('"a"', "f.json:1:1: neither a connector, worker, topic nor registry, but a single value"),
    "no_class": (
        '{"name": "a", "config": {"slot.name": "b"}}',
        "f.json:1:25: connector `a` has no `connector.class`",
    ),
    "no_idea": (
        '{"connectr.class": "x"}',
        "f.json:1:1: neither a connector (no `connector.class`), worker, topic nor registry; "
        "is `connectr.class` meant to be `connector.class`?",
    ),
    "unknown_class": (
        '{"connector.class": "io.debezium.connector.postgres.PostgresConnector"}',
        "f.json:1:2: unknown connector class `io.debezium.connector.postgres.PostgresConnector`; "
        f"did you mean `{DEBEZIUM_POSTGRES}`?",
    ),
    "an_object": (
        FLAT.replace('"a"', '{"b": 1}'),
        f"f.json:1:{AT_VALUE}: `slot.name` must be a text, number or true/false, but is an object",
    ),
    "a_list": (
        FLAT.replace('"a"', '["b"]'),
        f"f.json:1:{AT_VALUE}: `slot.name` must be a text, number or true/false, but is a list",
    ),
    "null": (
        FLAT.replace('"a"', "null"),
        f"f.json:1:{AT_VALUE}: `slot.name` must be a text, number or true/false, but is null",
    ),
    "wrong_type": (
        FLAT.replace("slot.name", "max.batch.size"),
        f"f.json:1:{AT_KEY}: `max.batch.size` must be a whole number, but is `a`",
    ),
    "no_truth": (
        FLAT.replace("slot.name", "read.only"),
        f"f.json:1:{AT_KEY}: `read.only` must be true or false, but is `a`",
    ),
    "key_twice": (
        f'{{"connector.class": "{DEBEZIUM_POSTGRES}",\n "slot.name": "a",\n "slot.name": "b"}}',
        "f.json:3:2: `slot.name` is given twice, first at 2:2",
    ),
    "name_twice": (f"[{FLAT},\n {FLAT}]", "f.json:2:2: connector `s` is given twice, first at f.json:1:2"),
    "two_names": (
        f'{{"name": "a", "config": {FLAT}}}',
        "f.json:1:26: the connector is named `a` outside and `s` inside",
    ),
    "topic_without_name": ('{"topic": "", "partitions": 3}', "f.json:1:1: the topic has no name"),
    "topic_number": (
        '{"topic": "t", "partitions": "many"}',
        "f.json:1:30: `partitions` must be a number, but is `many`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_clear_line_with_its_place(case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(ConfigError) as refused:
        read_text(text, "f.json")
    lines = [refused.value.message, *(refused.value.detail or "").splitlines()]
    assert expected in lines


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("f.yaml", "a: [1", "f.yaml:2:1: not YAML: "),
        ("f.yaml", "a: b: c", "f.yaml:1:5: not YAML: mapping values are not allowed in this context"),
        ("f.yaml", "---\n---\n", "f.yaml:1:1: the file is empty"),
        ("f.yaml", "apiVersion: kafka.strimzi.io/v1\nkind: KafkaConnector\n", "f.yaml:1:1: the KafkaConnector has no"),
        ("f.properties", "a=\\u12", "f.properties:1:1: not properties: a \\u isn't followed by four"),
    ],
)
def test_so_it_is_with_yaml_and_properties(file: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_text(text, file)
    assert any(
        line.startswith(expected) for line in (refused.value.message, *(refused.value.detail or "").splitlines())
    )


def test_every_problem_of_every_file_is_said_at_once(tmp_path: Path) -> None:
    paths = []
    for name, text in {"a.json": "", "b.json": "{", "c.json": FLAT.replace("Postgres", "Post")}.items():
        (tmp_path / name).write_text(text)
        paths.append(str(tmp_path / name))
    (tmp_path / "d.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="4 problems") as refused:
        read_files([*paths, str(tmp_path / "d.json")])
    detail = refused.value.detail or ""
    for place in ("a.json:1:1: ", "b.json:1:2: ", "c.json:1:15: ", "d.json:1:1: not UTF-8"):
        assert place in detail


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: can't be read: No such file"):
        read_files(["nowhere.json"])


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        read_text(FLAT.replace('"a"', '["hunter2"]').replace("slot.name", "database.password"))
    assert "hunter2" not in f"{refused.value} {refused.value.detail}"


def _plain(tree: Tree) -> object:
    if isinstance(tree, Object):
        return {key: _plain(value) for key, _, value in tree.items}
    if isinstance(tree, Array):
        return [_plain(item) for item in tree.items]
    return tree.text if tree.kind == "string" else json.loads(tree.text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=_JSON, indent=st.sampled_from([None, 0, 2, "\t"]), ascii_only=st.booleans())
def test_json_with_places_is_the_json_that_python_reads(value: object, indent: object, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)  # type: ignore[arg-type]
    assert _plain(read_json(text)) == value


@given(keys=st.dictionaries(st.text(min_size=1), st.integers(), min_size=1, max_size=6))
def test_a_place_is_where_the_key_stands(keys: dict[str, int]) -> None:
    text = json.dumps(keys, indent=1)
    tree = read_json(text)
    assert isinstance(tree, Object)
    lines = text.split("\n")
    for key, mark, _ in tree.items:
        assert lines[mark.line - 1][mark.column - 1 :].startswith(json.dumps(key))


@given(st.dictionaries(st.text(min_size=1).filter(str.strip), st.text(), max_size=6))
def test_properties_that_were_written_are_read_back(config: dict[str, str]) -> None:
    tree = read_properties(write_properties(config))
    found = {key: value.text for key, _, value in tree.items if isinstance(value, Scalar)}
    expected = {
        key.encode("utf-16", "surrogatepass").decode("utf-16", "replace"): text.encode(
            "utf-16", "surrogatepass"
        ).decode("utf-16", "replace")
        for key, text in config.items()
    }
    assert found == expected


def test_marks_count_from_one() -> None:
    assert read_json("\n\n  1").mark == Mark(3, 3)
