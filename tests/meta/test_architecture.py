"""Who may know whom: ARCHITECTURE.md, as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdcpipe

SOURCE = Path(cdcpipe.__file__).parent

# Package -> what it may import beside itself, `errors` and `events`. A dotted name allows that module alone.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "settings": set(),
    "connect": set(),
    "schemas": set(),
    "stack": {"settings", "connect"},
    "workload": {"stack.endpoints"},
    "faults": {"stack", "connect.rest"},
    "ledger": {"stack.endpoints", "stack.catalog"},
    "verify": {"ledger", "schemas", "stack.endpoints", "stack.catalog", "connect.rest"},
    "observe": {"settings", "connect", "schemas", "stack", "ledger", "verify"},
    "report": {"verify"},
}
FREE = {"chaos", "conformance", "demo", "cli", "__main__", "__init__"}


def _imports(path: Path) -> Iterator[str]:
    """Every module of ours that `path` imports at run time, wherever the import stands; `TYPE_CHECKING` is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cdcpipe"):
            yield (node.module or "").removeprefix("cdcpipe").lstrip(".")
        elif isinstance(node, ast.Import):
            yield from (name.name.removeprefix("cdcpipe.") for name in node.names if name.name.startswith("cdcpipe."))


def _package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_a_module_imports_only_what_stands_above_it() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        own = _package(path)
        if own in FREE:
            continue
        for module in _imports(path):
            top = module.partition(".")[0]
            allowed = ALLOWED[own] | {own, "errors", "events", ""}
            if top not in allowed and not any(
                module == each or module.startswith(f"{each}.") for each in allowed if each
            ):
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}")
    assert wrong == []


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import cdcpipe", {"pyarrow", "duckdb", "polars", "confluent_kafka", "pydantic", "psycopg", "boto3", "rich"}),
        ("import cdcpipe.connect", {"pyarrow", "duckdb", "polars", "confluent_kafka", "pydantic", "psycopg", "boto3"}),
        ("import cdcpipe.cli", {"pyarrow", "duckdb", "polars", "confluent_kafka", "pydantic", "psycopg", "rich"}),
    ],
)
def test_an_import_loads_nothing_heavy(statement: str, heavy: set[str]) -> None:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert heavy & set(loaded) == set()


def test_every_public_name_resolves() -> None:
    assert sorted(cdcpipe.__all__) == sorted({*cdcpipe._EXPORTS, "__version__"})
    for name in cdcpipe.__all__:
        assert getattr(cdcpipe, name) is not None


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if path.read_text(encoding="utf-8").strip()
        and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []


def test_every_command_helps_with_examples() -> None:
    from cdcpipe.cli import _COMMANDS

    for verb in _COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "cdcpipe", verb, "--help"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, verb
        assert done.stdout.startswith("Usage: "), verb
