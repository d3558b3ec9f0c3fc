"""Listens to pytest, and makes the matrix out of what it hears. Registered only when a test has a criterion."""

from __future__ import annotations

import contextlib
import platform
import shlex
from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdcpipe.conformance.criteria import Criteria, load_criteria
from cdcpipe.conformance.evidence import Evidence, Inconclusive, NotApplicable, NotRun
from cdcpipe.conformance.matrix import Matrix, Outcome, RowVerdict, judge
from cdcpipe.conformance.waivers import Waiver, load_waivers
from cdcpipe.errors import CdcpipeError, UsageError

if TYPE_CHECKING:
    from cdcpipe.stack.component import Component

__all__ = ["NAME", "Recorder", "criteria_of"]

NAME: Final = "cdcpipe-conformance"
_EVIDENCE: Final = "_cdcpipe_evidence"
_LOG_LINES: Final = 1_000


def criteria_of(item: pytest.Item) -> tuple[str, ...]:
    """The ids that the test is marked with."""
    ids = [str(id_) for marker in item.iter_markers("criterion") for id_ in marker.args]
    return tuple(dict.fromkeys(ids))


class Recorder:
    """One session's outcomes. `target`, `level` and `seed` are those of the options."""

    def __init__(self, config: pytest.Config, *, target: str, level: str, seed: int, runs: Path) -> None:
        self._config = config
        self.target, self.level, self.seed = target, level, seed
        self.criteria: Criteria = load_criteria()
        self.bounds: dict[str, float] = dict(self.criteria.bounds)
        self.folder = runs.resolve() / "conformance" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        self.versions: dict[str, str] = {}
        self.components: Mapping[str, Component] = {}
        self.trouble: list[str] = []
        self._interrupted = False
        self._allow_inconclusive: bool = config.getoption("cdcpipe_allow_inconclusive")
        self._waivers = self._load_waivers()
        self._expected: dict[str, pytest.Item] = {}
        self._outcomes: dict[str, Outcome] = {}
        self.matrix: Matrix | None = None

    def _load_waivers(self) -> tuple[Waiver, ...]:
        given = self._config.getoption("cdcpipe_waivers")
        path = Path(given) if given else Path(self._config.invocation_params.dir) / "waivers.toml"
        if not given and not path.is_file():
            return ()
        try:
            return load_waivers(path)
        except UsageError as error:
            detail = f"\n{error.detail}" if error.detail else ""
            raise pytest.UsageError(f"{error.message}{detail}") from error

    # Collection -----------------------------------------------------------------------------------

    def expect(self, items: Iterable[pytest.Item]) -> None:
        """Note every test that was collected, so that one which is deselected is missed. Unknown ids are errors."""
        known = {row.id for row in self.criteria.rows}
        for item in items:
            ids = criteria_of(item)
            unknown = [id_ for id_ in ids if id_ not in known]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: there is no criterion {', '.join(unknown)}")
            if ids:
                self._expected[item.nodeid] = item

    def left_out(self, items: Iterable[pytest.Item]) -> list[pytest.Item]:
        """Those that `--cdcpipe-only` does not name. Their criteria are `not run`."""
        only: list[str] = self._config.getoption("cdcpipe_only") or []
        return [item for item in items if only and not set(only) & set(criteria_of(item))]

    # Running --------------------------------------------------------------------------------------

    def evidence(self, item: pytest.Item) -> Evidence:
        """The evidence of a test, made on first use."""
        found = getattr(item, _EVIDENCE, None)
        if not isinstance(found, Evidence):
            found = Evidence(
                self.folder / "evidence" / item.name.replace("/", "-")[:80],
                self.bounds,
                self.criteria.bounds,
                lambda name, value: item.user_properties.append((name, value)),
            )
            setattr(item, _EVIDENCE, found)
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A criterion that this target can't show is not tried."""
        ids = criteria_of(item)
        if ids:
            item.user_properties.extend(("criterion", id_) for id_ in ids)
            rows = [self.criteria[id_] for id_ in ids]
            if all(self.target not in row.targets for row in rows):
                raise NotApplicable(rows[0].elsewhere)

    # Outermost: what `xfail` makes of a report must not stand.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if criteria_of(item):
            self._hear(item, call, report)
        return report

    def _hear(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        told = _verdict(item, call, report)
        before = self._outcomes.get(item.nodeid)
        if told is None and before is None:
            return  # a set-up that went well says nothing
        verdict, reason = told or (RowVerdict.PASS, "")
        if verdict is RowVerdict.PASS and told is not None and not self.evidence(item).figures:
            told = verdict, reason = (
                RowVerdict.INCONCLUSIVE,
                "it passed and left no figures, so that nobody can check it",
            )
        if before is not None:
            verdict, reason = _worse((before.verdict, before.reason), (verdict, reason))
        evidence = self.evidence(item)
        if verdict in (RowVerdict.FAIL, RowVerdict.INCONCLUSIVE) and told is not None:
            self._keep_logs(evidence)
        self._outcomes[item.nodeid] = Outcome(
            item.nodeid,
            criteria_of(item),
            verdict,
            reason,
            tuple(evidence.figures),
            dict(evidence.artefacts),
            (before.seconds if before else 0.0) + report.duration,
        )
        if told is not None and verdict is not RowVerdict.PASS:
            self._show(item, call.excinfo, report, verdict, reason)

    def _keep_logs(self, evidence: Evidence) -> None:
        """How each component's log ended when the test did: a stack of ours is removed with its logs."""
        for name, component in self.components.items():
            with contextlib.suppress(CdcpipeError, OSError):
                evidence.artefact(f"{name}.log", "\n".join(component.log_tail(_LOG_LINES)))

    def _show(
        self,
        item: pytest.Item,
        raised: pytest.ExceptionInfo[BaseException] | None,
        report: pytest.TestReport,
        verdict: RowVerdict,
        reason: str,
    ) -> None:
        """What pytest itself shows: a failed test, or one that is skipped with its reason."""
        error = None if raised is None else raised.value
        report.user_properties.append(("verdict", verdict.value))
        if report.when == "setup" and isinstance(error, CdcpipeError):
            self.trouble.append(reason)
        valid = {waiver.criterion for waiver in self._waivers if waiver.expires >= _today()}
        waived = set(criteria_of(item)) <= valid
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        path, line, _ = item.location
        if verdict in (RowVerdict.NOT_APPLICABLE, RowVerdict.NOT_RUN):
            report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, f"{verdict}: {reason}")
        elif waived or (verdict is RowVerdict.INCONCLUSIVE and self._allow_inconclusive):
            text = f"{'waived, ' if waived else ''}{verdict}: {reason}"
            report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, text)
        else:
            report.outcome = "failed"
            if error is None or (
                verdict is RowVerdict.INCONCLUSIVE and isinstance(error, (Inconclusive, CdcpipeError))
            ):
                report.longrepr = f"{verdict}: {reason}{_details(error)}"

    def pytest_keyboard_interrupt(self) -> None:
        """What was not run by then is `not run`."""
        self._interrupted = True

    # The end --------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge, and write the reports."""
        missing = [
            Outcome(nodeid, criteria_of(item), RowVerdict.NOT_RUN, f"`{item.name}` did not run")
            for nodeid, item in self._expected.items()
            if nodeid not in self._outcomes
        ]
        self.matrix = judge(
            self.criteria,
            [*self._outcomes.values(), *missing],
            target=self.target,
            waivers=self._waivers,
            today=_today(),
            facts=self.facts(),
            trouble=self.trouble,
        )
        from cdcpipe.conformance.report import write_reports

        given = self._config.getoption("cdcpipe_report")
        write_reports(self.matrix, self.folder, also=Path(given) if given else None)
        if self.matrix.waiver_findings and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def facts(self) -> dict[str, str]:
        """What it takes to run the same again."""
        from cdcpipe import __version__

        return {
            "again": self._config.getoption("cdcpipe_replay") or self._replay(),
            "target": self.target,
            "level": self.level,
            "seed": str(self.seed),
            "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "run": str(self.folder),
            "cdcpipe": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **self.versions,
            **({"interrupted": "by Ctrl-C"} if self._interrupted else {}),
        }

    def _replay(self) -> str:
        given = [str(argument) for argument in self._config.invocation_params.args]
        if not any(each.startswith(("--seed", "--cdcpipe-seed")) for each in given):
            given.append(f"--seed={self.seed}")
        return f"pytest {shlex.join(given)}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The matrix."""
        from cdcpipe.conformance.report import summary_lines

        if self.matrix is None:
            return
        terminalreporter.section("conformance")
        for text, style in summary_lines(self.matrix, width=terminalreporter._tw.fullwidth):
            terminalreporter.write_line(text, **{style: True} if style else {})
        terminalreporter.write_line(f"report: {self.folder / 'conformance-report.html'}")


