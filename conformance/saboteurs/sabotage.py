"""Saboteurs: for each criterion, a pipeline that is wrong in exactly that, so that the suite is seen to have teeth.

    python conformance/saboteurs/sabotage.py R2.5          run the whole suite against that pipeline
    python conformance/saboteurs/sabotage.py --list

A saboteur misconfigures or damages a stack that runs; then the suite is run against it as it would be against any.
It must fail the criterion, and nothing but it, what `criteria.toml` says can't hold without it, and `also`, with the
reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from cdcpipe.conformance.criteria import load_criteria, suite_folder
from cdcpipe.connect.rest import ConnectClient
from cdcpipe.settings import load_settings
from cdcpipe.stack.deploy import await_flow
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack

Damage = Callable[[LocalStack], AbstractContextManager[None]]

# Small: what is wrong is wrong at any rate. R2.1 and R2.2 are inconclusive then, whatever the pipeline does.
_SMALL = "[conformance]\nrate = 400\nseconds = 10\nwarm_up = 0\n"


@dataclass(frozen=True, slots=True)
class Saboteur:
    """`sentence` says what it does. `also` are criteria that fail with it though nothing says that they need it, each
    with the reason. `plugin` is a module of this folder that pytest loads: for what the suite itself starts."""

    criterion: str
    sentence: str
    damage: Damage
    also: Mapping[str, str] = field(default_factory=dict)
    plugin: str = ""
    settings: str = _SMALL


@dataclass(frozen=True, slots=True)
class Result:
    """What the suite said: verdict by criterion, and the reasons."""

    verdicts: Mapping[str, str]
    reasons: Mapping[str, str]
    out: str

    @property
    def failed(self) -> set[str]:
        """The criteria that the suite refuted."""
        return {id_ for id_, verdict in self.verdicts.items() if verdict == "fail"}


# Damages --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing(stack: LocalStack) -> Iterator[None]:
    """The stack as it should be."""
    yield


def reconfigured(connector: str, changes: Mapping[str, str]) -> Damage:
    """A connector that runs with other settings."""

    @contextlib.contextmanager
    def damage(stack: LocalStack) -> Iterator[None]:
        with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
            client.deploy({**client.config(connector), **changes})
            client.wait_until_running(connector, timeout_seconds=90)
        await_flow(stack.endpoints, archive=True, timeout_seconds=180)
        yield

    return damage


def administered(*statements: str, database: str = "shop") -> Damage:
    """PostgreSQL with other settings, by its superuser."""

    @contextlib.contextmanager
    def damage(stack: LocalStack) -> Iterator[None]:
        postgres: Any = stack.components["postgres"]
        with psycopg.connect(postgres.conninfo(), dbname=database, autocommit=True) as connection:
            for statement in (*statements, "SELECT pg_reload_conf()"):
                connection.execute(statement.encode())
        yield

    return damage


def of_registry(mode: str) -> Damage:
    """The registry in another compatibility mode."""

    @contextlib.contextmanager
    def damage(stack: LocalStack) -> Iterator[None]:
        from cdcpipe.stack.deploy import set_compatibility

        set_compatibility(stack.endpoints, mode)
        yield

    return damage


def meanwhile(work: Callable[[LocalStack], None], *, every_seconds: float = 0.5) -> Damage:
    """Something that is done again and again while the suite runs."""

    @contextlib.contextmanager
    def damage(stack: LocalStack) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(every_seconds):
                with contextlib.suppress(Exception):
                    work(stack)

        thread = threading.Thread(target=run, name="saboteur", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)

    return damage


@contextlib.contextmanager
def one_partition(stack: LocalStack) -> Iterator[None]:
    """The shop's topics, with one partition each, made before the suite makes them."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    from cdcpipe.workload.shop import Shop

    endpoints = stack.endpoints
    admin = AdminClient({"bootstrap.servers": endpoints.bootstrap_servers, "log_level": 0})
    topics = [NewTopic(endpoints.topic_of(table), 1, 1) for table in Shop.TABLES]
    for future in admin.create_topics(topics, operation_timeout=30).values():
        future.result()
    await_flow(endpoints, archive=True, timeout_seconds=120)
    yield


