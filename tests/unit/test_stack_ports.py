"""Ports: free ones by themselves, fixed ones or a clear no."""

from __future__ import annotations

import os
import socket

import pytest

from cdcpipe.errors import PortTaken, UsageError
from cdcpipe.stack.local.state import Plan, Wanted, claim_ports, port_names


def test_all_ports_of_a_stack_differ() -> None:
    names = port_names(3)
    assert len(names) == len(set(names))
    assert len(set(claim_ports(names, {}, {}).values())) == len(names)


def test_a_taken_port_names_who_has_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} for `postgres` is in use by .*process {os.getpid()}"):
            claim_ports(port_names(1), {"postgres": port}, {})


def test_a_port_that_somebody_took_meanwhile_is_replaced_unless_it_is_fixed() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        claimed = claim_ports(port_names(1), {}, {"postgres": port})
    assert claimed["postgres"] != port


def test_a_stopped_stack_gets_its_ports_back() -> None:
    first = claim_ports(port_names(1), {}, {})
    assert claim_ports(port_names(1), {}, first) == first


def test_one_port_for_two_servers_is_refused() -> None:
    free = claim_ports(("a",), {}, {})["a"]
    with pytest.raises(PortTaken):
        claim_ports(("a", "b"), {"a": free, "b": free}, {})


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no port is called `postgre`") as caught:
        claim_ports(port_names(1), {"postgre": 5432}, {})
    assert "postgres, kafka-1, connect, registry, s3" in (caught.value.hint or "")


def test_a_plan_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plan") / "stack.json"
    plan = Plan.new(Wanted(brokers=3, versions={"debezium": "3.6.0.Final"}))
    plan.save(path)
    assert Plan.load(path) == plan
