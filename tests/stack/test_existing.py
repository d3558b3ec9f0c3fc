"""A pipeline that is there already: what keeps it from being judged is said, and what a test made there is removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import StackError
from cdcpipe.settings import EndpointSettings, load_settings
from cdcpipe.stack.belongings import traces
from cdcpipe.stack.describe import settings_toml
from cdcpipe.stack.endpoints import SOURCE
from cdcpipe.stack.existing import ExistingStack
from cdcpipe.stack.local.stack import LocalStack

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack: LocalStack, tmp_path: Path) -> EndpointSettings:
    (tmp_path / "cdcpipe.toml").write_text(settings_toml(stack.endpoints, stack.settings.slot), encoding="utf-8")
    found = load_settings(file=tmp_path / "cdcpipe.toml").endpoints
    assert found is not None
    return found


def test_what_settings_describe_are_the_endpoints_of_the_stack(stack: LocalStack, settings: EndpointSettings) -> None:
    existing = ExistingStack(settings)
    ours, theirs = existing.endpoints, stack.endpoints
    assert replace(ours, postgres=theirs.postgres) == replace(theirs, postgres=theirs.postgres)
    for role in ("owner", "witness"):
        assert ours.postgres.conninfo(role) == theirs.postgres.conninfo(role)
    assert existing.examine() == []
    assert existing.settings.brokers == 1
    assert existing.plugin_versions()["io.debezium.connector.postgresql.PostgresConnector"]


@pytest.mark.parametrize(
    ("change", "server", "said"),
    [
        ({"bootstrap_servers": "127.0.0.1:9"}, "Kafka", ""),
        ({"topic_prefix": "other"}, "Kafka", "no topic begins with `other.`"),
        ({"source": "nobody"}, "Kafka Connect", "there is no connector `nobody`"),
        ({"connect_url": "http://127.0.0.1:9"}, "Kafka Connect", ""),
        ({"publication": "other"}, "PostgreSQL", "no publication `other`"),
        ({"slot": "other"}, "PostgreSQL", "no replication slot `other`"),
        ({"catalog": None}, "the Iceberg catalog", "none is given"),
    ],
)
def test_each_thing_that_is_wrong_is_said_of_its_server(
    settings: EndpointSettings, change: dict[str, object], server: str, said: str
) -> None:
    findings = ExistingStack(settings.model_copy(update=change)).examine()
    assert findings
    assert all(finding.startswith(f"{server}: ") for finding in findings), findings
    assert said in findings[0]


def test_a_registry_of_another_kind_is_told_from_one_of_confluents(
    stack: LocalStack, settings: EndpointSettings
) -> None:
    root = stack.settings.registry_root
    for other in (root, f"{root}/apis/registry/v3", stack.endpoints.connect_url):
        findings = ExistingStack(settings.model_copy(update={"registry_url": other})).examine()
        assert len(findings) == 1
        assert "does not answer as Confluent's API does" in findings[0]
        assert "/apis/ccompat/v7" in findings[0]


@pytest.fixture
def weak_role(stack: LocalStack) -> Iterator[str]:
    postgres = stack.components["postgres"]
    with psycopg.connect(postgres.conninfo(), dbname="shop", autocommit=True) as connection:  # type: ignore[attr-defined]
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        connection.execute("GRANT CONNECT ON DATABASE shop TO weak")
        yield "weak"
        connection.execute("REVOKE ALL ON DATABASE shop FROM weak")
        connection.execute("DROP ROLE weak")


def test_rights_that_are_missing_are_named_before_anything_is_tried(settings: EndpointSettings, weak_role: str) -> None:
    role = {"name": weak_role, "password": weak_role}
    given = settings.model_dump()
    given["postgres"] |= {"owner": role, "witness": role}
    existing = ExistingStack(EndpointSettings.model_validate(given))
    findings = existing.examine()
    assert any("may not replicate" in finding for finding in findings)
    assert any("may not make tables" in finding for finding in findings)
    with pytest.raises(StackError, match="the pipeline can't be judged") as caught:
        existing.up()
    assert all(finding in (caught.value.detail or "") for finding in findings)


def test_what_a_test_made_in_somebody_elses_pipeline_is_gone_afterwards(
    stack: LocalStack, pytester: pytest.Pytester
) -> None:
    (pytester.path / "cdcpipe.toml").write_text(settings_toml(stack.endpoints, stack.settings.slot), encoding="utf-8")
    pytester.makepyfile("""
        def test_it(pipeline, workload, verify, probe):
            table = pipeline.table("things", "id int PRIMARY KEY, note text")
            pipeline.execute(f"INSERT INTO {table} SELECT i, 'x' FROM generate_series(1, 50) i")
            with workload(rate=100, seconds=3, connections=1) as load:
                load.wait()
            report = verify.events()
            assert report.verdict == "pass", report.sentence()
            assert report.facts["changes"] > 150
            assert 0 < probe() < 60
            open("token", "w").write(pipeline.token)
            from cdcpipe.stack.belongings import traces
            assert set(traces(pipeline.endpoints, pipeline.token)) >= {"tables", "topics", "subjects", "objects"}
    """)
    before = traces(stack.endpoints, "")
    done = pytester.runpytest_subprocess("--target", "existing", "-p", "no:cacheprovider")
    assert done.ret == 0, done.stdout.str()[-3000:]
    token = (pytester.path / "token").read_text(encoding="utf-8")
    assert traces(stack.endpoints, token) == {}
    after = traces(stack.endpoints, "")
    for what in ("tables", "types", "slots", "topics", "archive tables"):
        assert after.get(what) == before.get(what), what


@pytest.mark.slow
def test_a_pipeline_without_traffic_is_inconclusive_with_the_reason_on_top(
    stack: LocalStack, pytester: pytest.Pytester
) -> None:
    (pytester.path / "cdcpipe.toml").write_text(settings_toml(stack.endpoints, stack.settings.slot), encoding="utf-8")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.criterion("R1.1")
        def test_it(pipeline, evidence):
            evidence.figure("events", 1)
    """)
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        config = client.config(SOURCE)
        client.deploy({**config, "table.include.list": r"public\..*"})  # all but the watermark
        client.wait_until_running(SOURCE)
        try:
            done = pytester.runpytest_subprocess("--target", "existing", "-p", "no:cacheprovider")
        finally:
            client.deploy(config)
            client.wait_until_running(SOURCE)
    assert done.ret == 1
    out = done.stdout.str()
    assert "no traffic comes through this pipeline" in out
    assert out.index("could not look at the pipeline") < out.index("R1.1  PostgreSQL")
    assert [out.count(f"{word:>7}  R") for word in ("?", "n/a", "not run")] == [1, 4, 30]
    done.stdout.fnmatch_lines(["inconclusive: The pipeline could not be judged: *no traffic comes through*"])
