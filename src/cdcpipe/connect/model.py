"""The base of every config model: frozen, typed, and the same thing as a flat `dict[str, str]`.

A field carries the foreign key that it stands for: `slot_name: Annotated[str, Key("slot.name")]`. `to_config`
writes every field that isn't None, so a default that matters is written out and a new release of a connector
can't change it under us. `from_config` is the way back: a key that is absent becomes None ("the connector's
own default"), never our default, so that `from_config(x.to_config()) == x` holds for every model.

Fields that hold a model of their own (a converter, a dead letter queue, transforms) carry a `Codec` that says
how they lie in the flat dict.
"""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from cdcpipe.connect.plugins import nearest
from cdcpipe.connect.secrets import SecretRef
from cdcpipe.errors import ConfigError

__all__ = [
    "Codec",
    "Config",
    "Inline",
    "Item",
    "Key",
    "Millis",
    "Prefixed",
    "Text",
    "codecs",
    "nearest",
    "read_under",
    "render_value",
    "take_prefix",
]

C = TypeVar("C", bound="Config")

Text = Annotated[SecretRef | str, Field(union_mode="left_to_right")]
"""A value that may be a reference to a secret."""

Item = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"[^\\]$")]
"""An element of a comma-separated list. One that ends in a backslash would swallow the comma after it."""

Millis = Annotated[int, Field(ge=0)]
"""A time in milliseconds."""

_COMMA = re.compile(r"(?<!\\),")


def render_value(value: object) -> str:
    """A Python value as Kafka Connect writes it. A comma inside a list's element is escaped, as Debezium reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, SecretRef):
        return value.to_config()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ",".join(render_value(item).replace(",", "\\,") for item in value)
    return str(value)


class Codec(Protocol):
    """How one field lies in the flat dict."""

    def render(self, value: object) -> dict[str, str]:
        """The keys that `value` (never None) becomes."""

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        """Remove this field's keys from `remaining` and give its value, None when there are none."""

    def keys(self) -> Iterator[str]:
        """Every fixed key that `render` can give."""


class Key:
    """One field, one key. `many` splits at commas; `values` maps our words to the connector's."""

    __slots__ = ("_back", "many", "name", "values")

    def __init__(self, name: str, *, many: bool = False, values: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.many = many
        self.values = values or {}
        self._back = {foreign: ours for ours, foreign in self.values.items()}

    def render(self, value: object) -> dict[str, str]:
        text = render_value(value)
        return {self.name: self.values.get(text, text)}

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        text = remaining.pop(self.name, None)
        if text is None:
            return None
        if self.many:
            return tuple(part.strip().replace("\\,", ",") for part in _COMMA.split(text) if part.strip())
        return self._back.get(text, text)

    def keys(self) -> Iterator[str]:
        yield self.name


class Prefixed:
    """A mapping whose keys all begin with `prefix`, which the field's own keys leave out."""

    __slots__ = ("prefix",)

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, Mapping)
        return {f"{self.prefix}{key}": render_value(item) for key, item in value.items()}

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        return take_prefix(remaining, self.prefix)

    def keys(self) -> Iterator[str]:
        yield from ()


class Inline:
    """A model whose keys stand beside the others, without a prefix."""

    __slots__ = ("model",)

    def __init__(self, model: type[Config]) -> None:
        self.model = model

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, Config)
        return value.to_config()

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        known = set(self.model.known_keys())
        mine = {key: remaining.pop(key) for key in list(remaining) if key in known}
        return self.model.from_config(mine, keep_unknown=keep_unknown) if mine else None

    def keys(self) -> Iterator[str]:
        yield from self.model.known_keys()


def read_under(
    prefix: str,
    model: type[C],
    settings: Mapping[str, str],
    keep_unknown: bool,
    given: Mapping[str, str] | None = None,
) -> C:
    """`model.from_config(settings)` whose findings name the whole key; `given` are fields that aren't settings."""
    try:
        return model.from_config(settings, keep_unknown=keep_unknown, **(given or {}))
    except ConfigError as error:
        raise ConfigError(
            error.message, hint=error.hint, detail=(error.detail or "").replace('$["', f'$["{prefix}')
        ) from error


def take_prefix(remaining: dict[str, str], prefix: str) -> dict[str, str]:
    """Remove the keys under `prefix` from `remaining` and give them without it."""
    return {key[len(prefix) :]: remaining.pop(key) for key in list(remaining) if key.startswith(prefix)}


