"""Make catalogue files out of the plugins of a running Kafka Connect."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdcpipe.connect.plugins import write_index
from cdcpipe.connect.rest import ConnectClient, Plugin

__all__ = ["GROUPS", "generate"]

GROUPS: dict[str, tuple[str, ...]] = {
    "org.apache.kafka.connect": ("org.apache.kafka.connect.",),
    "io.debezium.connector.postgresql": ("io.debezium.",),
    "org.apache.iceberg.connect": ("org.apache.iceberg.connect.",),
    "io.apicurio.registry.utils.converter": ("io.apicurio.registry.utils.converter.",),
    "io.confluent.connect.avro": ("io.confluent.connect.avro.",),
    "io.confluent.connect.s3": ("io.confluent.connect.s3.",),
    "io.aiven.kafka.connect.s3": ("io.aiven.kafka.connect.",),
}
"""Name of a catalogue file -> the packages whose plugins it holds. Others get a file of their own."""

# Defaults that say where they were asked.
_OF_THIS_WORKER = {
    "connector.plugin.version",
    "iceberg.control.commit.threads",
}


def generate(
    client: ConnectClient, folder: Path, *, versions: dict[str, str] | None = None, only: Iterable[str] = ()
) -> tuple[Path, ...]:
    """Ask every installed plugin for its keys and write `<plugin>@<version>.json` files and the index.

    `versions` gives the version of a group whose plugins don't say theirs; `only` limits the groups.
    """
    groups: dict[str, list[Plugin]] = {}
    for found in client.plugins():
        groups.setdefault(_group(found.java_class), []).append(found)
    wanted = set(only)
    info = client.info()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, members in sorted(groups.items()):
        if wanted and name not in wanted:
            continue
        version = (versions or {}).get(name) or next((one.version for one in members if one.version), None)
        if version in (None, "undefined"):
            version = "unknown"
        content = {
            "plugin": name,
            "version": version,
            "origin": "generated",
            "source": f"GET /connector-plugins/<class>/config of Kafka Connect {info.version}",
            "plugins": dict(sorted(_plugins(client, members).items())),
        }
        path = folder / f"{name}@{version}.json"
        for old in folder.glob(f"{name}@*.json"):
            old.unlink()
        path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
        written.append(path)
    write_index(folder)
    return tuple(written)


def _group(java_class: str) -> str:
    for name, packages in GROUPS.items():
        if java_class.startswith(packages):
            return name
    return java_class


def _plugins(client: ConnectClient, members: list[Plugin]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in members:
        base = one.java_class.partition("$")[0]
        if base in found:
            continue
        keys = {}
        words = _words(client, one)
        for key in client.plugin_keys(one.java_class):
            entry: dict[str, Any] = {"type": key.type, "default": key.default}
            if key.required:
                entry["required"] = True
            if key.type == "STRING" and key.name in words and not key.name.endswith("plugin.version"):
                entry["values"] = sorted(words[key.name])
            if key.documentation:
                entry["doc"] = " ".join(key.documentation.split())
            if key.name in _OF_THIS_WORKER:
                entry["default"] = None
            keys[key.name] = entry
        found[base] = {"type": one.type, "keys": keys}
    return found


def _words(client: ConnectClient, one: Plugin) -> dict[str, tuple[str, ...]]:
    """The closed sets of a connector's keys, which it gives only when it is asked to validate something."""
    if one.type not in {"source", "sink"}:
        return {}
    asked = {"connector.class": one.java_class, "name": "catalogue"}
    return client.validate(asked | ({"topics": "catalogue"} if one.type == "sink" else {})).recommended