def _today() -> date:
    return datetime.now(UTC).date()


def _verdict(
    item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
) -> tuple[RowVerdict, str] | None:
    """What this phase of the test says; None when it says nothing."""
    if call.excinfo is None:
        if call.when == "call" and item.get_closest_marker("xfail") is not None:
            return RowVerdict.FAIL, "it is marked as expected to fail: a waiver is the way to say that"
        return (RowVerdict.PASS, "") if call.when == "call" else None
    error = call.excinfo.value
    if isinstance(error, NotApplicable):
        return RowVerdict.NOT_APPLICABLE, str(error)
    if isinstance(error, (NotRun, pytest.skip.Exception)):
        return RowVerdict.NOT_RUN, _first_line(error)
    if isinstance(error, Inconclusive):
        return RowVerdict.INCONCLUSIVE, str(error)
    refuted = isinstance(error, (AssertionError, pytest.fail.Exception))
    # What a fixture asserts isn't the claim of this test; and a test that took too long has shown nothing.
    if refuted and call.when != "setup" and not str(error).startswith("Timeout"):
        if item.get_closest_marker("xfail") is not None:
            return RowVerdict.FAIL, f"expected to fail, and failed: {_first_line(error)}"
        return RowVerdict.FAIL, _first_line(error)
    return RowVerdict.INCONCLUSIVE, _reason(error, call.when)


def _worse(one: tuple[RowVerdict, str], other: tuple[RowVerdict, str]) -> tuple[RowVerdict, str]:
    order: Mapping[RowVerdict, int] = {
        RowVerdict.FAIL: 0,
        RowVerdict.INCONCLUSIVE: 1,
        RowVerdict.NOT_RUN: 2,
        RowVerdict.NOT_APPLICABLE: 3,
        RowVerdict.PASS: 4,
    }
    return min(one, other, key=lambda each: order[each[0]])


def _reason(error: BaseException, when: str) -> str:
    where = {"setup": "while it was set up: ", "teardown": "while it was cleaned up: "}.get(when, "")
    kind = "" if isinstance(error, CdcpipeError) else f"{type(error).__name__}: "
    return f"{where}{kind}{_first_line(error)}"


def _first_line(error: BaseException) -> str:
    """The message's first line: pytest's own explanation of an assertion follows below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("AssertionError: ") if lines else type(error).__name__


def _details(error: BaseException | None) -> str:
    if not isinstance(error, CdcpipeError):
        return ""
    lines = [f"  {line}" for line in (error.detail or "").splitlines()]
    return "".join(f"\n{line}" for line in [*lines, *([f"hint: {error.hint}"] if error.hint else [])])