@contextlib.contextmanager
def at_least_once_worker(stack: LocalStack) -> Iterator[None]:
    """A worker and a source without exactly-once support."""
    worker: Any = stack.components["connect"]
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        config = client.config(SOURCE)
        client.delete(SOURCE)
        client.wait_until_gone(SOURCE)
    changes = {"exactly.once.source.support": "disabled", "offset.flush.interval.ms": "60000"}
    worker.stop()
    worker.reconfigure(changes)
    worker.start()
    worker.await_ready(timeout_seconds=120)
    # The suite kills this worker and starts it again with the stack's own settings: it must stay as it is.
    properties = worker.folder / "worker.properties"
    with ConnectClient(stack.endpoints.connect_url, timeout_seconds=60) as client:
        client.deploy({**config, "exactly.once.support": "requested", "transaction.boundary": "poll"})
        client.wait_until_running(SOURCE, timeout_seconds=90)
    await_flow(stack.endpoints, archive=True, timeout_seconds=180)
    assert properties.exists()
    yield


@contextlib.contextmanager
def greedy_worker(stack: LocalStack) -> Iterator[None]:
    """A worker with a heap of 3.4 GB that it touches at once."""
    worker: Any = stack.components["connect"]
    own = worker.env
    worker.stop()
    worker.heap_mb, worker.young_mb = 3_400, 1_000
    worker.env = lambda: {**own(), "JDK_JAVA_OPTIONS": "-XX:+AlwaysPreTouch"}
    worker.start()
    worker.await_ready(timeout_seconds=180)
    await_flow(stack.endpoints, archive=True, timeout_seconds=180)
    yield


@contextlib.contextmanager
def plain_to_another_name(stack: LocalStack) -> Iterator[None]:
    """The sink writes in clear to this machine's name on the network, where something passes it on to the server."""
    import asyncio
    import socket
    from urllib.parse import urlsplit

    target = urlsplit(str(stack.endpoints.s3.url))
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(copy(reader, ahead), copy(behind, writer))

    name = socket.gethostname()
    server = loop.run_until_complete(asyncio.start_server(serve, socket.gethostbyname(name), 0))
    thread = threading.Thread(target=loop.run_forever, name="saboteur", daemon=True)
    thread.start()
    address = f"http://{name}:{server.sockets[0].getsockname()[1]}"
    try:
        with reconfigured(SINK, {"iceberg.catalog.s3.endpoint": address})(stack):
            yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()


_INTRUDERS: dict[str, Any] = {}


def _intrude(stack: LocalStack) -> None:
    """Join the old consumer's group with its own name, as a second application does that was copied from it."""
    from confluent_kafka import Consumer
    from confluent_kafka.admin import AdminClient

    servers: dict[str, str | int | float | bool] = {"bootstrap.servers": stack.endpoints.bootstrap_servers}
    admin = AdminClient({**servers, "log_level": 0})
    topics = [topic for topic in admin.list_topics(timeout=10).topics if ".evolving_" in topic]
    for group in admin.list_consumer_groups().result().valid:
        if group.group_id.startswith("cdcpipe-old-consumer-") and group.group_id not in _INTRUDERS:
            consumer = Consumer({**servers, "group.id": group.group_id, "log_level": 0})
            consumer.subscribe(topics)
            _INTRUDERS[group.group_id] = consumer
    for consumer in _INTRUDERS.values():
        consumer.poll(0.1)


def _foreign_object(stack: LocalStack) -> None:
    from cdcpipe.stack.catalog import open_catalog
    from cdcpipe.stack.local.s3 import s3_client

    endpoints = stack.endpoints
    location = open_catalog(endpoints).load_table(f"{endpoints.topic_prefix}.public.orders").location()
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    client: Any = s3_client(endpoints.s3)
    client.put_object(Bucket=bucket, Key=f"{prefix}/data/part-0.avro", Body=b"Obj\x01")
    client.close()


_FORGED: set[str] = set()


def _forge(stack: LocalStack) -> None:
    """One event in the topic of a test's table that says that another database made it."""
    import io

    import fastavro
    from confluent_kafka import Consumer, Producer, TopicPartition

    from cdcpipe.schemas.registry import Registry, decode_frame, encode_frame

    servers = {"bootstrap.servers": stack.endpoints.bootstrap_servers, "log_level": 0}
    consumer = Consumer({**servers, "group.id": "saboteur", "isolation.level": "read_committed"})
    try:
        for topic in consumer.list_topics(timeout=10).topics:
            if ".traced_" not in topic or topic in _FORGED:
                continue
            consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
            message = consumer.poll(5)
            if message is None or message.error():
                continue
            schema_id, payload = decode_frame(message.value())  # type: ignore[arg-type]
            with Registry(stack.endpoints.registry_url) as registry:
                schema = fastavro.parse_schema(json.loads(registry.schema(schema_id)))
            event: Any = fastavro.schemaless_reader(io.BytesIO(payload), schema, None)
            event["source"]["connector"] = "mysql"
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema, event)
            producer = Producer(servers)
            producer.produce(topic, encode_frame(schema_id, out.getvalue()), message.key())
            producer.flush(10)
            _FORGED.add(topic)
    finally:
        consumer.close()


