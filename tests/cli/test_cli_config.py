"""`cdcpipe config`, whole commands: what they print, where, and the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from tests.unit import connect_pipelines

from cdcpipe.connect.typed import build, models

BROKEN = """{
  "name": "orders-source",
  "config": {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.hostname": "db",
    "database.user": "debezium",
    "database.password": "hunter2",
    "database.dbname": "shop",
    "topic.prefix": "shop",
    "plugin.name": "pgoutput",
    "slot.naem": "orders",
    "exactly.once.support": "required",
    "provide.transaction.metadata": "true"
  }
}
"""
SINK = """{
  "name": "lake",
  "connector.class": "io.confluent.connect.s3.S3SinkConnector",
  "topics": "shop.public.orders",
  "s3.bucket.name": "lake",
  "storage.class": "io.confluent.connect.s3.storage.S3Storage",
  "format.class": "io.confluent.connect.s3.format.parquet.ParquetFormat",
  "partitioner.class": "io.confluent.connect.storage.partitioner.TimeBasedPartitioner",
  "path.format": "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH",
  "timezone": "UTC",
  "timestamp.extractor": "Record",
  "flush.size": "1000",
  "rotate.schedule.interval.ms": "600000",
  "schema.compatibility": "FULL",
  "errors.tolerance": "all"
}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and nothing of the developer's in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("CDCPIPE_POSTGRES", "CDCPIPE_KAFKA", "CDCPIPE_CONNECT", "CDCPIPE_REGISTRY", "CDCPIPE_STACK"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cdcpipe.cli import main; main()", "config", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shown(done: subprocess.CompletedProcess[str]) -> str:
    """What a person sees of a command, and its exit code."""
    return f"exit {done.returncode}\n--- stdout\n{done.stdout}--- stderr\n{done.stderr}"


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def good() -> list[str]:
    """Files of a whole pipeline that no guard has anything to say about."""
    whole = connect_pipelines.pipeline("iceberg")
    names = [write(f"{part.name}.json", json.dumps(dict(part.config))) for part in whole.connectors]
    assert whole.worker is not None
    names.append(write("worker.properties", connect_pipelines.worker().to_properties()))
    topics = [
        {
            "topic": topic.name,
            "partitions": int(topic.config["partitions"]),
            "replication.factor": 3,
            "config": {k: v for k, v in topic.config.items() if k not in {"partitions", "replication.factor"}},
        }
        for topic in whole.topics
    ]
    return [
        *names,
        write("topics.json", json.dumps(topics)),
        write("registry.json", '{"compatibility": "FULL_TRANSITIVE"}'),
    ]


def test_lint_shows_every_finding_with_place_rule_and_cure(snapshot: SnapshotAssertion) -> None:
    done = run("lint", write("source.json", BROKEN), write("sink.json", SINK))
    assert shown(done) == snapshot
    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_lint_of_a_whole_good_pipeline_finds_nothing(snapshot: SnapshotAssertion) -> None:
    done = run("lint", *good())
    assert shown(done) == snapshot
    assert done.returncode == 0


def test_lint_holds_a_profile_to_its_own_guards() -> None:
    sink = write("sink.json", SINK)
    strict = json.loads(run("lint", sink, "--json").stdout)
    loose = json.loads(run("lint", sink, "--json", "--profile", "at_least_once").stdout)
    rules = {name: {found["rule"] for found in said["findings"]} for name, said in (("s", strict), ("l", loose))}
    assert "S3C-ROT-01" in rules["s"] - rules["l"]
    assert "SNK-ERR-01" in rules["s"] & rules["l"]


def test_lint_gives_json_that_is_one_object(snapshot: SnapshotAssertion) -> None:
    done = run("lint", write("sink.json", SINK), "--json")
    said = json.loads(done.stdout)
    assert said["verdict"] == "fail"
    first = next(found for found in said["findings"] if found["rule"] == "S3C-ROT-01")
    assert (first["file"], first["line"], first["column"], first["value"]) == ("sink.json", 13, 3, "600000")
    assert first == snapshot


