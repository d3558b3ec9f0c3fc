"""Why a dead letter is one, out of its bytes."""

from __future__ import annotations

import io
import json

import fastavro
import pytest

from cdcpipe.errors import RegistryError, UsageError
from cdcpipe.schemas.deadletters import DeadLetter, Place, diagnose
from cdcpipe.schemas.registry import encode_frame

ROW = {"type": "record", "name": "Row", "namespace": "shop", "fields": [{"name": "a", "type": "string"}]}


def letter(value: bytes | None, *, stage: str = "VALUE_CONVERTER", key: bytes | None = None) -> DeadLetter:
    return DeadLetter(Place(0, 1), "t", 0, 5, stage, "SomeException", "some message", "sink", 0, key, value, {})


def payload(text: str = "hello") -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(ROW, {}), {"a": text})
    return stream.getvalue()


def schema(schema_id: int) -> str:
    if schema_id == 7:
        return json.dumps(ROW)
    raise RegistryError("not there", status=404)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"a": 1}', "it is JSON text"),
        (b"hello", "it is text"),
        (b"\x01\xff\x02\x03\x04\x05", "the first byte is 0x01"),
        (b"\0\0\0", "3 bytes are too few"),
        (None, "the value is null"),
        (encode_frame(9, payload()), "schema 9 is not in the registry"),
        (encode_frame(7, payload()[:-2]), "cut off"),
        (encode_frame(7, payload() + b"xyz"), "3 bytes too many"),
        (encode_frame(7, b"\x02\xff"), "can't decode"),
        (encode_frame(7, payload()), "`shop.Row`) is not one of this topic's"),
    ],
)
def test_the_reason_is_in_words(value: bytes | None, said: str) -> None:
    assert said in diagnose(letter(value), schema, subject_ids=[8])


def test_a_valid_record_of_the_topic_itself_did_not_fit_the_sink() -> None:
    assert "did not fit what the sink expects" in diagnose(letter(encode_frame(7, payload())), schema, subject_ids=[7])


def test_the_key_is_looked_at_when_it_is_what_failed() -> None:
    assert diagnose(letter(b"", stage="KEY_CONVERTER", key=b"x"), schema).startswith("key: 1 bytes are too few")


def test_a_later_stage_gives_its_own_message() -> None:
    assert diagnose(letter(b"", stage="TRANSFORMATION")) == "transformation: some message"
    foreign = letter(encode_frame(7, payload()), stage="TRANSFORMATION")
    assert "valid, but of another schema" in diagnose(foreign, schema, subject_ids=[8])
    assert diagnose(foreign, schema, subject_ids=[7]) == "transformation: some message"


def test_a_place_is_read_back() -> None:
    assert Place.parse("3:14") == Place(3, 14)
    with pytest.raises(UsageError, match="PARTITION:OFFSET"):
        Place.parse("3")