def _lose_key_subjects(stack: LocalStack) -> None:
    from cdcpipe.schemas.registry import Registry

    with Registry(stack.endpoints.registry_url) as registry:
        for subject in registry.subjects():
            if ".read_" in subject and subject.endswith("-key"):
                registry.delete(subject)


def _stutter(stack: LocalStack) -> None:
    """Half of the time the worker stands still."""
    import time

    worker = stack.components["connect"]
    worker.pause()
    time.sleep(1.5)
    worker.resume()


SABOTEURS: tuple[Saboteur, ...] = (
    Saboteur("R1.1", "somebody writes an event of another database", meanwhile(_forge, every_seconds=0.2)),
    Saboteur("R1.2", "the source skips deletes", reconfigured(SOURCE, {"skipped.operations": "d"})),
    Saboteur(
        "R1.3",
        "a trigger hangs on a captured table",
        administered(
            "CREATE FUNCTION cdcpipe.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "CREATE TRIGGER note AFTER INSERT ON cdcpipe.watermark FOR EACH ROW EXECUTE FUNCTION cdcpipe.note()",
        ),
    ),
    Saboteur(
        "R1.4",
        "the source does not tell where in its transaction a change stands",
        reconfigured(SOURCE, {"provide.transaction.metadata": "false"}),
    ),
    Saboteur(
        "R1.5",
        "the sink does not evolve its tables",
        reconfigured(SINK, {"iceberg.tables.evolve-schema-enabled": "false"}),
    ),
    Saboteur(
        "R2.1",
        "the worker stands still half of the time",
        meanwhile(_stutter, every_seconds=1.5),
        settings="[conformance]\nseconds = 20\nwarm_up = 10\n",
        also={"R2.3": "a monitor that samples a pipeline which stutters tells another rate at times"},
    ),
    Saboteur(
        "R2.2",
        "the source commits every 6 seconds",
        reconfigured(SOURCE, {"transaction.boundary": "interval", "transaction.boundary.interval.ms": "6000"}),
        settings="[conformance]\nseconds = 20\nwarm_up = 10\n",
    ),
    Saboteur("R2.3", "PostgreSQL counts nothing", administered("ALTER SYSTEM SET track_counts = off")),
    Saboteur("R2.4", "topics have one partition", one_partition),
    Saboteur(
        "R2.5",
        "the source spreads records over the partitions one by one",
        reconfigured(
            SOURCE, {"producer.override.partitioner.class": "org.apache.kafka.clients.producer.RoundRobinPartitioner"}
        ),
    ),
    Saboteur(
        "R3.1",
        "the sink drops the records of one table",
        reconfigured(
            SINK,
            {
                "transforms": "drop,envelope,meta",
                "transforms.drop.type": "org.apache.kafka.connect.transforms.Filter",
                "transforms.drop.predicate": "payments",
                "predicates": "payments",
                "predicates.payments.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
                "predicates.payments.pattern": r".*\.payments",
            },
        ),
    ),
    Saboteur("R3.2", "an object that is no Parquet lies among the data", meanwhile(_foreign_object, every_seconds=3)),
    Saboteur("R3.3", "new tables are not partitioned", reconfigured(SINK, {"iceberg.tables.default-partition-by": ""})),
    Saboteur("R3.4", "the sink asks S3 once", reconfigured(SINK, {"iceberg.catalog.s3.retry.num-retries": "0"})),
    Saboteur(
        "R3.5",
        "worker and source are not exactly-once",
        at_least_once_worker,
    ),
    Saboteur("R4.5", "the worker takes 3.4 GB", greedy_worker),
    Saboteur("R5.1", "the subject of a key is deleted", meanwhile(_lose_key_subjects)),
    Saboteur("R5.2", "schemas need only be backward compatible", of_registry("BACKWARD")),
    Saboteur("R5.3", "the registry checks nothing", of_registry("NONE")),
    Saboteur("R5.4", "one bad record stops the sink", reconfigured(SINK, {"errors.tolerance": "none"})),
    Saboteur(
        "R5.5",
        "another application takes partitions from the old consumer's group",
        meanwhile(_intrude, every_seconds=0.2),
    ),
    Saboteur("R6.1", "the monitor does not tell the lag", nothing, plugin="blind_monitor"),
    Saboteur("R6.2", "there is no rule for a component that is down", nothing, plugin="silent_rules"),
    Saboteur(
        "R6.3",
        "PostgreSQL logs no errors",
        administered("ALTER SYSTEM SET log_min_messages = 'log'", "ALTER SYSTEM SET log_min_error_statement = 'panic'"),
    ),
    Saboteur("R6.4", "the monitor tells half of the memory", nothing, plugin="half_memory"),
    Saboteur("R6.5", "expectations are not looked at", nothing, plugin="deaf_quality"),
    Saboteur("R7.2", "the sink writes in clear to a name on the network", plain_to_another_name),
    Saboteur("R7.3", "the source drops what it can't convert", reconfigured(SOURCE, {"errors.tolerance": "all"})),
    Saboteur("R7.5", "PostgreSQL logs no sessions", administered("ALTER SYSTEM SET log_connections = ''")),
)


