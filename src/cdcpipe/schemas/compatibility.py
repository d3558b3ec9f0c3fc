"""Whether data written with one Avro schema can be read with another, and why not, column by column.

    problems(reader, writer)            what the reader can't read, by Avro's rules; empty: everything
    misreadings(reader, writer)         what it reads without an error and gets wrong (a decimal's scale, a time's unit)
    check(schema, history, mode)        a registry's verdict about a new version, in one of the seven modes
    check_history(history, mode)        the same for every version of a history

The rules are those of Avro's Java `SchemaCompatibility`, on which registries build; a differential test holds the two
against each other. Where Java says only that a union lacks a branch, this goes into the branch that was meant and names
the column: Debezium's rows lie in a union with null, below `before` and `after`.

One known difference: for mutually recursive schemas Java keeps verdicts that rest on an assumption which failed later,
and then calls some unreadable pairs readable. Here they are dropped with the assumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from cdcpipe.schemas.avro import Array, Enum, Field, Fixed, Map, Record, Schema, Union_
from cdcpipe.schemas.words import column_of, describe

__all__ = [
    "Conflict",
    "Incompatibility",
    "Kind",
    "Mode",
    "Verdict",
    "check",
    "check_history",
    "misreadings",
    "problems",
    "readable",
]


class Kind(StrEnum):
    """What is wrong. The first six are Avro's own; `misread-*` are readable, with another meaning."""

    TYPE = "type-mismatch"
    NAME = "name-mismatch"
    FIXED_SIZE = "fixed-size-mismatch"
    ENUM_SYMBOLS = "missing-enum-symbols"
    NO_DEFAULT = "reader-field-missing-default"
    UNION_BRANCH = "missing-union-branch"
    ALIAS = "ambiguous-alias"
    SCALE = "misread-scale"
    MEANING = "misread-meaning"


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One thing that the reader can't read, or misreads.

    `path` leads to it in the reader's schema: field names, `[]` for an array's items, `{}` for a map's values.
    `reader` and `writer` are the two sides; `writer` is the record without the field for `NO_DEFAULT`.
    """

    kind: Kind
    path: tuple[str, ...]
    reader: Schema
    writer: Schema
    table: str | None = None
    symbols: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """`schema.table.column`, when the schema is one of Debezium's; else the path."""
        return column_of(self.table, self.path)

    @property
    def sentence(self) -> str:
        """One sentence in terms of the column."""
        reader, writer = describe(self.reader), describe(self.writer)
        match self.kind:
            case Kind.NO_DEFAULT:
                text = "the reader demands it, the writer doesn't have it, and there is no default"
            case Kind.ENUM_SYMBOLS:
                text = f"the reader's enum lacks {', '.join(self.symbols)}, and has no default"
            case Kind.NAME:
                text = f"{writer} can't be read as {reader}: the names differ, and no alias joins them"
            case Kind.FIXED_SIZE:
                text = f"{writer} can't be read as {reader}: the sizes differ"
            case Kind.ALIAS:
                text = "name and aliases of the reader's field match several fields of the writer"
            case Kind.UNION_BRANCH if self.writer.type == "null":
                text = "null can't be read: the reader takes no null"
            case Kind.SCALE | Kind.MEANING:
                text = f"{writer} is read as {reader} without an error, and means something else"
            case _:
                text = f"{writer} can't be read as {reader}"
        return f"{self.column}: {text}"


def problems(reader: Schema, writer: Schema, *, table: str | None = None) -> tuple[Incompatibility, ...]:
    """What of `writer`'s data `reader` can't read, each once; empty when it reads all. `table` is for the sentences."""
    return _distinct(_Visitor(table or table_of(reader) or table_of(writer)).visit(reader, writer, ()))


def readable(reader: Schema, writer: Schema) -> bool:
    """Whether `reader` reads everything that `writer` wrote."""
    return not _Visitor(None).visit(reader, writer, ())


