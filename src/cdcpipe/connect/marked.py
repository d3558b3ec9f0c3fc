"""JSON, YAML and properties as one kind of tree in which everything knows its line and column (from 1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]

__all__ = ["Array", "Malformed", "Mark", "Object", "Scalar", "Tree", "read_json", "read_properties", "read_yaml"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text, number, truth value or null, as Kafka Connect would write it; `kind` is string, number, boolean, null."""

    text: str
    kind: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Array:
    """A list."""

    items: tuple[Tree, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Object:
    """A mapping; keys in order, each with its place, one given twice is there twice."""

    items: tuple[tuple[str, Mark, Tree], ...]
    mark: Mark

    def get(self, key: str) -> Tree | None:
        """The last value of `key`, or None."""
        return next((value for name, _, value in reversed(self.items) if name == key), None)

    def text(self, key: str) -> str:
        """The value of `key` where it is a scalar, else empty."""
        value = self.get(key)
        return value.text if isinstance(value, Scalar) and value.kind != "null" else ""

    def where(self, key: str) -> Mark:
        """Where `key` stands, else where the mapping begins."""
        return next((mark for name, mark, _ in reversed(self.items) if name == key), self.mark)


Tree = Scalar | Array | Object


class Malformed(Exception):
    """The text is not what it should be; where, and why."""

    def __init__(self, mark: Mark, reason: str) -> None:
        super().__init__(reason)
        self.mark = mark
        self.reason = reason


# --- JSON ---

_BLANK = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null")


def read_json(text: str) -> Tree:
    """Read JSON. Raises `Malformed`."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise Malformed(Mark(error.lineno, error.colno), error.msg[0].lower() + error.msg[1:]) from error
    except RecursionError as error:
        raise Malformed(Mark(1, 1), "nested too deeply") from error
    return _Json(text).value(0)[0]


class _Json:
    """Walks a text that is known to be JSON."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self.line = 0

    def mark(self, at: int) -> Mark:
        while self.line + 1 < len(self.starts) and self.starts[self.line + 1] <= at:
            self.line += 1
        return Mark(self.line + 1, at - self.starts[self.line] + 1)

    def skip(self, at: int) -> int:
        found = _BLANK.match(self.text, at)
        assert found is not None
        return found.end()

    def value(self, at: int) -> tuple[Tree, int]:
        at = self.skip(at)
        mark, first = self.mark(at), self.text[at]
        if first == '"':
            text, end = scanstring(self.text, at + 1)
            return Scalar(text, "string", mark), end
        if first == "{":
            return self.object(at, mark)
        if first == "[":
            return self.array(at, mark)
        found = _PLAIN.match(self.text, at)
        if found is None:  # NaN and Infinity, which Python reads and nobody else
            raise Malformed(mark, "expecting a value")
        word = found[0]
        kind = {"true": "boolean", "false": "boolean", "null": "null"}.get(word, "number")
        return Scalar(word, kind, mark), found.end()

    def object(self, at: int, mark: Mark) -> tuple[Object, int]:
        items: list[tuple[str, Mark, Tree]] = []
        at = self.skip(at + 1)
        while self.text[at] != "}":
            at = self.skip(at + 1 if self.text[at] == "," else at)
            where = self.mark(at)
            key, at = scanstring(self.text, at + 1)
            value, at = self.value(self.skip(at) + 1)
            items.append((key, where, value))
            at = self.skip(at)
        return Object(tuple(items), mark), at + 1

    def array(self, at: int, mark: Mark) -> tuple[Array, int]:
        items: list[Tree] = []
        at = self.skip(at + 1)
        while self.text[at] != "]":
            value, at = self.value(at + 1 if self.text[at] == "," else at)
            items.append(value)
            at = self.skip(at)
        return Array(tuple(items), mark), at + 1


# --- YAML ---

_KINDS = {"str": "string", "int": "number", "float": "number", "bool": "boolean", "null": "null"}


def read_yaml(text: str) -> tuple[Tree, ...]:
    """Read every document of a YAML file that isn't empty. Raises `Malformed`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return tuple(_of_yaml(node) for node in yaml.compose_all(text, Loader=loader) if not _is_empty(node))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        raise Malformed(mark, str(error.problem or error.context)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Malformed(Mark(1, 1), str(error).splitlines()[0] if str(error) else "nested too deeply") from error


def _of_yaml(node: object) -> Tree:
    import yaml

    assert isinstance(node, yaml.Node)
    mark = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.MappingNode):
        return Object(tuple((str(key.value), _mark(key), _of_yaml(value)) for key, value in node.value), mark)
    if isinstance(node, yaml.SequenceNode):
        return Array(tuple(_of_yaml(item) for item in node.value), mark)
    kind = _KINDS.get(node.tag.rpartition(":")[2], "string")
    text = str(node.value)
    if kind == "boolean":
        text = "true" if text.lower() in {"true", "yes", "on", "y"} else "false"
    return Scalar(text, kind, mark)


def _is_empty(node: object) -> bool:
    return node is None or (getattr(node, "tag", "").endswith(":null") and not getattr(node, "value", ""))


def _mark(node: object) -> Mark:
    start = getattr(node, "start_mark")  # noqa: B009 - PyYAML has no types for nodes of unknown kind
    return Mark(start.line + 1, start.column + 1)


# --- properties ---

_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(text: str) -> Object:
    """Read Java properties. Raises `Malformed` for a broken unicode escape, the one thing that Java refuses."""
    items = []
    for number, column, line in _logical_lines(text):
        key, rest = _split(line)
        mark = Mark(number, column)
        value = Scalar(_unescaped(rest, mark), "string", mark)
        items.append((_unescaped(key, mark), mark, value))
    return Object(tuple(items), Mark(1, 1))


def _logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(line, column, text) of each entry: comments and blanks left out, continued lines joined."""
    held, start, column = "", 0, 0
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = raw.lstrip(" \t\f")
        if not start:
            if not line or line[0] in "#!":
                continue
            start, column = number, len(raw) - len(line) + 1
        if (len(line) - len(line.rstrip("\\"))) % 2:
            held += line[:-1]
            continue
        yield start, column, held + line
        held, start = "", 0
    if start:
        yield start, column, held


def _split(line: str) -> tuple[str, str]:
    at = 0
    while at < len(line) and line[at] not in " \t\f=:":
        at += 2 if line[at] == "\\" else 1
    key, rest = line[:at], line[at:].lstrip(" \t\f")
    return key, rest[1:].lstrip(" \t\f") if rest[:1] in {"=", ":"} else rest


def _unescaped(text: str, mark: Mark) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        if found[2] == "u":
            raise Malformed(mark, "a \\u isn't followed by four hexadecimal digits")
        return _ESCAPED.get(found[2], found[2])

    joined = re.sub(r"\\(?:u([0-9A-Fa-f]{4})|(.))", one, text)
    return joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