class Config(BaseModel):
    """A typed config. Frozen; unknown fields are refused; `extra` keeps keys that have no field here."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # Keys with a fixed value that mark the model in the flat dict, such as `connector.class`.
    fixed: ClassVar[Mapping[str, str]] = {}

    extra: Mapping[str, Text] = Field(default_factory=dict)
    """Keys without a field, written as they are. A secret among them is a `SecretRef`, too."""

    if not typing.TYPE_CHECKING:  # a checker sees the fields, not this

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _failed(type(self), _findings(type(self), error)) from error

    def to_config(self) -> dict[str, str]:
        """The flat dict that Kafka Connect takes: every field that isn't None, fields in order, `extra` last."""
        config = dict(self.fixed)
        for name, codec in codecs(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                _put(config, codec.render(value))
        _put(config, {key: render_value(text) for key, text in self.extra.items()})
        return config

    @model_validator(mode="after")
    def _mappings_hold_no_key_of_another_field(self) -> Self:
        """What a mapping renders must be read back into that mapping, or one key had two places in the model."""
        owners = codecs(type(self))
        holders = [name for name, codec in owners.items() if isinstance(codec, Prefixed) and getattr(self, name)]
        for holder in (*holders, "extra") if self.extra else holders:
            given = getattr(self, holder)
            left = owners[holder].render(given) if holder != "extra" else {k: render_value(v) for k, v in given.items()}
            for name, codec in owners.items():
                if name == holder:
                    break
                if key := _first_taken(codec, left):
                    raise ValueError(f"`{holder}` holds `{key}`, which belongs to the field `{name}`")
        return self

    @classmethod
    def from_config(cls, config: Mapping[str, object], *, keep_unknown: bool = False, **given: str) -> Self:
        """Read a flat dict back; `given` are fields that the dict doesn't hold, such as a transform's name.

        An absent key becomes None. An unknown key is kept in `extra` with `keep_unknown`, else refused with the
        nearest known key. Raises `ConfigError`, whose `detail` lists every finding by its key.
        """
        remaining = {key: render_value(value) for key, value in config.items() if value is not None}
        findings: list[str] = []
        for key, expected in cls.fixed.items():
            got = remaining.pop(key, expected)
            if got != expected:
                findings.append(f'$["{key}"]: is "{got}", but {cls.__name__} stands for "{expected}"')
        values: dict[str, Any] = dict(given)
        for name, codec in codecs(cls).items():
            try:
                value = codec.take(remaining, keep_unknown)
            except ConfigError as error:
                findings.extend((error.detail or error.message).splitlines())
                continue
            if value is not None or _may_be_none(cls.model_fields[name].annotation):
                values[name] = value
        if not keep_unknown:
            findings.extend(_unknown(cls, remaining))
        try:
            built = cls(**values, extra=dict(remaining) if keep_unknown else {})
        except ConfigError as error:
            findings.extend((error.detail or error.message).splitlines())
        if findings:
            raise _failed(cls, findings)
        return built

    @classmethod
    def known_keys(cls) -> Iterator[str]:
        """Every fixed key that this model can write, in order."""
        yield from cls.fixed
        for codec in codecs(cls).values():
            yield from codec.keys()


def _put(config: dict[str, str], rendered: Mapping[str, str]) -> None:
    for key, text in rendered.items():
        if key in config:
            raise ConfigError(f"`{key}` is given twice", hint="give it once: as its own field, or in a mapping")
        config[key] = text


def _first_taken(codec: Codec, config: Mapping[str, str]) -> str | None:
    """The first key of `config` that `codec` would read, or None."""
    left = dict(config)
    try:
        codec.take(left, True)
    except ConfigError:  # it tried to: the keys are its own
        return next(iter(config))
    return next((key for key in config if key not in left), None)


def _may_be_none(annotation: object) -> bool:
    return type(None) in typing.get_args(annotation)


@functools.cache
def codecs(model: type[Config]) -> dict[str, Codec]:
    """Field name -> how it lies in the flat dict, for each field of `model` but `extra` and those left out of dumps."""
    found: dict[str, Codec] = {}
    for name, info in model.model_fields.items():
        if name == "extra" or info.exclude:
            continue
        codec = next((item for item in info.metadata if hasattr(item, "take") and hasattr(item, "render")), None)
        assert codec is not None, f"{model.__name__}.{name} names no key"
        found[name] = cast("Codec", codec)
    return found


def _unknown(model: type[Config], remaining: Mapping[str, str]) -> Iterator[str]:
    known = list(model.known_keys())
    for key in remaining:
        near = nearest(key, known)
        yield f'$["{key}"]: unknown key' + (f"; did you mean `{near}`?" if near else "")


def _findings(model: type[Config], error: ValidationError) -> list[str]:
    """Pydantic's findings, a line each. Values are left out, since one of them may be a secret."""
    names = codecs(model)
    findings = []
    for item in error.errors(include_url=False, include_input=False):
        field = str(item["loc"][0]) if item["loc"] else ""
        key = next(names[field].keys(), None) if field in names else None
        where = f'{field} ($["{key}"])' if key else field
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            near = nearest(field, model.model_fields)
            message = "no such field" + (f"; did you mean `{near}`?" if near else "")
        elif item["type"] == "missing":
            message = "is missing"
        findings.append(f"{where}: {message}" if where else message)
    return list(dict.fromkeys(findings))


def _failed(model: type[Config], findings: list[str]) -> ConfigError:
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    return ConfigError(
        f"{model.__name__} can't be built: {count}",
        detail="\n".join(findings),
        hint="keep keys that this version doesn't know with `keep_unknown=True` or `extra={...}`"
        if any("unknown key" in finding for finding in findings)
        else None,
    )
