"""Read a pipeline out of files: connectors, worker, topics and registry, several files being one pipeline.

A file may hold
- JSON: what `POST /connectors` takes (`name`, `config`), what `PUT /connectors/<name>/config` takes (the flat
  config), a list of either, or what `GET /connectors?expand=info` gives; a worker's settings; a topic
  (`{"topic": "t", "partitions": 3, "replication.factor": 3, "config": {...}}`); the registry's
  `{"compatibility": "FULL_TRANSITIVE"}`
- properties: a worker's, or a standalone connector's
- Kubernetes YAML of Strimzi: KafkaConnector, KafkaConnect, KafkaTopic, Kafka, KafkaNodePool

Everything that is wrong with the input is said at once, each with its place.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cdcpipe.connect.marked import (
    Array,
    Malformed,
    Mark,
    Object,
    Scalar,
    Tree,
    read_json,
    read_properties,
    read_yaml,
)
from cdcpipe.connect.pipeline import Kind, Part, Pipeline, Place
from cdcpipe.connect.plugins import KeyInfo, known_classes, nearest, plugin
from cdcpipe.errors import ConfigError

__all__ = ["read_files", "read_text"]

_STRIMZI_WORKER = {
    "bootstrapServers": "bootstrap.servers",
    "groupId": "group.id",
    "configStorageTopic": "config.storage.topic",
    "offsetStorageTopic": "offset.storage.topic",
    "statusStorageTopic": "status.storage.topic",
}
_NUMBER = re.compile(r"-?\d+")
_NUMERIC_KEY = re.compile(r"(\.ms|\.bytes|\.factor|\.partitions|\.replicas)$|^partitions$")
_INTEGERS = {"INT", "LONG", "SHORT"}
_A = {"object": "an object", "array": "a list", "null": "null"}


@dataclass
class _Reader:
    """Collects parts and problems; `file` is the one that is read now."""

    parts: list[Part] = field(default_factory=list)
    problems: list[tuple[str, Mark, str]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    file: str = ""
    brokers: int | None = None

    def problem(self, mark: Mark, text: str) -> None:
        self.problems.append((self.file, mark, text))

    # --- shapes ---

    def read(self, text: str, file: str) -> None:
        self.file = file
        if not text.strip("\ufeff \t\r\n"):
            self.problem(Mark(1, 1), "the file is empty")
            return
        text = text.removeprefix("\ufeff")
        form = _form(text, file)
        try:
            trees: tuple[Tree, ...]
            if form == "JSON":
                trees = (read_json(text),)
            elif form == "YAML":
                trees = read_yaml(text)
            else:
                trees = (read_properties(text),)
        except Malformed as error:
            self.problem(error.mark, f"not {form}: {error.reason}")
            return
        if not trees:
            self.problem(Mark(1, 1), "the file is empty")
        for tree in trees:
            self.document(tree)

    def document(self, tree: Tree) -> None:
        if isinstance(tree, Array):
            for item in tree.items:
                self.document(item)
        elif not isinstance(tree, Object):
            self.problem(tree.mark, "neither a connector, worker, topic nor registry, but a single value")
        elif tree.get("apiVersion") is not None and tree.get("kind") is not None:
            self.kubernetes(tree)
        elif isinstance(config := tree.get("config"), Object) and tree.get("topic") is None:
            self.connector(config, "$.config", name=tree.text("name"), outer=tree)
        elif tree.items and all(isinstance(v, Object) and v.get("info") is not None for _, _, v in tree.items):
            for name, _, value in tree.items:  # GET /connectors?expand=info
                info = value.get("info") if isinstance(value, Object) else None
                if isinstance(info, Object) and isinstance(config := info.get("config"), Object):
                    self.connector(config, f'$["{name}"].info.config', name=name, outer=info)
        else:
            self.flat(tree)

    def flat(self, tree: Object) -> None:
        keys = {key for key, _, _ in tree.items}
        if "connector.class" in keys:
            self.connector(tree, "$", name=tree.text("name"), outer=tree)
        elif "topic" in keys:
            self.topic(tree, tree.text("topic"), tree.get("config"))
        elif "group.id" in keys or {"bootstrap.servers", "config.storage.topic"} <= keys:
            self.part("worker", tree.text("group.id") or "connect", self.values(tree, "$"), tree.mark)
        elif keys & {"compatibility", "compatibilityLevel"}:
            level = tree.text("compatibility") or tree.text("compatibilityLevel")
            at = Place(self.file, '$["compatibility"]', tree.mark.line, tree.mark.column)
            self.part("registry", "registry", {"compatibility": (level, at)}, tree.mark)
        else:
            near = nearest("connector.class", keys)
            more = f"; is `{near}` meant to be `connector.class`?" if near else ""
            self.problem(tree.mark, f"neither a connector (no `connector.class`), worker, topic nor registry{more}")

    def kubernetes(self, tree: Object) -> None:
        if not tree.text("apiVersion").startswith("kafka.strimzi.io/"):
            return  # a Secret or the like in the same file
        metadata, spec = tree.get("metadata"), tree.get("spec")
        name = metadata.text("name") if isinstance(metadata, Object) else ""
        if not isinstance(spec, Object):
            self.problem(tree.mark, f"the {tree.text('kind')} has no `spec`")
            return
        config = spec.get("config")
        held = config if isinstance(config, Object) else Object((), spec.mark)
        match tree.text("kind"):
            case "KafkaConnector":
                renamed = {"class": "connector.class", "tasksMax": "tasks.max"}
                self.connector(_lifted(held, spec, renamed), "$.spec.config", name=name, outer=spec)
            case "KafkaConnect":
                values = self.values(_lifted(held, spec, _STRIMZI_WORKER), "$.spec.config")
                self.part("worker", name or "connect", values, spec.mark, "$.spec.config")
            case "KafkaTopic":
                self.topic(spec, spec.text("topicName") or name, config, partitions="partitions", replicas="replicas")
            case "Kafka":
                kafka = spec.get("kafka")
                if isinstance(kafka, Object) and kafka.text("replicas").isdigit():
                    self.brokers = int(kafka.text("replicas"))
            case "KafkaNodePool":
                roles = spec.get("roles")
                words = (
                    {item.text for item in roles.items if isinstance(item, Scalar)} if isinstance(roles, Array) else ()
                )
                if "broker" in words and spec.text("replicas").isdigit():
                    self.brokers = (self.brokers or 0) + int(spec.text("replicas"))

    # --- parts ---

    def values(self, tree: Object, path: str) -> dict[str, tuple[str, Place]]:
        """Key -> value and place; what isn't a single value, or is given twice, is a problem."""
        found: dict[str, tuple[str, Place]] = {}
        for key, mark, value in tree.items:
            if key in found:
                first = found[key][1]
                self.problem(mark, f"`{key}` is given twice, first at {first.line}:{first.column}")
            elif not isinstance(value, Scalar) or value.kind == "null":
                kind = "null" if isinstance(value, Scalar) else "object" if isinstance(value, Object) else "array"
                self.problem(value.mark, f"`{key}` must be a text, number or true/false, but is {_A[kind]}")
            else:
                found[key] = (value.text, Place(self.file, f'{path}["{key}"]', mark.line, mark.column))
        return found

    def part(self, kind: Kind, name: str, values: Mapping[str, tuple[str, Place]], mark: Mark, path: str = "$") -> None:
        config = {key: text for key, (text, _) in values.items()}
        places = {key: place for key, (_, place) in values.items()}
        if kind in {"worker", "topic"}:
            for key, (text, place) in values.items():
                if _NUMERIC_KEY.search(key) and not _NUMBER.fullmatch(text.strip()) and "${" not in text:
                    self.problem(Mark(place.line, place.column), f"`{key}` must be a number, but is `{text}`")
        self.parts.append(Part(kind, name, config, Place(self.file, path, mark.line, mark.column), places))

    def connector(self, config: Object, path: str, *, name: str, outer: Object) -> None:
        values = self.values(config, path)
        inner = values.get("name", ("", Place()))[0]
        if name and inner and name != inner:
            self.problem(config.where("name"), f"the connector is named `{name}` outside and `{inner}` inside")
        name = name or inner or Path(self.file).stem
        if "connector.class" not in values:
            self.problem(config.mark, f"connector `{name}` has no `connector.class`")
            return
        text, place = values["connector.class"]
        java_class = _full_name(text.strip())
        keys = plugin(java_class)
        if keys is None:
            near = nearest(java_class, known_classes())
            more = f"; did you mean `{near}`?" if near else ""
            self.problem(Mark(place.line, place.column), f"unknown connector class `{text}`{more}")
            return
        values["connector.class"] = (java_class, place)
        values.setdefault("name", (name, Place(self.file, "$", outer.mark.line, outer.mark.column)))
        for key, (value, at) in values.items():
            if key in keys.keys and (expected := _expected(keys.keys[key], value)):
                shown = "" if keys.keys[key].type == "PASSWORD" else f", but is `{value}`"
                self.problem(Mark(at.line, at.column), f"`{key}` must be {expected}{shown}")
        self.part("connector", name, values, config.mark, path)

    def topic(
        self,
        tree: Object,
        name: str,
        config: Tree | None,
        *,
        partitions: str = "partitions",
        replicas: str = "replication.factor",
    ) -> None:
        if not name:
            self.problem(tree.mark, "the topic has no name")
            return
        values = self.values(config, "$.config") if isinstance(config, Object) else {}
        for key, ours in ((partitions, "partitions"), (replicas, "replication.factor")):
            if isinstance(value := tree.get(key), Scalar):
                values[ours] = (value.text, Place(self.file, f'$["{key}"]', value.mark.line, value.mark.column))
        self.part("topic", name, values, tree.mark)

    # --- the whole ---

    def pipeline(self, brokers: int | None) -> Pipeline:
        self.unique()
        if self.problems:
            raise _refusal(self.problems)

        def of(kind: Kind) -> tuple[Part, ...]:
            return tuple(part for part in self.parts if part.kind == kind)

        return Pipeline(
            connectors=of("connector"),
            worker=next(iter(of("worker")), None),
            topics=of("topic"),
            registry=next(iter(of("registry")), None),
            brokers=brokers if brokers is not None else self.brokers,
        )

    def unique(self) -> None:
        seen: dict[tuple[str, str], Part] = {}
        for part in self.parts:
            alone = part.kind in {"worker", "registry"}
            first = seen.setdefault((part.kind, "" if alone else part.name), part)
            if first is not part:
                self.file = part.place.file
                mark = Mark(part.place.line, part.place.column)
                at = f"{first.place.file}:{first.place.line}:{first.place.column}"
                if alone:
                    self.problem(mark, f"a second {part.kind}; the first is at {at}")
                else:
                    self.problem(mark, f"{part.kind} `{part.name}` is given twice, first at {at}")


