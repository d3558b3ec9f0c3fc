"""A heartbeat through the whole pipeline: a row committed each half second, and when it came out of the log.

What flows again after a fault, and when, is told by these rows alone: a task that says RUNNING may not read.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Self

import fastavro
import httpx2
import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from cdcpipe.errors import KafkaError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.endpoints import WATERMARK_TABLE, Endpoints

__all__ = ["Arrival", "Prober"]

_NAME: Final = "chaos"
_EVERY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """A probe: when it was committed and when a read_committed consumer had it, in seconds since 1970."""

    token: int
    sent: float
    seen: float

    @property
    def latency_seconds(self) -> float:
        """From the commit to the consumer."""
        return self.seen - self.sent


class Prober:
    """Sends and receives probes while it is open. `arrivals` is read at any time.

    Opening it waits until one has come through, unless `await_first` is False: a source that has a snapshot to read
    first sends none for a while.
    """

    def __init__(self, endpoints: Endpoints, *, await_first: bool = True) -> None:
        self._await_first = await_first
        self._endpoints = endpoints
        self._topic = endpoints.topic_of(WATERMARK_TABLE)
        self._stop = threading.Event()
        self._sent: dict[int, float] = {}
        self._schemas: dict[int, Any] = {}
        self.arrivals: list[Arrival] = []
        self.unsent = 0
        """Probes that PostgreSQL did not take."""
        self._threads = [
            threading.Thread(target=self._send, name="probe-send", daemon=True),
            threading.Thread(target=self._receive, name="probe-receive", daemon=True),
        ]

    def __enter__(self) -> Self:
        self._consumer = self._open()
        for thread in self._threads:
            thread.start()
        try:
            # The first one also fetches the schema, before the registry can be broken.
            wait_until(
                lambda: self.arrivals or not self._await_first,
                what="the first probe to come out of the log",
                timeout_seconds=60,
                error=KafkaError,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        self._consumer.close()

    def _open(self) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self._endpoints.bootstrap_servers,
                "group.id": "cdcpipe-chaos-probe",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 2000,
                "log_level": 0,
            }
        )
        try:
            partitions = consumer.list_topics(self._topic, timeout=20).topics[self._topic].partitions
            ends = [TopicPartition(self._topic, number) for number in partitions]
            for end in ends:
                end.offset = consumer.get_watermark_offsets(end, timeout=20)[1]
            consumer.assign(ends)
        except KafkaException as error:
            consumer.close()
            raise KafkaError(f"the probe's topic can't be read: {error.args[0].str()}") from error
        return consumer

    def _send(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + _EVERY_SECONDS, time.monotonic())
            try:
                if connection is None:
                    connection = psycopg.connect(
                        self._endpoints.postgres.conninfo("owner"), autocommit=True, connect_timeout=2
                    )
                    connection.execute("SET statement_timeout = '5s'")
                row = connection.execute(
                    f"INSERT INTO {WATERMARK_TABLE} (name, token) VALUES (%s, 1) ON CONFLICT (name) "
                    "DO UPDATE SET token = watermark.token + 1, at = clock_timestamp() RETURNING token",
                    [_NAME],
                ).fetchone()
                assert row is not None
                self._sent[int(row[0])] = time.time()
            except psycopg.Error:
                self.unsent += 1
                if connection is not None:
                    with contextlib.suppress(psycopg.Error):
                        connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _receive(self) -> None:
        last = 0
        while not self._stop.is_set():
            message = self._consumer.poll(0.2)
            now = time.time()
            if message is None or message.error() or _NAME.encode() not in (message.key() or b""):
                continue
            with contextlib.suppress(httpx2.HTTPError, ValueError, KeyError, TypeError):
                token = self._token(message)
                # The commit's answer may come after the record: then its time is set within milliseconds.
                sent = self._sent.get(token) or self._soon(token) or now
                if token > last:
                    last = token
                    self.arrivals.append(Arrival(token, sent, now))

    def _soon(self, token: int) -> float | None:
        deadline = time.monotonic() + 0.2
        while token not in self._sent and time.monotonic() < deadline:
            time.sleep(0.002)
        return self._sent.get(token)

    def _token(self, message: Message) -> int:
        value = message.value()
        if value is None:
            raise ValueError("a tombstone")
        number = int.from_bytes(value[1:5], "big")
        if number not in self._schemas:
            answer = httpx2.get(f"{self._endpoints.registry_url}/schemas/ids/{number}", timeout=5, trust_env=False)
            answer.raise_for_status()
            self._schemas[number] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), self._schemas[number], None)
        return int(record["after"]["token"])
