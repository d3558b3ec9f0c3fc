"""The builders written down as data: `model: PostgresSource` and its fields, for `cdcpipe config render`.

An object with a `model` becomes that model; so do the objects inside it. `json_schema` describes the form, for
editors. A model's fields are those of the Python class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import cdcpipe.connect as connect
from cdcpipe.connect.connector import Connector
from cdcpipe.connect.converters import Converter
from cdcpipe.connect.docs import field_docs, link
from cdcpipe.connect.model import Config, codecs, nearest
from cdcpipe.connect.partitioning import Daily, Hourly
from cdcpipe.connect.pipeline import Part
from cdcpipe.connect.transforms import Predicate, Transform
from cdcpipe.errors import ConfigError

__all__ = ["build", "json_schema", "load_attribute", "model_of", "models"]

_ABSTRACT: dict[str, type[Config]] = {"Converter": Converter, "Transform": Transform, "Predicate": Predicate}


def models() -> dict[str, type[Config]]:
    """Name -> model, of every public one."""
    found = {name: getattr(connect, name) for name in connect.__all__}
    return {
        name: model
        for name, model in found.items()
        if isinstance(model, type) and issubclass(model, Config) and model is not Converter
    }


def model_of(part: Part) -> type[Connector] | None:
    """The builder of a connector's class, or None."""
    for model in models().values():
        if issubclass(model, Connector) and model.fixed.get("connector.class") == part.java_class:
            return model
    return None


def build(data: object, where: str = "$") -> Any:
    """`data` with every object that names a `model` made into it. Raises `ConfigError` with the place."""
    if isinstance(data, list):
        return tuple(build(item, f"{where}[{index}]") for index, item in enumerate(data))
    if not isinstance(data, Mapping):
        return data
    fields = {str(key): build(value, f"{where}.{key}") for key, value in data.items() if key != "model"}
    if "model" not in data:
        return fields
    name = str(data["model"])
    known: dict[str, Any] = {**models(), "Hourly": Hourly, "Daily": Daily}
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(f"{where}: no model `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    try:
        return known[name](**fields)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", detail=error.detail, hint=error.hint) from error
    except TypeError as error:
        raise ConfigError(f"{where}: {name}: {error}") from error


def load_attribute(text: str) -> Config:
    """The builder at `module:attribute`; a function is called. Raises `ConfigError`."""
    module, _, attribute = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"`{text}` can't be had: {error}") from error
    built = found() if callable(found) and not isinstance(found, Config) else found
    if not isinstance(built, Config):
        raise ConfigError(f"`{text}` is a {type(built).__name__}, not one of the builders of `cdcpipe.connect`")
    return built


def json_schema(name: str | None = None) -> dict[str, Any]:
    """The JSON Schema of one model, or of all of them. Raises `ConfigError` for a name that is none."""
    known = models()
    if name is not None and name not in known:
        near = nearest(name, known)
        raise ConfigError(f"no model `{name}`" + (f"; did you mean `{near}`?" if near else ""))
    definitions: dict[str, Any] = {}
    for one, model in known.items():
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        definitions[one] = schema
    for one, model in known.items():
        _describe(definitions[one], one, model)
    for one in ("Hourly", "Daily"):
        _name(definitions[one], one)
    for one, base in _ABSTRACT.items():
        heirs = [heir for heir, model in known.items() if issubclass(model, base)]
        definitions[one] = {"anyOf": [{"$ref": f"#/$defs/{heir}"} for heir in heirs]}
    top = (
        [name] if name is not None else [one for one in known if not issubclass(known[one], tuple(_ABSTRACT.values()))]
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name or "cdcpipe.connect",
        "anyOf": [{"$ref": f"#/$defs/{one}"} for one in top],
        "$defs": dict(sorted(definitions.items())),
    }


def _name(schema: dict[str, Any], name: str) -> None:
    schema["properties"] = {"model": {"const": name}, **schema.get("properties", {})}
    schema["required"] = ["model", *schema.get("required", [])]


def _describe(schema: dict[str, Any], name: str, model: type[Config]) -> None:
    docs, found = field_docs(model), codecs(model)
    for field, entry in schema["properties"].items():
        entry["description"] = docs.get(field, "")
        if field in found and (key := next(found[field].keys(), None)):
            entry["x-key"] = key
    schema["description"] = " ".join((model.__doc__ or "").split())
    schema["externalDocs"] = {"url": link(model)}
    _name(schema, name)