def table_of(schema: Schema) -> str | None:
    """`schema.table` of a Debezium key, value or envelope (`<prefix>.<schema>.<table>.Envelope`), else None."""
    if not isinstance(schema, Record):
        return None
    namespace, _, last = schema.fullname.rpartition(".")
    if last not in ("Envelope", "Value", "Key"):
        return None
    return ".".join(namespace.split(".")[-2:]) or None


def _distinct(found: tuple[Incompatibility, ...]) -> tuple[Incompatibility, ...]:
    """Each column's problem once: a row's schema is met below `before` and below `after`."""
    seen: dict[object, Incompatibility] = {}
    for item in found:
        seen.setdefault((item.kind, item.column, id(item.reader), id(item.writer), item.symbols), item)
    return tuple(seen.values())


_NONE: Final[tuple[Incompatibility, ...]] = ()
_PROMOTIONS: Final = {
    "long": frozenset({"int"}),
    "float": frozenset({"int", "long"}),
    "double": frozenset({"int", "long", "float"}),
    "bytes": frozenset({"string"}),
    "string": frozenset({"bytes"}),
}


class _Visitor:
    """Walks reader and writer together. A pair is judged once; a pair within itself is taken to be readable."""

    def __init__(self, table: str | None) -> None:
        self._table = table
        self._judged: dict[tuple[int, int], tuple[Incompatibility, ...] | None] = {}  # None: under way
        self._assumed: set[tuple[int, int]] = set()

    def visit(self, reader: Schema, writer: Schema, path: tuple[str, ...]) -> tuple[Incompatibility, ...]:
        if reader is writer and not reader.aliased:
            return _NONE
        if reader.key == writer.key and not reader.aliased:
            return _NONE
        pair = (id(reader), id(writer))
        if pair in self._judged:
            known = self._judged[pair]
            if known is None:
                self._assumed.add(pair)
                return _NONE
            return known
        self._judged[pair] = None
        count = len(self._judged)
        found = self._judge(reader, writer, path)
        if found and pair in self._assumed:
            # What was judged meanwhile may rest on the assumption that this pair is readable; it isn't.
            for later in list(self._judged)[count:]:
                del self._judged[later]
        self._assumed.discard(pair)
        self._judged[pair] = found
        return found

    def _judge(self, reader: Schema, writer: Schema, path: tuple[str, ...]) -> tuple[Incompatibility, ...]:
        if isinstance(writer, Union_):
            # Every branch of the writer must find a reader, whatever the reader is.
            found = [item for branch in writer.branches for item in self._branch(reader, branch, path)]
            return tuple(found) if found else _NONE
        if isinstance(reader, Union_):
            return self._branch(reader, writer, path)
        if reader.type != writer.type:
            if writer.type in _PROMOTIONS.get(reader.type, ()):
                return _NONE
            return (self._problem(Kind.TYPE, path, reader, writer),)
        match reader, writer:
            case Array(), Array():
                return self.visit(reader.items, writer.items, (*path, "[]"))
            case Map(), Map():
                return self.visit(reader.values, writer.values, (*path, "{}"))
            case Record(), Record():
                return self._names(reader, writer, path) + self._record(reader, writer, path)
            case Enum(), Enum():
                return self._names(reader, writer, path) + self._enum(reader, writer, path)
            case Fixed(), Fixed():
                found_ = self._names(reader, writer, path)
                return (
                    found_
                    if reader.size == writer.size
                    else (*found_, self._problem(Kind.FIXED_SIZE, path, reader, writer))
                )
        return _NONE

    def _branch(self, reader: Schema, writer: Schema, path: tuple[str, ...]) -> tuple[Incompatibility, ...]:
        """A writer that is no union, read by any branch of `reader`."""
        if not isinstance(reader, Union_):
            return self.visit(reader, writer, path)
        nearest: tuple[Incompatibility, ...] | None = None
        for branch in reader.branches:
            found = self.visit(branch, writer, path)
            if not found:
                return _NONE
            if _meant(branch, writer):
                nearest = found
        if nearest is None and writer.type != "null" and reader.sole is not None:
            nearest = (self._problem(Kind.TYPE, path, reader.sole, writer),)
        return nearest or (self._problem(Kind.UNION_BRANCH, path, reader, writer),)

    def _names(
        self, reader: Record | Enum | Fixed, writer: Record | Enum | Fixed, path: tuple[str, ...]
    ) -> tuple[Incompatibility, ...]:
        """Java and the specification compare the names without namespace."""
        same = reader.fullname.rpartition(".")[2] == writer.fullname.rpartition(".")[2]
        if same or writer.fullname in reader.aliases:
            return _NONE
        return (self._problem(Kind.NAME, path, reader, writer),)

    def _enum(self, reader: Enum, writer: Enum, path: tuple[str, ...]) -> tuple[Incompatibility, ...]:
        missing = tuple(symbol for symbol in writer.symbols if symbol not in reader.symbols)
        if not missing or reader.default is not None:
            return _NONE
        return (self._problem(Kind.ENUM_SYMBOLS, path, reader, writer, symbols=missing),)

    def _record(self, reader: Record, writer: Record, path: tuple[str, ...]) -> tuple[Incompatibility, ...]:
        fields: Iterable[Field]
        if reader.aliased:
            fields = reader.fields.values()
        else:
            # Fields with the same key read each other. This is the one loop over all columns of all versions.
            others = writer.by_key
            fields = [member for key, member in reader.by_key.items() if key not in others]
        found: list[Incompatibility] = []
        for member in fields:
            source = writer.fields.get(member.name)
            if member.aliases:
                sources = [writer.fields[name] for name in (member.name, *member.aliases) if name in writer.fields]
                if len(sources) > 1:
                    found.append(self._problem(Kind.ALIAS, (*path, member.name), member.schema, writer))
                    continue
                source = sources[0] if sources else None
            if source is not None:
                found.extend(self.visit(member.schema, source.schema, (*path, member.name)))
            elif not member.has_default:
                found.append(self._problem(Kind.NO_DEFAULT, (*path, member.name), member.schema, writer))
        return tuple(found) if found else _NONE

    def _problem(
        self, kind: Kind, path: tuple[str, ...], reader: Schema, writer: Schema, *, symbols: tuple[str, ...] = ()
    ) -> Incompatibility:
        return Incompatibility(kind, path, reader, writer, self._table, symbols)


