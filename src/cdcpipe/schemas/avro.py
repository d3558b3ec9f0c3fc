"""Avro schemas as a tree, read by the specification: names, namespaces, aliases, defaults, logical types, recursion.

    Schema = Primitive | Array | Map | Union | Enum | Fixed | Record

Two things differ from the JSON: every name is a full name, and a reference is the node that it refers to, so that a
recursive schema is a graph. Every node has a `key`, a text that is the same for two nodes if and only if they read and
write alike and mean alike (documentation, order and default *values* are left out). A node inside a recursion that
isn't closed yet has a key of its own, equal to no other.

https://avro.apache.org/docs/1.12.0/specification/
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, Union

from cdcpipe.errors import ConfigError

__all__ = ["Array", "Enum", "Field", "Fixed", "Map", "Meaning", "Primitive", "Record", "Schema", "Union_", "parse"]

PRIMITIVES: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_open_keys: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a value stands for beside its Avro type: the logical type, and Kafka Connect's annotations."""

    logical_type: str | None = None
    precision: int | None = None
    scale: int | None = None
    connect_name: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()

    def parameter(self, name: str) -> str | None:
        """One of `connect.parameters`."""
        return dict(self.parameters).get(name)


_PLAIN: Final = Meaning()


@dataclass(frozen=True, slots=True, eq=False)
class Primitive:
    """`null`, `boolean`, `int`, `long`, `float`, `double`, `bytes` or `string`."""

    type: str
    key: str
    meaning: Meaning = _PLAIN
    aliased: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """A list of `items`."""

    items: Schema
    key: str
    aliased: bool
    meaning: Meaning = _PLAIN
    type: str = "array"


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """String to `values`."""

    values: Schema
    key: str
    aliased: bool
    meaning: Meaning = _PLAIN
    type: str = "map"


