"""A consumer that counts what comes out of Kafka, read_committed, and how long after its commit.

It runs in a process of its own, so that the workload's and the ledger's Python can't delay it. Latency is from the
commit time that PostgreSQL put into the WAL (`source.ts_us`) to the moment a read_committed consumer has the
record, both by this machine's clock. A share of the records is decoded for it; all are counted.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import queue
import time
from dataclasses import dataclass, field
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event as ProcessEvent
from typing import TYPE_CHECKING, Any, Self

import httpx2

from cdcpipe.errors import CdcpipeError, KafkaError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

    from cdcpipe.stack.endpoints import Endpoints

__all__ = ["LogTap", "TapSample"]

_BATCH = 1000
# A batch that isn't full is given after this long: the most that the measurement itself adds to a latency.
_BATCH_SECONDS = 0.01
_DECODED_A_BATCH = 8
_MAGIC = 0  # first byte of Confluent's wire format


@dataclass(frozen=True, slots=True)
class TapSample:
    """One second. `at` is Unix time at its end; `events` and `bytes` came in it; latencies are in ms."""

    at: float
    events: int
    bytes: int
    latency_ms: tuple[float, ...]


@dataclass(slots=True)
class _Second:
    events: int = 0
    bytes: int = 0
    latency_ms: list[float] = field(default_factory=list)


class LogTap:
    """Reads the change topics of `endpoints` whose names begin with `prefix`, from their ends on."""

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._samples: multiprocessing.Queue[Any] = context.Queue()
        self._stop: ProcessEvent = context.Event()
        self._process: SpawnProcess = context.Process(
            target=_run,
            args=(endpoints.bootstrap_servers, endpoints.registry_url, prefix, self._samples, self._stop),
            daemon=True,
            name="cdcpipe-tap",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and return when it reads. Raises `KafkaError`."""
        self._process.start()
        first = self._take(timeout_seconds=60)
        if first != "ready":
            raise KafkaError(f"the log can't be tapped: {first}")

    def take(self) -> list[TapSample]:
        """The samples since the last call. Raises `KafkaError` when the tap has died."""
        found: list[TapSample] = []
        while True:
            try:
                item = self._samples.get_nowait()
            except queue.Empty:
                return found
            if isinstance(item, str):
                raise KafkaError(f"the log can't be tapped: {item}")
            found.append(item)

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)

    def _take(self, *, timeout_seconds: float) -> object:
        try:
            return self._samples.get(timeout=timeout_seconds)
        except queue.Empty:
            return "it did not start"


def _run(bootstrap: str, registry_url: str, prefix: str, samples: Any, stop: ProcessEvent) -> None:
    try:
        consumer = _consumer(bootstrap, prefix)
        samples.put("ready")
        _read(consumer, _Decoder(registry_url), samples, stop)
    except KeyboardInterrupt:
        pass
    except (CdcpipeError, OSError, ValueError, RuntimeError) as error:
        samples.put(f"{type(error).__name__}: {error}")


def _consumer(bootstrap: str, prefix: str) -> Consumer:
    from confluent_kafka import OFFSET_END, Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "cdcpipe-tap",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
            "fetch.min.bytes": 1,
            "queued.max.messages.kbytes": 16 * 1024,
            "log_level": 0,
        }
    )
    topics = consumer.list_topics(timeout=20).topics
    partitions = [
        TopicPartition(name, partition, OFFSET_END)
        for name, topic in topics.items()
        if name.startswith(prefix)
        for partition in topic.partitions
    ]
    if not partitions:
        raise ValueError(f"no topic begins with {prefix}")
    consumer.assign(partitions)
    for partition in partitions:  # so that the ends are those of now, not of the first fetch
        _low, high = consumer.get_watermark_offsets(partition, timeout=20)
        consumer.seek(TopicPartition(partition.topic, partition.partition, high))
    return consumer


def _read(consumer: Consumer, decoder: _Decoder, samples: Any, stop: ProcessEvent) -> None:
    second, due = _Second(), time.time() + 1
    while not stop.is_set():
        messages = consumer.consume(_BATCH, _BATCH_SECONDS)
        now = time.time()
        if messages:
            good = [message for message in messages if message.error() is None]
            second.events += len(good)
            second.bytes += sum(len(message) for message in good)
            # Evenly over the batch, the oldest first: those have waited longest.
            for message in good[:: max(1, len(good) // _DECODED_A_BATCH)]:
                committed = decoder.committed_at(message)
                if committed is not None:
                    second.latency_ms.append((now - committed) * 1000)
        if now >= due:
            samples.put(TapSample(now, second.events, second.bytes, tuple(second.latency_ms)))
            second, due = _Second(), due + 1
    samples.put(TapSample(time.time(), second.events, second.bytes, tuple(second.latency_ms)))
    consumer.close()


class _Decoder:
    """Just enough Avro to find the commit time of a change event."""

    def __init__(self, registry_url: str) -> None:
        self._registry_url = registry_url
        self._schemas: dict[int, Any] = {}

    def committed_at(self, message: Message) -> float | None:
        """Unix time of the commit; None for a record that isn't a change event."""
        import fastavro

        value = message.value()
        if value is None or len(value) < 5 or value[0] != _MAGIC:
            return None
        record = fastavro.schemaless_reader(
            io.BytesIO(value[5:]), self._schema(int.from_bytes(value[1:5], "big")), None
        )
        source = record.get("source") if isinstance(record, dict) else None
        return source["ts_us"] / 1e6 if isinstance(source, dict) and source.get("ts_us") else None

    def _schema(self, id_: int) -> Any:
        import fastavro

        if id_ not in self._schemas:
            answer = httpx2.get(f"{self._registry_url}/schemas/ids/{id_}", timeout=20, trust_env=False)
            answer.raise_for_status()
            self._schemas[id_] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        return self._schemas[id_]
