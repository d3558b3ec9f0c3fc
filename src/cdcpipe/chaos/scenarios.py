"""Scenarios: schedules by hand, each for one failure mode. `chaos/` has a pytest file for each, with what must hold.

Faults are placed by shares of the load (0.3: when 30 % of its events are committed), so that a scenario means the same
at every rate and length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cdcpipe.chaos.plan import ChaosPlan, Migration
from cdcpipe.errors import UsageError
from cdcpipe.faults.fault import fault_from_dict, nearest
from cdcpipe.faults.schedule import Schedule, Step, Trigger

__all__ = ["SCENARIOS", "Place", "Scenario", "scenario_plan"]


@dataclass(frozen=True, slots=True)
class Place:
    """A fault (as JSON) and when: at a `share` of the load, or `after` seconds after the step before."""

    fault: Mapping[str, Any]
    share: float | None = None
    after: float | None = None
    moment: str | None = None
    measure: str = "committed"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`claim` is what must hold. `values` are fields of the plan; `seconds` how long its load lasts unless asked."""

    claim: str
    places: Sequence[Place] = ()
    seconds: float = 90
    values: Mapping[str, Any] = field(default_factory=dict)
    migrations: Sequence[tuple[float, str]] = ()
    drawn: bool = False


def scenario_plan(name: str, *, seed: int = 7, seconds: float | None = None, **changes: Any) -> ChaosPlan:
    """The plan of a scenario; `changes` replace fields of it. UsageError for a name that isn't one."""
    if name not in SCENARIOS:
        raise UsageError(f"there is no scenario `{name}`", hint=nearest(name, list(SCENARIOS)))
    scenario = SCENARIOS[name]
    values = {**scenario.values, **changes, "name": name, "seed": seed, "seconds": seconds or scenario.seconds}
    if scenario.drawn:
        return ChaosPlan.drawn(**values)
    plan = ChaosPlan(**values)
    events = plan.events if not plan.snapshot else plan.snapshot
    migrations = tuple(Migration(share * plan.events, sql) for share, sql in scenario.migrations)
    return replace(plan, schedule=Schedule(_steps(scenario.places, events)), migrations=migrations)


def _steps(places: Sequence[Place], events: float) -> tuple[Step, ...]:
    steps: list[Step] = []
    for number, place in enumerate(places, 1):
        if place.after is not None:
            trigger = Trigger("after", place.after, step=f"s{number - 1}", moment=place.moment)
        else:
            trigger = Trigger(place.measure, float(round((place.share or 0) * events)), moment=place.moment)
        steps.append(Step(f"s{number}", trigger, fault_from_dict(place.fault)))
    return tuple(steps)


def _on(kind: str, component: str, seconds: float = 0, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "component": component, "seconds": seconds, **more}


def _kills(component: str, *shares: float, seconds: float = 0, moment: str | None = None) -> list[Place]:
    return [Place(_on("kill", component, seconds), share, moment=moment) for share in shares]


_LEADER: Final = "leader of cdc.public.orders 0"
_EXACT: Final = "nothing is lost, repeated, reordered or altered, and the flow comes back by itself"

