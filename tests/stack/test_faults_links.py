"""Faults of links, on a real toxiproxy before a server that echoes: what a client sees in force, and behind it."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.stack.small_servers import LinkedStack, started

from cdcpipe.errors import FaultError, FaultNotSupported, StackError, UsageError
from cdcpipe.faults import (
    Bandwidth,
    Cut,
    Fault,
    HalfOpen,
    Journal,
    Latency,
    OneWayCut,
    Refuse,
    Reset,
    SlowClose,
    Truncate,
    heal,
)
from cdcpipe.stack.component import Readiness, wait_until
from cdcpipe.stack.local.kafka import answers
from cdcpipe.stack.local.links import ProxiedLink
from cdcpipe.stack.local.process import LocalProcess
from cdcpipe.stack.local.state import claim_ports

_ECHO = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            with open("received", "ab") as file:
                file.write(line)
            if line == b"bye\\n":
                return
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


class Echo(LocalProcess):
    """Answers each line with itself, but for `bye`."""

    program = Path(sys.executable).name

    def __init__(self, folder: Path, log_folder: Path, port: int) -> None:
        super().__init__("echo", "1", folder, log_folder)
        self.port = port

    def argv(self) -> Sequence[str]:
        return [sys.executable, "-c", _ECHO, str(self.port)]

    def readiness(self) -> Readiness:
        return Readiness(answers(self.port), "nothing listens")

    @property
    def received(self) -> bytes:
        path = self.folder / "received"
        return path.read_bytes() if path.exists() else b""


class Linked(LinkedStack):
    """A client's link to `echo`."""

    def __init__(self, folder: Path) -> None:
        ports = claim_ports(("api", "link", "echo"), {}, {})
        self.echo = Echo(folder / "echo", folder / "log", ports["echo"])
        super().__init__(
            folder, "client-echo", self.echo, server_port=ports["echo"], port=ports["link"], api_port=ports["api"]
        )


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linked]:
    stack = Linked(tmp_path_factory.mktemp("linked"))
    with started(stack):
        yield stack


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.of_folder(tmp_path)


@contextlib.contextmanager
def _client(stack: Linked) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=5) as client:
        yield client


def _answer(client: socket.socket, sent: bytes = b"hello\n") -> bytes:
    """What comes back for `sent`; empty when the other side closed the connection."""
    client.sendall(sent)
    got = b""
    while len(got) < len(sent):
        more = client.recv(65536)
        if not more:
            break
        got += more
    return got


