"""References to secrets, resolved by Kafka Connect's config providers when a connector starts.

A connector config never holds a credential: it holds `${file:/etc/connect/pg.properties:password}`, and the
worker that has the `file` provider reads the value (KIP-297). So the value is in no REST answer, no config
topic and no log.

    >>> SecretRef.file("/etc/connect/pg.properties", "password").to_config()
    '${file:/etc/connect/pg.properties:password}'
"""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from cdcpipe.connect.references import REFERENCE, is_reference
from cdcpipe.errors import ConfigError

__all__ = ["SecretRef", "is_reference"]


class SecretRef:
    """A place where the worker finds a secret: config provider, path and key. Its repr hides all three.

    Raises `ConfigError` for parts that a reference can't hold (braces, an empty key).
    """

    __slots__ = ("key", "path", "provider")

    provider: str
    path: str
    key: str

    def __init__(self, provider: str, path: str, key: str) -> None:
        for part in (provider, path, key):
            if "}" in part or "{" in part:
                raise ConfigError("a secret reference can't hold braces", hint="rename the file or the key")
        if not provider or not key or ":" in provider or ":" in key:
            raise ConfigError("a secret reference needs a provider and a key, neither with a colon")
        object.__setattr__(self, "provider", provider)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "key", key)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a SecretRef can't be changed")

    @classmethod
    def file(cls, path: str, key: str, *, provider: str = "file") -> SecretRef:
        """The value of `key` in a properties file on the worker (FileConfigProvider)."""
        return cls(provider, path, key)

    @classmethod
    def directory(cls, path: str, name: str, *, provider: str = "directory") -> SecretRef:
        """The content of the file `name` in the folder `path` (DirectoryConfigProvider): a mounted Secret."""
        return cls(provider, path, name)

    @classmethod
    def env(cls, variable: str, *, provider: str = "env") -> SecretRef:
        """An environment variable of the worker (EnvVarConfigProvider, Kafka 3.5 or newer)."""
        return cls(provider, "", variable)

    @classmethod
    def kubernetes(cls, namespace: str, secret: str, key: str, *, provider: str = "secrets") -> SecretRef:
        """A key of a Kubernetes Secret (Strimzi's KubernetesSecretConfigProvider)."""
        return cls(provider, f"{namespace}/{secret}", key)

    @classmethod
    def parse(cls, text: str) -> SecretRef:
        """Read `${provider:path:key}`. Raises `ConfigError` for anything else, without showing it."""
        found = REFERENCE.fullmatch(text)
        if found is None:
            raise ConfigError(
                "a secret is written out as a literal",
                hint="put it in a file and refer to it as `${file:/path:key}`, or `${env:NAME}`",
            )
        return cls(found[1], found[2] or "", found[3])

    def to_config(self) -> str:
        """The reference as Kafka Connect reads it."""
        path = f"{self.path}:" if self.path else ""
        return f"${{{self.provider}:{path}{self.key}}}"

    def __repr__(self) -> str:
        return "SecretRef(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretRef):
            return NotImplemented
        return self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash(self.to_config())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(cls.to_config)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\$\{[^}]+\}$"}

    @classmethod
    def _validate(cls, value: object) -> SecretRef:
        if isinstance(value, SecretRef):
            return value
        if isinstance(value, str) and is_reference(value):
            return cls.parse(value)
        raise ValueError("a secret must be a SecretRef (`${file:/path:key}`, `${env:NAME}`), never a literal")
