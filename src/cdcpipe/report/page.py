"""One self-contained HTML page: a verdict sentence, tiles, sections of charts and tables. No script, nothing fetched.

page = Page("cdcpipe demo", "…passed", verdict="pass", tiles=[Tile("events", "600,000")], sections=[…])
Path("report.html").write_text(render(page))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cdcpipe.errors import MissingExtra

__all__ = ["Page", "Section", "Table", "Tile", "fragment", "render"]

Mood = Literal["pass", "fail", "inconclusive", "plain"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure to see at a glance."""

    label: str
    value: str
    note: str = ""
    mood: Mood = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text. Columns named in `figures` are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, charts (SVG of `cdcpipe.report.charts`), tables, and `html` made by `fragment`."""

    title: str
    intro: str = ""
    charts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    html: str = ""
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What `render` shows. `facts` are small pairs at the end: versions, seed, the command that replays it."""

    title: str
    sentence: str
    verdict: Mood = "plain"
    subtitle: str = ""
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = ()
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("report", "an HTML report") from None
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cdcpipe.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def fragment(template: str, **values: object) -> str:
    """HTML of one of our templates, for `Section.html`. Values are escaped."""
    return str(_environment().get_template(template).render(**values))


def render(page: Page) -> str:
    """The page as one HTML file."""
    return fragment("page.html.j2", page=page)
