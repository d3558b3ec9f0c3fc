"""Faults of links: cut, slowed, falsified. They need a stack whose links have proxies (`cdcpipe up --proxied`).

`upstream` is what the client sends, `downstream` what it is answered. A link that was silent or falsified has lost
bytes, so its connections are closed when it heals; clients then make new ones, as after a real partition.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from cdcpipe.errors import FaultError, UsageError
from cdcpipe.faults.fault import Fault, Trace, nearest, register
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.link import Link, Stream, Toxic
from cdcpipe.stack.stack import Stack

__all__ = [
    "Bandwidth",
    "Cut",
    "HalfOpen",
    "Latency",
    "LinkFault",
    "OneWayCut",
    "Refuse",
    "Reset",
    "SlowClose",
    "Truncate",
    "check_link",
    "unlinked",
]

Direction = Literal["upstream", "downstream", "both"]

_BOTH: tuple[Stream, ...] = ("upstream", "downstream")


def unlinked(stack: Stack) -> str | None:
    """Why links can't be broken here; None where they can."""
    if stack.links:
        return None
    return "no proxy stands in its links; a local stack gets them by `cdcpipe up --proxied`"


def check_link(stack: Stack, name: str) -> Link:
    """The link called `name`. Raises `UsageError` with the names that there are."""
    try:
        return stack.links[name]
    except KeyError:
        raise UsageError(f"this stack has no link `{name}`", hint=nearest(name, list(stack.links))) from None


@dataclass(frozen=True, slots=True)
class LinkFault(Fault):
    """Base of what is done to one link by toxics."""

    needs: ClassVar[str] = "links with proxies: `cdcpipe up --proxied`"

    link: str

    @property
    def target(self) -> str:
        return self.link

    def supports(self, stack: Stack) -> str | None:
        reason = unlinked(stack)
        if reason is None:
            check_link(stack, self.link)
        return reason

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        """Type, stream and attributes of each toxic."""
        raise NotImplementedError

    def resolve(self, stack: Stack) -> Trace:
        return {"toxics": [f"cdcpipe-{secrets.token_hex(4)}" for _ in self.toxics()]}

    def inject(self, stack: Stack, trace: Trace) -> None:
        for name, (kind, stream, attributes) in zip(trace["toxics"], self.toxics(), strict=True):
            stack.links[self.link].add(Toxic(name, kind, stream, attributes))

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        # toxiproxy lists a toxic once it stands in every connection, those that were open before too.
        there = {toxic.name for toxic in stack.links[self.link].toxics()}
        lacking = sorted(set(trace["toxics"]) - there)
        return f"toxic `{lacking[0]}` is not on `{self.link}`" if lacking else None

    def recover(self, stack: Stack, trace: Trace) -> None:
        try:
            self.take_off(stack.links[self.link], trace)
        except FaultError:
            if "toxiproxy" not in stack.components:
                raise
            _renew_proxies(stack)

    def take_off(self, link: Link, trace: Trace) -> None:
        """Take the toxics off."""
        for name in trace["toxics"]:
            link.remove(name)

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        left = {toxic.name for toxic in stack.links[self.link].toxics()} & set(trace["toxics"])
        return f"toxic `{left.pop()}` is still on `{self.link}`" if left else _passing(stack.links[self.link])


def _renew_proxies(stack: Stack) -> None:
    """Start toxiproxy anew, with no toxic and no connection.

    It hangs for good when a toxic is taken off a connection that ends in that moment: Shopify/toxiproxy#558, open.
    """
    proxies = stack.components["toxiproxy"]
    proxies.kill()
    proxies.start()
    what = "toxiproxy that answers, started anew"
    wait_until(lambda: proxies.readiness().ready, what=what, timeout_seconds=60, error=FaultError)


def _passing(link: Link) -> str | None:
    if link.is_cut():
        return f"`{link.name}` refuses connections"
    return None if link.passes() else f"`{link.name}` reaches no server"


@register
@dataclass(frozen=True, slots=True)
class Cut(LinkFault):
    """A partition: nothing passes, nobody is told. Connections stay open and silent, new ones too."""

    kind: ClassVar[str] = "cut"
    provokes: ClassVar[tuple[str, ...]] = ("D4", "D26", "K1", "C1", "C2", "C7", "I3", "R1")

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("timeout", stream, {"timeout": 0}) for stream in _BOTH]


@register
@dataclass(frozen=True, slots=True)
class OneWayCut(LinkFault):
    """Half a partition: what the client sends is lost (`upstream`), or what it is answered (`downstream`).

    Downstream is the worse one: the server has done what the client believes undone.
    """

    kind: ClassVar[str] = "one-way-cut"
    provokes: ClassVar[tuple[str, ...]] = ("D5", "D26", "K1", "C6", "I2")

    direction: Stream = "downstream"

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("timeout", self.direction, {"timeout": 0})]


@register
@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """Every connection is closed, and new ones are refused, as by a server that is down or a firewall that says no."""

    kind: ClassVar[str] = "refuse"
    provokes: ClassVar[tuple[str, ...]] = ("D13", "D26", "K3", "K6", "I4")
    needs: ClassVar[str] = LinkFault.needs

    link: str

    @property
    def target(self) -> str:
        return self.link

    def supports(self, stack: Stack) -> str | None:
        reason = unlinked(stack)
        if reason is None:
            check_link(stack, self.link)
        return reason

    def inject(self, stack: Stack, trace: Trace) -> None:
        stack.links[self.link].cut()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        return None if stack.links[self.link].is_cut() else f"`{self.link}` takes connections"

    def recover(self, stack: Stack, trace: Trace) -> None:
        stack.links[self.link].mend()

    def recovery(self, stack: Stack, trace: Trace) -> str | None:
        return _passing(stack.links[self.link])