# Running them ---------------------------------------------------------------------------------------------


def find(criterion: str) -> Saboteur:
    """The saboteur of `criterion`."""
    return next(each for each in SABOTEURS if each.criterion == criterion)


def run_suite(
    stack: LocalStack, folder: Path, *, settings: str = _SMALL, plugin: str = "", only: tuple[str, ...] = ()
) -> Result:
    """Run the suite against `stack` as it is, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cdcpipe.toml").write_text(settings, encoding="utf-8")
    suite = suite_folder()
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", str(suite), "-q", "-c", str(suite / "pytest.toml")]
    command += ["--rootdir", str(suite), "-p", "no:cacheprovider", "--cdcpipe-stack", str(stack.folder)]
    command += ["--cdcpipe-config", "cdcpipe.toml", "--conformance-report", "out", *(["-p", plugin] if plugin else [])]
    command += [part for id_ in only for part in ("--cdcpipe-only", id_)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    report = folder / "out" / "conformance-report.json"
    if not report.is_file():
        raise RuntimeError(f"the suite left no report (exit code {done.returncode}):\n{done.stdout}{done.stderr}")
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    return Result(
        {row["id"]: row["verdict"] for row in rows},
        {row["id"]: row["reason"] for row in rows},
        done.stdout + done.stderr,
    )


def sabotage(saboteur: Saboteur, folder: Path, *, only: tuple[str, ...] = ()) -> Result:
    """A stack of its own in `folder`, damaged, judged, and gone."""
    own = load_settings()
    stack = LocalStack(folder / "stack", cache=own.cache, maven_mirror=own.maven_mirror)
    try:
        stack.up(await_archive=True)
        with saboteur.damage(stack):
            return run_suite(stack, folder / "run", settings=saboteur.settings, plugin=saboteur.plugin, only=only)
    finally:
        stack.down(purge=True)


def findings(saboteur: Saboteur, result: Result) -> list[str]:
    """What is wrong with the suite's answer; nothing when it has found exactly this saboteur."""
    criteria = load_criteria()
    allowed = {saboteur.criterion, *criteria.dependents(saboteur.criterion), *saboteur.also}
    wrong = [
        f"{id_} failed, and does not depend on {saboteur.criterion}: {result.reasons[id_]}"
        for id_ in sorted(result.failed - allowed)
    ]
    if saboteur.criterion not in result.failed:
        said = result.verdicts[saboteur.criterion]
        wrong.insert(0, f"{saboteur.criterion} is `{said}` ({result.reasons[saboteur.criterion]})")
    return wrong


def main() -> int:
    """Run saboteurs from the command line."""
    only = sys.argv[1:]
    if "--list" in only:
        for each in SABOTEURS:
            print(f"{each.criterion}  {each.sentence}")
        return 0
    code = 0
    for each in SABOTEURS:
        if only and each.criterion not in only:
            continue
        with tempfile.TemporaryDirectory(
            prefix="cdcpipe-saboteur-", dir="/var/tmp", ignore_cleanup_errors=True
        ) as made:
            result = sabotage(each, Path(made))
        wrong = findings(each, result)
        code |= bool(wrong)
        print(f"{each.criterion}  {each.sentence}: failed {', '.join(sorted(result.failed)) or 'nothing'}")
        for id_ in sorted(result.failed):
            print(f"    {id_}: {result.reasons[id_]}")
        print("    " + ("as it should" if not wrong else "; ".join(wrong)), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