def _form(text: str, file: str) -> str:
    suffix = Path(file).suffix.lower()
    if suffix in {".yaml", ".yml"}:
        return "YAML"
    if suffix == ".json" or text.lstrip()[:1] in {"{", "["}:
        return "JSON"
    if suffix in {".properties", ".conf", ".cfg"}:
        return "properties"
    return "YAML" if re.search(r"^(apiVersion|kind):", text, re.MULTILINE) else "properties"


def _lifted(config: Object, spec: Object, renamed: Mapping[str, str]) -> Object:
    """`config` with those fields of a Strimzi `spec` that are keys, too."""
    taken = tuple((renamed[key], mark, value) for key, mark, value in spec.items if key in renamed)
    return replace(config, items=(*taken, *config.items))


def _full_name(java_class: str) -> str:
    """A class's whole name, for one that is given without its package, as Connect allows."""
    if "." in java_class or not java_class:
        return java_class
    for known in known_classes():
        simple = known.rpartition(".")[2]
        if java_class in {simple, re.sub(r"(Sink|Source)?Connector$", "", simple)} and simple.endswith("Connector"):
            return known
    return java_class


def _expected(info: KeyInfo, text: str) -> str | None:
    """What `text` should have been, None when it can be read as the key's type."""
    text = text.strip()
    if "${" in text:
        return None
    if info.type in _INTEGERS and not _NUMBER.fullmatch(text):
        return "a whole number"
    if info.type == "BOOLEAN" and text.lower() not in {"true", "false"}:
        return "true or false"
    if info.type == "DOUBLE" and not re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text):
        return "a number"
    return None