def _silent(client: socket.socket) -> bool:
    """Whether a line stays without an answer, on a connection that stays open."""
    client.settimeout(0.5)
    try:
        _answer(client)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def _closed(client: socket.socket) -> bool:
    """Whether the connection ends without a byte more."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def _well(stack: Linked) -> bool:
    with _client(stack) as client:
        return _answer(client) == b"hello\n"


def test_a_cut_link_is_silent_for_old_and_new_connections_and_closes_them_when_it_heals(
    linked: Linked, journal: Journal
) -> None:
    with _client(linked) as old:
        assert _answer(old) == b"hello\n"
        with Cut("client-echo").applied(linked, journal):
            assert _silent(old)
            with _client(linked) as new:
                assert _silent(new)
        assert _closed(old)
    assert _well(linked)


@pytest.mark.parametrize(("direction", "arrives"), [("upstream", False), ("downstream", True)])
def test_a_one_way_cut_loses_what_is_sent_or_what_is_answered(
    linked: Linked, journal: Journal, direction: str, arrives: bool
) -> None:
    line = f"one way {direction}\n".encode()
    with OneWayCut("client-echo", direction=direction).applied(linked, journal):  # type: ignore[arg-type]
        with _client(linked) as client:
            client.settimeout(1)
            with pytest.raises(TimeoutError):
                _answer(client, line)
            assert (line in linked.echo.received) is arrives
    assert _well(linked)


def test_a_refusing_link_closes_what_is_open_and_takes_nothing_new(linked: Linked, journal: Journal) -> None:
    with _client(linked) as old:
        assert _answer(old) == b"hello\n"
        with Refuse("client-echo").applied(linked, journal):
            assert _closed(old)
            with pytest.raises(ConnectionRefusedError), _client(linked):
                pass
    assert _well(linked)


def test_latency_delays_every_answer(linked: Linked, journal: Journal) -> None:
    with _client(linked) as client, Latency("client-echo", milliseconds=400).applied(linked, journal):
        begin = time.monotonic()
        assert _answer(client) == b"hello\n"
        assert time.monotonic() - begin >= 0.4
    assert _well(linked)


def test_bandwidth_bounds_how_much_passes_in_a_second(linked: Linked, journal: Journal) -> None:
    line = b"x" * 99_999 + b"\n"
    with Bandwidth("client-echo", kilobytes_per_second=200, direction="downstream").applied(linked, journal):
        with _client(linked) as client:
            begin = time.monotonic()
            assert _answer(client, line) == line
            assert time.monotonic() - begin >= 0.3  # 0.5 s, but for what buffers take
    assert _well(linked)


def test_a_resetting_link_ends_new_connections_by_rst_and_open_ones_too(linked: Linked, journal: Journal) -> None:
    with _client(linked) as old, Reset("client-echo").applied(linked, journal):
        old.sendall(b"hello\n")
        assert _closed(old)
        with _client(linked) as new, pytest.raises(ConnectionResetError):
            _answer(new)
    assert _well(linked)


def test_slow_close_hides_from_the_client_that_the_server_has_hung_up(linked: Linked, journal: Journal) -> None:
    with _client(linked) as client:
        with SlowClose("client-echo", milliseconds=60_000).applied(linked, journal):
            client.sendall(b"bye\n")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
    assert _well(linked)


def test_truncation_ends_an_answer_in_its_middle(linked: Linked, journal: Journal) -> None:
    with Truncate("client-echo", size_bytes=100).applied(linked, journal), _client(linked) as client:
        assert _answer(client, b"y" * 999 + b"\n") == b"y" * 100
    assert _well(linked)


def test_a_half_open_connection_stays_open_with_nobody_behind_it_while_new_ones_work(
    linked: Linked, journal: Journal
) -> None:
    with _client(linked) as old:
        assert _answer(old) == b"hello\n"
        with HalfOpen("client-echo").applied(linked, journal):
            assert _silent(old)
            assert _well(linked)
        assert _closed(old)
    assert _well(linked)


@pytest.mark.parametrize(
    "fault", [Cut("client-echo"), Refuse("client-echo"), HalfOpen("client-echo"), Truncate("client-echo")], ids=str
)
def test_what_a_dead_run_left_on_a_link_is_taken_off_it(linked: Linked, journal: Journal, fault: Fault) -> None:
    trace = fault.resolve(linked)
    journal.opened(fault, trace)
    fault.inject(linked, trace)
    assert [record.error for record in heal(linked, journal)] == [None]
    link = linked.links["client-echo"]
    assert (link.toxics(), link.is_cut(), _well(linked)) == ([], False, True)


def test_a_toxiproxy_that_hangs_while_it_heals_is_started_anew(linked: Linked, journal: Journal) -> None:
    with Cut("client-echo").applied(linked, journal):
        linked.toxiproxy.pause()
    assert (linked.links["client-echo"].toxics(), journal.open()) == ([], [])
    assert _well(linked)


def test_two_faults_on_one_link_do_not_undo_each_other(linked: Linked, journal: Journal) -> None:
    with Latency("client-echo", milliseconds=1).applied(linked, journal):
        with Latency("client-echo", milliseconds=300).applied(linked, journal):
            assert len(linked.links["client-echo"].toxics()) == 2
        (left,) = linked.links["client-echo"].toxics()
        assert left.attributes == {"latency": 1, "jitter": 0}


def test_a_link_leads_elsewhere_and_back(linked: Linked, journal: Journal) -> None:
    link = linked.links["client-echo"]
    own = link.upstream()
    link.reroute("127.0.0.1:9")
    assert (link.upstream(), link.passes(), link.rerouted()) == ("127.0.0.1:9", False, True)
    link.reroute(None)
    assert (link.upstream(), link.passes(), link.rerouted(), _well(linked)) == (own, True, False, True)


def test_a_server_that_is_down_is_seen_through_the_link(linked: Linked) -> None:
    linked.echo.kill()
    wait_until(lambda: not linked.links["client-echo"].passes(), what="down", timeout_seconds=10, error=StackError)
    linked.echo.start()
    linked.echo.await_ready()
    assert linked.links["client-echo"].passes()


def test_an_unknown_link_is_a_usage_error_with_the_known_names(linked: Linked, journal: Journal) -> None:
    with pytest.raises(UsageError, match="no link `client-ecko`") as caught:
        with Cut("client-ecko").applied(linked, journal):
            pass
    assert "did you mean `client-echo`?" in (caught.value.hint or "")


def test_a_stack_without_proxies_says_how_to_get_them(linked: Linked, journal: Journal) -> None:
    direct = Linked.__new__(Linked)
    direct.links, direct.components = {}, {}
    with pytest.raises(FaultNotSupported, match=r"`cut client-echo` is not supported here: no proxy.*--proxied"):
        with Cut("client-echo").applied(direct, journal):
            pass


def test_a_toxiproxy_that_does_not_answer_is_said_as_such() -> None:
    link = ProxiedLink("client-echo", ("echo",), "http://127.0.0.1:9", {"client-echo": "127.0.0.1:9"})
    with pytest.raises(FaultError, match=r"toxiproxy at .* doesn't answer"):
        link.toxics()