@register
@dataclass(frozen=True, slots=True)
class Latency(LinkFault):
    """Everything arrives `milliseconds` later, give or take `jitter_milliseconds`."""

    kind: ClassVar[str] = "latency"
    provokes: ClassVar[tuple[str, ...]] = ("K1", "D5", "C2", "I3")

    milliseconds: int = 500
    jitter_milliseconds: int = 0
    direction: Direction = "downstream"

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        attributes = {"latency": self.milliseconds, "jitter": self.jitter_milliseconds}
        return [("latency", stream, attributes) for stream in _streams(self.direction)]


@register
@dataclass(frozen=True, slots=True)
class Bandwidth(LinkFault):
    """At most `kilobytes_per_second` pass, for each connection."""

    kind: ClassVar[str] = "bandwidth"
    provokes: ClassVar[tuple[str, ...]] = ("D5", "D18", "C2", "C11")

    kilobytes_per_second: int = 64
    direction: Direction = "both"

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("bandwidth", stream, {"rate": self.kilobytes_per_second}) for stream in _streams(self.direction)]


@register
@dataclass(frozen=True, slots=True)
class Reset(LinkFault):
    """Connections die as soon as they carry anything: RST for new ones, those that were open are closed."""

    kind: ClassVar[str] = "reset"
    provokes: ClassVar[tuple[str, ...]] = ("D13", "D26", "K3", "C6", "I4")

    after_milliseconds: int = 0

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("reset_peer", stream, {"timeout": self.after_milliseconds}) for stream in _BOTH]


@register
@dataclass(frozen=True, slots=True)
class SlowClose(LinkFault):
    """A connection that one side closes stays open for the other, `milliseconds` long."""

    kind: ClassVar[str] = "slow-close"
    provokes: ClassVar[tuple[str, ...]] = ("D26", "K2")

    milliseconds: int = 10_000

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("slow_close", stream, {"delay": self.milliseconds}) for stream in _BOTH]


@register
@dataclass(frozen=True, slots=True)
class Truncate(LinkFault):
    """Every connection ends after `size_bytes` of what the client is answered: responses that are cut short."""

    kind: ClassVar[str] = "truncate"
    provokes: ClassVar[tuple[str, ...]] = ("C6", "C7", "I4", "R1")

    size_bytes: int = 2_000
    direction: Direction = "downstream"

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("limit_data", stream, {"bytes": self.size_bytes}) for stream in _streams(self.direction)]


@register
@dataclass(frozen=True, slots=True)
class HalfOpen(LinkFault):
    """The server dies and comes back, and the client isn't told: its connections stay open with nobody behind them.

    What a firewall leaves that has forgotten its state. New connections work.
    """

    kind: ClassVar[str] = "half-open"
    provokes: ClassVar[tuple[str, ...]] = ("D26", "D4", "K2")

    needs: ClassVar[str] = "links with proxies, and servers that can be restarted: a local stack, `up --proxied`"

    effect_seconds_max: ClassVar[float] = 120.0  # a server must start

    _WHILE: ClassVar[int] = 24 * 3600 * 1000
    # Below, `LinkFault` by name: super() doesn't know a class that was made anew for its slots.

    def supports(self, stack: Stack) -> str | None:
        reason = unlinked(stack)
        if reason is not None:
            return reason
        unmanaged = [name for name in check_link(stack, self.link).servers if name not in stack.components]
        return f"`{unmanaged[0]}` can't be restarted here" if unmanaged else None

    def resolve(self, stack: Stack) -> Trace:
        return {**LinkFault.resolve(self, stack), "servers": list(check_link(stack, self.link).servers)}

    def toxics(self) -> Sequence[tuple[str, Stream, dict[str, int]]]:
        return [("slow_close", stream, {"delay": self._WHILE}) for stream in _BOTH]

    def inject(self, stack: Stack, trace: Trace) -> None:
        link = stack.links[self.link]
        for name, (kind, stream, attributes) in zip(trace["toxics"], self.toxics(), strict=True):
            link.add(Toxic(name, kind, stream, attributes))
        for server in link.servers:
            stack.components[server].kill()
            stack.components[server].start()

    def effect(self, stack: Stack, trace: Trace) -> str | None:
        link = stack.links[self.link]
        for server in link.servers:
            readiness = stack.components[server].readiness()
            if not readiness.ready:
                return f"`{server}` is not back yet: {readiness.reason}"
        return (
            None if {t.name for t in link.toxics()} >= set(trace["toxics"]) else f"toxics are missing on `{link.name}`"
        )

    def recover(self, stack: Stack, trace: Trace) -> None:
        for server in stack.links[self.link].servers:
            stack.components[server].start()
        LinkFault.recover(self, stack, trace)

    def take_off(self, link: Link, trace: Trace) -> None:
        # Those that are half open hold on: no toxic closes them. A cut does; and without connections toxiproxy does not
        # hang (see `_renew_proxies`).
        link.cut()
        LinkFault.take_off(self, link, trace)
        link.mend()


def _streams(direction: Direction) -> tuple[Stream, ...]:
    return _BOTH if direction == "both" else (direction,)
