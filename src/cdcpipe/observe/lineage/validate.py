"""Is a JSON object an OpenLineage event? Asked of the classes of `openlineage-python`, which are generated from
OpenLineage's JSON Schema: members that are required, their types, enumerations, formats of times, ids and addresses,
and for each facet the class that its `_schemaURL` names. What the schema leaves open (facets of others) passes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import types
import typing
from enum import Enum
from typing import Any
from urllib.parse import urlparse

from cdcpipe.errors import MissingExtra

__all__ = ["problems"]


def problems(event: Any) -> list[str]:
    """What is wrong with it, each with its place; nothing when it is an event."""
    try:
        classes = _classes()
    except ImportError as error:
        raise MissingExtra("observe", "checking OpenLineage events") from error
    if not isinstance(event, dict):
        return ["$: it is no object"]
    url = event.get("schemaURL")
    if not isinstance(url, str) or not url.endswith(("RunEvent", "DatasetEvent", "JobEvent")):
        return [f"$.schemaURL: `{url}` names no kind of event"]
    known = classes.get(url.rpartition("/")[2])
    return ["$.schemaURL: no such kind of event"] if known is None else list(_object(event, known, "$"))


@functools.cache
def _classes() -> dict[str, Any]:
    """Class by the end of its schema's address."""
    import openlineage.client.generated as generated

    found: dict[str, Any] = {}
    for each in pkgutil.iter_modules(generated.__path__):
        module = importlib.import_module(f"{generated.__name__}.{each.name}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and hasattr(value, "__attrs_attrs__") and value.__module__ == module.__name__:
                found[name] = value
    return found


def _object(value: dict[str, Any], class_: Any, path: str) -> typing.Iterator[str]:
    hints = _hints(class_)
    facet = any(base.__name__ == "BaseFacet" for base in class_.__mro__)
    for attribute in class_.__attrs_attrs__:
        name = attribute.name
        if name not in value:
            if attribute.default is None or (
                attribute.default is not _nothing() and name not in ("_producer", "producer")
            ):
                continue
            if name != "schemaURL":
                yield f"{path}.{name}: it is missing"
            continue
        if value[name] is None:
            yield f"{path}.{name}: it is null"
            continue
        yield from _value(value[name], hints.get(name, Any), f"{path}.{name}")
    for name in ("_producer", "_schemaURL") if facet else ():
        if not _is_uri(value.get(name)):
            yield f"{path}.{name}: `{value.get(name)}` is no address"
    if not facet:
        names = {attribute.name for attribute in class_.__attrs_attrs__} | {"schemaURL"}
        yield from (f"{path}.{name}: there is no such member" for name in value if name not in names)
    yield from _formats(value, class_.__name__, path)


def _nothing() -> Any:
    import attr

    return attr.NOTHING


@functools.cache
def _hints(class_: Any) -> dict[str, Any]:
    module = importlib.import_module(class_.__module__)
    scope = {**vars(typing), **vars(module)}
    found: dict[str, Any] = {}
    for base in reversed(class_.__mro__):
        space = {**scope, **vars(importlib.import_module(base.__module__))} if base is not object else scope
        for name, text in inspect.get_annotations(base).items():
            found[name] = eval(text, space) if isinstance(text, str) else text  # the library's own annotations
    return found


def _value(value: Any, hint: Any, path: str) -> typing.Iterator[str]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [list(_value(value, each, path)) for each in typing.get_args(hint) if each is not type(None)]
        if all(choices):
            yield from min(choices, key=len)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: it is no list"
            return
        for index, each in enumerate(value):
            yield from _value(each, typing.get_args(hint)[0], f"{path}[{index}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{path}: it is no object"
            return
        for name, each in value.items():
            yield from _member(each, typing.get_args(hint)[1], f"{path}.{name}")
    elif inspect.isclass(hint) and issubclass(hint, Enum):
        if value not in [each.value for each in hint]:
            yield f"{path}: `{value}` is none of {', '.join(str(each.value) for each in hint)}"
    elif inspect.isclass(hint) and hasattr(hint, "__attrs_attrs__"):
        yield from _object(value, hint, path) if isinstance(value, dict) else [f"{path}: it is no object"]
    elif hint in (str, bool, int, float):
        right = (int, float) if hint is float else hint
        if not isinstance(value, right) or (isinstance(value, bool) and hint is not bool):
            yield f"{path}: `{value}` is no {hint.__name__}"


def _member(value: Any, hint: Any, path: str) -> typing.Iterator[str]:
    """A facet by the class that it names, where we know it; any other member by its annotation."""
    if isinstance(value, dict) and isinstance(value.get("_schemaURL"), str):
        special = _classes().get(value["_schemaURL"].rpartition("/")[2])
        if special is not None and inspect.isclass(hint) and issubclass(special, hint):
            yield from _object(value, special, path)
            return
    yield from _value(value, hint, path)


def _formats(value: dict[str, Any], name: str, path: str) -> typing.Iterator[str]:
    import uuid
    from datetime import datetime

    if name == "Run":
        try:
            uuid.UUID(str(value.get("runId")))
        except ValueError:
            yield f"{path}.runId: `{value.get('runId')}` is no UUID"
    if "eventTime" in value:
        try:
            if datetime.fromisoformat(str(value["eventTime"])).tzinfo is None:
                yield f"{path}.eventTime: it has no time zone"
        except ValueError:
            yield f"{path}.eventTime: `{value['eventTime']}` is no time"
    if name.endswith("Event"):
        yield from (f"{path}.{each}: `{value.get(each)}` is no address"
                    for each in ("producer", "schemaURL") if not _is_uri(value.get(each)))  # fmt: skip


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and bool(urlparse(value).scheme)
