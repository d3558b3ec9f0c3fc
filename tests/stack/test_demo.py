"""The project's main job, end to end, on real servers: beside another stack, so that two of them run at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdcpipe.errors import CdcpipeError
from cdcpipe.stack.component import wait_until
from cdcpipe.stack.local.process import processes_below
from cdcpipe.stack.local.stack import LocalStack

pytestmark = pytest.mark.stack


def generated(path: Path) -> list[bytes]:
    """The passwords and keys of a stack that is coming up: its folder is gone when the demo ends."""
    content = wait_until(
        lambda: path.read_text(encoding="utf-8") if path.exists() else "",
        what=f"{path} is there",
        timeout_seconds=120,
        error=CdcpipeError,
    )

    made = json.loads(content)
    secrets = [password for _, password in made["roles"].values()] + [made["s3_admin"][1], made["s3_pipeline"][1]]
    assert len(secrets) == 8
    return [secret.encode() for secret in secrets]


def test_the_demo_moves_data_judges_it_reports_and_leaves_nothing_running(stack: LocalStack, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cdcpipe", "demo", "--rate", "300", "--seconds", "8", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as demo:
        secrets = generated(tmp_path / ".cdcpipe-demo" / "credentials.json")
        stdout, stderr = demo.communicate(timeout=900)
    assert demo.returncode == 0, stderr + stdout[-3000:]
    result = json.loads(stdout)
    assert (result["verdict"], result["missing"], result["duplicates"], result["altered"]) == ("pass", 0, 0, 0)
    assert result["events"] >= 0.9 * 300 * 8
    assert result["archive_rows"] >= result["wal_changes"] >= result["events"]
    assert result["archive_rows"] >= result["compared"] >= result["events"]
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
    for path in [each for each in run.rglob("*") if each.is_file()]:
        found = [number for number, secret in enumerate(secrets) if secret in path.read_bytes()]
        assert found == [], f"{path} holds a credential"
    assert [secret for secret in secrets if secret.decode() in stdout + stderr] == []
    assert processes_below(tmp_path, frozenset({"java", "postgres", "weed"})) == []
    assert not (tmp_path / ".cdcpipe-demo").exists()
    assert stack.running() == list(stack.components.values())
