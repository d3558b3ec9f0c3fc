"""`cdcpipe verify run`: output and exit code by what the ledgers hold."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from click.testing import CliRunner
from tests.quality.damage.delivery import drop_one_record, repeat_a_row_of_an_object
from tests.quality.damage.handoff import row_that_the_snapshot_read_too_late
from tests.quality.histories import History, history
from tests.quality.test_verify_teeth import damaged

from cdcpipe.cli import cli
from cdcpipe.ledger.store import LedgerWriter, Manifest


def run_folder(made: History, folder: Path) -> Path:
    for evidence in made.evidence():
        with LedgerWriter(folder / "ledgers" / evidence.kind, evidence.kind) as writer:
            assert isinstance(evidence.changes, pa.Table)
            writer.write(evidence.changes)
            for name, rows in evidence.side.items():
                assert isinstance(rows, pa.Table)
                writer.write(rows, name)
            writer.finish(evidence.manifest or Manifest(evidence.kind, True))
    return folder


def test_a_good_run_exits_0_and_says_so_last(tmp_path: Path) -> None:
    run = run_folder(history(4), tmp_path)
    done = CliRunner().invoke(cli, ["verify", "run", str(run)])
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip().splitlines()[-1].startswith("pass: All ")
    assert "again:" not in done.stderr


def test_a_loss_exits_1_names_it_and_says_how_to_ask_again(tmp_path: Path) -> None:
    made = history(4)
    drop_one_record(made)
    run = run_folder(made, tmp_path)
    page, xml = tmp_path / "r.html", tmp_path / "r.xml"
    done = CliRunner().invoke(cli, ["verify", "run", str(run), "--json", "--html", str(page), "--junit", str(xml)])
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert content["anomalies"] == ["lost-change@source"]
    assert "lost-change@source" in page.read_text()
    assert "<failure" in xml.read_text()
    assert done.stderr.rstrip().splitlines()[-1] == f"again: cdcpipe verify run {run} --level exactly_once"


def test_the_level_decides_whether_a_repetition_is_an_anomaly(tmp_path: Path) -> None:
    made = history(4)
    repeat_a_row_of_an_object(made)
    run = run_folder(made, tmp_path)
    assert CliRunner().invoke(cli, ["verify", "run", str(run)]).exit_code == 1
    assert CliRunner().invoke(cli, ["verify", "run", str(run), "--level", "at_least_once"]).exit_code == 0


def test_a_snapshot_that_is_declared_may_read_a_row_late(tmp_path: Path) -> None:
    made, _ = damaged(4, row_that_the_snapshot_read_too_late)
    run = run_folder(made, tmp_path)
    refused = CliRunner().invoke(cli, ["verify", "run", str(run), "--json"])
    assert json.loads(refused.stdout)["anomalies"] == ["handoff-overlap"]
    assert CliRunner().invoke(cli, ["verify", "run", str(run), "--resnapshots"]).exit_code == 0


def test_ledgers_without_changes_exit_3(tmp_path: Path) -> None:
    for kind in ("wal", "log", "archive"):
        with LedgerWriter(tmp_path / "ledgers" / kind, kind) as writer:
            writer.finish(Manifest(kind, True))
    done = CliRunner().invoke(cli, ["verify", "run", str(tmp_path)])
    assert done.exit_code == 3
    assert "inconclusive" in done.stdout.rstrip().splitlines()[-1]
