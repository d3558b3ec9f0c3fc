"""A broker that is killed while it ends transactions: none may hang behind it.

Kafka 4.3.0 to 4.4.0 take the partitions of a broker that is away for deleted and end a transaction without its markers
(KAFKA-20734): nobody who reads committed records gets past it. With `CDCPIPE_TEST_KAFKA=4.3.1` this test must
fail.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdcpipe.errors import StackError
from cdcpipe.settings import load_settings
from cdcpipe.stack.artefacts import Store
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.local.kafka import Broker
from cdcpipe.stack.local.state import claim_ports

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]

TOPIC, PARTITIONS, PRODUCERS, KILLS = "hanging", 30, 16, 6


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """The only broker of a cluster."""
    settings = load_settings()
    store = Store(settings.cache, mirror=settings.maven_mirror)
    version = os.environ.get("CDCPIPE_TEST_KAFKA")
    bundle = store.select({"kafka": version} if version else None)["kafka"]
    [jars] = store.folders([bundle]).values()
    client, controller = claim_ports(("client", "controller"), {}, {}).values()
    server = Broker(
        1,
        {1: (client, controller)},
        jars=jars,
        version=bundle.version,
        folder=tmp_path / "kafka-1",
        log_folder=tmp_path / "log",
        cluster_id="dHJhbnNhY3Rpb25zLXRlcw",
        heap_mb=192,
        aot=tmp_path / "aot",
    )
    server.start()
    try:
        server.await_ready(timeout_seconds=120)
        yield server
    finally:
        server.kill()


def commit_without_end(producer: Producer, done: threading.Event) -> None:
    """One record for each partition, then commit, as fast as it goes; ends at the first error."""
    with contextlib.suppress(KafkaException):
        while not done.is_set():
            producer.begin_transaction()
            for number in range(PARTITIONS):
                producer.produce(TOPIC, b"x", partition=number)
            producer.commit_transaction(10)


def ends(address: str, isolation: str) -> list[int]:
    """The end of each partition for who reads with that isolation."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "ends", "isolation.level": isolation})
    try:
        places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        return [consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]
    finally:
        consumer.close()


def test_no_transaction_hangs_behind_a_broker_that_was_killed(broker: Broker) -> None:
    address = f"127.0.0.1:{broker.port}"
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(60)
    del admin
    producers = successors(address)
    for kill in range(KILLS):
        done = threading.Event()
        writers = [threading.Thread(target=commit_without_end, args=(each, done)) for each in producers]
        for writer in writers:
            writer.start()
        time.sleep(1 + 0.013 * kill)  # any moment will do: one of so many is just being ended
        broker.kill()
        done.set()
        broker.start()
        broker.await_ready(timeout_seconds=60)
        for writer in writers:
            writer.join()
        producers = successors(address)
        # Before they commit anything: that would end what hangs, too.
        wait_until(
            lambda: not open_partitions(address),
            what=lambda: f"no transaction is open; {len(open_partitions(address))} of {PARTITIONS} partitions have one",
            timeout_seconds=15,
            error=StackError,
        )
    # Whether one hangs in the end is a race: once it is elected the broker often ends it again.
    logs = "".join(path.read_text(encoding="utf-8") for path in broker.log_folder.glob("kafka-1.log*"))
    assert "Sending txn markers" in logs, "no broker was killed at the right moment: nothing is shown"
    assert "likely deleted already" not in logs


def successors(address: str) -> list[Producer]:
    """Producers that have ended what those before them left open."""
    ids = [f"hanging-{number}" for number in range(PRODUCERS)]
    made = [Producer({"bootstrap.servers": address, "transactional.id": each, "log_level": 0}) for each in ids]
    for producer in made:

        def initialised(producer: Producer = producer) -> bool:
            try:
                producer.init_transactions(10)
            except KafkaException:
                return False
            return True

        wait_until(initialised, what="a producer", timeout_seconds=60, error=StackError)
    return made


def open_partitions(address: str) -> list[int]:
    """Those with more for who reads everything than for who reads what is committed."""
    every, committed = ends(address, "read_uncommitted"), ends(address, "read_committed")
    return [number for number in range(PARTITIONS) if committed[number] < every[number]]
