"""The monitor's parts without a pipeline: probe rows, sources that fail or hang, deaf servers, what is seen."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import os
import socket
import ssl
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving import Quiet, served

from cdcpipe.errors import PortTaken, ServiceError
from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_jmx import Jmx
from cdcpipe.observe.monitor_log import log_to_stderr
from cdcpipe.observe.monitor_pipeline import Growing, Known
from cdcpipe.observe.monitor_probe import NAME, Track, read_token
from cdcpipe.observe.monitor_restarts import is_refused_schema
from cdcpipe.observe.monitor_services import ServiceChecks, certificate_expiry
from cdcpipe.observe.monitor_source import Partial, Runner, Source
from cdcpipe.observe.monitor_state import History, Told, state_of
from cdcpipe.observe.web import WebServer
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import Endpoints, PostgresEndpoint, Role, S3Endpoint, Secret


def endpoints(**changes: Any) -> Endpoints:
    """Where nobody listens: port 1."""
    roles = {purpose: Role(purpose, Secret("x")) for purpose in ("owner", "replication", "witness")}
    nowhere = Endpoints(
        postgres=PostgresEndpoint("127.0.0.1", 1, "shop", roles),
        bootstrap_servers="127.0.0.1:1",
        connect_url="http://127.0.0.1:1",
        registry_url="http://127.0.0.1:1",
        s3=S3Endpoint("http://127.0.0.1:1", "us-east-1", "lake", "k", Secret("s")),
        catalog=None,
        publication="cdc",
        topic_prefix="cdc",
        dead_letter_topic="cdc.dead-letters",
        transaction_topic="cdc.transaction",
    )
    return replace(nowhere, **changes)


# Probe rows ---------------------------------------------------------------------------------------


class Arrivals:
    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def __call__(self, hop: str, seconds: float) -> None:
        self.told.append((hop, round(seconds, 6)))


def test_the_way_of_a_probe_row_is_told_hop_by_hop() -> None:
    told = Arrivals()
    track = Track(told)
    track.committed(7, at=100.0)
    track.logged(7, (0, 12), at=100.3)
    assert track.pending() == {"commit_to_log": 0, "log_to_archive": 1, "commit_to_archive": 1}
    track.archived(7, at=105.0)
    assert told.told == [("commit_to_log", 0.3), ("log_to_archive", 4.7), ("commit_to_archive", 5.0)]
    assert track.lag_seconds(200.0) == {
        "commit_to_log": pytest.approx(0.3),
        "log_to_archive": pytest.approx(4.7),
        "commit_to_archive": pytest.approx(5.0),
    }


def test_a_pipeline_that_stands_shows_a_lag_that_grows() -> None:
    track = Track(Arrivals())
    track.committed(1, at=0.0)
    track.logged(1, (0, 1), at=0.2)
    track.archived(1, at=4.0)
    track.committed(2, at=5.0)
    track.committed(3, at=10.0)
    assert track.lag_seconds(65.0)["commit_to_log"] == 60.0
    assert track.lag_seconds(95.0)["commit_to_archive"] == 90.0


def test_a_row_in_the_archive_proves_all_older_ones_and_no_newer_one() -> None:
    track = Track(Arrivals())
    for token in (1, 2, 3):
        track.committed(token, at=float(token))
    track.archived(2, at=9.0)
    assert track.pending()["commit_to_archive"] == 1


def test_a_sink_without_a_catalog_is_followed_by_its_committed_offsets() -> None:
    track = Track(Arrivals())
    track.committed(1, at=0.0)
    track.logged(1, (2, 40), at=1.0)
    track.archived_up_to(1, 100, at=2.0)
    track.archived_up_to(2, 40, at=2.0)  # the offset is the next to be read: 40 itself is not stored yet
    assert track.pending()["log_to_archive"] == 1
    track.archived_up_to(2, 41, at=3.0)
    assert track.pending()["log_to_archive"] == 0


def test_rows_that_never_arrive_do_not_pile_up_without_end() -> None:
    track = Track(Arrivals())
    count = 0
    while not track.full:
        track.committed(count, at=0.0)
        count += 1
    assert count < 1000


@given(token=st.integers(-(2**63), 2**63 - 1), before=st.booleans())
def test_the_token_is_read_from_a_record_as_avro_writes_it(token: int, before: bool) -> None:
    fields = [{"name": "name", "type": "string"}, {"name": "token", "type": "long"}]
    schema = fastavro.parse_schema(
        {
            "type": "record",
            "name": "envelope",
            "fields": [
                {"name": "before", "type": ["null", {"type": "record", "name": "row", "fields": fields}]},
                {"name": "after", "type": ["null", "row"]},
                {"name": "op", "type": "string"},
            ],
        }
    )
    old = {"name": NAME, "token": 5} if before else None
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {"before": old, "after": {"name": NAME, "token": token}, "op": "u"})
    assert read_token(b"\0\0\0\0\1" + out.getvalue()) == token


@given(st.binary(max_size=60))
def test_any_bytes_can_be_looked_at_for_a_token(value: bytes) -> None:
    assert read_token(value) is None or b"monitor" in value


def test_a_count_that_falls_takes_nothing_from_a_total() -> None:
    total = Growing()
    assert total.add({"a": 10, "b": 5}) == 15
    assert total.add({"b": 7}) == 17  # table a was dropped
    assert total.add({"a": 3, "b": 7}) == 17  # and made again
    assert total.add({"a": 4, "b": 7}) == 18


def test_the_mean_size_of_a_record_is_unknown_without_jmx() -> None:
    known = Known(ends={("t", 0): 110, ("t", 1): 10}, begins={("t", 0): 10})
    assert known.mean_bytes("t") is None
    known.log_bytes = {("t", 0): 1000.0, ("t", 1): 100.0, ("u", 0): 9.0}
    assert known.mean_bytes("t") == 10.0
    assert known.mean_bytes("empty") == 0.0


def test_a_metric_that_an_agent_no_longer_tells_is_named_until_it_comes_back() -> None:
    known, size = Known(), 'kafka_log_size_bytes{topic="t",partition="0"}'
    whole = f"# TYPE kafka_log_size_bytes gauge\n{size} 100.0\nkafka_partitions 3.0\nnot_in_the_catalogue 1.0\n"
    answers = [whole, "kafka_partitions 3.0\n", whole]
    jmx = Jmx(known, {"kafka-1": "http://agent"}, lambda url: answers.pop(0))
    jmx.ask("kafka-1")
    assert known.log_bytes == {("t", 0): 100.0}
    with pytest.raises(Partial, match=r"^kafka-1 no longer tells kafka_log_size_bytes$"):
        jmx.ask("kafka-1")
    assert known.mean_bytes("t") is None, "unknown, and not none"
    jmx.ask("kafka-1")
    assert known.log_bytes == {("t", 0): 100.0}
    with pytest.raises(ServiceError, match="connect exposes no metrics"):
        jmx.ask("connect")


@pytest.mark.parametrize(
    ("trace", "refused"),
    [
        ("...RestClientException: Incompatible schema; error code: 409", True),
        ("Caused by: io.apicurio.registry.rest.client.exception.RuleViolationException: Incompatible artifact", True),
        ("Schema being registered is incompatible with an earlier schema for subject", True),
        ("org.apache.kafka.connect.errors.ConnectException: could not obtain replication slot", False),
        ("java.net.ConnectException: Connection refused", False),
        ("", False),
    ],
)
def test_a_refused_schema_is_told_from_other_failures(trace: str, refused: bool) -> None:
    assert is_refused_schema(trace) is refused


# Sources ------------------------------------------------------------------------------------------


class Said(list[str]):
    def __call__(self, sentence: str) -> None:
        self.append(sentence)


def test_a_source_that_fails_has_its_metrics_forgotten_is_told_once_and_comes_back() -> None:
    exporter, said, broken = Exporter(), Said(), threading.Event()

    def ask() -> None:
        if broken.is_set():
            raise ServiceError("nobody is there")
        exporter.set("cdcpipe_component_up", 1, component="s3")

    runner = Runner(Source("s", 1, ask, ("cdcpipe_component_up",)), exporter, said)
    runner.ask_once()
    assert exporter.value("cdcpipe_monitor_source_up", source="s") == 1
    broken.set()
    runner.ask_once()
    runner.ask_once()
    assert exporter.value("cdcpipe_component_up", component="s3") is None
    assert exporter.value("cdcpipe_monitor_source_up", source="s") == 0
    assert exporter.value("cdcpipe_monitor_source_failures_total", source="s") == 1
    broken.clear()
    runner.ask_once()
    assert exporter.value("cdcpipe_component_up", component="s3") == 1
    assert said == ["s can't be asked: nobody is there", "s answers again"]


def test_an_error_that_nobody_foresaw_does_not_end_the_monitor() -> None:
    exporter, said = Exporter(), Said()

    def ask() -> None:
        raise ZeroDivisionError("x")

    Runner(Source("s", 1, ask), exporter, said).ask_once()
    assert said == ["s can't be asked: ZeroDivisionError: x"]


def test_what_a_source_could_ask_stays_when_it_could_not_ask_all() -> None:
    exporter, said = Exporter(), Said()

    def ask() -> None:
        exporter.set("cdcpipe_component_up", 1, component="s3")
        raise Partial("Kafka did not answer")

    Runner(Source("s", 1, ask, ("cdcpipe_component_up",)), exporter, said).ask_once()
    assert exporter.value("cdcpipe_component_up", component="s3") == 1
    assert exporter.value("cdcpipe_monitor_source_up", source="s") == 0
    assert said == ["s answers in part: Kafka did not answer"]


def test_a_source_that_comes_back_with_less_is_told_once_more() -> None:
    exporter, said = Exporter(), Said()
    answers = [ServiceError("nobody is there"), Partial("a metric is gone"), Partial("a metric is gone")]

    def ask() -> None:
        raise answers.pop(0)

    runner = Runner(Source("s", 1, ask), exporter, said)
    for _ in range(3):
        runner.ask_once()
    assert said == ["s can't be asked: nobody is there", "s answers in part: a metric is gone"]
    assert exporter.value("cdcpipe_monitor_source_failures_total", source="s") == 1


def test_a_source_that_hangs_counts_as_down_while_it_hangs() -> None:
    exporter, said, asked, release = Exporter(), Said(), threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        release.wait(30)

    exporter.set("cdcpipe_component_up", 1, component="s3")
    runner = Runner(Source("s", 0.01, ask, ("cdcpipe_component_up",), bound_seconds=0.05), exporter, said)
    runner.start()
    try:
        assert asked.wait(10)

        def down() -> bool:
            runner.watch()
            return exporter.value("cdcpipe_monitor_source_up", source="s") == 0

        wait_until(down, what="the source down", timeout_seconds=10, interval_seconds=0.02, error=ServiceError)
        assert exporter.value("cdcpipe_component_up", component="s3") is None
    finally:
        release.set()
        runner.stop()
        runner.join(10)


# Servers that don't answer ------------------------------------------------------------------------


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never answers: a process that was stopped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield server.getsockname()[1]


def test_a_port_that_is_closed_and_one_that_only_listens_are_both_down() -> None:
    with deaf_port() as port:
        roles = {"witness": Role("w", Secret("x"))}
        deaf = endpoints(
            postgres=PostgresEndpoint("127.0.0.1", port, "shop", roles),
            bootstrap_servers=f"127.0.0.1:{port},127.0.0.1:1",
            connect_url=f"http://127.0.0.1:{port}",
        )
        checks = ServiceChecks(deaf)
        try:
            assert checks.ask() == dict.fromkeys(("postgres", "kafka-1", "kafka-2", "s3", "registry", "connect"), False)
        finally:
            checks.close()


def test_a_server_that_refuses_the_request_is_up_and_one_that_can_not_serve_is_not() -> None:
    with http_server({"/refuses": 403, "/broken/config": 500, "/": 200}) as url:
        checks = ServiceChecks(
            endpoints(
                s3=S3Endpoint(f"{url}/refuses", "r", "b", None, None), registry_url=f"{url}/broken", connect_url=url
            )
        )
        try:
            answers = checks.ask()
        finally:
            checks.close()
    assert (answers["s3"], answers["registry"], answers["connect"]) == (True, False, True)


@contextlib.contextmanager
def http_server(statuses: dict[str, int], context: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            self.answer(statuses.get(self.path, 404))

    with served(Handler, context) as url:
        yield url


def test_the_end_of_a_certificate_is_read_even_if_nobody_trusts_it(tmp_path: Path) -> None:
    end = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path, end))
    with http_server({}, context) as url:
        found = certificate_expiry(endpoints(connect_url=url, registry_url="https://127.0.0.1:1"))
    assert found == {"connect": end.timestamp()}


def self_signed(folder: Path, end: datetime.datetime) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


# What is seen -------------------------------------------------------------------------------------


def test_a_rate_is_taken_over_half_a_minute_and_never_negative() -> None:
    exporter = Exporter()
    history = History(exporter)
    for second in range(0, 62, 2):
        exporter.set("cdcpipe_events_total", second * 100, hop="log")
        history.step(now=1000.0 + second)
    assert history.rates()["log"] == pytest.approx(100)
    exporter.set("cdcpipe_events_total", 5, hop="log")  # the monitor's source began anew
    history.step(now=1062.0)
    assert history.rates()["log"] == 0.0


def healthy() -> Exporter:
    exporter = Exporter()
    for name in ("postgres", "kafka-1"):
        exporter.set("cdcpipe_component_up", 1, component=name)
    exporter.set("cdcpipe_connector_state", 1, connector="c", state="RUNNING")
    exporter.set("cdcpipe_task_state", 1, connector="c", task="0", state="RUNNING")
    exporter.set("cdcpipe_lag_seconds", 0.2, hop="commit_to_log")
    exporter.set("cdcpipe_lag_target_seconds", 5, hop="commit_to_log")
    return exporter


def seen(exporter: Exporter) -> dict[str, Any]:
    return state_of(
        exporter,
        History(exporter),
        components=("postgres", "kafka-1"),
        connectors=("c", "d"),
        anomalies=[],
        lines=[],
        alerts=None,
    )


def test_what_is_broken_is_said_first_and_what_is_not_known_is_not_called_healthy() -> None:
    assert seen(healthy())["health"] == "healthy"
    exporter = healthy()
    exporter.set("cdcpipe_lag_seconds", 6, hop="commit_to_log")
    assert (seen(exporter)["health"], seen(exporter)["sentence"]) == (
        "degraded",
        "commit to log takes 6.0 s, more than it may",
    )
    exporter.forget(["cdcpipe_task_state"])
    exporter.set("cdcpipe_task_state", 1, connector="c", task="0", state="FAILED")
    assert (seen(exporter)["health"], seen(exporter)["sentence"]) == ("down", "c has failed")
    exporter.set("cdcpipe_component_up", 0, component="kafka-1")
    assert seen(exporter)["sentence"] == "kafka-1 does not answer"
    blind = healthy()
    blind.forget(["cdcpipe_component_up"])
    assert seen(blind)["health"] == "unknown"


class FakeMonitor:
    """A monitor's three faces, with values of this test."""

    def __init__(self) -> None:
        self.exporter = healthy()
        self.ready = False

    def state(self) -> dict[str, Any]:
        return state_of(
            self.exporter,
            History(self.exporter),
            components=("postgres", "kafka-1"),
            connectors=("c", "d"),
            anomalies=[Told(1.0, "slot-loss", "slot <b>s</b> is gone")],
            lines=[],
            alerts=None,
        )


