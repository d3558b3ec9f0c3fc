"""The audit trail of real servers: what was done to them is in it, once, with who did it, and no credential."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdcpipe.errors import CdcpipeError, ServiceError
from cdcpipe.observe.audit import Collector, Entry, Fact, PostgresAnchors, Trail, verify
from cdcpipe.observe.audit.anchors import Witness
from cdcpipe.observe.audit.collect import Places
from cdcpipe.observe.audit.connect import facts_of_config_topic
from cdcpipe.observe.audit.s3 import AccessListener
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import SOURCE, S3Endpoint, Secret
from cdcpipe.stack.local.s3 import SeaweedS3, s3_client
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.local.state import claim_ports

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def collector(stack: LocalStack, tmp_path: Path) -> Iterator[Collector]:
    made = Collector(Trail(tmp_path / "trail"), Places.of_local(stack))
    made.collect()  # what was before
    yield made
    made.close()


def seen(entries: list[Entry]) -> set[tuple[str, str, str, str]]:
    return {(entry.source, entry.action, entry.object, entry.outcome) for entry in entries}


def refused(conninfo: str, statement: str = "SELECT 1") -> None:
    with pytest.raises(psycopg.Error):
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(statement.encode())


def change_things(stack: LocalStack) -> None:
    endpoints = stack.endpoints
    with psycopg.connect(endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE audited (id int PRIMARY KEY)")
        connection.execute("ALTER TABLE audited ADD note text")
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE TABLE undone (id int)")
        connection.execute("DROP TABLE audited")
    refused(f"{endpoints.postgres.conninfo('owner')} password=wrong-one")
    refused(endpoints.postgres.conninfo("witness"), "SELECT * FROM pg_authid")
    refused(endpoints.postgres.conninfo("witness"), "DELETE FROM cdcpipe_audit.anchor")
    with httpx2.Client(base_url=endpoints.connect_url, trust_env=False, timeout=60) as client:
        client.delete("/connectors/nobody")
        client.put(f"/connectors/{SOURCE}/resume")
        client.get("/connectors")
    with httpx2.Client(base_url=endpoints.registry_url, trust_env=False, timeout=60) as client:
        schema = json.dumps({"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]})
        assert client.post("/subjects/audit-probe/versions", json={"schema": schema}).status_code == 200
        assert client.post("/subjects/audit-probe/versions", json={"schema": "{no schema"}).status_code == 422
        assert client.delete("/subjects/audit-probe").status_code == 200


def test_what_is_done_to_the_servers_is_in_the_trail_once(
    stack: LocalStack, collector: Collector, tmp_path: Path
) -> None:
    change_things(stack)
    wanted = {
        ("postgres", "session.opened", "shop", "ok"),
        ("postgres", "session.refused", "shop", "refused"),
        ("postgres", "access.refused", "table pg_authid", "refused"),
        ("postgres", "access.refused", "table anchor", "refused"),
        ("postgres", "ddl.asked", "shop", "ok"),
        ("postgres", "ddl.applied", "public.audited", "ok"),
        ("connect", "connector.deleted", "nobody", "refused"),
        ("connect", "connector.resumed", SOURCE, "ok"),
        ("connect", "state.changed", SOURCE, "ok"),
        ("registry", "schema.registered", "audit-probe", "ok"),
        ("registry", "schema.registered", "audit-probe", "refused"),
        ("registry", "schema.deleted", "audit-probe", "ok"),
    }
    entries: list[Entry] = []

    def complete() -> bool:
        collected = collector.collect()
        assert collected.problems == {}
        entries.extend(collected.entries)
        return wanted <= seen(entries)

    wait_until(  # a server writes its log a little later
        complete, what=lambda: f"in the trail: {wanted - seen(entries)}", timeout_seconds=30, error=CdcpipeError
    )
    # Applied is what was committed; asked is what was tried. Each once.
    applied = [
        entry.detail["command"]
        for entry in entries
        if (entry.action, entry.object) == ("ddl.applied", "public.audited")
    ]
    assert applied == ["CREATE TABLE", "ALTER TABLE", "DROP TABLE"]
    assert not any(entry.object == "public.undone" for entry in entries)
    assert any("TABLE undone" in str(entry.detail.get("statement")) for entry in entries)
    assert {entry.actor for entry in entries if entry.action == "ddl.applied"} == {"shop"}
    assert sum(entry.times for entry in entries if entry.action == "session.refused") == 1
    assert not any("GET " in str(entry.detail.get("request")) for entry in entries), "reading changes nothing"

    # Another collector goes on where this one stopped, without its short cut too.
    Path(tmp_path / "trail" / "cursors.json").unlink()
    again = Collector(Trail(tmp_path / "trail"), Places.of_local(stack))
    late = again.collect().entries
    again.close()
    assert not seen(list(late)) & (wanted - {("postgres", "session.opened", "shop", "ok")})

    with Witness(stack.endpoints.postgres) as witness:
        first = next(Trail(tmp_path / "trail").entries())
        anchors = PostgresAnchors(witness, first.object).read()
    assert anchors
    found = verify(tmp_path / "trail", anchors)
    assert found.intact
    assert found.anchored == max(anchor.seq for anchor in anchors)
    (path,) = Trail(tmp_path / "trail").segments()
    path.write_text(path.read_text().replace('"pg_authid"', '"nothing"').replace("table pg_authid", "table nothing"))
    assert not verify(tmp_path / "trail", anchors).intact


def test_two_that_collect_in_turn_take_each_thing_once(stack: LocalStack, collector: Collector, tmp_path: Path) -> None:
    other = Collector(Trail(tmp_path / "trail"), Places.of_local(stack))
    with contextlib.closing(other):
        for number in range(4):
            with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
                connection.execute(f"CREATE TABLE in_turn_{number} (id int)".encode())
                connection.execute(f"DROP TABLE in_turn_{number}".encode())
            for each in (collector, other) if number % 2 else (other, collector):
                assert each.collect().problems == {}
    applied = [
        f"{entry.detail['command']} {entry.object}"
        for entry in Trail(tmp_path / "trail").entries()
        if entry.action == "ddl.applied" and "in_turn_" in entry.object
    ]
    assert applied == [f"{verb} TABLE public.in_turn_{number}" for number in range(4) for verb in ("CREATE", "DROP")]


def test_no_credential_is_in_a_log_a_trail_or_a_report(stack: LocalStack, collector: Collector, tmp_path: Path) -> None:
    """Every credential that was made for this stack, in all that it and we write. `credentials.json` aside."""
    from cdcpipe.verify import events_of

    events_of(stack.endpoints, seconds=2, folder=tmp_path / "run")
    collector.collect()
    content = json.loads((stack.folder / "credentials.json").read_text())
    secrets = [password for _, password in content["roles"].values()] + [
        content["s3_admin"][1],
        content["s3_pipeline"][1],
    ]
    assert len(secrets) == 8
    assert all(len(secret) >= 20 for secret in secrets)
    places = [*stack.components["postgres"].log_files()]
    for folder in (stack.folder / "log", tmp_path / "run", tmp_path / "trail"):
        places += [path for path in folder.rglob("*") if path.is_file()]
    assert {"connect.log", "registry.log", "connect-access.log"} <= {path.name for path in places}
    found = [(path.name, secret[:4]) for path in places for secret in secrets if secret.encode() in path.read_bytes()]
    assert found == []
    # What we look for would be found.
    assert content["roles"]["owner"][0].encode() in b"".join(path.read_bytes() for path in places)


def test_a_config_that_changes_is_told_by_what_changed_and_without_its_credentials(stack: LocalStack) -> None:
    """A topic like Connect's own, with what a careless person may put there."""
    servers = stack.endpoints.bootstrap_servers
    topic = f"audit-configs-{time.time_ns()}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": servers})

    def record(key: str, value: object) -> None:
        producer.produce(topic, key=key.encode(), value=None if value is None else json.dumps(value).encode())

    plain = {"tasks.max": "1", "database.password": "hunter2hunter2", "s3.secret-access-key": "${file:/x:y}"}
    record("session-key", {"key": "c2VjcmV0c2Vzc2lvbg==", "algorithm": "HmacSHA256"})
    record("connector-a", {"properties": plain})
    record("task-a-0", {"properties": plain})
    record("connector-a", {"properties": {**plain, "tasks.max": "2", "database.password": "swordfish"}})
    record("connector-a", {"properties": {**plain, "tasks.max": "2", "database.password": "swordfish"}})
    record("target-state-a", {"state": "PAUSED", "state.v2": "STOPPED"})
    record("connector-a", None)
    assert producer.flush(30) == 0
    facts, last = facts_of_config_topic(servers, topic, -1)
    assert last == 6
    assert [(fact.action, fact.object, dict(fact.detail)) for fact in facts] == [
        (
            "config.created",
            "a",
            {
                "changed": {
                    "database.password": [None, "***"],
                    "s3.secret-access-key": [None, "${file:/x:y}"],
                    "tasks.max": [None, "1"],
                }
            },
        ),
        ("config.changed", "a", {"changed": {"database.password": ["***", "***"], "tasks.max": ["1", "2"]}}),
        ("state.changed", "a", {"state": "STOPPED"}),
        ("config.deleted", "a", {}),
    ]
    assert [fact.action for fact in facts_of_config_topic(servers, topic, 4)[0]] == ["state.changed", "config.deleted"]
    assert facts_of_config_topic(servers, topic, last) == ([], last)


