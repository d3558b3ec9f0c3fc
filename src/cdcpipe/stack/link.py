"""What stands between a client and a server of the pipeline, where it can be slowed, cut or falsified.

A stack that was brought up for it (`LocalStack.up(proxied=True)`) has a proxy in every link; its `links` are then
what faults work on. What a toxic does is toxiproxy's (`latency`, `bandwidth`, `slow_close`, `timeout`, `reset_peer`,
`limit_data`, `slicer`): https://github.com/Shopify/toxiproxy#toxics. `upstream` is what the client sends, `downstream`
what it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

__all__ = ["Link", "Stream", "Toxic"]

Stream = Literal["upstream", "downstream"]


@dataclass(frozen=True, slots=True)
class Toxic:
    """Something that is done to the bytes of one direction of every connection; `name` is unique on its link."""

    name: str
    type: str
    stream: Stream
    attributes: Mapping[str, int] = field(default_factory=dict)


class Link(Protocol):
    """All connections from one kind of client to one kind of server. Raises `FaultError` when the proxy refuses."""

    @property
    def name(self) -> str:
        """`<client>-<server>`: `connect-kafka`, `connect-postgres`, `connect-s3`, `kafka-kafka-2`."""

    @property
    def servers(self) -> Sequence[str]:
        """The components at its far end."""

    def add(self, toxic: Toxic) -> None:
        """Put `toxic` on it; one of the same name is replaced."""

    def remove(self, name: str) -> None:
        """Take a toxic off it; none of that name is no error."""

    def toxics(self) -> Sequence[Toxic]:
        """The toxics that are in force on the whole link."""

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""

    def mend(self) -> None:
        """Take connections again after `cut`."""

    def is_cut(self) -> bool:
        """Whether it refuses connections."""

    def upstream(self) -> str:
        """`host:port` that it leads to."""

    def reroute(self, address: str | None) -> None:
        """Lead new connections to `address`, None: to the server again. Connections that are open are closed."""

    @property
    def reroutable(self) -> bool:
        """Whether it can be led to a server on this machine: a proxy in a cluster doesn't reach one."""

    def rerouted(self) -> bool:
        """Whether it leads elsewhere than to its server."""

    def passes(self) -> bool:
        """Whether a new connection through it reaches a server that listens. Nothing is sent."""