@dataclass(frozen=True, slots=True, eq=False)
class Union_:
    """One of `branches`; none of them is a union."""

    branches: tuple[Schema, ...]
    key: str
    aliased: bool
    meaning: Meaning = _PLAIN
    type: str = "union"

    @property
    def sole(self) -> Schema | None:
        """The branch beside null, when there is one only."""
        others = [branch for branch in self.branches if branch.type != "null"]
        return others[0] if len(others) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class Enum:
    """One of `symbols`; an unknown one is read as `default`, if there is one."""

    fullname: str
    symbols: tuple[str, ...]
    default: str | None
    aliases: frozenset[str]
    key: str
    meaning: Meaning = _PLAIN
    type: str = "enum"
    aliased: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """`size` bytes."""

    fullname: str
    size: int
    aliases: frozenset[str]
    key: str
    meaning: Meaning = _PLAIN
    type: str = "fixed"
    aliased: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A field of a record. `default` is JSON; it says nothing unless `has_default`."""

    name: str
    schema: Schema
    has_default: bool
    default: Any
    aliases: tuple[str, ...]
    key: str
    doc: str | None = None

    @property
    def optional(self) -> bool:
        """Whether null is a value of this field."""
        return isinstance(self.schema, Union_) and any(branch.type == "null" for branch in self.schema.branches)


@dataclass(slots=True, eq=False)
class Record:
    """Fields by name, in order. `closed` fields are those whose key says all about them, see the module."""

    fullname: str
    aliases: frozenset[str]
    fields: dict[str, Field] = field(default_factory=dict)
    by_key: dict[str, Field] = field(default_factory=dict)
    key: str = ""
    aliased: bool = False
    meaning: Meaning = _PLAIN
    type: str = "record"


Named: TypeAlias = Union[Enum, Fixed, Record]  # noqa: UP007 - a forward reference can't be joined with `|`
Schema: TypeAlias = Union[Primitive, Array, Map, Union_, Enum, Fixed, Record]  # noqa: UP007


def parse(schema: str | Mapping[str, Any] | Sequence[Any], *, references: Sequence[str] = ()) -> Schema:
    """The tree of a schema given as JSON text or as decoded JSON; `references` are schemas whose names it may use.

    Raises `ConfigError` that says what is wrong and where.
    """
    reader = _Reader()
    for text in references:
        reader.read(_decode(text), "", "$")
    return reader.read(_decode(schema) if isinstance(schema, str) else schema, "", "$")


def _decode(text: str) -> Any:
    if text in PRIMITIVES:  # registries give primitives without quotes too
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not an Avro schema: {error}") from error


_SHARED: Final = {name: Primitive(name, name) for name in PRIMITIVES}


class _Reader:
    """Reads one schema. Names are kept as they are defined; those whose definition isn't at its end are `open`."""

    def __init__(self) -> None:
        self.names: dict[str, Named] = {}
        self.open: set[str] = set()
        self.back_references = 0  # how often an open name was referred to: tells a subtree with one from one without

    def read(self, schema: Any, namespace: str, path: str) -> Schema:
        if isinstance(schema, str):
            return self._by_name(schema, namespace, path)
        if isinstance(schema, Mapping):
            return self._by_object(schema, namespace, path)
        if isinstance(schema, Sequence):
            return self._union(schema, namespace, path)
        raise ConfigError(f"{path}: a schema is a name, an object or a list, not `{schema!r}`")

    def _by_name(self, name: str, namespace: str, path: str) -> Schema:
        if name in _SHARED:
            return _SHARED[name]
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        found = self.names.get(full)
        if found is None:
            known = ", ".join(sorted(self.names)) or "none"
            raise ConfigError(f"{path}: type `{full}` is not defined before it is used", hint=f"defined: {known}")
        if full in self.open:
            self.back_references += 1
        return found

    def _by_object(self, schema: Mapping[str, Any], namespace: str, path: str) -> Schema:
        kind = schema.get("type")
        match kind:
            case "record" | "error":
                return self._record(schema, namespace, path)
            case "enum":
                return self._enum(schema, namespace, path)
            case "fixed":
                return self._fixed(schema, namespace, path)
            case "array":
                return self._container(Array, "items", schema, namespace, path)
            case "map":
                return self._container(Map, "values", schema, namespace, path)
            case None:
                raise ConfigError(f"{path}: an object without `type` is not a schema")
        if isinstance(kind, str) and kind in PRIMITIVES:
            meaning, text = _meaning(schema)
            return Primitive(kind, kind + text, meaning) if text else _SHARED[kind]
        return self.read(kind, namespace, path)  # {"type": {"type": ...}}: annotations of a reference say nothing

    def _closed(self, key: str, before: int) -> str:
        """`key`, unless something below refers to a name that is still open: then a key that equals no other."""
        return key if self.back_references == before or not self.open else f"?{next(_open_keys)}"

    def _container(
        self, build: type[Array] | type[Map], member: str, schema: Mapping[str, Any], namespace: str, path: str
    ) -> Schema:
        if member not in schema:
            raise ConfigError(f"{path}: `{schema['type']}` without `{member}`")
        before = self.back_references
        inner = self.read(schema[member], namespace, f"{path}.{member}")
        meaning, text = _meaning(schema)
        return build(inner, self._closed(f"{schema['type']}<{inner.key}>{text}", before), inner.aliased, meaning)

    def _union(self, schema: Sequence[Any], namespace: str, path: str) -> Schema:
        before = self.back_references
        branches = tuple([self.read(part, namespace, f"{path}[{i}]") for i, part in enumerate(schema)])
        seen = set()
        for branch in branches:
            if branch.type == "union":
                raise ConfigError(f"{path}: a union may not directly hold a union")
            name = branch.fullname if isinstance(branch, (Record, Enum, Fixed)) else branch.type
            if name in seen:
                raise ConfigError(f"{path}: `{name}` is twice in one union")
            seen.add(name)
        key = "[" + ",".join([branch.key for branch in branches]) + "]"
        return Union_(branches, self._closed(key, before), any(branch.aliased for branch in branches))

    # Named types ------------------------------------------------------------------------------------

    def _name(self, schema: Mapping[str, Any], namespace: str, path: str) -> tuple[str, str, frozenset[str]]:
        """Full name, namespace for what is inside, full aliases."""
        name = schema.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{path}: `{schema['type']}` without a name")
        own = schema.get("namespace", namespace)
        full = name if "." in name or not own else f"{own}.{name}"
        for part in full.split("."):
            if not _NAME.match(part):
                raise ConfigError(f"{path}: `{full}` is not an Avro name")
        if full in self.names:
            raise ConfigError(f"{path}: `{full}` is defined twice")
        inside = full.rpartition(".")[0]
        aliases = frozenset(
            alias if "." in alias or not inside else f"{inside}.{alias}" for alias in schema.get("aliases", ())
        )
        return full, inside, aliases

    def _enum(self, schema: Mapping[str, Any], namespace: str, path: str) -> Enum:
        full, _, aliases = self._name(schema, namespace, path)
        symbols = tuple(schema.get("symbols", ()))
        if len(set(symbols)) != len(symbols):
            raise ConfigError(f"{path}: enum `{full}` has a symbol twice")
        default = schema.get("default")
        if default is not None and default not in symbols:
            raise ConfigError(f"{path}: the default `{default}` of enum `{full}` is none of its symbols")
        meaning, text = _meaning(schema)
        key = f"enum {full}{sorted(aliases)}({','.join(symbols)};{default}){text}"
        node = Enum(full, symbols, default, aliases, key, meaning)
        self.names[full] = node
        return node

    def _fixed(self, schema: Mapping[str, Any], namespace: str, path: str) -> Fixed:
        full, _, aliases = self._name(schema, namespace, path)
        size = schema.get("size")
        if not isinstance(size, int) or size < 0:
            raise ConfigError(f"{path}: fixed `{full}` has no size")
        meaning, text = _meaning(schema)
        node = Fixed(full, size, aliases, f"fixed {full}{sorted(aliases)}({size}){text}", meaning)
        self.names[full] = node
        return node

    def _record(self, schema: Mapping[str, Any], namespace: str, path: str) -> Record:
        full, inside, aliases = self._name(schema, namespace, path)
        node = Record(full, aliases)
        node.meaning, text = _meaning(schema)
        self.names[full] = node
        self.open.add(full)
        node.aliased = bool(aliases)
        before = self.back_references
        for item in schema.get("fields", ()):
            member = self._field(item, inside, path)
            if member.name in node.fields:
                raise ConfigError(f"{path}: record `{full}` has the field `{member.name}` twice")
            node.fields[member.name] = member
            node.by_key[member.key] = member
            node.aliased = node.aliased or bool(member.aliases) or member.schema.aliased
        self.open.discard(full)
        shown = f"record {full}{sorted(aliases) if aliases else ''}{{{';'.join(node.by_key)}}}{text}"
        # A record that refers to itself only is a closed term again, but its fields' keys are unique; so is its own.
        node.key = self._closed(shown, before)
        return node

    def _field(self, item: Mapping[str, Any], namespace: str, path: str) -> Field:
        name = item.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            raise ConfigError(f"{path}: `{name}` is not a field name")
        if "type" not in item:
            raise ConfigError(f"{path}.{name}: a field without `type`")
        before = self.back_references
        inner = self.read(item["type"], namespace, f"{path}.{name}")
        aliases = tuple(item.get("aliases", ()))
        has_default = "default" in item
        if has_default and not _fits(item["default"], inner):
            raise ConfigError(f"{path}.{name}: the default `{json.dumps(item['default'])}` is no `{inner.type}`")
        key = self._closed(f"{name}{'=' if has_default else ':'}{inner.key}{','.join(aliases)}", before)
        return Field(name, inner, has_default, item.get("default"), aliases, key, item.get("doc"))