def _refusal(problems: list[tuple[str, Mark, str]]) -> ConfigError:
    lines = [f"{file}:{mark.line}:{mark.column}: {text}" for file, mark, text in problems]
    hint = None
    if any("unknown connector class" in line for line in lines):
        hint = "known are the classes of `cdcpipe config explain --classes`; leave other connectors out"
    if len(lines) == 1:
        return ConfigError(lines[0], hint=hint)
    return ConfigError(f"{len(lines)} problems in what was given", detail="\n".join(lines), hint=hint)


def read_text(text: str, file: str = "<text>", *, brokers: int | None = None) -> Pipeline:
    """Read one text, as if it were the content of `file`. Raises `ConfigError` with every problem."""
    reader = _Reader()
    reader.read(text, file)
    return reader.pipeline(brokers)


def read_files(paths: Iterable[str], *, brokers: int | None = None) -> Pipeline:
    """Read files into one pipeline; `-` is stdin. Raises `ConfigError` with every problem of every file."""
    reader = _Reader()
    for path in paths:
        try:
            raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
            reader.read(raw.decode("utf-8"), "<stdin>" if path == "-" else path)
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            reader.file = path
            reader.problem(Mark(line, 1), f"not UTF-8: byte 0x{error.object[error.start]:02x}")
    return reader.pipeline(brokers)
