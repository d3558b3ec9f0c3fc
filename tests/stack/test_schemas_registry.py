"""`Registry` against the real server, and what is particular about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from cdcpipe.errors import EvidenceError, RegistryError, Transient
from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.registry import Registry, RegistryUnavailable, decode_frame, encode_frame
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack

ONE = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
TWO = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int", "default": 1}],
}
BAD = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}


@pytest.fixture
def registry(stack: LocalStack) -> Iterator[Registry]:
    with Registry(stack.endpoints.registry_url) as client:
        yield client


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{os.getpid()}"


def test_a_subject_lives_from_registration_to_deletion(registry: Registry, subject: str) -> None:
    assert registry.versions(subject) == ()
    first = registry.register(subject, ONE)
    assert registry.register(subject, ONE) == first
    assert registry.register(subject, TWO) != first
    assert [version.version for version in registry.versions(subject)] == [1, 2]
    assert json.loads(registry.schema(first)) == ONE
    assert registry.version(subject, 1).id == first
    assert registry.subjects() == tuple(sorted(registry.subjects()))
    registry.delete(subject)
    assert registry.versions(subject) == ()


def test_an_incompatible_schema_is_refused_with_409(registry: Registry, subject: str) -> None:
    registry.register(subject, ONE)
    with pytest.raises(RegistryError) as caught:
        registry.register(subject, BAD)
    assert caught.value.status == 409
    assert len(registry.versions(subject)) == 1


def test_a_verdict_is_had_without_registering(registry: Registry, subject: str) -> None:
    assert registry.test(subject, ONE).compatible
    registry.register(subject, ONE)
    verdict = registry.test(subject, BAD)
    assert not verdict.compatible
    assert any("a: int can't be read as string" in message for message in verdict.messages)
    assert registry.test(subject, TWO).compatible
    assert len(registry.versions(subject)) == 1


def test_a_subjects_mode_is_its_own_and_else_the_global_one(registry: Registry, subject: str) -> None:
    assert registry.mode() is Mode.FULL_TRANSITIVE
    registry.register(subject, ONE)
    assert registry.mode(subject) is Mode.FULL_TRANSITIVE
    for mode in Mode:
        registry.set_mode(mode, subject)
        assert registry.mode(subject) is mode
    registry.set_mode(Mode.NONE, subject)
    registry.register(subject, BAD)
    assert registry.mode() is Mode.FULL_TRANSITIVE


def test_what_is_not_there_is_said(registry: Registry) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.schema(2_000_000_000)
    assert caught.value.status == 404
    with pytest.raises(RegistryError):
        registry.version("nowhere", 1)


def test_a_registry_that_does_not_answer_is_worth_another_try() -> None:
    with Registry("http://127.0.0.1:9", retries=0, timeout_seconds=2) as nobody:
        with pytest.raises(RegistryUnavailable) as caught:
            nobody.subjects()
    assert isinstance(caught.value, Transient)


def test_frames_are_read_back_and_what_is_none_is_said() -> None:
    assert decode_frame(encode_frame(258, b"abc")) == (258, b"abc")
    with pytest.raises(EvidenceError, match="too few"):
        decode_frame(b"\0\0")
    with pytest.raises(EvidenceError, match="magic byte"):
        decode_frame(b"{json")
