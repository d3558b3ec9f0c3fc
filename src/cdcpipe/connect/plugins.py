"""What each plugin knows: its keys, their types and defaults, out of `catalogue/`.

A file there is either *generated*, by `cdcpipe config catalogue`, from the plugin itself through Connect's REST
API, or *documented*: written out of the vendor's pages, with version and source, where the plugin can't be had.
`supplement.json` adds, by hand, what a plugin reads although its ConfigDef doesn't list it; a test looks for each
of these in the plugin's own classes. Nothing here imports pydantic: `cdcpipe config lint` has to start at once.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cdcpipe.errors import ConfigError

__all__ = ["FOLDER", "KeyInfo", "PluginKeys", "known_classes", "nearest", "plugin", "write_index"]

FOLDER = Path(__file__).with_name("catalogue")
_SUPPLEMENT = "supplement.json"
_INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key. `type` is Connect's (STRING, INT, LONG, SHORT, DOUBLE, BOOLEAN, LIST, CLASS, PASSWORD)."""

    name: str
    type: str
    default: str | None
    required: bool
    documentation: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PluginKeys:
    """A plugin's keys. Under a prefix anything goes, such as `driver.`."""

    java_class: str
    version: str
    origin: Literal["generated", "documented"]
    source: str
    keys: Mapping[str, KeyInfo]
    prefixes: tuple[str, ...]

    def knows(self, key: str) -> bool:
        """The plugin reads `key`."""
        return key in self.keys or key.startswith(self.prefixes)


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that `key` was most likely meant to be, or None."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.75)
    return matches[0] if matches else None


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the catalogue file {path} can't be read: {error}") from error
    assert isinstance(content, dict)
    return content


def known_classes(folder: Path = FOLDER) -> tuple[str, ...]:
    """Every class that the catalogue has, without `$Key` and `$Value`."""
    return tuple(_read(folder / _INDEX))


@functools.cache
def plugin(java_class: str, folder: Path = FOLDER) -> PluginKeys | None:
    """What `java_class` knows, None when the catalogue hasn't got it. `$Key` and `$Value` forms are the same."""
    base = java_class.partition("$")[0]
    file = _read(folder / _INDEX).get(base)
    if file is None:
        return None
    content = _read(folder / file)
    supplement = _read(folder / _SUPPLEMENT).get(base, {})
    entries = {**content["plugins"][base]["keys"], **supplement.get("keys", {})}
    return PluginKeys(
        java_class=base,
        version=content["version"],
        origin=content["origin"],
        source=content["source"],
        keys={name: _key(name, entry) for name, entry in entries.items()},
        prefixes=(*content["plugins"][base].get("prefixes", ()), *supplement.get("prefixes", ())),
    )


def _key(name: str, entry: Mapping[str, Any]) -> KeyInfo:
    return KeyInfo(
        name=name,
        type=str(entry.get("type", "STRING")),
        default=entry.get("default"),
        required=bool(entry.get("required", False)),
        documentation=str(entry.get("doc", "")),
        values=tuple(entry.get("values", ())),
    )


def write_index(folder: Path = FOLDER) -> Path:
    """Write `index.json` (class -> file) of what lies in `folder`; a newer file of a class wins by its name."""
    index: dict[str, str] = {}
    for path in sorted(folder.glob("*@*.json")):
        for java_class in json.loads(path.read_text(encoding="utf-8"))["plugins"]:
            index[java_class] = path.name
    target = folder / _INDEX
    target.write_text(json.dumps(dict(sorted(index.items())), indent=1) + "\n", encoding="utf-8")
    if not (folder / _SUPPLEMENT).exists():
        (folder / _SUPPLEMENT).write_text("{}\n", encoding="utf-8")
    return target
