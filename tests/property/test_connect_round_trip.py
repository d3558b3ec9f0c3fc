"""What a builder writes, it reads back: for every model, whatever is set."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.connect_models import MODELS, instances

from cdcpipe.connect.deadletter import DeadLetterQueue
from cdcpipe.connect.model import Config, Key, Prefixed, codecs
from cdcpipe.errors import ConfigError


def _given_fields(model: Config) -> dict[str, Any]:
    """What the flat dict doesn't hold, and its reader has to know: a name, a class, a topic's size."""
    return {name: getattr(model, name) for name, info in type(model).model_fields.items() if info.exclude}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_a_model_writes_it_reads_back(model: type[Config], data: st.DataObject) -> None:
    built = data.draw(instances(model))
    config = built.to_config()
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in config.items())
    assert model.from_config(config, **_given_fields(built)) == built
    assert model.from_config(config, keep_unknown=True, **_given_fields(built)) == built


# A queue stands inline in a sink, whose `extra` keeps what neither knows.
@pytest.mark.parametrize("model", [m for m in MODELS if m is not DeadLetterQueue], ids=lambda model: model.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), text=st.text(max_size=5))
def test_an_unknown_key_is_refused_or_kept_when_told_to(model: type[Config], data: st.DataObject, text: str) -> None:
    built = data.draw(instances(model))
    config = {**built.to_config(), "zz.unheard.of": text}
    if any(isinstance(codec, Prefixed) and codec.prefix == "" for codec in codecs(model).values()):
        return  # keeps every key, by its nature
    with pytest.raises(ConfigError) as refused:
        model.from_config(config, **_given_fields(built))
    assert '$["zz.unheard.of"]: unknown key' in (refused.value.detail or "")
    kept = model.from_config(config, keep_unknown=True, **_given_fields(built))
    assert kept.extra == {"zz.unheard.of": text}
    assert kept.to_config() == config


def _overlaps() -> list[tuple[type[Config], str, str, str]]:
    found = []
    for model in MODELS:
        for holder, outer in codecs(model).items():
            for name, inner in codecs(model).items():
                if isinstance(outer, Prefixed) and isinstance(inner, Key) and inner.name.startswith(outer.prefix):
                    found.append((model, holder, name, inner.name[len(outer.prefix) :]))
    return found


@pytest.mark.parametrize(
    ("model", "holder", "name", "key"), _overlaps(), ids=lambda item: getattr(item, "__name__", item)
)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_mapping_takes_no_key_that_has_a_field(
    model: type[Config], holder: str, name: str, key: str, data: st.DataObject
) -> None:
    built = data.draw(instances(model))
    values = {field: getattr(built, field) for field in model.model_fields}
    with pytest.raises(ConfigError, match="finding") as refused:
        model(**{**values, name: None, holder: {key: "x"}})
    assert f"belongs to the field `{name}`" in (refused.value.detail or "")