def _meant(branch: Schema, writer: Schema) -> bool:
    """Whether `branch` is what a person would expect to read `writer`: the same kind of thing."""
    return branch.type == writer.type


# Readable, and wrong --------------------------------------------------------------------------------


def misreadings(reader: Schema, writer: Schema, *, table: str | None = None) -> tuple[Incompatibility, ...]:
    """What `reader` reads without an error and takes for something else.

    Avro ignores logical types, and Kafka Connect's annotations are none of its business. So a registry lets pass a
    decimal(12,2) that becomes decimal(12,4): old bytes are then read as a hundredth of their value. The same goes for
    milliseconds that become microseconds.
    """
    return _distinct(tuple(_misread(reader, writer, (), table or table_of(reader) or table_of(writer), set())))


def _misread(
    reader: Schema, writer: Schema, path: tuple[str, ...], table: str | None, seen: set[tuple[int, int]]
) -> list[Incompatibility]:
    if (reader.key == writer.key and not reader.aliased) or (id(reader), id(writer)) in seen:
        return []
    seen.add((id(reader), id(writer)))
    match reader, writer:
        case Union_(), Union_():
            return [
                item
                for branch in writer.branches
                for other in reader.branches
                if other.type == branch.type
                for item in _misread(other, branch, path, table, seen)
            ]
        case Union_(), _ if chosen := [b for b in reader.branches if b.type == writer.type]:
            return _misread(chosen[0], writer, path, table, seen)
        case _, Union_() if chosen := [b for b in writer.branches if b.type == reader.type]:
            return _misread(reader, chosen[0], path, table, seen)
        case (Array(), Array()):
            return _misread(reader.items, writer.items, (*path, "[]"), table, seen)
        case (Map(), Map()):
            return _misread(reader.values, writer.values, (*path, "{}"), table, seen)
        case (Record(), Record()):
            found = []
            for member in reader.fields.values():
                source = next((writer.fields[n] for n in (member.name, *member.aliases) if n in writer.fields), None)
                if source is not None:
                    found.extend(_misread(member.schema, source.schema, (*path, member.name), table, seen))
            return found
    kind = _other_meaning(reader, writer)
    return [] if kind is None else [Incompatibility(kind, path, reader, writer, table)]