_ANNOTATIONS: Final = ("logicalType", "connect.name", "connect.parameters")


def _meaning(schema: Mapping[str, Any]) -> tuple[Meaning, str]:
    for name in _ANNOTATIONS:
        if name in schema:
            break
    else:
        return _PLAIN, ""
    parameters = tuple(sorted((k, str(v)) for k, v in (schema.get("connect.parameters") or {}).items()))
    logical = schema.get("logicalType")
    decimal = logical == "decimal"
    meaning = Meaning(
        logical,
        schema.get("precision") if decimal else None,
        schema.get("scale", 0) if decimal else None,
        schema.get("connect.name"),
        parameters,
    )
    return meaning, f"@{logical},{meaning.precision},{meaning.scale},{meaning.connect_name},{parameters}"


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a JSON default is a value of `schema`: of any branch, for a union (Avro 1.12)."""
    match schema.type:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "int" | "long":
            bits = 31 if schema.type == "int" else 63
            # 3.0 is the integer 3 in JSON
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool) and -(2**bits) <= value < 2**bits
        case "float" | "double":
            if value in ("NaN", "Infinity", "-Infinity"):  # how Java writes them; not in the specification
                return True
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "bytes" | "string" | "fixed" | "enum":
            return isinstance(value, str)
        case "array":
            assert isinstance(schema, Array)
            return isinstance(value, list) and all(_fits(item, schema.items) for item in value)
        case "map":
            assert isinstance(schema, Map)
            return isinstance(value, Mapping) and all(_fits(item, schema.values) for item in value.values())
        case "union":
            assert isinstance(schema, Union_)
            return any(_fits(value, branch) for branch in schema.branches)
    assert isinstance(schema, Record)
    return isinstance(value, Mapping) and all(
        _fits(value[name], member.schema) if name in value else member.has_default
        for name, member in schema.fields.items()
    )


def named_types(schema: Schema) -> Iterator[Named]:
    """Every named type below `schema`, each once, outer ones first."""
    seen: set[int] = set()
    queue: list[Schema] = [schema]
    while queue:
        node = queue.pop(0)
        if isinstance(node, (Record, Enum, Fixed)):
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
        match node:
            case Array(items=inner) | Map(values=inner):
                queue.append(inner)
            case Union_(branches=branches):
                queue.extend(branches)
            case Record(fields=fields):
                queue.extend(member.schema for member in fields.values())
