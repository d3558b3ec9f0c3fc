"""The matrix for a terminal, as JSON, as Markdown for a job's summary, and as one HTML page."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdcpipe.conformance.matrix import NOT_PROVEN, Matrix, Row, RowVerdict

if TYPE_CHECKING:
    from cdcpipe.report.page import Mood

__all__ = ["relocate", "render_html", "render_markdown", "summary_lines", "write_reports"]

_NAME: Final = "conformance-report"
_SIGNS: Final = {
    RowVerdict.PASS: "ok",
    RowVerdict.FAIL: "FAIL",
    RowVerdict.INCONCLUSIVE: "?",
    RowVerdict.NOT_APPLICABLE: "n/a",
    RowVerdict.WAIVED: "waived",
    RowVerdict.NOT_RUN: "not run",
}
_STYLES: Final = {RowVerdict.PASS: "green", RowVerdict.FAIL: "red", RowVerdict.INCONCLUSIVE: "yellow"}


def write_reports(matrix: Matrix, folder: Path, *, also: Path | None = None) -> None:
    """Write `conformance-report.json`, `.md` and `.html` into `folder`, and into `also`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{_NAME}.json").write_text(json.dumps(matrix.to_json(), indent=1, default=str), encoding="utf-8")
    (folder / f"{_NAME}.md").write_text(render_markdown(matrix), encoding="utf-8")
    (folder / f"{_NAME}.html").write_text(render_html(matrix, folder), encoding="utf-8")
    if also is not None and also.resolve() != folder:
        also.mkdir(parents=True, exist_ok=True)
        for ending in ("json", "md"):
            shutil.copyfile(folder / f"{_NAME}.{ending}", also / f"{_NAME}.{ending}")
        # Links are relative to the page's own folder.
        (also / f"{_NAME}.html").write_text(render_html(matrix, also.resolve()), encoding="utf-8")


def relocate(run: Path, folder: Path) -> str:
    """The page of `run`, for a file in `folder`: its links go to the run's artefacts from there."""
    text = (run / f"{_NAME}.html").read_text(encoding="utf-8")
    way = Path(os.path.relpath(run, folder)).as_posix()
    return re.sub(r'href="(?![a-z]+:|#|/)', f'href="{way}/', text)


def summary_lines(matrix: Matrix, *, width: int) -> Iterator[tuple[str, str]]:
    """`(line, colour)`: trouble first, then a line a criterion, then the verdict."""
    for trouble in matrix.trouble:
        yield f"could not look at the pipeline: {trouble}", "yellow"
    for row in matrix.rows:
        told = row.reason if row.verdict is not RowVerdict.PASS else ", ".join(each.text() for each in row.figures)
        line = f"{_SIGNS[row.verdict]:>7}  {row.criterion.id}  {row.criterion.sentence}"
        if told:
            line += f": {told}"
        yield (
            line if len(line) <= width or row.verdict is RowVerdict.FAIL else line[: width - 1] + "…",
            _STYLES.get(row.verdict, ""),
        )
    for finding in matrix.waiver_findings:
        yield f"waivers: {finding}", "red"
    yield f"{matrix.verdict}: {matrix.sentence()}", _STYLES.get(matrix.verdict, "")


def render_markdown(matrix: Matrix) -> str:
    """Markdown for a job's summary: verdict, trouble, the 35 rows, facts."""
    lines = [f"# Conformance: {matrix.verdict}", "", matrix.sentence(), ""]
    lines += [f"> **could not look at the pipeline:** {_cell(each)}" for each in matrix.trouble]
    lines += [f"> **waivers:** {_cell(each)}" for each in matrix.waiver_findings]
    lines += ["", "| criterion | verdict | evidence | seconds |", "| --- | --- | --- | ---: |"]
    for row in matrix.rows:
        verdict = f"**{row.verdict}**" if row.verdict is RowVerdict.FAIL else str(row.verdict)
        lines.append(
            f"| **{row.criterion.id}** {_cell(row.criterion.sentence)} | {verdict} | {_cell(_told(row))} "
            f"| {row.seconds:.1f} |"
        )
    lines += ["", f"*{NOT_PROVEN}*", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | `{_cell(value)}` |" for name, value in matrix.facts.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _told(row: Row) -> str:
    figures = ", ".join(each.text() for each in row.figures)
    return "; ".join(each for each in (row.reason, figures) if each)


def render_html(matrix: Matrix, folder: Path) -> str:
    """One page that opens offline. Links to artefacts are relative to `folder`."""
    from cdcpipe.report.page import Page, Section, Tile, fragment, render

    tiles = [
        Tile(each.value, str(matrix.count(each)), mood=_mood(each))
        for each in RowVerdict
        if matrix.count(each) or each is RowVerdict.PASS
    ]
    groups = []
    for number in "1234567":
        rows = [row for row in matrix.rows if row.criterion.id.startswith(f"R{number}.")]
        if rows:
            groups.append((f"R{number}: {_TITLES[number]}", [_html_row(row, folder) for row in rows]))
    trouble = [*(f"could not look at the pipeline: {each}" for each in matrix.trouble), *matrix.waiver_findings]
    page = Page(
        title=f"cdcpipe conformance: {matrix.facts.get('target', '')}",
        sentence=matrix.sentence(),
        verdict=_mood(matrix.verdict),
        subtitle=f"level {matrix.facts.get('level', '?')} · seed {matrix.facts.get('seed', '?')}"
        f" · {matrix.facts.get('made', '')}",
        tiles=tiles,
        sections=[
            Section("Criteria", NOT_PROVEN, html=fragment("conformance.html.j2", groups=groups, trouble=trouble))
        ],
        facts=list(matrix.facts.items()),
    )
    return render(page)


_TITLES: Final = {
    "1": "capture",
    "2": "streaming",
    "3": "archive",
    "4": "local development",
    "5": "schemas",
    "6": "monitoring",
    "7": "security",
}


def _mood(verdict: RowVerdict) -> Mood:
    moods: dict[RowVerdict, Mood] = {
        RowVerdict.PASS: "pass",
        RowVerdict.FAIL: "fail",
        RowVerdict.INCONCLUSIVE: "inconclusive",
    }
    return moods.get(verdict, "plain")


def _html_row(row: Row, folder: Path) -> dict[str, object]:
    links = []
    for name, where in row.artefacts.items():
        try:
            links.append((name, Path(os.path.relpath(where, folder)).as_posix()))
        except ValueError:  # another drive
            links.append((name, Path(where).as_uri()))
    return {
        "id": row.criterion.id,
        "sentence": row.criterion.sentence,
        "mood": _mood(row.verdict),
        "word": row.verdict.value,
        "open": row.verdict is RowVerdict.FAIL,
        "reason": row.reason,
        "figures": [(each.name, each.text().removeprefix(f"{each.name} ")) for each in row.figures],
        "links": links,
        "wanted": row.criterion.evidence,
        "not_proven": row.criterion.not_proven,
        "tests": row.tests,
        "seconds": f"{row.seconds:.1f} s" if row.tests else "",
    }
