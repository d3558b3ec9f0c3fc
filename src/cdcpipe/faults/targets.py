"""Targets by name or by role: `connect`, `kafka-2`, `every broker`, `controller`, `leader of cdc.public.orders 0`.

A role is resolved when the fault is injected, since the leader of now isn't that of a minute ago.
"""

from __future__ import annotations

import re
import struct
from contextlib import closing
from socket import create_connection, socket

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdcpipe.errors import KafkaError, UsageError
from cdcpipe.faults.fault import nearest
from cdcpipe.stack.component import Component
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.stack import Stack

__all__ = ["check_target", "controller_id", "leader_id", "resolve_target"]

_LEADER = re.compile(r"leader of (?:topic )?(?P<topic>[\w.-]+)(?: (?:partition )?(?P<partition>\d+))?")
_BROKER = re.compile(r"kafka-(\d+)")
ROLES = ("every broker", "controller", "leader of TOPIC PARTITION")


def check_target(stack: Stack, target: str) -> None:
    """Raise `UsageError` unless `target` is a component of `stack` or a role that it has."""
    if _LEADER.fullmatch(target) or target in ROLES[:2]:
        if not _brokers(stack):
            raise UsageError(f"`{target}`: this stack manages no broker", hint=nearest(target, list(stack.components)))
        return
    _component(stack, target)


def resolve_target(stack: Stack, target: str) -> list[str]:
    """The names of the components that `target` means now. Raises `UsageError`, and `KafkaError` when nobody knows."""
    check_target(stack, target)
    if target == "every broker":
        return list(_brokers(stack).values())
    if target == "controller":
        return [_brokers(stack)[controller_id(stack.endpoints)]]
    match = _LEADER.fullmatch(target)
    if match:
        return [_brokers(stack)[leader_id(stack.endpoints, match["topic"], int(match["partition"] or 0))]]
    return [target]


def _component(stack: Stack, name: str) -> Component:
    try:
        return stack.components[name]
    except KeyError:
        raise UsageError(
            f"this stack has no component `{name}`", hint=nearest(name, [*stack.components, *ROLES])
        ) from None


def _brokers(stack: Stack) -> dict[int, str]:
    return {int(match[1]): name for name in stack.components if (match := _BROKER.fullmatch(name))}


def leader_id(endpoints: Endpoints, topic: str, partition: int) -> int:
    """The broker that leads a partition. Raises `UsageError` without such a one, `KafkaError` without an answer."""
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    try:
        found = admin.list_topics(topic, timeout=10).topics[topic].partitions
    except KafkaException as error:
        raise KafkaError(f"nobody says who leads `{topic}`: {error.args[0].str()}") from error
    if partition not in found:
        raise UsageError(f"there is no partition {partition} of topic `{topic}`")
    if found[partition].leader < 0:
        raise KafkaError(f"partition {partition} of `{topic}` has no leader now")
    return int(found[partition].leader)


def controller_id(endpoints: Endpoints) -> int:
    """The active KRaft controller, by DescribeQuorum (KIP-595): metadata names any broker as the controller.

    Raises `KafkaError`. No client library of ours has that request, so it is written out here (API key 55, version 0).
    """
    last: Exception | None = None
    for server in endpoints.bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        try:
            with closing(create_connection((host, int(port)), timeout=5)) as connection:
                return _quorum_leader(connection)
        except (OSError, struct.error, IndexError, ValueError) as error:
            last = error
    raise KafkaError(f"no broker says who the controller is: {last}")


def _quorum_leader(connection: socket) -> int:
    name = b"__cluster_metadata"
    header = struct.pack(">hhih", 55, 0, 1, -1) + b"\0"  # no client id, no tagged fields
    # One topic with one partition; lengths are unsigned varints plus one, each structure ends with its tagged fields.
    body = b"\x02" + bytes([len(name) + 1]) + name + b"\x02" + struct.pack(">i", 0) + b"\0" + b"\0" + b"\0"
    message = header + body
    connection.sendall(struct.pack(">i", len(message)) + message)
    size = struct.unpack(">i", _exactly(connection, 4))[0]
    answer = _exactly(connection, size)
    error = struct.unpack_from(">h", answer, 5)[0]  # behind correlation id and tagged fields
    if error:
        raise ValueError(f"DescribeQuorum answers error {error}")
    at = 7 + 1 + 1 + len(name) + 1  # topics, the name's length, the name, partitions
    _, error, leader = struct.unpack_from(">ihi", answer, at)
    if error or leader < 0:
        raise ValueError(f"the quorum has no leader now (error {error})")
    return int(leader)


def _exactly(connection: socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ValueError("the broker closed the connection")
        data += more
    return data
