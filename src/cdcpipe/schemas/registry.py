"""A schema registry with Confluent's API: Confluent's own, and Apicurio's at `/apis/ccompat/v7`.

A thin typed layer on confluent-kafka's client. What is particular about Apicurio 3.3.3, seen in the tests:

- a compatibility test with `verbose=true` says no more than yes or no. `Registry.test` then gives our own sentences;
- a compatibility test of a subject that isn't there is 404 against all versions, and "compatible" against the latest;
- a refused registration is 409 with the code 409, and its message names union branches instead of columns;
- schemas that differ in aliases, or in an enum's default, are one schema to it: the second makes no version;
- the mode of a subject that has none of its own is said to be NONE, unless one asks with `defaultToGlobal=true`;
- text that is no schema is 422 with the code 42201.

Confluent's own server could not be run where this was written: what is said of its API is its documentation's.

The wire format is one byte 0, four bytes of schema id, big-endian, then the payload.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from cdcpipe.errors import EvidenceError, RegistryError, Transient
from cdcpipe.schemas.avro import Schema as Tree
from cdcpipe.schemas.avro import parse
from cdcpipe.schemas.compatibility import Mode, check

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import SchemaRegistryClient

__all__ = ["Compatibility", "Registered", "Registry", "RegistryUnavailable", "decode_frame", "encode_frame"]

_MAGIC: Final = 0
_HEADER: Final = struct.Struct(">bI")


class RegistryUnavailable(RegistryError, Transient):
    """The registry doesn't answer, or says that it can't now."""


def encode_frame(schema_id: int, payload: bytes) -> bytes:
    """A message's bytes: magic, id, payload."""
    return _HEADER.pack(_MAGIC, schema_id) + payload


def decode_frame(message: bytes) -> tuple[int, bytes]:
    """Schema id and payload. Raises `EvidenceError` that says why it isn't a framed message."""
    if len(message) < _HEADER.size:
        raise EvidenceError(f"{len(message)} bytes are too few: magic byte and schema id take {_HEADER.size}")
    magic, schema_id = _HEADER.unpack_from(message)
    if magic != _MAGIC:
        raise EvidenceError(
            f"the first byte is {magic:#04x}, not the magic byte 0: not written by a registry's serializer"
        )
    return schema_id, message[_HEADER.size :]


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a subject."""

    subject: str
    version: int
    id: int
    text: str

    @property
    def tree(self) -> Tree:
        """The parsed schema."""
        return parse(self.text)


@dataclass(frozen=True, slots=True)
class Compatibility:
    """The registry's own verdict. `messages` are its reasons, or ours where it gives none."""

    compatible: bool
    messages: tuple[str, ...]


