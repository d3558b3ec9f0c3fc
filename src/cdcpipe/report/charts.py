"""Charts as SVG text: no script, no font, no file beside them. They follow the page's colours where it sets `--c1`…

Every chart has a `<title>` for screen readers and a `<title>` on each mark, which browsers show on hover.
Colours are Okabe and Ito's, which colour-blind readers can tell apart; a series is also told by its label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape

__all__ = ["Band", "Coverage", "Mark", "bars", "columns", "coverage", "line", "number"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
_INK, _FAINT, _BAD = "var(--ink,#1f2933)", "var(--line,#d9dee4)", "var(--bad,#c0392b)"

_WIDTH = 1000
"""Of a box of the page, in pixels."""

Points = Sequence[tuple[float, float]]
_Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Band:
    """A shaded interval of x: a fault that was active, a phase of the run."""

    begin: float
    end: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at x: an anomaly, a restart."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """One bar of `coverage`: offsets from `begin` to before `end`, and the intervals in it that stand out.

    `holes` are `(begin, end, label)`, `end` not included.
    """

    label: str
    begin: int
    end: int
    holes: Sequence[tuple[int, int, str]] = field(default_factory=tuple)


def colour(index: int) -> str:
    """Of the series at `index`."""
    return f"var(--c{index % len(_COLOURS) + 1},{_COLOURS[index % len(_COLOURS)]})"


def number(value: float, unit: str = "") -> str:
    """A figure as people read it: `12,300`, `1.5M`, `0.25`.

    >>> number(1_500_000), number(12_345), number(0.25, "s")
    ('1.5M', '12,345', '0.25 s')
    """
    size = abs(value)
    if size >= 1e9:
        text = f"{value / 1e9:.3g}G"
    elif size >= 1e6:
        text = f"{value / 1e6:.3g}M"
    elif size >= 100 or value == int(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".strip()


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round figures between `low` and `high`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10 ** math.floor(math.log10(span / wanted))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= wanted:
            step *= factor
            break
    first = math.ceil(low / step) * step
    count = int((high - first) / step + 1e-9) + 1
    return [first + step * index for index in range(count)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, style: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}"{style}>'
        f"{escape(text)}</text>"
    )


def _frame(width: int, height: int, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" width="100%" '
        f'style="max-width:{width}px" font-family="system-ui,sans-serif"><title>{escape(title)}</title>'
        f"{''.join(body)}</svg>"
    )


def _empty(width: int, title: str) -> str:
    return _frame(width, 60, title, [_text(width / 2, 34, f"{title}: nothing to show", anchor="middle", size=12)])


def _legend(names: Sequence[str], x: float, y: float) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        parts.append(f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="10" height="10" rx="2" fill="{colour(index)}"/>')
        parts.append(_text(x + 14, y + 1, name))
        x += 28 + 6.3 * len(name)
    return parts


def _time_label(at: float, span: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S" if span < 7200 else "%m-%d %H:%M")


def line(
    series: Mapping[str, Points],
    *,
    title: str,
    unit: str = "",
    x_unit: str = "s",
    x_time: bool = False,
    x_range: tuple[float, float] | None = None,
    y_max: float | None = None,
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    width: int = _WIDTH,
    height: int = 240,
) -> str:
    """Lines over time. `series` maps a label to `(x, y)` points in order of x; NaN breaks a line.

    `x` is in `x_unit`, or with `x_time` in seconds since 1970, shown as UTC. `y` starts at 0. `x_range` is shown
    instead of the points' own, so that charts below each other line up; what lies above `y_max` is cut off.
    """
    points = [(x, y) for each in series.values() for x, y in each if math.isfinite(y)]
    if not points:
        return _empty(width, title)
    x_low, x_high = x_range or (min(x for x, _ in points), max(x for x, _ in points))
    top = y_max if y_max is not None else max(max(y for _, y in points), 0) * 1.05
    top = top if top > 0 else 1.0
    left, right, above, below = 58.0, width - 12.0, 44.0, height - 28.0

    def sx(x: float) -> float:
        share = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return left + min(max(share, 0), 1) * (right - left)

    def sy(y: float) -> float:
        return below - min(max(y, 0), top) / top * (below - above)

    parts = [_text(0, 14, title, size=13, style=' font-weight="600"'), *_legend(list(series), left, 33)]
    for band in bands:
        begin, end = sx(band.begin), sx(band.end)
        parts.append(
            f'<rect x="{begin:.1f}" y="{above}" width="{max(end - begin, 1.5):.1f}" height="{below - above}" '
            f'fill="{_BAD}" opacity="0.13"><title>{escape(band.label)}</title></rect>'
        )
        parts.append(_text(begin + 2, above + 10, band.label, size=9))
    for tick in _ticks(0, top, 4):
        parts.append(f'<path d="M{left} {sy(tick):.1f}H{right}" stroke="{_FAINT}"/>')
        parts.append(_text(left - 6, sy(tick) + 4, number(tick, unit if tick else ""), anchor="end", size=10))
    span = x_high - x_low
    for tick in _ticks(x_low, x_high, 7):
        label = _time_label(tick, span) if x_time else number(tick, x_unit)
        parts.append(_text(sx(tick), height - 10, label, anchor="middle", size=10))
    for index, (name, each) in enumerate(series.items()):
        parts.extend(_polylines(name, each, colour(index), sx, sy))
    for mark in marks:
        parts.append(
            f'<g stroke="{_BAD}" stroke-dasharray="3 2"><title>{escape(mark.label)}</title>'
            f'<path d="M{sx(mark.at):.1f} {above}V{below}"/></g>'
        )
    return _frame(width, height, title, parts)


def _polylines(name: str, points: Points, stroke: str, sx: _Scale, sy: _Scale) -> list[str]:
    runs: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append(f"{sx(x):.1f},{sy(y):.1f}")
        elif runs[-1]:
            runs.append([])
    return [
        f'<polyline points="{" ".join(run)}" fill="none" stroke="{stroke}" stroke-width="1.6" '
        f'stroke-linejoin="round"><title>{escape(name)}</title></polyline>'
        if len(run) > 1
        else f'<circle cx="{run[0].split(",")[0]}" cy="{run[0].split(",")[1]}" r="2.5" fill="{stroke}"/>'
        for run in runs
        if run
    ]


def bars(
    values: Mapping[str, float],
    *,
    title: str,
    unit: str = "",
    bad: Sequence[str] = (),
    width: int = _WIDTH,
) -> str:
    """Horizontal bars, one a label, in the order given. Labels in `bad` are red."""
    if not values:
        return _empty(width, title)
    left = min(max(7.0 * max(len(label) for label in values) + 10, 60.0), width * 0.4)
    top = max(max(values.values()), 0) or 1.0
    room = width - left - 90
    parts = [_text(0, 14, title, size=13, style=' font-weight="600"')]
    y = 28.0
    for label, value in values.items():
        fill = _BAD if label in bad else colour(0)
        length = max(value, 0) / top * room
        shown = label if len(label) * 6.3 < left else label[: int(left / 6.3) - 1] + "…"
        parts.append(_text(left - 8, y + 12, shown, anchor="end"))
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{max(length, 1):.1f}" height="16" rx="2" fill="{fill}">'
            f"<title>{escape(label)}: {escape(number(value, unit))}</title></rect>"
        )
        parts.append(_text(left + length + 6, y + 12, number(value, unit)))
        y += 22
    return _frame(width, int(y + 6), title, parts)


def columns(
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    unit: str = "",
    width: int = _WIDTH,
    height: int = 220,
) -> str:
    """Upright stacked columns: `groups` maps a column (an hour, a component) to its parts by name."""
    names = list(dict.fromkeys(name for parts in groups.values() for name in parts))
    if not groups or not names:
        return _empty(width, title)
    top = max(sum(parts.values()) for parts in groups.values()) * 1.05 or 1.0
    left, right, above, below = 58.0, width - 12.0, 44.0, height - 28.0
    out = [_text(0, 14, title, size=13, style=' font-weight="600"')]
    if len(names) > 1:
        out.extend(_legend(names, left, 33))
    for tick in _ticks(0, top, 4):
        y = below - tick / top * (below - above)
        out.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{_FAINT}"/>')
        out.append(_text(left - 6, y + 4, number(tick, unit if tick else ""), anchor="end", size=10))
    step = (right - left) / len(groups)
    every = max(1, math.ceil(len(groups) * 60 / (right - left)))
    for place, (label, values) in enumerate(groups.items()):
        x, y = left + place * step, below
        bar = min(step * 0.8, 80.0)
        for index, name in enumerate(names):
            value = max(values.get(name, 0), 0)
            length = value / top * (below - above)
            y -= length
            out.append(
                f'<rect x="{x + (step - bar) / 2:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{length:.1f}" '
                f'fill="{colour(index)}"><title>{escape(label)}, {escape(name)}: {escape(number(value, unit))}'
                "</title></rect>"
            )
        if place % every == 0:
            out.append(_text(x + step / 2, height - 10, label, anchor="middle", size=10))
    return _frame(width, height, title, out)


def coverage(rows: Sequence[Coverage], *, title: str, width: int = _WIDTH) -> str:
    """A bar a partition: its offsets from first to last, holes in red. A hole is at least 2 pixels wide."""
    if not rows:
        return _empty(width, title)
    left = min(max(6.6 * max(len(row.label) for row in rows) + 10, 60.0), width * 0.42)
    room = width - left - 80
    out = [_text(0, 14, title, size=13, style=' font-weight="600"')]
    y = 28.0
    for row in rows:
        span = max(row.end - row.begin, 1)
        out.append(_text(left - 8, y + 11, row.label, anchor="end", size=10))
        out.append(
            f'<rect x="{left:.1f}" y="{y}" width="{room:.1f}" height="14" rx="2" fill="{colour(2)}">'
            f"<title>{escape(row.label)}: offsets {row.begin} to {row.end}</title></rect>"
        )
        for begin, end, label in row.holes:
            x = left + (begin - row.begin) / span * room
            wide = max((end - begin) / span * room, 2.0)
            out.append(
                f'<rect x="{min(x, left + room - 2):.1f}" y="{y - 1}" width="{wide:.1f}" height="16" fill="{_BAD}">'
                f"<title>{escape(label)}</title></rect>"
            )
        out.append(_text(left + room + 6, y + 11, number(row.end), size=10))
        y += 19
    return _frame(width, int(y + 6), title, out)
