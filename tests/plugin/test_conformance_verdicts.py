"""How tests become verdicts: the plugin run by pytest itself, on small suites that need no pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

GOOD = """
    import pytest

    @pytest.mark.criterion("R1.1")
    def test_good(evidence):
        evidence.figure("events", 12)
"""


@dataclass
class Ran:
    code: int
    out: str
    matrix: dict[str, Any]
    folder: Path

    def row(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = next(row for row in self.matrix["rows"] if row["id"] == id_)
        return found

    def verdict(self, id_: str) -> str:
        return str(self.row(id_)["verdict"])


class Run:
    """Runs a small suite with pytest itself; the plugin comes by its entry point. In this process: it is faster."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.folder = pytester.path
        self._pytester = pytester

    def __call__(self, suite: str, *options: str, waivers: str = "") -> Ran:
        report = self.folder / "out" / "conformance-report.json"
        report.unlink(missing_ok=True)
        # Another name each time: what was imported stays imported.
        name = f"test_suite_{len(list(self.folder.glob('test_suite_*.py')))}.py"
        (self.folder / name).write_text(textwrap.dedent(suite), encoding="utf-8")
        (self.folder / "waivers.toml").write_text(textwrap.dedent(waivers), encoding="utf-8")
        done = self._pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--conformance-report", "out", *options, name
        )
        matrix = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
        return Ran(int(done.ret), done.stdout.str() + done.stderr.str(), matrix, self.folder)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    return Run(pytester)


def waiver(id_: str, *, days: int) -> str:
    day = (datetime.now(UTC) + timedelta(days=days)).date()
    return f"""
        [[waiver]]
        criterion = "{id_}"
        reason = "known"
        link = "https://tracker.example/1"
        expires = {day}
    """


def test_the_report_has_all_35_rows_whatever_was_collected(run: Run) -> None:
    ran = run(GOOD)
    assert ran.code == 0
    assert len(ran.matrix["rows"]) == 35
    assert ran.verdict("R1.1") == "pass"
    assert ran.verdict("R3.5") == "not run"
    assert ran.matrix["verdict"] == "inconclusive"
    assert ran.matrix["exit_code"] == 3
    assert ran.out.count("not run") >= 28
    page = (run.folder / "out" / "conformance-report.html").read_text(encoding="utf-8")
    text = (run.folder / "out" / "conformance-report.md").read_text(encoding="utf-8")
    assert all(f"R{row['id'][1:]}" in page and f"**{row['id']}**" in text for row in ran.matrix["rows"])
    assert ran.matrix["not_proven"] in text
    assert "https://" not in page.replace("https://tracker.example", "")


def test_a_failed_assertion_is_a_fail_and_stands_in_the_row(run: Run) -> None:
    suite = """
        import pytest

        @pytest.mark.criterion("R2.5")
        def test_order(evidence):
            evidence.figure("changes", 5)
            assert 1 == 2, "two changes were swapped"
    """
    ran = run(suite)
    assert ran.code == 1
    assert ran.row("R2.5")["reason"] == "two changes were swapped"
    assert (ran.verdict("R2.5"), ran.matrix["exit_code"]) == ("fail", 1)


def test_a_pass_without_figures_is_inconclusive_and_a_failed_test(run: Run) -> None:
    ran = run(GOOD.replace('evidence.figure("events", 12)', "pass"))
    assert (ran.code, ran.verdict("R1.1"), ran.matrix["exit_code"]) == (1, "inconclusive", 3)
    assert "no figures" in ran.row("R1.1")["reason"]


@pytest.mark.parametrize(
    ("body", "verdict", "code"),
    [
        ('evidence.inconclusive("no traffic")', "inconclusive", 1),
        ('evidence.not_applicable("no archive here")', "not applicable", 0),
        ('raise ValueError("our own mistake")', "inconclusive", 1),
        ('raise cdcpipe.errors.PostgresError("gone away")', "inconclusive", 1),
        ('pytest.skip("not today")', "not run", 0),
        ('pytest.fail("refuted")', "fail", 1),
        ('pytest.xfail("known")', "fail", 1),
    ],
)
def test_each_way_to_end_has_its_verdict(run: Run, body: str, verdict: str, code: int) -> None:
    suite = f"""
        import pytest, cdcpipe.errors

        @pytest.mark.criterion("R1.1")
        def test_it(evidence):
            evidence.figure("events", 12)
            {body}
    """
    ran = run(suite)
    assert (ran.verdict("R1.1"), ran.code) == (verdict, code)
    assert ran.matrix["exit_code"] == (1 if verdict == "fail" else 3)


