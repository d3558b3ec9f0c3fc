"""Dead letters: what a sink couldn't decode, where it came from, why, and how to send it on.

Connect writes the origin and the exception into headers. `diagnose` looks at the bytes themselves, since an exception
seldom says what is wrong with them.

**Replay** is exactly once: record and receipt are written in one transaction, the receipt into the dead-letter topic
itself (a record without value, its key `cdcpipe.receipt`, its header the place). Whoever reads committed sees both or
neither, and a second replay leaves out what has a receipt. One transactional id for a topic fences a replay that runs
at the same time.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from cdcpipe.errors import EvidenceError, KafkaError, RegistryError, UsageError
from cdcpipe.schemas.registry import decode_frame

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["DeadLetter", "Place", "diagnose", "read", "replay"]

_RECEIPT: Final = b"cdcpipe.receipt"
_PREFIX: Final = "__connect.errors."
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Partition and offset of a record, written `partition:offset`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """From `partition:offset`. Raises `UsageError`."""
        partition, colon, offset = text.partition(":")
        if not colon or not partition.isdigit() or not offset.isdigit():
            raise UsageError(f"`{text}` is not PARTITION:OFFSET", hint="`cdcpipe dlq list` shows the places")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter at `place` of the dead-letter topic. `topic`, `partition`, `offset` are those of the origin."""

    place: Place
    topic: str | None
    partition: int | None
    offset: int | None
    stage: str
    exception: str
    message: str
    connector: str
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]
    replayed: bool = False


