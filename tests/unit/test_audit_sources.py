"""Lines as real servers wrote them, and what the trail makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from cdcpipe.observe.audit import Fact, connect, postgres, registry, s3
from cdcpipe.observe.audit.collect import coalesced
from cdcpipe.observe.logs import Line, parse

PG = "2026-11-24 22:22:42.566 UTC [28250] "


def lines(component: str, *texts: str) -> list[Line]:
    found = [parse(component, text) for text in texts]
    assert None not in found
    return [line for line in found if line is not None]


def told(facts: Iterable[Fact]) -> list[tuple[str, str, str, str]]:
    return [(fact.actor, fact.action, fact.object, fact.outcome) for fact in facts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "shop@shop LOG:  connection authorized: user=shop database=shop application_name=psql",
            ("shop", "session.opened", "shop", "ok"),
        ),
        (
            "cdcpipe_replication@shop LOG:  replication connection authorized: user=cdcpipe_replication "
            "application_name=Debezium Streaming",
            ("cdcpipe_replication", "replication.opened", "shop", "ok"),
        ),
        (
            'shop@shop FATAL:  password authentication failed for user "shop"\n'
            '\tConnection matched file "pg_hba.conf" line 2',
            ("shop", "session.refused", "shop", "refused"),
        ),
        ("w@shop ERROR:  permission denied for table orders", ("w", "access.refused", "table orders", "refused")),
        (
            'r@shop LOG:  received replication command: START_REPLICATION SLOT "cdcpipe_source" LOGICAL 0/15',
            ("r", "wal.read", "cdcpipe_source", "ok"),
        ),
        ("shop@shop LOG:  statement: DROP TABLE t", ("shop", "ddl.asked", "shop", "ok")),
        ("shop@shop LOG:  execute <unnamed>: CREATE TABLE t(a int)", ("shop", "ddl.asked", "shop", "ok")),
        (
            'a@shop LOG:  AUDIT: SESSION,1,1,READ,SELECT,TABLE,public.account,"select *\n\tfrom account",<not logged>',
            ("a", "pgaudit.read", "public.account", "ok"),
        ),
        (  # as pgaudit 1.7 on PostgreSQL 15 wrote it, `pgaudit.log_relation` being off
            'a@shop LOG:  AUDIT: SESSION,3,1,READ,SELECT,,,"SELECT *\n\t FROM account WHERE id=1",<not logged>',
            ("a", "pgaudit.read", "shop", "ok"),
        ),
    ],
)
def test_postgres_lines(text: str, expected: tuple[str, str, str, str]) -> None:
    assert told(postgres.facts_of_log(lines("postgres", PG + text))) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "@ LOG:  checkpoint starting: time",
        "shop@shop FATAL:  terminating connection due to administrator command",
        "shop@shop FATAL:  the database system is starting up",
        'shop@shop ERROR:  duplicate key value violates unique constraint "t_pkey"',
        "shop@shop STATEMENT:  SELECT 1",
        "a@shop LOG:  AUDIT: SESSION,1",
    ],
)
def test_postgres_lines_that_say_nothing_of_who_read_or_changed_what(text: str) -> None:
    assert told(postgres.facts_of_log(lines("postgres", PG + text))) == []


def test_a_session_has_the_address_that_it_came_from_and_no_statement_has_a_password() -> None:
    first, second = postgres.facts_of_log(
        lines(
            "postgres",
            f"{PG}[unknown]@[unknown] LOG:  connection received: host=10.0.0.7 port=40422",
            f"{PG}shop@shop LOG:  connection authorized: user=shop database=shop",
            f"{PG}shop@shop LOG:  statement: ALTER ROLE x PASSWORD 'it''s secret' VALID UNTIL 'infinity'",
        )
    )
    assert first.detail["host"] == "10.0.0.7"
    assert second.detail["statement"] == "ALTER ROLE x PASSWORD '***' VALID UNTIL 'infinity'"


def access(request: str, status: int) -> str:
    return (
        f'2026-11-24T23:35:03.596Z INFO  127.0.0.1 - - [24/Nov/2026:23:35:03 +0000] "{request} HTTP/1.1" {status} 0 "" '
        '"python-httpx2/2.16.2" 37'
    )


@pytest.mark.parametrize(
    ("request_", "status", "expected"),
    [
        ("PUT /connectors/a/config", 200, ("connector.configured", "a", "ok")),
        ("POST /connectors", 201, ("connector.created", "connectors", "ok")),
        ("DELETE /connectors/nobody", 404, ("connector.deleted", "nobody", "refused")),
        ("POST /connectors/a/restart?includeTasks=true", 202, ("connector.restarted", "a", "ok")),
        ("POST /connectors/a/tasks/0/restart", 204, ("connector.restarted", "a", "ok")),
        ("PUT /connectors/a/stop", 500, ("connector.stopped", "a", "failed")),
        ("DELETE /connectors/a/offsets", 200, ("offsets.reset", "a", "ok")),
        ("PUT /somewhere/new", 200, ("rest.put", "/somewhere/new", "ok")),
    ],
)
def test_requests_to_connect(request_: str, status: int, expected: tuple[str, str, str]) -> None:
    (fact,) = connect.facts_of_access_log(lines("connect", access(request_, status)))
    assert (fact.action, fact.object, fact.outcome) == expected
    assert fact.actor == "127.0.0.1"
    assert fact.detail["agent"] == "python-httpx2/2.16.2"


def test_what_workers_ask_of_each_other_and_what_only_validates_is_left_out() -> None:
    internal = [access("POST /connectors/a/tasks", 200), access("PUT /connectors/a/fence", 200)]
    validating = access("PUT /connector-plugins/X/config/validate", 200)
    assert told(connect.facts_of_access_log(lines("connect", *internal, validating))) == []


def test_the_registry_tells_success_and_refusal() -> None:
    record = (
        '{"timestamp":"2026-11-24T23:04:55.286881268Z","loggerName":"io.apicurio.registry.logging.audit.AuditLogService",'
        '"level":"INFO","message":"apicurio.audit action=\\"%s\\" result=\\"%s\\" src_ip=\\"10.0.0.7\\" '
        'artifact_id=\\"cdc.t-value\\" version=\\"null\\" "}'
    )
    other = (
        '{"timestamp":"2026-11-24T23:04:55Z","loggerName":"io.quarkus.http.access-log","level":"INFO","message":"x"}'
    )
    facts = registry.facts_of_log(
        lines(
            "registry",
            record % ("registerSchemaUnderSubject", "success"),
            record % ("registerSchemaUnderSubject", "failure"),
            record % ("somethingNew", "success"),
            other,
        )
    )
    assert told(facts) == [
        ("10.0.0.7", "schema.registered", "cdc.t-value", "ok"),
        ("10.0.0.7", "schema.registered", "cdc.t-value", "refused"),
        ("10.0.0.7", "registry.somethingNew", "cdc.t-value", "ok"),
    ]


def test_messages_of_a_stream_come_apart_wherever_it_is_cut() -> None:
    stream = '["s3.s3.access",1,{"key":"ä\\"]["},{}] ["s3.s3.access",2,{},{}]'
    for cut in range(len(stream)):
        first, rest = s3.messages(stream[:cut])
        second, left = s3.messages(rest + stream[cut:])
        assert [message[1] for message in first + second] == [1, 2]
        assert left.strip() == ""


def test_repetitions_are_taken_together_and_nothing_else() -> None:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    facts = [
        Fact(at + timedelta(seconds=n), "s3", "pipeline", "object.read", f"s3://lake/{n % 2}", "ok", {"status": 200})
        for n in range(6)
    ]
    facts.append(Fact(at, "s3", "pipeline", "object.read", "s3://lake/0", "refused", {"status": 403}))
    taken = coalesced(facts)
    assert [(fact.object, fact.outcome, fact.times) for fact in taken] == [
        ("s3://lake/0", "ok", 3),
        ("s3://lake/1", "ok", 3),
        ("s3://lake/0", "refused", 1),
    ]
    assert taken[0].until == at + timedelta(seconds=4)
