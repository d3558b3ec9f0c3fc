"""`cdcpipe schema plan` and `check` as a user meets them: text, exit code, and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLES = "CREATE TABLE orders (id int PRIMARY KEY, amount double precision, note text);"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables.sql").write_text(TABLES)
    (tmp_path / "good.sql").write_text("ALTER TABLE orders ADD COLUMN extra text;")
    (tmp_path / "bad.sql").write_text("ALTER TABLE orders ALTER amount TYPE numeric(12,2);")
    (tmp_path / "wrong.sql").write_text("ALTER TABLE orders\n  ADD COLUMN;")
    row = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    (tmp_path / "old.avsc").write_text(json.dumps(row))
    row["fields"] = [{"name": "a", "type": "long"}]
    (tmp_path / "new.avsc").write_text(json.dumps(row))
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cdcpipe.cli import main; main()", "schema", *arguments]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_a_good_migration_passes(folder: Path) -> None:
    done = run(folder, "plan", "good.sql", "--tables", "tables.sql")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "registered in mode FULL_TRANSITIVE"
    assert "archive: extra: new column, string" in done.stdout
    assert done.stderr == ""


def test_a_bad_migration_exits_1_and_says_why_and_what_instead(folder: Path) -> None:
    done = run(folder, "plan", "bad.sql", "--tables", "tables.sql")
    assert done.returncode == 1
    assert "public.orders.amount: double can't be read as decimal(12,2)" in done.stdout
    assert "instead, in mode FULL_TRANSITIVE:" in done.stdout


def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    done = run(folder, "plan", "bad.sql", "--tables", "tables.sql", "--format", "json", "--mode", "none")
    content = json.loads(done.stdout)
    assert content["mode"] == "NONE"
    assert content["tables"][0]["value"]["compatible"]["BACKWARD"] is False


def test_markdown_is_made_for_a_pull_request(folder: Path) -> None:
    done = run(folder, "plan", "bad.sql", "--tables", "tables.sql", "--format", "markdown")
    assert done.stdout.startswith("### ❌ Change data")
    assert "```sql" in done.stdout


def test_a_syntax_error_is_a_usage_error_with_its_line(folder: Path) -> None:
    done = run(folder, "plan", "wrong.sql", "--tables", "tables.sql")
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert done.stdout == ""


def test_without_tables_the_ways_to_give_them_are_told(folder: Path) -> None:
    done = run(folder, "plan", "good.sql")
    assert done.returncode == 2
    assert "--tables" in done.stderr


def test_check_compares_files(folder: Path) -> None:
    assert run(folder, "check", "old.avsc", "new.avsc", "--mode", "BACKWARD").returncode == 0
    refused = run(folder, "check", "old.avsc", "new.avsc", "--mode", "FULL")
    assert refused.returncode == 1
    assert "a: long can't be read as int" in refused.stdout
    assert run(folder, "check", "old.avsc").returncode == 2