def read(bootstrap_servers: str, topic: str, *, timeout_seconds: float = 60.0) -> tuple[DeadLetter, ...]:
    """Every committed dead letter of `topic`, by place. Raises `KafkaError`."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "cdcpipe-dlq",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        metadata = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic]
        if metadata.error is not None:
            raise KafkaError(f"there is no dead-letter topic `{topic}`: {metadata.error.str()}")
        consumer.assign([TopicPartition(topic, number, 0) for number in metadata.partitions])
        return _collect(consumer.poll, set(metadata.partitions), timeout_seconds)
    except KafkaException as error:
        raise KafkaError(f"the dead letters in `{topic}` can't be read: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _collect(
    poll: Callable[[float], Message | None], open_: set[int], timeout_seconds: float
) -> tuple[DeadLetter, ...]:
    import time

    letters: list[Message] = []
    receipts: set[str] = set()
    deadline = time.monotonic() + timeout_seconds
    while open_:
        if time.monotonic() > deadline:
            raise KafkaError(f"the dead letters were not read to their end within {timeout_seconds:g} s")
        message = poll(_POLL_SECONDS)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            if error.name() != "_PARTITION_EOF":
                raise KafkaError(f"the dead letters can't be read: {error.str()}")
            open_.discard(_number(message.partition()))
        elif message.key() == _RECEIPT:
            receipts.add(_headers(message).get("cdcpipe.place", b"").decode())
        else:
            letters.append(message)
    found = [_letter(message, receipts) for message in letters]
    return tuple(sorted(found, key=lambda letter: letter.place))


def _number(value: int | None) -> int:
    assert value is not None
    return value


def _headers(message: Message) -> dict[str, bytes]:
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return {name: value or b"" for name, value in pairs}


def _letter(message: Message, receipts: set[str]) -> DeadLetter:
    headers = _headers(message)
    place = Place(_number(message.partition()), _number(message.offset()))

    def text(name: str) -> str:
        return headers.get(_PREFIX + name, b"").decode("utf-8", "replace")

    def number(name: str) -> int | None:
        return int(text(name)) if text(name).lstrip("-").isdigit() else None

    key, value = message.key(), message.value()
    return DeadLetter(
        place,
        text("topic") or None,
        number("partition"),
        number("offset"),
        text("stage"),
        text("exception.class.name"),
        text("exception.message"),
        text("connector.name"),
        message.timestamp()[1],
        key,
        value,
        headers,
        str(place) in receipts,
    )


# Why ----------------------------------------------------------------------------------------------


def diagnose(letter: DeadLetter, schema: Callable[[int], str] | None = None, *, subject_ids: Iterable[int] = ()) -> str:
    """Why it is here, in words. `schema` gives an id's text; `subject_ids` are those of the topic's own subject."""
    part = letter.key if letter.stage == "KEY_CONVERTER" else letter.value
    word = "key" if letter.stage == "KEY_CONVERTER" else "value"
    if letter.stage not in ("KEY_CONVERTER", "VALUE_CONVERTER"):
        said = f"{letter.stage.lower().replace('_', ' ') or 'unknown stage'}: {letter.message or letter.exception}"
        foreign = _foreign(letter, schema, frozenset(subject_ids))
        return f"value: {foreign}; {said}" if foreign else said
    if part is None:
        return f"the {word} is null: {letter.message}"
    try:
        schema_id, payload = decode_frame(part)
    except EvidenceError as error:
        return f"{word}: {error.message}{_looks_like(part)}"
    if schema is None:
        return f"{word}: written with schema {schema_id}: {letter.message}"
    try:
        text = schema(schema_id)
    except RegistryError as error:
        return f"{word}: schema {schema_id} is not in the registry" if error.status == 404 else error.message
    return f"{word}: {_decoded(text, schema_id, payload, frozenset(subject_ids))}"


def _foreign(letter: DeadLetter, schema: Callable[[int], str] | None, own: frozenset[int]) -> str | None:
    """For what passed the converter: whether it is a record of another schema."""
    if schema is None or letter.value is None or not own:
        return None
    try:
        schema_id, payload = decode_frame(letter.value)
        text = schema(schema_id)
    except (EvidenceError, RegistryError):
        return None
    return None if schema_id in own else _decoded(text, schema_id, payload, own)


def _looks_like(part: bytes) -> str:
    if part[:1] in (b"{", b"["):
        try:
            json.loads(part)
        except ValueError:
            return ""
        return "; it is JSON text"
    return "; it is text" if part.isascii() and part.decode("ascii").isprintable() else ""


def _decoded(text: str, schema_id: int, payload: bytes, own: frozenset[int]) -> str:
    import fastavro

    stream = io.BytesIO(payload)
    try:
        fastavro.schemaless_reader(stream, fastavro.parse_schema(json.loads(text), {}), None)
    except (EOFError, IndexError):
        return f"cut off: {len(payload)} bytes are too few for schema {schema_id}"
    except Exception as error:  # noqa: BLE001 - a decoder on garbage raises whatever it likes
        return f"{len(payload)} bytes that schema {schema_id} can't decode ({type(error).__name__})"
    rest = len(payload) - stream.tell()
    if rest:
        return f"{rest} bytes too many for schema {schema_id}"
    if own and schema_id not in own:
        name = json.loads(text)
        shown = name.get("namespace", "") + "." + name.get("name", "?") if isinstance(name, dict) else str(name)
        return f"valid, but of another schema: {schema_id} (`{shown.lstrip('.')}`) is not one of this topic's"
    return f"valid with schema {schema_id}; it did not fit what the sink expects"


# Replay -------------------------------------------------------------------------------------------


def replay(
    bootstrap_servers: str,
    topic: str,
    letters: Iterable[DeadLetter],
    *,
    repaired: Mapping[Place, bytes] | None = None,
    timeout_seconds: float = 60.0,
) -> tuple[Place, ...]:
    """Send letters to the topics they came from, each exactly once; the places that were sent.

    `repaired` holds new values by place. What has a receipt is left out. Raises `UsageError` for a letter whose origin
    isn't known, `KafkaError` when nothing was sent because the transaction failed.
    """
    from confluent_kafka import KafkaException, Producer

    wanted = [letter.place for letter in letters]
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "transactional.id": f"cdcpipe-dlq-{topic}",
            "acks": "all",
            "log_level": 0,
        }
    )
    try:
        # Fences an older replay first; what it committed is then visible to the reading below.
        producer.init_transactions(timeout_seconds)
        current = {letter.place: letter for letter in read(bootstrap_servers, topic, timeout_seconds=timeout_seconds)}
        chosen = [current[place] for place in wanted if place in current and not current[place].replayed]
        for letter in chosen:
            if letter.topic is None or letter.partition is None:
                raise UsageError(f"dead letter {letter.place} doesn't say where it came from")
        if not chosen:
            return ()
        producer.begin_transaction()
        for letter in chosen:
            _send(producer.produce, topic, letter, (repaired or {}).get(letter.place, letter.value))
        producer.commit_transaction(timeout_seconds)
    except KafkaException as error:
        raise KafkaError(f"nothing was replayed: {error.args[0].str()}") from error
    return tuple(letter.place for letter in chosen)


def _send(produce: Callable[..., None], topic: str, letter: DeadLetter, value: bytes | None) -> None:
    kept = [(name, content) for name, content in letter.headers.items() if not name.startswith(_PREFIX)]
    produce(
        letter.topic,
        key=letter.key,
        value=value,
        partition=letter.partition,
        headers=[*kept, ("cdcpipe.replayed", f"{topic}/{letter.place}".encode())],
    )
    receipt = [("cdcpipe.place", str(letter.place).encode())]
    produce(topic, key=_RECEIPT, value=None, partition=letter.place.partition, headers=receipt)