def test_a_test_that_is_expected_to_fail_is_no_pass(run: Run) -> None:
    for body, verdict in (("assert False, 'as ever'", "fail"), ("pass", "fail")):
        suite = f"""
            import pytest

            @pytest.mark.criterion("R1.1")
            @pytest.mark.xfail(reason="known")
            def test_it(evidence):
                evidence.figure("events", 12)
                {body}
        """
        ran = run(suite)
        assert (ran.code, ran.verdict("R1.1")) == (1, verdict)


def test_inconclusive_is_a_skipped_test_where_that_is_allowed_and_still_no_pass(run: Run) -> None:
    suite = GOOD.replace('evidence.figure("events", 12)', 'evidence.inconclusive("no traffic")')
    ran = run(suite, "--allow-inconclusive", "-rs")
    assert (ran.code, ran.verdict("R1.1"), ran.matrix["exit_code"]) == (0, "inconclusive", 3)
    assert "inconclusive: no traffic" in ran.out


def test_one_failing_test_of_several_fails_the_criterion(run: Run) -> None:
    suite = (
        GOOD
        + """
    @pytest.mark.criterion("R1.1")
    def test_bad(evidence):
        evidence.figure("events", 1)
        assert False, "the other half does not hold"
    """
    )
    ran = run(suite)
    assert ran.verdict("R1.1") == "fail"
    assert len(ran.row("R1.1")["tests"]) == 2


@pytest.mark.parametrize("options", [("-k", "good"), ("-k", "good or first", "-x"), ("--cdcpipe-only", "R1.2")])
def test_a_test_that_was_left_out_leaves_its_criterion_not_run(run: Run, options: tuple[str, ...]) -> None:
    suite = """
        import pytest

        @pytest.mark.criterion("R1.2")
        def test_first(evidence):
            assert False, "so that -x ends it here"

        @pytest.mark.criterion("R1.1")
        def test_good(evidence):
            evidence.figure("events", 12)

        @pytest.mark.criterion("R1.1")
        def test_other(evidence):
            evidence.figure("events", 1)
    """
    ran = run(suite, *options)
    assert ran.verdict("R1.1") == "not run"
    assert "did not run" in ran.row("R1.1")["reason"]


def test_a_criterion_that_the_target_cannot_show_is_not_applicable_and_not_tried(run: Run) -> None:
    suite = """
        import pathlib, pytest

        @pytest.mark.criterion("R4.1")
        def test_windows(evidence):
            pathlib.Path("tried").touch()
    """
    ran = run(suite)
    assert (ran.code, ran.verdict("R4.1")) == (0, "not applicable")
    assert "Docker Desktop" in ran.row("R4.1")["reason"]
    assert not (run.folder / "tried").exists()


def test_a_waived_failure_is_waived_until_its_day(run: Run) -> None:
    bad = GOOD + '        assert False, "not yet"\n'
    ran = run(bad, waivers=waiver("R1.1", days=3))
    assert (ran.code, ran.verdict("R1.1")) == (0, "waived")
    assert "not yet" in ran.row("R1.1")["reason"]
    assert ran.row("R1.1")["waiver"]["link"] == "https://tracker.example/1"


def test_an_expired_waiver_and_a_needless_one_fail_the_gate(run: Run) -> None:
    bad = GOOD + '        assert False, "not yet"\n'
    expired = run(bad, waivers=waiver("R1.1", days=-1))
    assert (expired.code, expired.verdict("R1.1"), expired.matrix["exit_code"]) == (1, "fail", 1)
    assert "expired" in expired.matrix["waiver_findings"][0]
    needless = run(GOOD, waivers=waiver("R1.1", days=3))
    assert (needless.code, needless.verdict("R1.1"), needless.matrix["exit_code"]) == (1, "pass", 1)
    assert "needless" in needless.matrix["waiver_findings"][0]


@pytest.mark.parametrize(
    "text",
    [
        '[[waiver]]\ncriterion = "R1.1"\nreason = "x"\nlink = "y"\n',
        '[[waiver]]\ncriterion = "R1.1"\nreason = " "\nlink = "y"\nexpires = 2099-01-01\n',
        '[[waiver]]\ncriterion = "R1.1"\nreason = "x"\nlink = "y"\nexpires = "2099-01-01"\n',
        "waiver = 3\n",
        "[[waivers]]\n",
    ],
)
def test_a_waiver_that_is_not_whole_waives_nothing_and_stops_the_run(run: Run, text: str) -> None:
    ran = run(GOOD, waivers=text)
    assert ran.code == 4
    assert "waivers.toml" in ran.out