class Registry:
    """A registry at `url`, the base of a Confluent-compatible API. Use as a context manager, or `close` it.

    `auth` is user and password for basic authentication, `ca_file` the certificate authority of an `https` one,
    `certificate` and `key` a client's own. Calls that can be repeated are, `retries` times.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        ca_file: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        retries: int = 3,
        timeout_seconds: float = 30.0,
    ) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self.url = url.rstrip("/")
        config: dict[str, Any] = {"url": self.url, "max.retries": retries, "timeout": timeout_seconds}
        if auth is not None:
            config["basic.auth.user.info"] = ":".join(auth)
        for name, value in (
            ("ssl.ca.location", ca_file),
            ("ssl.certificate.location", certificate),
            ("ssl.key.location", key),
        ):
            if value is not None:
                config[name] = value
        self._client: SchemaRegistryClient = SchemaRegistryClient(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Errors of the client, as ours."""
        import httpx2
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            yield
        except SchemaRegistryError as error:
            kind = RegistryUnavailable if error.http_status_code in (429, 502, 503, 504) else RegistryError
            raise kind(
                f"{what}: {error.error_message}", status=error.http_status_code, code=error.error_code
            ) from error
        except (OSError, httpx2.HTTPError) as error:
            raise RegistryUnavailable(f"{what}: the registry at {self.url} doesn't answer: {error}") from error
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("httpx", "httpcore", "httpx2"):
                raise RegistryUnavailable(f"{what}: the registry at {self.url} doesn't answer: {error}") from error
            raise

    # Subjects and versions --------------------------------------------------------------------------

    def subjects(self) -> tuple[str, ...]:
        """The subjects, in order. Apicurio gives the first thousand."""
        with self._translated("subjects can't be listed"):
            return tuple(sorted(self._client.get_subjects()))

    def versions(self, subject: str) -> tuple[Registered, ...]:
        """Every version, oldest first; empty when there is no such subject."""
        try:
            with self._translated(f"versions of `{subject}` can't be listed"):
                numbers = self._client.get_versions(subject)
        except RegistryError as error:
            if error.status == 404:
                return ()
            raise
        return tuple(self.version(subject, number) for number in sorted(numbers))

    def version(self, subject: str, number: int) -> Registered:
        """One version. Raises `RegistryError` with status 404 when it isn't there."""
        with self._translated(f"version {number} of `{subject}`"):
            found = self._client.get_version(subject, number)
        assert found.schema is not None
        return Registered(subject, number, int(found.schema_id or 0), str(found.schema.schema_str))

    def history(self, subject: str) -> tuple[str, ...]:
        """The texts of all versions, oldest first: what `plan_evolution` asks for."""
        return tuple(version.text for version in self.versions(subject))

    def schema(self, schema_id: int) -> str:
        """The text of the schema with that id. Raises `RegistryError` with status 404 when there is none."""
        with self._translated(f"schema {schema_id}"):
            return str(self._client.get_schema(schema_id).schema_str)

    def register(self, subject: str, schema: str | dict[str, Any]) -> int:
        """Register a schema and give its id. Raises `RegistryError` with status 409 when it isn't compatible."""
        with self._translated(f"`{subject}` is not registered"):
            return int(self._client.register_schema(subject, self._schema(schema)))

    def delete(self, subject: str, *, permanent: bool = False) -> tuple[int, ...]:
        """Delete a subject; the numbers of its versions. `permanent`: not to be had again by id either."""
        with self._translated(f"`{subject}` can't be deleted"):
            return tuple(self._client.delete_subject(subject, permanent=permanent))

    def _schema(self, schema: str | dict[str, Any]) -> Any:
        from confluent_kafka.schema_registry import Schema

        return Schema(schema if isinstance(schema, str) else json.dumps(schema), "AVRO")

    # Compatibility ----------------------------------------------------------------------------------

    def mode(self, subject: str | None = None) -> Mode:
        """The mode in force for a subject, its own or the global one; without a subject, the global one."""
        if subject is not None:
            try:
                with self._translated(f"mode of `{subject}`"):
                    # Without `defaultToGlobal` Apicurio answers NONE for a subject that has no mode of its own.
                    path = f"config/{quote(subject, safe='')}?defaultToGlobal=true"
                    return self._mode(self._client._rest_client.get(path)["compatibilityLevel"])
            except RegistryError as error:
                if error.status != 404:
                    raise
        with self._translated("the global mode can't be read"):
            return self._mode(self._client.get_compatibility())

    def _mode(self, answer: Any) -> Mode:
        text = str(answer).upper()
        if text not in Mode.__members__:
            raise RegistryError(f"the registry answers with the mode `{answer}`, which isn't one of the seven")
        return Mode(text)

    def set_mode(self, mode: Mode, subject: str | None = None) -> None:
        """Set a subject's mode, or the global one."""
        with self._translated(f"mode {mode} of `{subject or 'all subjects'}`"):
            self._client.set_compatibility(subject, mode.value)

    def test(self, subject: str, schema: str | dict[str, Any]) -> Compatibility:
        """The registry's verdict about a new version, in the mode in force, without registering it."""
        versions = "" if self.mode(subject).transitive else "/latest"
        body = {"schema": schema if isinstance(schema, str) else json.dumps(schema), "schemaType": "AVRO"}
        path = f"compatibility/subjects/{quote(subject, safe='')}/versions{versions}?verbose=true"
        try:
            with self._translated(f"`{subject}` can't be tested"):
                answer = self._client._rest_client.post(path, body=body)
        except RegistryError as error:
            if error.status == 404:  # nothing to be compatible with
                return Compatibility(True, ())
            raise
        messages = tuple(map(str, answer.get("messages") or ()))
        compatible = bool(answer["is_compatible"])
        return Compatibility(compatible, messages if messages or compatible else self._reasons(subject, body["schema"]))

    def _reasons(self, subject: str, schema: str) -> tuple[str, ...]:
        history = [parse(text) for text in self.history(subject)]
        conflicts = check(parse(schema), history, self.mode(subject)).conflicts
        return tuple(dict.fromkeys(conflict.sentence for conflict in conflicts))
