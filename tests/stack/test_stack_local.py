"""The local stack is what it says: only on loopback, with least privilege, silent about its secrets, resumable."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from botocore.exceptions import ClientError

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import StackBusy, UsageError
from cdcpipe.stack.component import ComponentState
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.s3 import s3_client
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.status import pipeline_status

pytestmark = pytest.mark.stack

_PROGRAMS = frozenset({"java", "postgres", "weed"})


def _cli(stack: LocalStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdcpipe", *arguments, "--stack", str(stack.folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _processes(stack: LocalStack) -> list[psutil.Process]:
    return [process for component in stack.components.values() for process in component._own_processes()]


def _secrets(stack: LocalStack) -> list[str]:
    content = json.loads((stack.folder / "credentials.json").read_text(encoding="utf-8"))
    return [password for _, password in content["roles"].values()] + [content["s3_admin"][1], content["s3_pipeline"][1]]


def test_every_socket_listens_on_loopback(stack: LocalStack) -> None:
    listening = [
        connection.laddr.ip
        for process in _processes(stack)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 10
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_no_secret_is_in_an_argument_list_a_log_or_the_status(stack: LocalStack) -> None:
    shown = [" ".join(process.cmdline()) for process in _processes(stack)]
    shown += [path.read_text(errors="replace") for path in (stack.folder / "log").rglob("*") if path.is_file()]
    shown += [(answer := _cli(stack, "status", "--json")).stdout, answer.stderr, repr(stack.endpoints)]
    with ConnectClient(stack.endpoints.connect_url) as client:
        shown += [json.dumps(client.config(name)) for name in client.connectors()]
    for secret in _secrets(stack):
        assert not [text[:80] for text in shown if secret in text]


def test_files_with_secrets_are_ours_alone(stack: LocalStack) -> None:
    secrets = _secrets(stack)
    holders = [
        path
        for path in stack.folder.rglob("*")
        if path.is_file() and path.stat().st_size < 100_000 and path.suffix in (".json", ".properties", ".conf")
        if any(secret in path.read_text(errors="replace") for secret in secrets)
    ]
    assert {path.name for path in holders} == {
        "credentials.json",
        "pipeline.properties",
        "application.properties",
        "s3.json",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}


@pytest.mark.parametrize("role", ["replication", "witness"])
def test_readers_can_not_write_what_is_captured(stack: LocalStack, role: str) -> None:
    with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as owner:
        owner.execute("CREATE TABLE IF NOT EXISTS public.guarded (id int PRIMARY KEY)")
    with psycopg.connect(stack.endpoints.postgres.conninfo(role), autocommit=True) as reader:
        reader.execute("SELECT * FROM public.guarded")
        for statement in (
            "INSERT INTO public.guarded VALUES (1)",
            "CREATE TABLE public.mine (id int)",
            "DELETE FROM cdcpipe.watermark",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


def test_a_role_of_the_source_can_not_enter_the_catalog(stack: LocalStack) -> None:
    for role in ("owner", "replication", "witness"):
        conninfo = stack.endpoints.postgres.conninfo(role).replace("dbname=shop", "dbname=catalog")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(conninfo)


def test_the_pipelines_s3_key_reaches_its_bucket_only(stack: LocalStack) -> None:
    with contextlib.closing(s3_client(stack.endpoints.s3)) as client:
        client.list_objects_v2(Bucket=stack.endpoints.s3.bucket, MaxKeys=1)  # type: ignore[attr-defined]
        with pytest.raises(ClientError, match="AccessDenied"):
            client.create_bucket(Bucket="other")  # type: ignore[attr-defined]


def test_up_again_changes_nothing(stack: LocalStack) -> None:
    before = {process.pid for process in _processes(stack) if process.name() != "postgres"}
    done = _cli(stack, "up")
    assert done.returncode == 0, done.stderr
    assert {process.pid for process in _processes(stack) if process.name() != "postgres"} == before


def test_a_second_up_while_one_works_is_told_so(stack: LocalStack) -> None:
    with stack._exclusive():
        other = LocalStack(stack.folder, cache=stack._store.folder)
        with pytest.raises(StackBusy, match="another cdcpipe"):
            other.up()
        done = _cli(stack, "up")
    assert done.returncode == 2
    assert done.stderr.startswith("error: another cdcpipe is bringing the stack in")


def test_another_number_of_brokers_or_version_is_refused_while_it_runs(stack: LocalStack) -> None:
    with pytest.raises(UsageError, match="this stack has 1 broker"):
        stack.up(brokers=3)
    with pytest.raises(UsageError, match="can't change while the stack runs"):
        stack.up(versions={"debezium": "3.6.0.Final"})


def test_status_tells_components_lag_and_memory(stack: LocalStack) -> None:
    done = _cli(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert [component["name"] for component in status["components"]] == list(stack.components)
    assert {component["state"] for component in status["components"]} == {"ready"}
    assert {connector["state"] for connector in status["connectors"]} == {"RUNNING"}
    assert status["lag"]["source_bytes"] >= 0
    assert 3e8 < status["memory_bytes"] < 4e9


def test_logs_and_psql_reach_the_components(stack: LocalStack) -> None:
    assert "Kafka Connect starting" in _cli(stack, "logs", "connect", "-n", "100000").stdout
    unknown = _cli(stack, "logs", "kafka-9")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (2, "error: no component is called `kafka-9`")
    asked = _cli(stack, "psql", "-Atc", "select current_user")
    assert (asked.returncode, asked.stdout) == (0, "shop\n")


def test_a_killed_component_shows_in_the_status_and_up_brings_it_back(stack: LocalStack) -> None:
    stack.components["registry"].kill()
    status = _cli(stack, "status", "--json")
    assert status.returncode == 2
    states = {component["name"]: component["state"] for component in json.loads(status.stdout)["components"]}
    assert states["registry"] == "stopped"
    assert _cli(stack, "up").returncode == 0
    assert stack.components["registry"].state() is ComponentState.READY


def test_schemas_outlive_the_registry(stack: LocalStack) -> None:
    import httpx2

    subjects = httpx2.get(f"{stack.endpoints.registry_url}/subjects", trust_env=False).json()
    assert "cdc.cdcpipe.watermark-value" in subjects
    stack.components["registry"].kill()
    stack.components["registry"].start()
    stack.components["registry"].await_ready()
    assert httpx2.get(f"{stack.endpoints.registry_url}/subjects", trust_env=False).json() == subjects


def test_a_process_that_works_elsewhere_is_not_taken_for_a_component(stack: LocalStack, tmp_path: Path) -> None:
    assert processes_below(tmp_path, _PROGRAMS) == []
    assert len(processes_below(stack.folder / "kafka-1", _PROGRAMS)) == 1


def test_it_stops_in_order_and_goes_on_with_its_data(stack: LocalStack) -> None:
    with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as owner:
        owner.execute("CREATE TABLE IF NOT EXISTS public.kept (id int PRIMARY KEY)")
        owner.execute("INSERT INTO public.kept VALUES (7) ON CONFLICT DO NOTHING")
    stack.down()
    assert stack.running() == []
    again = LocalStack(stack.folder, cache=stack._store.folder)
    again.up(await_archive=True)
    with psycopg.connect(again.endpoints.postgres.conninfo("owner")) as owner:
        assert owner.execute("SELECT id FROM public.kept").fetchone() == (7,)
    assert pipeline_status(again.endpoints, again.settings).healthy
    await_flow(again.endpoints, archive=False)