def test_lint_gives_sarif_that_points_at_the_line(snapshot: SnapshotAssertion) -> None:
    done = run("lint", write("sink.json", SINK), "--sarif")
    (one,) = json.loads(done.stdout)["runs"]
    rules = {rule["id"] for rule in one["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in one["results"]} == rules
    assert next(result for result in one["results"] if result["ruleId"] == "S3C-ROT-01") == snapshot


def test_lint_reads_stdin() -> None:
    done = run("lint", "-", stdin=BROKEN)
    assert done.returncode == 1
    assert "<stdin>:7:5" in done.stdout


def test_warnings_alone_pass_unless_strict() -> None:
    whole = good()
    config = json.loads(Path("source.json").read_text())
    del config["heartbeat.action.query"]
    write("source.json", json.dumps(config))
    assert run("lint", *whole).returncode == 0
    assert run("lint", *whole, "--strict").returncode == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.json", ""),
        ("no.json", '{\n  "a" 1\n}'),
        ("types.json", BROKEN.replace('"hunter2"', "{}")),
        ("number.json", SINK.replace('"600000"', '"ten minutes"')),
        ("class.json", SINK.replace("S3SinkConnector", "S3Sink")),
        ("twice.json", f"[{SINK},\n{SINK}]"),
        ("no.yaml", "a: [1"),
    ],
    ids=lambda value: value if value.endswith((".json", ".yaml")) else "",
)
def test_bad_input_is_one_line_with_its_place_and_exit_2(name: str, text: str, snapshot: SnapshotAssertion) -> None:
    done = run("lint", write(name, text))
    assert shown(done) == snapshot
    assert done.returncode == 2
    assert done.stdout == ""


def test_several_bad_files_are_all_said(snapshot: SnapshotAssertion) -> None:
    done = run("lint", write("a.json", ""), write("b.json", "{"), "gone.json")
    assert done.returncode == 2
    done = run("lint", write("a.json", ""), write("b.json", "{"))
    assert shown(done) == snapshot


