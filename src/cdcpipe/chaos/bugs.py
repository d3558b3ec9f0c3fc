"""Known bugs: old or misconfigured parts of a pipeline, each of which a run must find under the right name.

A suite that passes with one of these has no teeth. A `Bug` says what is put in; the plan of each, with the faults that
bring it out, is in `chaos/known_bugs/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psycopg

from cdcpipe.errors import UsageError
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.rowwise import ROW_BY_ROW

if TYPE_CHECKING:
    from cdcpipe.stack.local.stack import LocalStack

__all__ = ["BUGS", "Bug", "apply", "take_out"]


@dataclass(frozen=True, slots=True)
class Bug:
    """What is put in: versions, settings of the worker and of both connectors (None takes a key away), and SQL that the
    superuser runs before the load's tables are made.

    `mode` is its number in failure-modes.md. `expects` are the anomalies (`name` or `name@place`), one of which must be
    found. `late_topics`: the load's topics are not made beforehand.
    """

    mode: str
    what: str
    expects: tuple[str, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    worker: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str | None] = field(default_factory=dict)
    sink: Mapping[str, str | None] = field(default_factory=dict)
    sql: tuple[str, ...] = ()
    late_topics: bool = False

    @property
    def configured(self) -> bool:
        """Whether it can be put into a stack that is up, and taken out again: nothing but connectors' settings."""
        return bool(self.source or self.sink) and not (self.versions or self.worker or self.sql or self.late_topics)


BUGS: Final[Mapping[str, Bug]] = {
    "debezium-3.6": Bug(
        mode="D1, D2",
        what="Debezium 3.6.0.Final skips the rest of what shares one LSN after a restart, and a transaction that "
        "begins where another ends",
        expects=("lost-change@source",),
        versions={"debezium": "3.6.0.Final"},
        sql=(f"DROP EVENT TRIGGER {ROW_BY_ROW}",),
    ),
    "copy-records": Bug(
        mode="D1",
        what="Debezium 3.7.0.Final without the guard of `cdcpipe.stack.rowwise`, and polls that end within a COPY: "
        "after a restart it skips the rest of its rows when one was sent, and else sends one again",
        expects=("lost-change@source", "value-drift@source", "phantom-change@source", "duplicate-change"),
        versions={"debezium": "3.7.0.Final"},
        source={"max.batch.size": "3"},
        sql=(f"DROP EVENT TRIGGER {ROW_BY_ROW}",),
    ),
    "small-polls": Bug(
        mode="D1",
        what="no bug: the same polls under what is shipped, which must pass",
        expects=(),
        source={"max.batch.size": "3"},
    ),
    "eos-off": Bug(
        mode="D13",
        what="the worker's exactly-once support for sources is off: a killed task sends again what it had sent",
        expects=("duplicate-change",),
        worker={"exactly.once.source.support": "disabled"},
        source={"exactly.once.support": "requested", "transaction.boundary": None},
    ),
    "read-uncommitted": Bug(
        mode="K1",
        what="the sink reads uncommitted records: those of transactions that were aborted are archived too",
        expects=("phantom-change", "duplicate-row", "duplicate-change"),
        sink={"consumer.override.isolation.level": "read_uncommitted"},
    ),
    "no-dead-letters": Bug(
        mode="K6",
        what="errors are tolerated and no dead letter queue is named: what can't be decoded vanishes",
        expects=("unaccounted-drop",),
        sink={
            "errors.tolerance": "all",
            "errors.deadletterqueue.topic.name": None,
            "errors.deadletterqueue.topic.replication.factor": None,
            "errors.deadletterqueue.context.headers.enable": None,
        },
    ),
    "offset-latest": Bug(
        mode="I1",
        what="the sink begins at the end of a topic that it sees for the first time: what was there is never read",
        expects=("lost-change@sink",),
        sink={"iceberg.kafka.auto.offset.reset": "latest", "consumer.override.auto.offset.reset": "latest"},
        late_topics=True,
    ),
    "deletes-skipped": Bug(
        mode="D12",
        what="the source is told to skip deletes: rows live on in the archive that are gone in the database",
        expects=("lost-change@source",),
        source={"skipped.operations": "d"},
    ),
    "filtered": Bug(
        mode="K5, K6",
        what="a transform of the sink drops the records of one topic, and nobody was told",
        expects=("unaccounted-drop", "lost-change@sink"),
        sink={
            "transforms": "envelope,meta,drop",
            "transforms.drop.type": "org.apache.kafka.connect.transforms.Filter",
            "transforms.drop.predicate": "payments",
            "predicates": "payments",
            "predicates.payments.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
            "predicates.payments.pattern": ".*payments",
        },
    ),
    "type-change": Bug(
        mode="R1",
        what="a column's type is changed: the registry refuses the new schema, and the source's task fails for good",
        expects=("stuck",),
    ),
    "slot-unchecked": Bug(
        mode="D6, D7",
        what="the source takes a slot that was made again, or moved, for its own, and goes on where that begins",
        expects=("lost-change@source", "slot-loss"),
        # Both: by default the check of the log's position refuses such a start, whatever the strategy.
        source={"offset.mismatch.strategy": "no_validation", "internal.log.position.check.enable": "false"},
    ),
    "slot-dropped": Bug(
        mode="D6",
        what="the slot is dropped and made again under the shipped configuration, which must refuse to go on",
        expects=("slot-loss",),
    ),
    "iceberg-1.10": Bug(
        mode="I1, I2, I3",
        what="an Iceberg sink that may keep two coordinators after a rebalance",
        expects=("duplicate-row", "lost-change@sink", "offset-hole", "stuck", "offset-regression", "zombie-writer"),
        versions={"iceberg": "1.10.1"},  # 1.10.0 is not whole on Maven Central
        sink={"tasks.max": "3"},
    ),
    "iceberg-1.11": Bug(
        mode="I1, I2, I3",
        what="an Iceberg sink whose stale coordinator may commit files twice, or rewind its offsets",
        expects=("duplicate-row", "lost-change@sink", "offset-hole", "stuck", "offset-regression", "zombie-writer"),
        versions={"iceberg": "1.11.0"},
        sink={"tasks.max": "3"},
    ),
    "three-sink-tasks": Bug(
        mode="I2, I3",
        what="no bug: as many tasks of the sink that is shipped, which must pass",
        expects=(),
        sink={"tasks.max": "3"},
    ),
}
"""Name -> bug."""


