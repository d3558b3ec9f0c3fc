"""What no healthy Connect says on demand: a rebalance, another server's answer, no answer at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import ConnectError, ConnectUnavailable, Transient

REBALANCE = (
    409,
    json.dumps(
        {
            "error_code": 409,
            "message": "Cannot complete request momentarily due to stale "
            "configuration (typically caused by a concurrent config change or rebalance)",
        }
    ),
)


class Server(HTTPServer):
    """Gives the answers that it was told, one a request, the last one again and again."""

    answers: list[tuple[int, str]]
    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    do_PUT = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), _Handler)
    made.answers, made.asked = [(200, "[]")], []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def client(server: Server, *, timeout_seconds: float = 5.0) -> ConnectClient:
    return ConnectClient(f"http://127.0.0.1:{server.server_port}/", timeout_seconds=timeout_seconds)


def test_a_rebalance_is_waited_for(server: Server) -> None:
    server.answers = [REBALANCE, REBALANCE, (200, '["b", "a"]')]
    with client(server) as connect:
        assert connect.connectors() == ("a", "b")
    assert len(server.asked) == 3


def test_a_rebalance_without_end_is_an_error_that_trying_again_may_mend(server: Server) -> None:
    server.answers = [REBALANCE]
    with (
        client(server, timeout_seconds=0.5) as connect,
        pytest.raises(ConnectUnavailable, match="stale config") as told,
    ):
        connect.connectors()
    assert isinstance(told.value, Transient)
    assert told.value.status == 409


def test_another_conflict_is_not_tried_again(server: Server) -> None:
    server.answers = [(409, '{"error_code": 409, "message": "Connector a already exists"}')]
    with client(server) as connect, pytest.raises(ConnectError, match="already exists") as told:
        connect.connectors()
    assert not isinstance(told.value, Transient)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((500, "<html>proxy</html>"), "HTTP 500: <html>proxy</html>"),
        ((404, '{"message": "No\\nat x.y(Z.java)"}'), "HTTP 404: No"),
        ((503, ""), "HTTP 503: no message"),
        ((200, "<html>"), "the answer is not JSON"),
        ((200, '{"a": 1}'), "another shape than expected"),
        ((200, "[1]"), "another shape than expected"),
    ],
)
def test_another_answer_is_a_typed_error(server: Server, answer: tuple[int, str], expected: str) -> None:
    server.answers = [answer]
    with client(server) as connect, pytest.raises(ConnectError, match=expected):
        connect.connectors()


def test_the_rest_of_a_message_is_its_detail(server: Server) -> None:
    server.answers = [(500, '{"message": "No\\nat x.y(Z.java)"}')]
    with client(server) as connect, pytest.raises(ConnectError) as told:
        connect.connectors()
    assert told.value.detail == "at x.y(Z.java)"


def test_a_name_with_a_slash_or_blank_is_quoted(server: Server) -> None:
    server.answers = [(200, "{}")]
    with client(server) as connect:
        connect.config("a/b c?d")
    assert server.asked == ["/connectors/a%2Fb%20c%3Fd/config"]


def test_no_answer_says_who_was_asked(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with client(server) as connect, pytest.raises(ConnectUnavailable, match=r"doesn't answer GET /: ConnectError"):
        connect.info()


def test_a_wait_says_what_it_waited_for_and_what_it_saw_last(server: Server) -> None:
    status = {"name": "a", "connector": {"state": "RUNNING", "worker_id": "w"}, "type": "sink"}
    server.answers = [(200, json.dumps({**status, "tasks": [{"id": 0, "state": "UNASSIGNED", "worker_id": "w"}]}))]
    with client(server) as connect:
        with pytest.raises(ConnectUnavailable, match=r"waited 0.3 s for connector `a` to run; last seen: .*UNASSIGNED"):
            connect.wait_until_running("a", timeout_seconds=0.3)
        with pytest.raises(ConnectUnavailable, match="for connector `a` to be gone"):
            connect.wait_until_gone("a", timeout_seconds=0.3)


def test_a_connector_without_tasks_is_not_running(server: Server) -> None:
    status = {"name": "a", "connector": {"state": "RUNNING", "worker_id": "w"}, "type": "sink", "tasks": []}
    server.answers = [(200, json.dumps(status))]
    with client(server) as connect, pytest.raises(ConnectUnavailable, match="no tasks"):
        connect.wait_until_running("a", timeout_seconds=0.3)


def test_a_failure_is_believed_when_it_stays(server: Server) -> None:
    status = {"name": "a", "connector": {"state": "RUNNING", "worker_id": "w"}, "type": "sink"}
    failed = (200, json.dumps({**status, "tasks": [{"id": 0, "state": "FAILED", "worker_id": "w", "trace": "why"}]}))
    runs = (200, json.dumps({**status, "tasks": [{"id": 0, "state": "RUNNING", "worker_id": "w"}]}))
    server.answers = [failed, failed, runs]
    with client(server) as connect:
        assert connect.wait_until_running("a").running
        server.answers = [failed]
        with pytest.raises(ConnectError, match="connector `a` failed") as told:
            connect.wait_until_running("a", grace_seconds=0.3)
    assert told.value.detail == "why"