def get(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_page_metrics_state_and_health_are_served() -> None:
    monitor = FakeMonitor()
    with WebServer(monitor, "127.0.0.1:0") as web:
        status, kind, page = get(f"{web.url}/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert b"https://" not in page.replace(b"http://www.w3.org", b"")  # nothing from elsewhere
        status, kind, metrics = get(f"{web.url}/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert b'cdcpipe_component_up{component="postgres"} 1.0' in metrics
        assert json.loads(get(f"{web.url}/api/state?x=1")[2])["schema"] == "cdcpipe.monitor/1"
        assert get(f"{web.url}/healthz")[0] == 503
        monitor.ready = True
        assert get(f"{web.url}/healthz")[0] == 200
        assert get(f"{web.url}/../../etc/passwd")[0] == 404


def test_an_address_that_is_in_use_is_a_usage_error() -> None:
    with WebServer(FakeMonitor(), "127.0.0.1:0") as web, pytest.raises(PortTaken, match="can't listen"):
        WebServer(FakeMonitor(), web.url.removeprefix("http://"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stderr_ends_nothing_and_is_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, logger = Exporter(), logging.getLogger("cdcpipe.monitor")
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", encoding="utf-8")
    try:
        monkeypatch.setattr(sys, "stderr", full)
        with log_to_stderr(exporter):
            logger.warning("the disk is full")
        assert exporter.value("cdcpipe_monitor_source_up", source="log") == 0
        assert exporter.value("cdcpipe_monitor_source_failures_total", source="log") == 1
    finally:
        with contextlib.suppress(OSError):
            full.close()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with log_to_stderr(exporter):
        logger.warning("there is room again")
    assert exporter.value("cdcpipe_monitor_source_up", source="log") == 1
