"""The examples run, so that they can't be out of date."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.stack.endpoints import SINK, SOURCE
from cdcpipe.stack.local.stack import LocalStack

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=500)


@pytest.mark.stack
@pytest.mark.parametrize(
    "test",
    ["test_invoices_reach", pytest.param("test_nothing_is_lost", marks=pytest.mark.slow)],
)
def test_another_projects_tests_run_with_the_fixtures_of_the_package(
    stack: LocalStack, tmp_path: Path, test: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLES / "project", project)
    command = [sys.executable, "-m", "pytest", "-q", "-k", test, "--cdcpipe-stack", str(stack.folder)]
    done = run(command, project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert stack.running() == list(stack.components.values())


@pytest.mark.stack
def test_the_script_before_a_release_lints_plans_and_verifies(stack: LocalStack, tmp_path: Path) -> None:
    with psycopg.connect(stack.endpoints.postgres.conninfo("owner"), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.releases (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO public.releases VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET note = 'y'")
    with ConnectClient(stack.endpoints.connect_url) as client:
        for name in (SOURCE, SINK):
            (tmp_path / f"{name}.json").write_text(json.dumps(client.config(name)), encoding="utf-8")
    (tmp_path / "cdcpipe.toml").write_text(f'stack = "{stack.folder}"\n', encoding="utf-8")
    migration = tmp_path / "V2.sql"
    configs = [f"{SOURCE}.json", f"{SINK}.json"]
    command = [sys.executable, str(EXAMPLES / "check_migration.py"), "V2.sql", "public.releases", *configs]

    migration.write_text("ALTER TABLE public.releases ADD COLUMN author text;", encoding="utf-8")
    good = run(command, tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "archive equals the tables" in good.stdout

    migration.write_text("ALTER TABLE public.releases ALTER COLUMN note TYPE integer USING 1;", encoding="utf-8")
    bad = run(command, tmp_path)
    assert bad.returncode == 1, bad.stdout + bad.stderr


@pytest.mark.parametrize("name", ["gate.yml", "nightly-chaos.yml"])
def test_each_workflow_calls_commands_that_there_are_with_options_that_they_take(name: str) -> None:
    workflow: dict[str, Any] = yaml.safe_load((EXAMPLES / "github" / name).read_text(encoding="utf-8"))
    calls = [
        shlex.split(step["run"])
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if str(step.get("run", "")).startswith("cdcpipe ")
    ]
    assert calls
    for call in calls:
        words = []
        for word in call[1:]:
            if word.startswith("-"):
                break
            words.append(word)
        shown = run([sys.executable, "-m", "cdcpipe", *words, "--help"], EXAMPLES).stdout
        known = set(re.findall(r"--[a-z-]+", shown))
        assert {word for word in call if word.startswith("--")} <= known, call