def take_out(stack: LocalStack) -> None:
    """Give both connectors their shipped settings again."""
    from cdcpipe.stack.deploy import deploy_connectors
    from cdcpipe.stack.local.connect import ConnectWorker
    from cdcpipe.stack.pipeline import SecretPlaces

    secrets = SecretPlaces.in_file(str(ConnectWorker.secrets_file(stack.folder / "connect")))
    deploy_connectors(stack.endpoints, stack.settings, secrets)


def apply(bug: Bug, stack: LocalStack) -> None:
    """Put it in: the worker's settings, then the connectors'. Its versions are given to `up` before.

    Raises UsageError on a stack whose worker isn't ours to configure, and what Connect says.
    """
    from cdcpipe.connect.rest import ConnectClient
    from cdcpipe.stack.local.connect import ConnectWorker
    from cdcpipe.stack.local.postgres import Postgres

    if bug.sql:
        server = stack.components["postgres"]
        assert isinstance(server, Postgres)
        database = stack.endpoints.postgres.database
        with psycopg.connect(server.conninfo(), dbname=database, autocommit=True) as connection:
            for statement in bug.sql:
                connection.execute(statement.encode())
    if bug.worker:
        worker = stack.components["connect"]
        if not isinstance(worker, ConnectWorker):
            raise UsageError("this stack's worker can't be configured from here")
        worker.stop()
        worker.reconfigure(bug.worker)
        worker.start()
        worker.await_ready(timeout_seconds=120)
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        for name, changes in ((SOURCE, bug.source), (SINK, bug.sink)):
            if changes:
                config: dict[str, str | None] = {**client.config(name), **changes}
                client.deploy({key: value for key, value in config.items() if value is not None})
        for name in (SOURCE, SINK):
            client.wait_until_running(name, timeout_seconds=90)
