"""A verification for a terminal. Colour never carries meaning alone; `NO_COLOR` and pipes are respected by rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.markup import escape

from cdcpipe.report.wording import compare_images, facts_of, mood_of, word_of
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.verdict import CheckResult

__all__ = ["print_report"]

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "plain": "dim"}
_SIGNS = {"pass": "ok", "fail": "FAIL", "inconclusive": "?", "consequence": "FAIL", "not judged": "-"}


def print_report(report: Report, *, file: TextIO | None = None, verbose: bool = False, witnesses: int = 3) -> None:
    """Write the verdict, what failed with its witnesses, and a line for the rest. `verbose`: a line for each check."""
    console = Console(file=file, highlight=False, soft_wrap=True)
    failed = report.failed
    for result in report.results:
        if verbose or (result.applies and word_of(result) not in ("pass", "fail", "consequence")):
            _line(console, result)
    for result in failed:
        _line(console, result)
        for witness in result.witnesses[:witnesses] if result.is_cause or verbose else ():
            cause = f"  (consequence of {witness.cause})" if witness.cause else ""
            console.print(f"        [bold]{escape(witness.note)}[/]{cause}")
            facts = "  ".join(f"[dim]{name}[/] {escape(value)}" for name, value in facts_of(witness))
            console.print(f"          {facts}")
            for title, rows in compare_images(witness):
                shown = "  ".join(
                    f"[{'bold red' if differs else 'dim'}]{escape(name)}={escape(value)}[/]"
                    for name, value, differs in rows
                )
                console.print(f"          [dim]{title}:[/] {shown}")
        rest = result.found - min(len(result.witnesses), witnesses)
        if rest > 0 and result.is_cause:
            console.print(f"        [dim]… and {rest:,} more[/]")
    for note in report.notes:
        console.print(f"[dim]note: {escape(note)}[/]")
    judged = [each for each in report.results if each.applies]
    passed = sum(word_of(each) == "pass" for each in judged)
    console.print(
        f"{passed} of {len(judged)} checks passed, {len(report.results) - len(judged)} do not apply "
        f"[dim](level {report.level.value}, {report.seconds:.1f} s)[/]"
    )
    if report.unsettled:
        what = "1 change is" if report.unsettled == 1 else f"{report.unsettled:,} changes are"
        console.print(f"[dim]{what} beyond the watermark and not there yet[/]")
    style = _STYLES[report.verdict.value]
    console.print(f"[{style}]{report.verdict.value}[/]: {escape(report.sentence())}")


def _line(console: Console, result: CheckResult) -> None:
    word = word_of(result)
    style = _STYLES[mood_of(result)]
    found = f" {result.found:,} found" if result.found else ""
    if result.explained:
        found += f", {result.explained:,} explained by another anomaly"
    reason = f" ({escape(result.reason)})" if result.reason else ""
    console.print(f"  [{style}]{_SIGNS[word]:>4}  {result.id}[/]{found}{reason}")
    if word == "fail":
        console.print(f"        [dim]{escape(result.claim)}[/]")