def test_a_source_that_is_away_is_a_problem_and_the_others_are_read(stack: LocalStack, tmp_path: Path) -> None:
    places = Places.of_local(stack)
    away = dataclasses.replace(places, endpoints=dataclasses.replace(stack.endpoints, bootstrap_servers="127.0.0.1:9"))
    collector = Collector(Trail(tmp_path / "trail"), away)
    collected = collector.collect()
    collector.close()
    assert set(collected.problems) == {"connect.config"}
    assert {entry.source for entry in collected.entries} >= {"postgres", "registry"}


# --- the S3 server alone ------------------------------------------------------------------------------


def endpoint(port: int, name: str) -> S3Endpoint:
    return S3Endpoint(f"http://127.0.0.1:{port}", "us-east-1", "lake", f"KEY{name}", Secret(f"secret-of-{name}-0123"))


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[SeaweedS3]:
    ports = list(claim_ports(tuple("abcdefgh"), {}, {}).values())
    server = SeaweedS3(
        tmp_path / "s3",
        tmp_path / "log",
        ports=ports,
        admin=endpoint(ports[3], "admin"),
        pipeline=endpoint(ports[3], "pipeline"),
    )
    server.audited = True
    server.start()
    try:
        server.await_ready()
        yield server
    finally:
        server.stop()