_BY_PROCESS: Mapping[str, Scenario] = {
    "worker_kill": Scenario(
        f"The worker is killed between upload and commit, and inside an open transaction: {_EXACT}.",
        [
            Place(_on("kill", "connect"), 0.2, moment="upload"),
            Place(_on("kill", "connect", 3), 0.55, moment="open_transaction"),
        ],
    ),
    "worker_zombie": Scenario(
        f"The worker is frozen for longer than its session, others take over, it wakes: {_EXACT}.",
        [Place(_on("pause", "connect", 25), 0.2)],
        seconds=100,
    ),
    "rebalance_storm": Scenario(
        f"A second worker joins and leaves, in order and by SIGKILL, then the first is killed: {_EXACT}.",
        [
            Place({"kind": "rebalance", "times": 2, "seconds": 6}, 0.12),
            Place({"kind": "rebalance", "times": 2, "seconds": 6, "hard": True}, after=4),
            Place(_on("kill", "connect"), after=4),
        ],
        seconds=140,
        values={"proxied": True},
    ),
    "broker_kill": Scenario(
        f"The only broker is killed: {_EXACT}.",
        [Place(_on("kill", "kafka-1", 2), 0.2), Place(_on("kill", "kafka-1"), 0.6)],
    ),
    "broker_kill_each": Scenario(
        f"Each of three brokers is killed in turn: {_EXACT}.",
        [
            Place(_on("kill", "kafka-1", 3), 0.12),
            Place(_on("kill", "kafka-2", 3), after=15),
            Place(_on("kill", "kafka-3", 3), after=15),
        ],
        seconds=120,
        values={"brokers": 3},
    ),
    "broker_leader": Scenario(
        f"The leader of a busy partition is killed, down for 10 s: {_EXACT}.",
        [Place(_on("kill", _LEADER, 10), 0.25)],
        values={"brokers": 3},
    ),
    "broker_controller": Scenario(
        f"The active controller is killed, down for 10 s: {_EXACT}.",
        [Place(_on("kill", "controller", 10), 0.25)],
        values={"brokers": 3},
    ),
    "broker_two_in_a_row": Scenario(
        f"A second broker is killed as soon as the first is back: {_EXACT}.",
        [Place(_on("kill", "kafka-1", 2), 0.2), Place(_on("kill", "kafka-2", 2), after=1)],
        values={"brokers": 3},
    ),
    "postgres_crash": Scenario(
        f"PostgreSQL is killed inside an open transaction, twice: {_EXACT}.",
        _kills("postgres", 0.25, 0.65, seconds=2, moment="open_transaction"),
    ),
    "postgres_sessions": Scenario(
        f"The source's session is ended, all sessions are, and one transaction stays open for 15 s: {_EXACT}.",
        [
            Place({"kind": "walsender-terminated"}, 0.15),
            Place({"kind": "open-transaction", "seconds": 15}, after=8),
            Place({"kind": "failover", "seconds": 4}, after=5),
        ],
        seconds=100,
    ),
    "registry_outage": Scenario(
        f"The registry is down for 15 s: {_EXACT}.",
        [Place(_on("kill", "registry", 15), 0.25)],
    ),
    "s3_outage": Scenario(
        f"S3 is killed between upload and commit, down for 10 s, then frozen for 15 s: {_EXACT}.",
        [Place(_on("kill", "s3", 10), 0.2, moment="upload"), Place(_on("pause", "s3", 15), 0.6)],
        seconds=100,
    ),
}

_BY_DATA: Mapping[str, Scenario] = {
    "copy_kills": Scenario(
        "COPY, 2,000 rows a transaction, and three kills of the worker in 40 s (D1): each row arrives, once.",
        _kills("connect", 0.2, 0.45, 0.7),
        seconds=50,
        values={"load": "copy", "rate": 4400},
    ),
    "small_copies": Scenario(
        "COPY, ten rows a transaction, and five kills of the worker in 50 s (D1): each arrives, once.",
        _kills("connect", 0.12, 0.3, 0.48, 0.66, 0.84),
        seconds=60,
        values={"load": "small-copy", "rate": 200},
    ),
    "tiny_restarts": Scenario(
        "One row a transaction, eight writers, and restarts of the worker, clean and hard (D2): each arrives, once.",
        [
            Place(_on("restart", "connect"), 0.15),
            Place(_on("restart", "connect", hard=True), 0.35),
            Place(_on("restart", "connect"), 0.55),
            Place(_on("restart", "connect", hard=True), 0.75),
        ],
        seconds=80,
        values={"load": "tiny", "rate": 1000},
    ),
    "snapshot_interrupted": Scenario(
        "The worker is killed in the middle of a snapshot, which begins anew (D14): no row is missing or altered; rows "
        "that are read twice, or later than the snapshot's position, are told apart: all of it is streamed again.",
        [Place(_on("kill", "connect"), 0.3, measure="logged"), Place(_on("kill", "connect"), after=6)],
        seconds=45,
        values={"load": "copy", "rate": 1000, "snapshot": 400_000, "resnapshots": True},
    ),
    "schema_change": Scenario(
        f"Columns are added while the worker and a broker are killed: {_EXACT}, under either schema.",
        [Place(_on("kill", "connect"), 0.31), Place(_on("kill", "kafka-1", 2), 0.66)],
        seconds=100,
        migrations=[
            (0.3, "ALTER TABLE public.orders ADD COLUMN IF NOT EXISTS chaos_note text"),
            (0.65, "ALTER TABLE public.customers ADD COLUMN IF NOT EXISTS chaos_score integer"),
        ],
    ),
    "soak": Scenario(f"Whatever the seed draws: {_EXACT}.", seconds=600, drawn=True),
}