def test_live_without_an_answer_is_inconclusive_and_not_a_pass() -> None:
    done = run("lint", *good(), "--live", "--connect", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert "doesn't answer" in done.stderr
    assert "DBZ-VER-01" in done.stderr
    said = json.loads(run("lint", *good(), "--live", "--connect", "http://127.0.0.1:9", "--json").stdout)
    assert said["verdict"] == "inconclusive"


def test_live_without_a_stack_says_what_to_do() -> None:
    done = run("lint", write("sink.json", SINK), "--live")
    assert done.returncode == 2
    assert "cdcpipe up" in done.stderr


def test_lint_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from cdcpipe.cli import cli\n"
        "try: cli.main(['config', 'lint', *sys.argv[1:]], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, write("source.json", BROKEN), write("sink.json", SINK)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "SRC-HB-01" in done.stdout
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "cdcpipe" in loaded
    heavy = {
        "pyarrow",
        "duckdb",
        "confluent_kafka",
        "rich",
        "pydantic",
        "httpx2",
        "psycopg",
        "polars",
        "numpy",
        "boto3",
    }
    assert loaded & {*heavy, "yaml", "ibis", "fastavro", "pandas"} == set()


def test_render_writes_what_connect_takes_out_of_models(snapshot: SnapshotAssertion) -> None:
    text = """
- model: PostgresSource
  name: source
  database_hostname: db
  database_user: replication
  database_password: ${file:/etc/connect/pg.properties:password}
  database_dbname: shop
  topic_prefix: shop
  slot_name: shop
  publication_name: shop
  value_converter:
    model: ApicurioAvroConverter
    registry_url: http://registry:8080/apis/registry/v2
- model: ConfluentS3Sink
  name: sink
  topics: [shop.public.orders]
  bucket: lake
  flush_records: 1000
  partition_by: {model: Daily}
  transforms:
    - {model: InsertField, name: meta, offset_field: kafka_offset}
"""
    done = run("render", write("pipeline.yaml", text))
    assert shown(done) == snapshot
    assert shown(run("render", "pipeline.yaml", "--format", "strimzi")) == snapshot(name="strimzi")
    done = run("render", "pipeline.yaml", "--format", "properties")
    assert (done.returncode, done.stdout) == (2, "")


def test_render_brings_a_config_into_another_form(snapshot: SnapshotAssertion) -> None:
    assert shown(run("render", write("sink.json", SINK), "--format", "strimzi", "--cluster", "c")) == snapshot


def test_what_was_rendered_for_strimzi_is_read_again() -> None:
    write("sink.json", SINK)
    write("sink.yaml", run("render", "sink.json", "--format", "strimzi").stdout)
    done = run("diff", "sink.json", "sink.yaml")
    # The transform of formats adds what the model writes out, and changes nothing.
    assert [line for line in done.stdout.splitlines() if line.startswith("  - ") and "(not set" not in line] == []


def test_render_takes_a_builder_out_of_a_module() -> None:
    write("mine.py", "from cdcpipe.connect import TopicConfig\ndef topic(): return TopicConfig(name='t')\nother = 1\n")
    program = "import sys; sys.path.insert(0, '.'); from cdcpipe.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "config", "render", "mine:topic", "--format", "properties"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "cleanup.policy=delete\nunclean.leader.election.enable=false\n"
    assert run("render", "mine:gone").returncode == 2


def test_render_says_where_a_model_is_wrong(snapshot: SnapshotAssertion) -> None:
    text = "model: PostgresSource\nname: s\nslot_naem: a\nvalue_converter: {model: AvroConvertor}\n"
    done = run("render", write("bad.yaml", text))
    assert done.returncode == 2
    assert shown(done) == snapshot


def test_explain_says_all_that_is_known_of_a_key(snapshot: SnapshotAssertion) -> None:
    assert shown(run("explain", "offset.mismatch.strategy")) == snapshot
    assert "schemas.enable" in run("explain", "value.converter.schemas.enable").stdout
    assert json.loads(run("explain", "rotate.schedule.interval.ms", "--json").stdout)["guards"][0]["id"] == "S3C-ROT-01"


def test_explain_of_an_unknown_key_offers_the_nearest(snapshot: SnapshotAssertion) -> None:
    done = run("explain", "offset.mismatch.strateg")
    assert done.returncode == 2
    assert shown(done) == snapshot
    assert run("explain").returncode == 2
    assert "S3SinkConnector" in run("explain", "--classes").stdout


def test_diff_shows_what_differs_and_what_moves_data(snapshot: SnapshotAssertion) -> None:
    new = SINK.replace('"1000"', '"5000"').replace('"lake",\n  "connector', '"lake-2",\n  "connector')
    new = new.replace(
        '"topics": "shop.public.orders",', '"topics": "shop.public.orders", "aws.secret.access.key": "hunter2",'
    )
    done = run("diff", write("a.json", SINK), write("b.json", new))
    assert shown(done) == snapshot
    assert done.returncode == 1
    assert "hunter2" not in done.stdout
    same = run("diff", "a.json", "a.json")
    assert (same.returncode, same.stdout) == (0, "")
    assert len(json.loads(run("diff", "a.json", "b.json", "--json").stdout)["differences"]) == 3


def test_schema_describes_every_model_and_what_render_reads_fits_it() -> None:
    schema = json.loads(run("schema").stdout)
    assert set(models()) <= set(schema["$defs"])
    source = schema["$defs"]["PostgresSource"]
    assert source["properties"]["slot_name"]["x-key"] == "slot.name"
    assert "Replication slot" in source["properties"]["slot_name"]["description"]
    assert source["additionalProperties"] is False
    assert "model" in source["required"]
    one = json.loads(run("schema", "TopicConfig").stdout)
    assert one["anyOf"] == [{"$ref": "#/$defs/TopicConfig"}]
    assert run("schema", "TopicConfi").returncode == 2
    names = {
        entry["const"]
        for entry in (
            d["properties"]["model"]
            for d in schema["$defs"].values()
            if "properties" in d and "model" in d["properties"]
        )
    }
    assert set(models()) | {"Hourly", "Daily"} <= names
    assert build({"model": "TopicConfig", "name": "t"}).name == "t"


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    text = run("schema").stdout
    schema = json.loads(text)

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            mine = {str(node["$ref"])} if "$ref" in node else set()
            return mine.union(*(references(value) for value in node.values()))
        return set().union(*(references(item) for item in node)) if isinstance(node, list) else set()

    assert {one for one in references(schema) if one.rpartition("/")[2] not in schema["$defs"]} == set()