def test_who_reads_and_writes_objects_is_heard_even_what_came_before_we_listened(s3: SeaweedS3) -> None:
    client: Any = s3_client(s3.pipeline)
    client.put_object(Bucket="lake", Key="a/early", Body=b"x")
    heard: list[Fact] = []
    listener = AccessListener(s3.folder / "audit.sock", heard.extend)
    wrong: Any = s3_client(S3Endpoint(s3.pipeline.url, "us-east-1", "lake", "KEYpipeline", Secret("another-secret")))
    try:
        client.get_object(Bucket="lake", Key="a/early")["Body"].read()
        client.delete_object(Bucket="lake", Key="a/early")
        client.list_objects_v2(Bucket="lake", Prefix="a/")
        with pytest.raises(Exception, match="SignatureDoesNotMatch"):
            wrong.get_object(Bucket="lake", Key="a/early")
        # Around the S3 API: the filer, which is open on loopback, writes without a line in the access log.
        filer = f"http://127.0.0.1:{s3._ports[2]}/buckets/lake/a/around"
        urllib.request.urlopen(urllib.request.Request(filer, b"y", method="PUT"), timeout=10).close()

        def all_heard() -> bool:
            return any(fact.outcome == "refused" for fact in heard)

        wait_until(all_heard, what="the refused request in the access log", timeout_seconds=20, error=ServiceError)
    finally:
        client.close()
        wrong.close()
        listener.close()
    found = [(fact.actor, fact.action, fact.object, fact.outcome) for fact in heard]
    for expected in (
        ("pipeline", "object.written", "s3://lake/a/early", "ok"),
        ("pipeline", "object.read", "s3://lake/a/early", "ok"),
        ("pipeline", "object.deleted", "s3://lake/a/early", "ok"),
        ("nobody", "object.read", "s3://lake/a/early", "refused"),
    ):
        assert found.count(expected) == 1, expected
    assert ("pipeline", "bucket.listed", "s3://lake", "ok") in found
    assert not any("around" in fact.object for fact in heard), "if this is seen now, docs/audit.md must say so"
    assert all(abs((datetime.now(UTC) - fact.at).total_seconds()) < 300 for fact in heard)
    assert not (s3.folder / "audit.sock").exists()


def test_one_hears_the_access_log_and_the_next_when_it_ends(s3: SeaweedS3, tmp_path: Path, stack: LocalStack) -> None:
    trail = Trail(tmp_path / "trail")
    places = Places(stack.endpoints, {}, "", s3.folder / "audit.sock")
    first, second = Collector(trail, places), Collector(trail, places)
    client: Any = s3_client(s3.pipeline)

    def heard(key: str) -> bool:
        return any(entry.object == f"s3://lake/{key}" and entry.times == 1 for entry in trail.entries())

    with contextlib.closing(client), contextlib.closing(second):
        with contextlib.closing(first):
            assert first.hear()
            assert first.hear()
            assert not second.hear()
            client.put_object(Bucket="lake", Key="one", Body=b"x")
            wait_until(lambda: heard("one"), what="the first request", timeout_seconds=20, error=ServiceError)
        assert second.hear()
        client.put_object(Bucket="lake", Key="two", Body=b"x")
        wait_until(lambda: heard("two"), what="the second request", timeout_seconds=20, error=ServiceError)
        (s3.folder / "audit.sock").unlink()  # as a purge does
        assert second.hear()
        client.put_object(Bucket="lake", Key="three", Body=b"x")
        wait_until(lambda: heard("three"), what="the third request", timeout_seconds=20, error=ServiceError)
    actions = [entry.action for entry in trail.entries() if entry.action.startswith("access.")]
    assert actions == ["access.heard", "access.unheard"] * 3


def test_nobody_listening_keeps_no_request_waiting(s3: SeaweedS3) -> None:
    """Hundreds of requests, all answered: what can't be sent waits beside them."""
    client: Any = s3_client(s3.pipeline)
    for number in range(300):
        client.put_object(Bucket="lake", Key=f"a/{number}", Body=b"x")
    assert client.list_objects_v2(Bucket="lake", Prefix="a/")["KeyCount"] == 300
    client.close()
