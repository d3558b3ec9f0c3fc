"""The menu that schedules are drawn from: faults with weights, for a stack of a given shape.

A dish is a kind of fault on one target, with values drawn from the generator. What loses data by design (a slot
dropped, a publication altered) is never drawn: such faults are for scenarios that say what must be found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from cdcpipe.errors import UsageError
from cdcpipe.faults.fault import Fault, fault_from_dict, kinds, nearest

__all__ = ["Dish", "Shape", "brokers_down", "menu"]

_DOWN: Final = frozenset({"kill", "stop", "pause", "restart", "restart-storm", "rolling-restart"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schedule must know of a stack: how many brokers, and whether its links go through proxies."""

    brokers: int = 1
    proxied: bool = False

    def __str__(self) -> str:
        return f"{self.brokers}-{'proxied' if self.proxied else 'direct'}"


@dataclass(frozen=True, slots=True)
class Dish:
    """One choice: `make` draws its values. `moments` are those it may be timed to, `weight` how often it is taken."""

    name: str
    weight: float
    make: Callable[[Random], Fault]
    moments: tuple[str, ...] = ()


def brokers_down(fault: Fault) -> frozenset[str]:
    """The brokers that a fault takes down at once, by name or by office; empty for any other fault.

    A rolling restart takes one at a time.
    """
    if fault.kind not in _DOWN:
        return frozenset()
    target = fault.target
    if target == "every broker":
        return frozenset({target}) if fault.kind == "rolling-restart" else frozenset({"kafka-1", "kafka-2", "kafka-3"})
    return frozenset({target}) if re.match(r"kafka-\d|leader|controller", target) else frozenset()


def menu(shape: Shape, wanted: Iterable[str] | None = None) -> list[Dish]:
    """The dishes for a stack of `shape`, in a fixed order; only those of the names in `wanted`, if it is given.

    A name is a dish's (`kill connect`), or a kind's (`kill`). UsageError for one that is not on the menu.
    """
    dishes = [dish for dish in _all(shape) if dish.name.split()[0] in kinds()]
    if wanted is None:
        return dishes
    names = list(dict.fromkeys(wanted))
    known = dict.fromkeys([*(dish.name.split()[0] for dish in dishes), *(dish.name for dish in dishes)])
    for name in names:
        if name not in known:
            why = "" if shape.proxied else "; this stack has no proxied links"
            raise UsageError(f"`{name}` is not on the menu of this stack{why}", hint=nearest(name, list(known)))
    return [dish for dish in dishes if dish.name in names or dish.name.split()[0] in names]


def _all(shape: Shape) -> Iterator[Dish]:
    brokers = [f"kafka-{n}" for n in range(1, shape.brokers + 1)]
    yield _dish("kill", "connect", 8, (0, 4), moments=("upload", "open_transaction"))
    yield _dish("pause", "connect", 4, (12, 30))
    yield _dish("stop", "connect", 3, (1, 5))
    yield _dish("restart-storm", "connect", 2, (0, 0), times=(2, 3, 4))
    for broker in brokers:
        yield _dish("kill", broker, 4 / len(brokers), (0, 8), moments=("upload",))
        yield _dish("pause", broker, 3 / len(brokers), (6, 20))
        yield _dish("stop", broker, 1 / len(brokers), (1, 5))
    if len(brokers) > 1:
        yield _dish("kill", "controller", 2, (0, 8))
        yield _dish("kill", "leader of cdc.public.orders 0", 2, (0, 8))
        yield Dish("rolling-restart every broker", 1, lambda _: fault_from_dict({"kind": "rolling-restart"}))
    yield _dish("kill", "postgres", 3, (0, 4), moments=("open_transaction",))
    yield _plain("walsender-terminated", 2, (0, 0))
    yield _plain("failover", 1, (2, 8))
    yield _plain("open-transaction", 2, (5, 20))
    yield _dish("kill", "registry", 2, (0, 12))
    yield _dish("pause", "registry", 1, (5, 20))
    yield _dish("kill", "s3", 2, (0, 12))
    yield _dish("pause", "s3", 2, (5, 20))
    if shape.proxied:
        yield _plain("rebalance", 3, (3, 8), times=(1, 2), hard=(True, False))
        yield from _links()


def _links() -> Iterator[Dish]:
    for link in ("connect-postgres", "connect-kafka", "connect-s3", "connect-registry"):
        yield _dish("cut", link, 2, (3, 15), name="link")
        yield _dish("reset", link, 1, (1, 4), name="link")
        yield _dish("latency", link, 1, (5, 20), name="link", milliseconds=(200, 1000), jitter_milliseconds=(0, 100))
    for link in ("connect-postgres", "connect-kafka", "connect-s3"):
        yield _dish("half-open", link, 1, (5, 20), name="link")
        yield _dish("one-way-cut", link, 1, (3, 15), name="link", direction=("upstream", "downstream"))
    yield _dish("bandwidth", "connect-s3", 1, (5, 15), name="link", kilobytes_per_second=(64, 256))
    yield _dish("truncate", "connect-s3", 1, (3, 10), name="link", size_bytes=(500, 20_000))
    for kind in ("s3-error", "s3-slow-down", "s3-lost-answer"):
        yield _dish(kind, "connect-s3", 2, (5, 15), name="link", every=(1, 2, 3))
    yield _dish("s3-timeout", "connect-s3", 1, (5, 15), name="link")


def _plain(kind: str, weight: float, seconds: tuple[float, float], **choices: tuple[Any, ...]) -> Dish:
    """A fault that has one target only."""

    def make(rng: Random) -> Fault:
        content = {"kind": kind, "seconds": round(rng.uniform(*seconds), 1)}
        return fault_from_dict(content | {key: rng.choice(values) for key, values in choices.items()})

    return Dish(kind, weight, make)


def _dish(
    kind: str,
    target: str,
    weight: float,
    seconds: tuple[float, float],
    *,
    name: str = "component",
    moments: tuple[str, ...] = (),
    **choices: tuple[Any, ...],
) -> Dish:
    def make(rng: Random) -> Fault:
        content = {"kind": kind, name: target, "seconds": round(rng.uniform(*seconds), 1)}
        return fault_from_dict(content | {key: rng.choice(values) for key, values in choices.items()})

    return Dish(f"{kind} {target}", weight, make, moments)
