"""A run's result survives its JSON, and its renderings say what happened."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdcpipe.chaos import ChaosPlan, ChaosResult, load_result
from cdcpipe.chaos.recovery import FaultOutcome, Recovery
from cdcpipe.chaos.report import markdown, page, write_reports
from cdcpipe.chaos.result import named, schedule_check
from cdcpipe.errors import EvidenceError
from cdcpipe.faults.fault import FaultRecord
from cdcpipe.report.page import render
from cdcpipe.verify.level import Level
from cdcpipe.verify.outcome import LedgerFacts, Report
from cdcpipe.verify.verdict import CheckResult, Verdict, Witness

BEGUN = 1_764_000_000.0


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(BEGUN + seconds, UTC)


def _record(begin: float, end: float, *, error: str | None = None) -> FaultRecord:
    at = [BEGUN + begin + share * (end - begin) for share in (0, 0.05, 0.1, 0.5, 0.9, 1)]
    effective, recovered = (None, None) if error else (at[2], at[4])
    return FaultRecord("kill", "connect", {}, {}, at[0], at[1], effective, at[3], recovered, at[5], error)


KILL = FaultOutcome("s1", "committed >= 9,000", "kill connect", _record(30, 40), None, None, Recovery(9, 8, 12, 21, 20))
LOST = CheckResult(
    name="lost-change",
    group="delivery",
    claim="Every committed change is in the log.",
    not_proven="nothing",
    verdict=Verdict.FAIL,
    place="source",
    found=72,
    looked_at=1000,
    witnesses=(
        Witness("xid 7 seq 3 is not in the log", table="public.bulk", xid=7, seq=3, commit_lsn=0x16_B374D848,
                committed_at=_moment(31)),
        Witness("xid 9 seq 1 is not in the log", table="public.bulk", xid=9, seq=1, committed_at=_moment(52)),
    ),
)  # fmt: skip


def result(
    run: Path, *, checks: tuple[CheckResult, ...] = (), outcomes: tuple[FaultOutcome, ...] = (KILL,)
) -> ChaosResult:
    """A run of 100 s with these faults and checks."""
    results = named([*checks, schedule_check(outcomes)], outcomes)
    ledgers = tuple(
        LedgerFacts(kind, 1000, True, (), {"public.bulk": {"c": 1000}}) for kind in ("wal", "log", "archive")
    )
    report = Report(
        "events", Level.EXACTLY_ONCE, tuple(results), ledgers, facts={"changes": 1000}, made_at=_moment(200)
    )
    run.mkdir(exist_ok=True)
    lines = [
        {"at": BEGUN + n, "target": 3000, "committed": 3000, "committed_total": 3000 * n, "logged": 2900 * n,
         "logged_rate": 0 if 30 < n < 40 else 3000, "archived": 2500 * n, "slot_bytes": 1 << 20,
         "memory": {"connect": 800 << 20}, "states": {"connect": "stopped" if 30 < n < 34 else "ready"}}
        for n in range(100)
    ]  # fmt: skip
    (run / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    sent = [BEGUN + n / 2 for n in range(200)]
    seen = [max(at + 0.1, BEGUN + 39) if BEGUN + 30 < at < BEGUN + 39 else at + 0.1 for at in sent]
    pq.write_table(pa.table({"token": list(range(200)), "sent": sent, "seen": seen}), run / "probes.parquet")
    return ChaosResult(
        plan=ChaosPlan(seconds=100),
        report=report,
        outcomes=outcomes,
        load={"events": 300_000, "achieved_rate": 3000.0},
        begun=BEGUN,
        ended=BEGUN + 100,
        phases={"load": 100.0, "verify": 4.0},
        versions={"connect": "4.3.1"},
        peak_memory={"connect": 800 << 20, "all": 800 << 20},
        rate_during_faults=2990.0,
        interventions=(),
        run=run,
    )


def test_a_result_survives_its_json(tmp_path: Path) -> None:
    made = result(tmp_path / "run", checks=(LOST,))
    (made.run / "result.json").write_text(json.dumps(made.to_json()))
    back = load_result(made.run)
    assert back.to_json() == made.to_json()
    assert back.anomalies == ("lost-change@source",)
    assert render(page(back)) == render(page(made))


def test_a_folder_without_a_result_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="has no result"):
        load_result(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": "cdcpipe.chaos-result/1"}')
    with pytest.raises(EvidenceError, match="no result of a chaos run"):
        load_result(tmp_path)


def test_a_witness_names_the_fault_that_was_active(tmp_path: Path) -> None:
    made = result(tmp_path / "run", checks=(LOST,))
    faults = [witness.fault for witness in made.report["lost-change@source"].witnesses]
    assert faults == ["s1: kill connect", "none; 13 s after s1: kill connect"]


def test_the_page_is_whole_offline_and_has_the_verdict_first(tmp_path: Path) -> None:
    made = result(tmp_path / "run", checks=(LOST,))
    write_reports(made)
    html = (made.run / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org/", "")
    order = ["Under 1 fault: the pipeline does not keep exactly_once: lost-change@source (72)"]
    order += ["again: cdcpipe chaos replay", "Timeline", "Time to recover", "Anomalies", "s1: kill connect"]
    places = [html.index(text) for text in order]
    assert places == sorted(places)
    text = markdown(made)
    assert text.startswith("# chaos random: fail")
    assert "| s1 kill connect | committed >= 9,000 | 9.0 s | 8.0 s | 21.0 s | 20.0 s |" in text
    root = ET.fromstring((made.run / "junit.xml").read_bytes())
    assert len(root.findall(".//failure")) == 1
    assert root.find(".//property[@name='replay']") is not None


def test_a_pass_tells_how_long_it_was_felt(tmp_path: Path) -> None:
    sentence = result(tmp_path / "run").sentence()
    assert sentence.startswith("Through 1 fault the pipeline kept exactly_once")
    assert "back within 9 s" in sentence
    assert "archive within 21 s" in sentence


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (FaultOutcome("s1", "w", "kill connect", None, None, "its time never came"), "its time never came"),
        (FaultOutcome("s1", "w", "kill connect", _record(1, 2, error="no effect"), None, "no effect"), "no effect"),
        (FaultOutcome("s1", "w", "cut connect-s3", None, "no proxies"), "no fault could be done"),
    ],
)
def test_a_fault_that_did_nothing_makes_the_run_inconclusive(
    tmp_path: Path, outcome: FaultOutcome, reason: str
) -> None:
    made = result(tmp_path / "run", outcomes=(outcome,))
    assert made.verdict is Verdict.INCONCLUSIVE
    assert reason in made.sentence()


def test_a_skipped_fault_is_named_and_the_others_count(tmp_path: Path) -> None:
    skipped = FaultOutcome("s2", "w", "cut connect-s3", None, "this stack has no proxied links")
    made = result(tmp_path / "run", outcomes=(KILL, skipped))
    assert made.verdict is Verdict.PASS
    assert made.report["schedule"].counts == {"took effect": 1, "skipped": 1, "went wrong": 0}
    assert "skipped: this stack has no proxied links" in render(page(made))


def test_a_loss_outweighs_a_fault_that_did_nothing(tmp_path: Path) -> None:
    wrong = replace(KILL, record=_record(1, 2, error="it did not heal"), note="it did not heal")
    assert result(tmp_path / "run", checks=(LOST,), outcomes=(wrong,)).verdict is Verdict.FAIL
