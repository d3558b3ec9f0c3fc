"""`cdcpipe down` puts right what a run that was killed while it broke the stack has left on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdcpipe.faults import DiskFull, Journal, Pause
from cdcpipe.stack.local.state import Plan, Wanted

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount a small file system"
)


def _down(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdcpipe", "down", "--stack", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _left_by_a_dead_run(folder: Path) -> Path:
    """A stack that isn't running, one component's files on a small file system, and the journal that says so."""
    Plan.new(Wanted()).save(folder / "stack.json")
    broker = folder / "kafka-1"
    broker.mkdir()
    (broker / "data").write_text("kept", encoding="utf-8")
    aside = broker.rename(folder / "kafka-1.cdcpipe-aside")
    broker.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "cdcpipe-fault", str(broker)], check=True)
    subprocess.run(["cp", "-a", f"{aside}/.", str(broker)], check=True)
    (broker / ".cdcpipe-whole").touch()
    (broker / ".cdcpipe-ballast").write_bytes(b"x" * 500_000)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    journal = Journal.of_folder(folder)
    journal.opened(DiskFull("kafka-1"), {"components": ["kafka-1"], "folders": [str(broker)]})
    text = journal.path.read_text(encoding="utf-8")
    journal.path.write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {int(dead.stdout)}'), encoding="utf-8")
    return broker


def test_down_unmounts_and_puts_the_files_back(tmp_path: Path) -> None:
    broker = _left_by_a_dead_run(tmp_path)
    done = _down(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left by an interrupted run, `disk-full kafka-1`: healed" in done.stderr
    assert not os.path.ismount(broker)
    assert sorted(path.name for path in broker.iterdir()) == ["data"]
    assert (broker / "data").read_text(encoding="utf-8") == "kept"
    assert Journal.of_folder(tmp_path).open() == []
    assert "healed" not in _down(tmp_path).stderr


def test_a_purge_leaves_no_mount_behind(tmp_path: Path) -> None:
    broker = _left_by_a_dead_run(tmp_path)
    assert _down(tmp_path, "--purge", "--yes").returncode == 0
    assert not os.path.ismount(broker)
    assert not broker.exists()


def test_down_while_somebody_breaks_the_stack_says_who(tmp_path: Path) -> None:
    Plan.new(Wanted()).save(tmp_path / "stack.json")
    Journal.of_folder(tmp_path).opened(Pause("kafka-1"), {"components": ["kafka-1"]})
    done = _down(tmp_path)
    assert done.returncode == 2
    assert f"error: process {os.getpid()} is breaking this stack on purpose right now (pause)" in done.stderr
    assert "Traceback" not in done.stderr
