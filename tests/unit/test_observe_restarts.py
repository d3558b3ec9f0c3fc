"""When the monitor restarts what failed, and when it leaves that to a person; answers as Connect gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.serving import Quiet, served

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_restarts import Restarts, pause_seconds
from cdcpipe.observe.monitor_source import Partial
from cdcpipe.verify.progress import SlotState

SLOT = SlotState("cdc", wal_status="reserved")
FAILED = {"source": "RUNNING", "source/0": "FAILED", "sink": "RUNNING", "sink/0": "RUNNING"}
FINE = {**FAILED, "source/0": "RUNNING"}
TRACE = "org.apache.kafka.connect.errors.ConnectException: x\nCaused by: java.net.ConnectException: Connection refused"
REFUSED = "RestClientException: Schema being registered is incompatible with an earlier schema; error code: 409"


@dataclass
class Worker:
    """A worker whose tasks have all failed with `trace`, and how often it was told to restart which connector."""

    trace: str = TRACE
    answer: int = 202
    restarted: list[str] = field(default_factory=list)


@dataclass
class Scene:
    worker: Worker
    restarts: Restarts
    exporter: Exporter
    lines: list[str]


@pytest.fixture
def scene() -> Iterator[Scene]:
    worker = Worker()

    class Handler(Quiet):
        def do_GET(self) -> None:
            task = {"id": 0, "state": "FAILED", "worker_id": "w:1", "trace": worker.trace}
            own = {"state": "RUNNING", "worker_id": "w:1"}
            body = json.dumps({"name": "x", "connector": own, "tasks": [task], "type": "source"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            if worker.answer < 300:
                worker.restarted.append(self.path)
            self.answer(worker.answer)

    lines: list[str] = []
    exporter = Exporter()
    with served(Handler) as url, ConnectClient(url, timeout_seconds=2) as client:
        restarts = Restarts(exporter, client, lines.append, source="source", connectors=("source", "sink"))
        yield Scene(worker, restarts, exporter, lines)


def test_the_first_try_is_at_once_and_each_pause_is_longer_up_to_two_minutes(scene: Scene) -> None:
    tried = []
    for second in range(500):
        before = len(scene.worker.restarted)
        scene.restarts.look(FAILED, SLOT, float(second))
        if len(scene.worker.restarted) > before:
            tried.append(second)
    assert tried == [0, 10, 40, 100, 200, 320, 440]
    assert set(scene.worker.restarted) == {"/connectors/source/restart?includeTasks=true&onlyFailed=true"}
    assert scene.exporter.value("cdcpipe_connector_restarts_total", connector="source") == 7
    assert scene.exporter.value("cdcpipe_connector_restarts_total", connector="sink") == 0
    assert [pause_seconds(tries) for tries in range(7)] == [0, 10, 30, 60, 100, 120, 120]
    assert scene.lines[0] == (
        "source had failed and is restarted (try 1; the next try is due in 10 s): "
        "Caused by: java.net.ConnectException: Connection refused"
    )


def test_a_connector_that_ran_long_enough_begins_anew_and_one_that_did_not_goes_on_waiting(scene: Scene) -> None:
    for second in (0.0, 10.0):
        scene.restarts.look(FAILED, SLOT, second)
    scene.restarts.look(FINE, SLOT, 30.0)
    scene.restarts.look(FAILED, SLOT, 35.0)  # within 30 s after the second try
    assert len(scene.worker.restarted) == 2
    scene.restarts.look(FINE, SLOT, 45.0)
    scene.restarts.look(FAILED, SLOT, 46.0)
    assert len(scene.worker.restarted) == 3
    assert "(try 1; " in scene.lines[-1]


@pytest.mark.parametrize(
    ("slot", "why"),
    [
        (None, "PostgreSQL doesn't answer"),
        (SlotState("cdc", exists=False), "its slot cdc is gone; see docs/runbooks/SlotLost.md"),
        (SlotState("cdc", wal_status="lost"), "its slot cdc has lost its WAL; see docs/runbooks/SlotLost.md"),
        (
            SlotState("cdc", wal_status="reserved", invalidation_reason="idle_timeout"),
            "its slot cdc has lost its WAL; see docs/runbooks/SlotLost.md",
        ),
    ],
)
def test_a_source_without_its_slot_is_left_to_a_person_and_told_once(
    scene: Scene, slot: SlotState | None, why: str
) -> None:
    for second in (0.0, 5.0, 500.0):
        scene.restarts.look(FAILED, slot, second)
    assert scene.worker.restarted == []
    assert scene.lines == [f"source has failed and is not restarted: {why}"]
    scene.restarts.look(FINE, SLOT, 501.0)  # somebody mended it, and it fails once more
    scene.restarts.look(FAILED, slot, 502.0)
    assert scene.lines == [f"source has failed and is not restarted: {why}"] * 2
    scene.restarts.look(FAILED, SLOT, 505.0)
    assert len(scene.worker.restarted) == 1


def test_a_sink_needs_no_slot(scene: Scene) -> None:
    scene.restarts.look({"sink": "FAILED", "source": "RUNNING"}, None, 0.0)
    assert scene.worker.restarted == ["/connectors/sink/restart?includeTasks=true&onlyFailed=true"]


def test_a_refused_schema_is_not_asked_for_again(scene: Scene) -> None:
    scene.worker.trace = REFUSED
    scene.restarts.look(FAILED, SLOT, 0.0)
    assert scene.worker.restarted == []
    assert scene.lines[0].endswith("the registry refused its schema; see docs/runbooks/SchemaRegistrationRefused.md")


def test_a_worker_that_does_not_take_it_is_told_and_asked_again_at_the_next_look(scene: Scene) -> None:
    scene.worker.answer = 500
    with pytest.raises(Partial, match="`source` can't be restarted"):
        scene.restarts.look(FAILED, SLOT, 0.0)
    scene.worker.answer = 202
    scene.restarts.look(FAILED, SLOT, 1.0)
    assert len(scene.worker.restarted) == 1
