"""R7, security: encrypted where it leaves the machine, bounded where it fails, noted when somebody touches it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evidence import Evidence
    from cdcpipe.conformance.faulting import Faults
    from cdcpipe.conformance.pipeline import Pipeline

PLAIN = ("http://s3.example.com", "http://10.1.2.3:9000", "http://minio.corp.example:9000/")
NEAR = ("http://127.0.0.1:8333", "http://localhost:8333")
ENDPOINT_KEYS = {
    "org.apache.iceberg.connect.IcebergSinkConnector": "iceberg.catalog.s3.endpoint",
    "io.confluent.connect.s3.S3SinkConnector": "store.url",
    "io.aiven.kafka.connect.s3.AivenKafkaConnectS3SinkConnector": "aws.s3.endpoint",
}


@pytest.mark.criterion("R7.1")
def test_every_credential_is_in_a_kubernetes_secret_and_nowhere_else(pipeline: Pipeline, evidence: Evidence) -> None:
    from cdcpipe.stack.kind import looking
    from cdcpipe.stack.kind.stack import KindStack

    stack = pipeline.stack
    assert isinstance(stack, KindStack)
    values = looking.credentials(stack)
    kept = stack.cluster.kubectl("--namespace", "cdcpipe", "get", "secrets", "-o", "json", what="asking for Secrets")
    found = {place: looking.leaks(values, text) for place, text in looking.places(stack)}
    evidence.figure("credentials", len(values))
    evidence.figure("found in Secrets", looking.leaks(values, kept))
    evidence.figure("other places searched", len(found))
    evidence.figure("found there", sum(found.values()))
    assert looking.leaks(values, kept) > 0, "the search finds nothing, not even where the credentials are"
    assert not any(found.values()), (
        f"a credential stands in {', '.join(place for place, count in found.items() if count)}"
    )


@pytest.mark.criterion("R7.2")
def test_a_sink_that_would_write_over_plain_http_is_refused(pipeline: Pipeline, evidence: Evidence) -> None:
    from cdcpipe.connect.guards import check
    from cdcpipe.connect.pipeline import Part
    from cdcpipe.connect.pipeline import Pipeline as Written

    with pipeline.connect() as client:
        config = client.config(pipeline.sink)
    key = ENDPOINT_KEYS[config["connector.class"]]

    def refused(address: str | None) -> bool:
        changed = {name: value for name, value in config.items() if name != key} | ({key: address} if address else {})
        report = check(Written(connectors=(Part("connector", pipeline.sink, changed),)))
        return any(found.rule == "SEC-05" and found.severity == "error" for found in report.findings)

    own = config.get(key)
    evidence.figure("plain addresses tried", len(PLAIN))
    evidence.figure("refused", sum(map(refused, PLAIN)))
    evidence.figure("loopback addresses refused", sum(map(refused, NEAR)))
    evidence.figure("this sink writes to", own or "AWS, over https")
    assert all(map(refused, PLAIN)), "an address of plain HTTP is let through"
    assert not any(map(refused, (*NEAR, None, "https://s3.example.com"))), "an address that is safe is refused"
    assert not refused(own), f"the sink that runs writes to {own}, in clear"


@pytest.mark.criterion("R7.2")
def test_the_sink_archives_over_tls(
    pipeline: Pipeline, tables: dict[str, str], faults: Faults, tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.encryption import archive_over_tls

    with pipeline.connect() as client:  # a client outside of a cluster may have another way to the same server
        config = client.config(pipeline.sink)
    own = config.get(ENDPOINT_KEYS[config["connector.class"]])
    if own is None or own.startswith("https://"):
        evidence.figure("this sink writes to", own or "AWS, over https")
        evidence.figure("seconds for a row to the archive, over TLS", round(pipeline.probe(archive=True), 1))
        return
    faults.demand("connect")
    if not hasattr(pipeline.stack.components["connect"], "env"):
        evidence.inconclusive(
            f"the archive is at {own}, and this target can't start its worker with another trust store"
        )
    result = archive_over_tls(pipeline, tables["encrypted"], tmp_path)
    evidence.figure("rows archived over TLS", result.rows)
    evidence.figure("TLS connections", result.connections)
    evidence.figure("protocol", ", ".join(sorted(result.protocols)))
    evidence.figure("bytes to S3, encrypted", result.bytes_up)
    evidence.figure("connections in clear that were answered", result.plain_answers)
    evidence.figure("a worker that doesn't trust the certificate", result.untrusted)
    assert result.rows == result.written, f"{result.written - result.rows} rows did not come over TLS"
    assert result.untrusted.startswith("refused"), f"a certificate that nobody vouches for: the sink {result.untrusted}"
    assert result.connections > 0, "nothing came over TLS"
    assert result.protocols <= {"TLSv1.2", "TLSv1.3"}
    assert result.plain_answers == 0, "the encrypted port answered in clear"


@pytest.mark.criterion("R7.3")
def test_source_and_sink_have_bounded_retries_and_a_dead_letter_queue(pipeline: Pipeline, evidence: Evidence) -> None:
    with pipeline.connect() as client:
        source, sink = client.config(pipeline.source), client.config(pipeline.sink)
    timeout = int(sink.get("errors.retry.timeout", "0"))
    retries = int(source.get("errors.max.retries", "-1"))
    evidence.figure("dead letter queue", sink.get("errors.deadletterqueue.topic.name", "none"))
    evidence.figure("sink tries again for", timeout / 1000, "s")
    evidence.figure(
        "source restarts after", int(source.get("retriable.restart.connector.wait.ms", "10000")) / 1000, "s"
    )
    evidence.figure("source's retries", retries if retries >= 0 else "without end, each after that wait")
    assert sink.get("errors.tolerance") == "all", "one bad record stops the sink"
    assert sink.get("errors.deadletterqueue.topic.name") == pipeline.endpoints.dead_letter_topic
    assert sink.get("errors.deadletterqueue.context.headers.enable") == "true", (
        "dead letters don't say where they are from"
    )
    assert timeout > 0, "the sink does not try again"
    assert source.get("errors.tolerance", "none") == "none", "the source drops what it can't convert, without a word"
    assert source.get("event.processing.failure.handling.mode", "fail") == "fail", "the source drops events"


@pytest.mark.criterion("R7.3")
def test_a_dead_letter_is_sent_on_once_it_is_repaired(
    pipeline: Pipeline, tables: dict[str, str], faults: Faults, evidence: Evidence
) -> None:
    from cdcpipe.conformance.poison import await_letter, produce
    from cdcpipe.conformance.records import archived_rows, await_archived, await_records
    from cdcpipe.errors import ConnectUnavailable
    from cdcpipe.schemas import deadletters

    faults.demand()
    table, endpoints = tables["repaired"], pipeline.endpoints
    pipeline.execute(f"INSERT INTO {table} VALUES (1, 'good')")
    good = await_records(pipeline, table, 1)[0]
    assert good.raw is not None
    place = produce(pipeline, pipeline.topic_of(table), good.raw_key, good.raw[:8])
    try:
        letter = await_letter(pipeline, place, timeout_seconds=60)
        sent = deadletters.replay(
            endpoints.bootstrap_servers, endpoints.dead_letter_topic, (letter,), repaired={letter.place: good.raw}
        )
        again = deadletters.replay(
            endpoints.bootstrap_servers, endpoints.dead_letter_topic, (letter,), repaired={letter.place: good.raw}
        )
        await_archived(pipeline, table, 2, timeout_seconds=60)
    except ConnectUnavailable as error:
        evidence.figure("rows archived", len(archived_rows(pipeline, table)))
        pytest.fail(error.message)
    evidence.figure("dead letters repaired and sent on", len(sent))
    evidence.figure("sent a second time", len(again))
    evidence.figure("rows archived", len(archived_rows(pipeline, table)))
    assert (len(sent), len(again)) == (1, 0)
    assert len(archived_rows(pipeline, table)) == 2


@pytest.mark.criterion("R7.5")
def test_access_and_modification_stand_in_the_audit_trail(
    pipeline: Pipeline, tables: dict[str, str], tmp_path: Path, evidence: Evidence
) -> None:
    from cdcpipe.conformance.auditing import audited
    from cdcpipe.errors import StackError
    from cdcpipe.observe.audit.collect import Places

    try:
        places = Places.of(pipeline.stack)
    except StackError as error:
        evidence.inconclusive(error.message)
    result = audited(pipeline, places, tables["audited"], tmp_path / "audit")
    for what, entry in result.found.items():
        evidence.figure(
            what, "not in the trail" if entry is None else f"{entry.actor}, {entry.action}, {entry.at[:19]}"
        )
    evidence.figure("entries", result.entries)
    evidence.figure("an entry that was altered is found", "yes" if result.tampering_found else "no")
    evidence.artefact("trail.json", {"entries": result.told})
    missing = [what for what, entry in result.found.items() if entry is None]
    assert missing == [], f"not in the audit trail: {', '.join(missing)}"
    assert result.problems == {}, f"a source of the trail could not be read: {result.problems}"
    assert result.whole, "the trail's chain of hashes is broken"
    assert result.tampering_found, "an entry was altered, and the chain of hashes did not show it"


@pytest.mark.criterion("R7.4")
def test_access_to_s3_is_by_a_role_that_may_do_what_it_needs_and_no_more(
    pipeline: Pipeline, evidence: Evidence
) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = pipeline.endpoints.s3
    if s3.url is not None and not s3.url.rstrip("/").endswith(".amazonaws.com"):
        evidence.not_applicable(f"this pipeline writes to an S3 server of its own, {s3.url}: it has no IAM")
    session = boto3.session.Session(region_name=s3.region)
    found = session.get_credentials()
    method = "none" if found is None else str(found.method)
    evidence.figure("credentials come from", method)
    client = session.client("s3")

    def allowed(call: str, **arguments: object) -> bool:
        try:
            getattr(client, call)(**arguments)
        except ClientError as error:
            return error.response["Error"]["Code"] not in ("AccessDenied", "403", "AllAccessDisabled")
        return True

    mark = f"cdcpipe-conformance-{pipeline.token}"
    try:
        may = {"list its bucket": allowed("list_objects_v2", Bucket=s3.bucket, MaxKeys=1)}
        may_not = {
            "list all buckets": allowed("list_buckets"),
            "read the bucket's policy": allowed("get_bucket_policy", Bucket=s3.bucket),
            "write outside of the warehouse": allowed("put_object", Bucket=s3.bucket, Key=mark, Body=b""),
        }
        if may_not["write outside of the warehouse"]:
            client.delete_object(Bucket=s3.bucket, Key=mark)
    except BotoCoreError as error:
        evidence.inconclusive(f"AWS can't be asked: {error}")
    finally:
        client.close()
    for what, answer in {**may, **may_not}.items():
        evidence.figure(what, "allowed" if answer else "denied")
    assert s3.access_key_id is None, "a long-lived key is used, not a role"
    assert "role" in method, f"credentials come from {method}"
    assert all(may.values()), "the role may not do what the pipeline needs"
    assert not any(may_not.values()), f"the role may {next(what for what, answer in may_not.items() if answer)}"