def _other_meaning(reader: Schema, writer: Schema) -> Kind | None:
    """Whether two leaves mean different things by the same bytes. A value without a meaning has no other one."""
    mine, other = reader.meaning, writer.meaning
    if mine.logical_type == "decimal" and other.logical_type == "decimal":
        return Kind.SCALE if mine.scale != other.scale else None
    if mine.connect_name != other.connect_name and reader.type != "string":
        return Kind.MEANING
    # A registered logical type that only one side has is an annotation of the same value, unless both have one.
    if mine.logical_type and other.logical_type and mine.logical_type != other.logical_type:
        return Kind.MEANING
    return None


# The seven modes ------------------------------------------------------------------------------------

Direction = Literal["backward", "forward"]


class Mode(StrEnum):
    """A registry's compatibility mode. Without `_TRANSITIVE` only the latest version counts."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    FORWARD = "FORWARD"
    FULL = "FULL"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        """Whether every version counts."""
        return self.name.endswith("_TRANSITIVE")

    @property
    def directions(self) -> tuple[Direction, ...]:
        """`backward`: the new schema reads old data. `forward`: an old schema reads new data."""
        return _DIRECTIONS[self.value.removesuffix("_TRANSITIVE")]


_DIRECTIONS: Final[dict[str, tuple[Direction, ...]]] = {
    "NONE": (),
    "BACKWARD": ("backward",),
    "FORWARD": ("forward",),
    "FULL": ("backward", "forward"),
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a version is refused: `version` (1 for the first) and the new one don't read each other that way."""

    direction: Direction
    version: int
    problem: Incompatibility

    @property
    def sentence(self) -> str:
        """What it means for those who read."""
        whom = (
            f"new readers can't read version {self.version}"
            if self.direction == "backward"
            else f"readers of version {self.version} can't read new records"
        )
        return f"{self.problem.sentence} ({whom})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a registry in `mode` takes the new version; `conflicts` say why not."""

    mode: Mode
    conflicts: tuple[Conflict, ...]

    @property
    def compatible(self) -> bool:
        """Whether there is no conflict."""
        return not self.conflicts


def check(schema: Schema, history: Sequence[Schema], mode: Mode, *, table: str | None = None) -> Verdict:
    """A registry's verdict about `schema` after `history`, oldest first. An empty history takes everything."""
    if not history:
        return Verdict(mode, ())
    versions = range(len(history)) if mode.transitive else (len(history) - 1,)
    directions, name = mode.directions, table or table_of(schema)
    conflicts = []
    for index in versions:
        for direction in directions:
            reader, writer = (schema, history[index]) if direction == "backward" else (history[index], schema)
            if not (found := _Visitor(name).visit(reader, writer, ())):
                continue
            conflicts += [Conflict(direction, index + 1, item) for item in _distinct(found)]
    return Verdict(mode, tuple(conflicts))


def check_history(history: Sequence[Schema], mode: Mode, *, table: str | None = None) -> tuple[Verdict, ...]:
    """The verdict about each version after those before it."""
    return tuple(check(schema, history[:index], mode, table=table) for index, schema in enumerate(history))
