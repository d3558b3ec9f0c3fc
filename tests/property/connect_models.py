"""Hypothesis strategies for every model of `cdcpipe.connect`, made out of the models' own annotations."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import annotated_types
from hypothesis import reject
from hypothesis import strategies as st
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

import cdcpipe.connect as connect
from cdcpipe.connect.converters import Converter, ConverterAt
from cdcpipe.connect.model import Config, Key
from cdcpipe.connect.partitioning import AivenPartitioning, Daily, Hourly, IcebergPartitioning
from cdcpipe.connect.secrets import SecretRef
from cdcpipe.connect.transforms import Predicate, Transform
from cdcpipe.errors import ConfigError

MODELS: tuple[type[Config], ...] = tuple(
    found
    for name in sorted(connect.__all__)
    if isinstance(found := getattr(connect, name), type) and issubclass(found, Config) and found is not Converter
)
"""Every public model."""

_CONVERTERS = tuple(model for model in MODELS if issubclass(model, Converter))
_TRANSFORMS = tuple(model for model in MODELS if issubclass(model, Transform))
_PREDICATES = tuple(model for model in MODELS if issubclass(model, Predicate))

_PLAIN = st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))
_TEXT = st.text(_PLAIN, max_size=12)
_ITEM = st.text(_PLAIN, min_size=1, max_size=8).filter(lambda text: text.strip() and not text.strip().endswith("\\"))
_WORD = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_PART = st.from_regex(r"[A-Za-z0-9_./-]{1,10}", fullmatch=True)

SECRETS = st.one_of(
    st.builds(SecretRef.file, _PART, _WORD),
    st.builds(SecretRef.env, _WORD),
    st.builds(SecretRef.kubernetes, _WORD, _WORD, _WORD),
)
# No field has a key that ends like this, so these go to no other field: that case has a test of its own.
_MAPPINGS = st.dictionaries(_WORD.map(lambda word: f"{word}.zz"), st.one_of(_TEXT, SECRETS), max_size=3)


@functools.cache
def instances(model: type[Config]) -> st.SearchStrategy[Any]:
    """Instances of `model`; combinations that its validators refuse are left out."""
    hints = typing.get_type_hints(model, include_extras=True)
    fields = {
        name: _field(model, name, hints[name], info) for name, info in model.model_fields.items() if name != "extra"
    }
    required = {name: strategy for name, strategy in fields.items() if model.model_fields[name].is_required()}
    optional = {name: strategy for name, strategy in fields.items() if name not in required}

    @st.composite
    def build(draw: st.DrawFn) -> Config:
        values = draw(st.fixed_dictionaries(required, optional=optional))
        try:
            return model(**values)
        except ConfigError as error:
            # Two words for one thing, and the like; never a value that the annotation allows.
            if "Input should" in (error.detail or ""):
                raise
            reject()

    return build()


def _field(model: type[Config], name: str, hint: object, info: FieldInfo) -> st.SearchStrategy[Any]:
    codecs = info.metadata
    if any(isinstance(codec, ConverterAt) for codec in codecs):
        return st.one_of(st.none(), *(instances(converter) for converter in _CONVERTERS))
    if name in {"transforms", "predicates"}:
        models = _TRANSFORMS if name == "transforms" else _PREDICATES
        return st.lists(st.one_of(*map(instances, models)), max_size=2, unique_by=lambda step: step.name).map(tuple)
    if name == "config_providers":
        return st.lists(instances(connect.ConfigProvider), max_size=2, unique_by=lambda it: it.name).map(tuple)
    if name == "dead_letter_queue":
        return st.one_of(st.none(), instances(connect.DeadLetterQueue))
    if any(isinstance(codec, IcebergPartitioning) for codec in codecs):
        return st.one_of(st.none(), _WORD.map(Hourly), _WORD.map(Daily), st.just("bucket(16, id), hour(at)"))
    if any(isinstance(codec, AivenPartitioning) for codec in codecs):
        return st.sampled_from([None, Hourly(), Daily()])
    if name == "partition_by":
        return st.one_of(st.none(), st.one_of(st.none(), _WORD).map(Hourly), st.one_of(st.none(), _WORD).map(Daily))
    assert any(isinstance(codec, Key) or hasattr(codec, "render") for codec in codecs) or info.exclude, name
    return _type(hint, ())


def _type(hint: object, metadata: tuple[object, ...]) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0], (*args[1:], *metadata))
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(_type(arg, metadata) for arg in args))
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(_type(args[0], ()), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return _MAPPINGS
    if hint is type(None):
        return st.none()
    if hint is bool:
        return st.booleans()
    if hint is SecretRef:
        return SECRETS
    if hint is int:
        return st.integers(min_value=_bound(metadata, "ge", -1000), max_value=_bound(metadata, "le", 2**40))
    if hint is str:
        for item in metadata:
            if isinstance(item, StringConstraints) and item.min_length == 1:
                return _ITEM
            if isinstance(item, StringConstraints) and isinstance(item.pattern, str):
                return st.from_regex(item.pattern.strip("^$"), fullmatch=True)
        return _TEXT
    raise AssertionError(f"no strategy for {hint!r}")


def _bound(metadata: tuple[object, ...], side: str, default: int) -> int:
    for item in metadata:
        for inner in (item, *getattr(item, "metadata", ())):
            if isinstance(inner, annotated_types.Ge if side == "ge" else annotated_types.Le):
                return int(getattr(inner, side))
    return default