def test_an_unknown_criterion_stops_the_run(run: Run) -> None:
    ran = run(GOOD.replace("R1.1", "R9.9"))
    assert ran.code != 0
    assert "there is no criterion R9.9" in ran.out


def test_a_looser_bound_than_required_is_no_pass_and_a_stricter_one_counts(run: Run) -> None:
    suite = """
        import pytest

        @pytest.mark.criterion("R2.2")
        def test_latency(evidence):
            evidence.bounds["latency_p99_ms"] = {}
            evidence.figure("p99", 900)
            assert 900 <= evidence.bound("latency_p99_ms")
    """
    assert run(suite.replace("{}", "60_000")).verdict("R2.2") == "inconclusive"
    assert run(suite.replace("{}", "3_000")).verdict("R2.2") == "pass"
    assert run(suite.replace("{}", "100")).verdict("R2.2") == "fail"


def test_figures_and_criteria_are_junit_properties(run: Run) -> None:
    run(GOOD, "--junitxml=junit.xml")
    case = ET.parse(run.folder / "junit.xml").getroot().find(".//testcase")
    assert case is not None
    properties = {(each.get("name"), each.get("value")) for each in case.iter("property")}
    assert properties >= {("criterion", "R1.1"), ("events", "12")}


def test_artefacts_are_kept_in_the_run_and_linked_from_every_page(run: Run) -> None:
    suite = GOOD + '        evidence.artefact("what was seen.json", {"changes": 12})\n'
    ran = run(suite)
    where = Path(ran.row("R1.1")["artefacts"]["what was seen.json"])
    assert json.loads(where.read_text(encoding="utf-8")) == {"changes": 12}
    for folder in (run.folder / "out", Path(ran.matrix["facts"]["run"])):
        page = (folder / "conformance-report.html").read_text(encoding="utf-8")
        link = page.partition('<a href="')[2].partition('"')[0]
        assert (folder / link).resolve() == where.resolve()


def test_how_each_log_ended_is_kept_of_a_test_that_did_not_pass(run: Run) -> None:
    suite = """
        import pytest

        class Server:
            def log_tail(self, lines):
                return ["it began", "it broke"]

        @pytest.fixture(autouse=True)
        def servers(request):
            request.config.pluginmanager.get_plugin("cdcpipe-conformance").components = {"connect": Server()}

        @pytest.mark.criterion("R1.1")
        def test_bad(evidence):
            evidence.figure("events", 0)
            assert evidence is None, "nothing came"

        @pytest.mark.criterion("R1.2")
        def test_good(evidence):
            evidence.figure("events", 1)
    """
    ran = run(suite)
    (kept,) = ran.row("R1.1")["artefacts"].values()
    assert Path(kept).name == "connect.log"
    assert Path(kept).read_text(encoding="utf-8") == "it began\nit broke"
    assert ran.row("R1.2")["artefacts"] == {}


def test_the_report_says_how_to_replay_it(run: Run) -> None:
    ran = run(GOOD, "--seed=41")
    facts = ran.matrix["facts"]
    assert (facts["seed"], facts["level"], facts["target"]) == ("41", "exactly_once", "local")
    assert "--seed=41" in facts["again"]


def test_a_session_without_a_criterion_writes_nothing(run: Run) -> None:
    ran = run("def test_plain():\n    pass\n")
    assert (ran.code, ran.matrix) == (0, {})
    assert not (run.folder / "runs").exists()
    assert "conformance" not in ran.out.replace(str(run.folder), "")


def test_the_plugin_loads_nothing_of_the_package_unless_it_is_used(run: Run) -> None:
    (run.folder / "test_plain.py").write_text(
        "import sys\n"
        "def test_plain():\n"
        "    assert '_cdcpipe_pytest' in sys.modules\n"
        "    heavy = {'cdcpipe', 'pydantic', 'psycopg', 'confluent_kafka', 'pyarrow', 'duckdb', 'httpx2', 'rich'}\n"
        "    assert heavy & set(sys.modules) == set()\n",
        encoding="utf-8",
    )
    # Other plugins load what they like: none of them here.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "_cdcpipe_pytest", "-q"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=run.folder,
        check=False,
        timeout=120,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout
