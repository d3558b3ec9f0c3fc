"""Records that can't be archived, put among good ones: each must come out as a dead letter, and the good ones go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaException, Producer

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.conformance.records import archived_rows, await_records
from cdcpipe.errors import ConnectUnavailable, KafkaError
from cdcpipe.schemas.deadletters import DeadLetter, read
from cdcpipe.schemas.registry import encode_frame
from cdcpipe.stack.component import wait_until

__all__ = ["POISONS", "Poisoned", "await_letter", "poison", "produce"]

POISONS: Final = ("no Avro at all", "unknown schema id", "a record cut short", "a record of another schema")
_BEFORE, _AFTER = 10, 10


@dataclass(frozen=True, slots=True)
class Poisoned:
    """What became of it. `places` are topic, partition and offset of each poison; `letters` those that came of them."""

    places: Mapping[str, tuple[str, int, int]]
    letters: Mapping[str, DeadLetter]
    valid: int
    archived: int
    state: str

    def told(self) -> list[dict[str, Any]]:
        """The letters as JSON."""
        return [
            {
                "kind": kind,
                "from": f"{letter.topic}/{letter.partition}@{letter.offset}",
                "stage": letter.stage,
                "exception": letter.exception,
                "message": letter.message[:500],
            }
            for kind, letter in self.letters.items()
        ]


def produce(pipeline: Pipeline, topic: str, key: bytes | None, value: bytes) -> tuple[str, int, int]:
    """Write one record past the source: topic, partition, offset. Raises `KafkaError`."""
    producer = Producer({"bootstrap.servers": pipeline.endpoints.bootstrap_servers, "acks": "all", "log_level": 0})
    placed: list[Any] = []
    try:
        producer.produce(topic, value, key, on_delivery=lambda error, message: placed.append(error or message))
        producer.flush(30)
    except KafkaException as error:
        raise KafkaError(f"a record can't be written to `{topic}`: {error.args[0].str()}") from error
    if not placed or not hasattr(placed[0], "offset"):
        raise KafkaError(f"a record can't be written to `{topic}`: {placed[0] if placed else 'no answer'}")
    return topic, placed[0].partition(), placed[0].offset()


def poison(pipeline: Pipeline, table: str, *, timeout_seconds: float) -> Poisoned:
    """Write good rows, one record of each poison, good rows; wait for letters and rows, and give what is there then."""
    topic = pipeline.topic_of(table)
    insert = f"INSERT INTO {table} SELECT i, 'valid' FROM generate_series({{}}, {{}}) i"
    pipeline.execute(insert.format(1, _BEFORE))
    good = next(each for each in await_records(pipeline, table, _BEFORE) if each.raw)
    assert good.raw is not None
    other = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "x", "type": "int"}]})
    with pipeline.registry() as registry:
        other_id = registry.register(f"cdcpipe-poison-{pipeline.token}", other)
        values = {
            "no Avro at all": b"this is not Avro",
            "unknown schema id": encode_frame(2_000_000_000, good.raw[5:]),
            "a record cut short": good.raw[: len(good.raw) // 2],
            "a record of another schema": encode_frame(other_id, b"\x02"),
        }
        places = {kind: produce(pipeline, topic, good.raw_key, values[kind]) for kind in POISONS}
        pipeline.execute(insert.format(_BEFORE + 1, _BEFORE + _AFTER))
        letters = _await(pipeline, table, places, timeout_seconds)
        registry.delete(f"cdcpipe-poison-{pipeline.token}")
        registry.delete(f"cdcpipe-poison-{pipeline.token}", permanent=True)
    with pipeline.connect() as client:
        status = client.status(pipeline.sink)
    rows = len(archived_rows(pipeline, table))
    return Poisoned(places, letters, _BEFORE + _AFTER, rows, "RUNNING" if status.running else "FAILED")


def await_letter(pipeline: Pipeline, place: tuple[str, int, int], *, timeout_seconds: float) -> DeadLetter:
    """Wait for the dead letter of the record at `place`. Raises `ConnectUnavailable`."""
    endpoints = pipeline.endpoints

    def found() -> list[DeadLetter]:
        letters = read(endpoints.bootstrap_servers, endpoints.dead_letter_topic)
        return [letter for letter in letters if (letter.topic, letter.partition, letter.offset) == place]

    return wait_until(
        found,
        what=f"a dead letter of {place[0]}/{place[1]}@{place[2]}",
        timeout_seconds=timeout_seconds,
        interval_seconds=1,
        error=ConnectUnavailable,
    )[0]


def _await(
    pipeline: Pipeline, table: str, places: Mapping[str, tuple[str, int, int]], timeout_seconds: float
) -> dict[str, DeadLetter]:
    found: dict[str, DeadLetter] = {}

    def all_there() -> bool:
        endpoints = pipeline.endpoints
        letters = read(endpoints.bootstrap_servers, endpoints.dead_letter_topic)
        by_place = {(letter.topic, letter.partition, letter.offset): letter for letter in letters}
        found.update({kind: by_place[place] for kind, place in places.items() if place in by_place})
        return len(found) == len(places) and len(archived_rows(pipeline, table)) >= _BEFORE + _AFTER

    with contextlib.suppress(ConnectUnavailable):  # what there is will be judged
        wait_until(
            all_there,
            what="dead letters and rows",
            timeout_seconds=timeout_seconds,
            interval_seconds=1,
            error=ConnectUnavailable,
        )
    return found
