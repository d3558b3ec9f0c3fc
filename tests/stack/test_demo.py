"""The project's main job, end to end, on real servers: beside another stack, so that two of them run at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack


def test_the_demo_moves_data_judges_it_reports_and_leaves_nothing_running(stack: LocalStack, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cdcpipe", "demo", "--rate", "300", "--seconds", "8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    result = json.loads(done.stdout)
    assert (result["verdict"], result["missing"], result["duplicates"], result["altered"]) == ("pass", 0, 0, 0)
    assert result["events"] >= 0.9 * 300 * 8
    assert result["archive_rows"] >= result["wal_changes"] >= result["events"]
    assert result["latency_ms"]["samples"] > 0
    assert 0 < result["peak_rss_bytes"]["all"] < 4e9
    assert result["unexpected_errors"] == []
    assert set(result["phases"]) == {"up", "tables", "load", "settle", "ledgers", "archive", "verify", "down"}

    run = Path(result["run"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert page.count("<svg") >= 5
    assert (tmp_path / "runs" / "latest").resolve() == run
    assert (run / "logs" / "connect.log").exists()
    assert processes_below(tmp_path, frozenset({"java", "postgres", "weed"})) == []
    assert not (tmp_path / ".cdcpipe-demo").exists()
    assert stack.running() == list(stack.components.values())
