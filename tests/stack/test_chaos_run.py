"""Runs on a real stack: one that is killed leaves nothing broken behind the next, one that is interrupted heals."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from cdcpipe.chaos import ChaosPlan, run_chaos
from cdcpipe.chaos.watching import Watcher
from cdcpipe.errors import CdcpipeError
from cdcpipe.faults import Journal, Kill, Pause
from cdcpipe.faults.schedule import Schedule, Trigger
from cdcpipe.settings import load_settings
from cdcpipe.stack.component import ComponentState, wait_until
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.verify import Verdict

pytestmark = pytest.mark.stack

FROZEN = Schedule.of((Trigger("committed", 200), Pause("registry", seconds=300)))


def started(stack: LocalStack, folder: Path) -> subprocess.Popen[bytes]:
    """A run of its own process that has just frozen the registry for five minutes."""
    (folder / "schedule.json").write_text(FROZEN.dumps())
    command = [sys.executable, "-m", "cdcpipe", "chaos", "run", "--schedule", "schedule.json", "--rate", "200"]
    command += ["--minutes", "2", "--target", str(stack.folder)]
    with (folder / "out").open("wb") as out:
        environment = {**os.environ, "CDCPIPE_RUNS": str(folder / "runs")}
        runner = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    wait_until(
        lambda: runner.poll() is not None or stack.components["registry"].state() is ComponentState.PAUSED,
        what=lambda: (folder / "out").read_text(),
        timeout_seconds=90,
        error=CdcpipeError,
    )
    assert runner.poll() is None, (folder / "out").read_text()
    return runner


def test_a_run_that_is_killed_is_healed_by_the_next_one(stack: LocalStack, tmp_path: Path) -> None:
    runner = started(stack, tmp_path)
    runner.kill()
    runner.wait(30)
    assert len(Journal.of_folder(stack.folder).open()) == 1
    assert stack.components["registry"].state() is ComponentState.PAUSED

    told: list[object] = []
    schedule = Schedule.of((Trigger("committed", 800), Kill("connect")))
    plan = ChaosPlan(seconds=8, rate=300, schedule=schedule)
    result = run_chaos(plan, load_settings(runs=tmp_path / "runs"), stack=stack, listener=told.append)
    assert "an earlier run left `pause registry`: healed" in str(told)
    assert Journal.of_folder(stack.folder).open() == []
    assert {component.state() for component in stack.components.values()} == {ComponentState.READY}
    witnesses = [each.witnesses for each in result.report.results if each.verdict is Verdict.FAIL]
    assert result.verdict is Verdict.PASS, (result.sentence(), result.interventions, witnesses)
    assert result.outcomes[0].took_effect
    assert result.outcomes[0].recovery is not None
    assert result.outcomes[0].recovery.flows is not None
    with psycopg.connect(stack.endpoints.postgres.conninfo("witness"), autocommit=True) as connection:
        slots = connection.execute("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'cdcpipe_chaos%'")
        assert slots.fetchall() == []

    run = result.run
    assert (run / "plan.json").read_text() == plan.dumps()
    moments = [json.loads(line)["moment"] for line in (run / "faults.jsonl").read_text().splitlines()]
    assert moments == ["set_up", "injected", "effective", "recovering", "recovered", "cleaned"]
    for name in ("samples.jsonl", "probes.parquet", "report.html", "report.md", "junit.xml", "logs/connect.log"):
        assert (run / name).stat().st_size > 0, name
    made = json.loads((stack.folder / "credentials.json").read_text(encoding="utf-8"))
    secrets = [password for _, password in made["roles"].values()] + [made["s3_admin"][1], made["s3_pipeline"][1]]
    assert len(secrets) == 8
    holders = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")  # the runs of both, and what the first one printed
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    }
    assert holders == set()


def test_ctrl_c_heals_what_is_broken(stack: LocalStack, tmp_path: Path) -> None:
    runner = started(stack, tmp_path)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(120) == 130, (tmp_path / "out").read_text()
    assert Journal.of_folder(stack.folder).open() == []
    assert stack.components["registry"].state() is ComponentState.READY
    assert os.listdir(tmp_path / "runs" / "chaos")


def test_a_watcher_whose_process_dies_is_replaced_and_goes_on(stack: LocalStack) -> None:
    def sampled() -> bool:
        return any(sample.slot is not None and sample.slot.exists for sample in watcher.take())

    with Watcher(stack.endpoints, slot=stack.settings.slot, prefixes=()) as watcher:
        wait_until(sampled, what="a first sample", timeout_seconds=60, error=CdcpipeError)
        for child in multiprocessing.active_children():
            if child.name == "cdcpipe-watch":
                child.kill()
        wait_until(
            lambda: watcher.take() == [] and watcher.deaths, what="a death", timeout_seconds=20, error=CdcpipeError
        )
        wait_until(sampled, what="a sample of its successor", timeout_seconds=60, error=CdcpipeError)
    assert watcher.deaths == 1