def _link(kind: str, link: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "link": link, "seconds": seconds, **more}


def _partition(link: str, brokers: int = 1) -> Scenario:
    return Scenario(
        f"The link `{link}` is cut for 12 s, then half open for 20 s: {_EXACT}.",
        [Place(_link("cut", link, 12), 0.15), Place(_link("half-open", link, 20), after=15)],
        seconds=100,
        values={"proxied": True, "brokers": brokers},
    )


_BY_LINK: Mapping[str, Scenario] = {
    **{
        f"partition_{link.replace('-', '_')}": _partition(link)
        for link in ("connect-postgres", "connect-kafka", "connect-s3", "connect-registry", "connect-catalog")
    },
    "partition_kafka_kafka": _partition("kafka-kafka-1", brokers=3),
    "s3_brownout": Scenario(
        f"S3 is slowed down, fails, and does what it says it did not: {_EXACT}.",
        [
            Place(_link("s3-slow-down", "connect-s3", 12, every=2), 0.1),
            Place(_link("s3-error", "connect-s3", 10), after=10),
            Place(_link("s3-lost-answer", "connect-s3", 10, every=2), after=10),
        ],
        seconds=110,
        values={"proxied": True},
    ),
    "coordinator_joined": Scenario(
        f"A stranger joins the group of the sink's coordinator again and again, while S3 is slow: {_EXACT}.",
        [
            Place(_link("latency", "connect-s3", 60, milliseconds=800, jitter_milliseconds=700), 0.1),
            Place({"kind": "foreign-member", "times": 12, "stay_seconds": 1, "pause_seconds": 2}, after=3),
        ],
        values={"proxied": True},
    ),
    "smoke": Scenario(
        f"A worker, a broker, a link and S3, one after the other: {_EXACT}.",
        [
            Place(_on("kill", "connect"), 0.1, moment="upload"),
            Place(_on("kill", "kafka-1"), after=25),
            Place(_link("cut", "connect-postgres", 6), after=20),
            Place(_link("s3-slow-down", "connect-s3", 10, every=2), after=20),
        ],
        seconds=140,
        values={"proxied": True},
    ),
    "smoke_kind": Scenario(
        f"The same on a cluster, where no gate stands before S3: a worker, a broker and two links: {_EXACT}.",
        [
            Place(_on("kill", "connect"), 0.1, moment="upload"),
            Place(_on("kill", "kafka-1"), after=30),
            Place(_link("cut", "connect-postgres", 6), after=30),
            Place(_link("cut", "connect-s3", 10), after=20),
        ],
        seconds=160,
        values={"proxied": True, "rate": 1000},
    ),
}

SCENARIOS: Final[Mapping[str, Scenario]] = {**_BY_PROCESS, **_BY_LINK, **_BY_DATA}
"""Name -> scenario."""
