"""OpenLineage events: what we send is what the schema says, once each; what is not is told with its place."""

from __future__ import annotations

import copy
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cdcpipe.errors import ServiceError
from cdcpipe.observe.lineage import Dataset, Emitter, FileTarget, HttpTarget, PipelineFacts, problems
from cdcpipe.observe.lineage.facts import Connector, Snapshot
from cdcpipe.stack.endpoints import SINK, SOURCE

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def facts(state: str = "RUNNING", snapshots: int = 2) -> PipelineFacts:
    archive = Dataset("s3://lake", "warehouse/cdc/public/orders", (("op", "string"), ("after", "struct")))
    return PipelineFacts(
        tables=(Dataset("postgres://127.0.0.1:5432", "shop.public.orders", (("id", "bigint"), ("note", "text"))),),
        topics=(Dataset("kafka://127.0.0.1:9092", "cdc.public.orders"),),
        archives=(archive,),
        snapshots={archive.name: tuple(Snapshot(100 + n, AT, 10 * n, 1000 * n, 1) for n in range(1, snapshots + 1))},
        source=Connector(SOURCE, "RUNNING", None),
        sink=Connector(SINK, state, "boom" if state == "FAILED" else None),
        namespace="kafka-connect://127.0.0.1:8083",
    )


def sent(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kinds(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (event["job"]["name"], event["eventType"]) if "job" in event else ("", event["dataset"]["name"])
        for event in events
    ]


def test_each_thing_is_told_once_and_every_event_is_openlineage(tmp_path: Path) -> None:
    path, state = tmp_path / "events.jsonl", tmp_path / "told.json"
    emitter = Emitter(FileTarget(path), state)
    assert emitter.emit(facts()) == 7
    events = sent(path)
    assert kinds(events) == [
        ("", "shop.public.orders"),
        ("", "cdc.public.orders"),
        ("", "warehouse/cdc/public/orders"),
        (SOURCE, "START"),
        (SINK, "START"),
        (SINK, "RUNNING"),
        (SINK, "RUNNING"),
    ]
    assert [problems(event) for event in events] == [[]] * 7
    commit = events[-1]
    assert commit["inputs"][0]["name"] == "cdc.public.orders"
    output = commit["outputs"][0]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 20
    assert output["facets"]["version"]["datasetVersion"] == "102"
    assert [field["name"] for field in output["facets"]["schema"]["fields"]] == ["op", "after"]
    assert commit["run"]["runId"] == events[4]["run"]["runId"]

    assert Emitter(FileTarget(path), state).emit(facts()) == 0, "another process tells nothing again"
    assert Emitter(FileTarget(path), state).emit(facts(snapshots=3)) == 1
    assert Emitter(FileTarget(path), state).emit(facts("FAILED", 3)) == 1
    failed = sent(path)[-1]
    assert (failed["eventType"], failed["run"]["facets"]["errorMessage"]["message"]) == ("FAIL", "boom")
    assert failed["run"]["runId"] == commit["run"]["runId"]
    assert problems(failed) == []
    assert Emitter(FileTarget(path), state).emit(facts("RUNNING", 3)) == 1
    again = sent(path)[-1]
    assert again["eventType"] == "START"
    assert again["run"]["runId"] != commit["run"]["runId"]


class _Receiver(http.server.BaseHTTPRequestHandler):
    bodies: list[Any]
    status = 201

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.status < 300:
            self.bodies.append(content)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[_Receiver]]]:
    handler = type("Receiver", (_Receiver,), {"bodies": []})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api/v1/lineage", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_events_arrive_over_http_and_what_was_refused_is_sent_again(
    tmp_path: Path, receiver: tuple[str, type[_Receiver]]
) -> None:
    url, handler = receiver
    emitter = Emitter(HttpTarget(url), tmp_path / "told.json")
    handler.status = 503
    with pytest.raises(ServiceError, match="HTTP 503"):
        emitter.emit(facts())
    handler.status = 201
    assert emitter.emit(facts()) == 7
    assert len(handler.bodies) == 7
    assert [problems(event) for event in handler.bodies] == [[]] * 7


def test_an_endpoint_that_is_away_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="doesn't answer"):
        Emitter(HttpTarget("http://127.0.0.1:9/"), tmp_path / "told.json").emit(facts())


@pytest.fixture(scope="module")
def event(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lineage")
    Emitter(FileTarget(folder / "e.jsonl"), folder / "t.json").emit(facts())
    return sent(folder / "e.jsonl")[-1]


# What the specification forbids, each at one place.
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e: e.pop("job"), "$.job: it is missing"),
        (lambda e: e.pop("eventTime"), "$.eventTime: it is missing"),
        (lambda e: e.update(eventTime="yesterday"), "$.eventTime: `yesterday` is no time"),
        (lambda e: e.update(eventType="BEGUN"), "$.eventType: `BEGUN` is none of"),
        (lambda e: e.update(producer="cdcpipe"), "$.producer: `cdcpipe` is no address"),
        (lambda e: e.update(surprise=1), "$.surprise: there is no such member"),
        (lambda e: e.update(schemaURL="https://openlineage.io/x"), "$.schemaURL"),
        (lambda e: e["run"].update(runId="1"), "$.run.runId: `1` is no UUID"),
        (lambda e: e["job"].pop("namespace"), "$.job.namespace: it is missing"),
        (lambda e: e["outputs"][0].update(name=7), "$.outputs[0].name: `7` is no str"),
        (lambda e: e.update(inputs={}), "$.inputs: it is no list"),
        (lambda e: e["outputs"][0]["facets"]["version"].pop("datasetVersion"), "version.datasetVersion: it is missing"),
        (lambda e: e["outputs"][0]["facets"]["schema"].pop("_producer"), "schema._producer"),
        (lambda e: e["outputs"][0]["outputFacets"]["outputStatistics"].update(rowCount="many"), "`many` is no int"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_told_with_its_place(
    event: dict[str, Any], spoil: Callable[[dict[str, Any]], object], says: str
) -> None:
    spoiled = copy.deepcopy(event)
    assert problems(spoiled) == []
    spoil(spoiled)
    assert any(says in problem for problem in problems(spoiled)), problems(spoiled)


def test_a_facet_of_somebody_else_passes(event: dict[str, Any]) -> None:
    other = copy.deepcopy(event)
    other["run"]["facets"]["acme"] = {
        "_producer": "https://acme.example/etl",
        "_schemaURL": "https://acme.example/schemas/AcmeRunFacet.json",
        "colour": "red",
    }
    assert problems(other) == []
    assert problems([]) == ["$: it is no object"]
