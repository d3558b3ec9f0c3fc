"""`cdcpipe top`: the state of a monitor as a picture in the terminal. Colour never carries a meaning alone."""

from __future__ import annotations

import time
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

__all__ = ["render"]

_HEALTH = {"healthy": ("●", "green"), "degraded": ("▲", "yellow"), "down": ("✗", "red"), "unknown": ("?", "dim")}
_BARS = "▁▂▃▄▅▆▇█"
_HOP_NAMES = {"commit": "commits", "log": "into Kafka", "archive": "into archive"}


def render(state: dict[str, Any], *, width: int = 100) -> RenderableType:
    """The whole picture of one `cdcpipe.monitor/1` document."""
    symbol, colour = _HEALTH[state["health"]]
    head = Text.assemble(
        (f"{symbol} {state['health']}", f"bold {colour}"),
        ("  ", ""),
        state["sentence"],
        ("  ", ""),
        (_clock(state), "dim"),
    )
    parts: list[RenderableType] = [head, Text(), _flow(state, width), Text(), _components(state)]
    parts += [_facts(state)]
    alerts = [each for each in state["alerts"] or () if each["state"] == "firing"]
    if alerts:
        parts += [Text(), _list("alerts", [f"{each['severity']:<9} {each['summary']}" for each in alerts[:6]], "red")]
    if state["anomalies"]:
        lines = [f"{_ago(state, each['at'])}  {each['name']}: {each['sentence']}" for each in state["anomalies"][:5]]
        parts += [Text(), _list("anomalies", lines, "red")]
    silent = [name for name, up in state["sources"].items() if not up]
    if silent:
        parts += [Text(), Text(f"can't be asked: {', '.join(silent)}; their figures are missing", "yellow")]
    return Group(*parts)


def _clock(state: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(state["at"]))


def _flow(state: dict[str, Any], width: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "events/s", "of target", "lag", "waiting", "bytes", "last minutes"):
        table.add_column(name, justify="left" if name in ("", "last minutes") else "right")
    target = state["target_rate"]
    lag_of = {"commit": None, "log": "commit_to_log", "archive": "log_to_archive"}
    for hop, title in _HOP_NAMES.items():
        rate = state["hops"][hop]["rate"]
        lag = state["lags"][lag_of[hop]] if lag_of[hop] else None
        share = "" if rate is None or not target else f"{rate / target:.0%}"
        table.add_row(
            title,
            _number(rate),
            share,
            "" if lag is None else _seconds(lag["seconds"]),
            "" if lag is None else _number(lag["events"]),
            "" if lag is None else _bytes(lag["bytes"]),
            Text(_spark([step[hop] for step in state["history"]], max(10, min(40, width - 70))), "cyan"),
        )
    whole = state["lags"]["commit_to_archive"]
    late = whole["seconds"] is not None and whole["target_seconds"] and whole["seconds"] > whole["target_seconds"]
    table.add_row("end to end", "", "", Text(_seconds(whole["seconds"]), "bold red" if late else "bold"), "", "", "")
    return table


def _components(state: dict[str, Any]) -> RenderableType:
    panels = []
    for each in state["components"]:
        word, colour = {True: ("up", "green"), False: ("DOWN", "bold red"), None: ("?", "dim")}[each["up"]]
        cores = "" if each["cores"] is None else f"  {each['cores']:.2f} cores"
        body = Text.assemble((word, colour), f"  {_bytes(each['memory_bytes'])}{cores}")
        panels.append(Panel(body, title=each["name"], title_align="left", border_style=colour.split()[-1], width=30))
    return Columns(panels, padding=(0, 1))


def _facts(state: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for connector in state["connectors"]:
        tasks = ", ".join(f"task {task['id']} {task['state']}" for task in connector["tasks"]) or "no task"
        bad = connector["state"] != "RUNNING" or any(task["state"] != "RUNNING" for task in connector["tasks"])
        table.add_row(connector["name"], Text(f"{connector['state']}, {tasks}", "red" if bad else ""))
    for slot in state["slots"]:
        reads = "read" if slot["active"] else "nobody reads it"
        table.add_row(f"slot {slot['name']}", f"{_bytes(slot['retained_bytes'])} of WAL kept, {reads}")
    letters = state["dead_letters"]
    table.add_row("dead letters", Text(_number(letters), "red" if letters else ""))
    archive = state["archive"]
    table.add_row(
        "archive", f"{_number(archive['rows'])} rows, {_number(archive['files'])} files, {_bytes(archive['bytes'])}"
    )
    table.add_row("verification", _verification(state))
    return table


def _verification(state: dict[str, Any]) -> Text:
    found = state["verification"]
    if not found["interval_seconds"]:
        return Text("off", "dim")
    if found["verdict"] is None:
        return Text("not yet")
    through = "" if found["through"] is None else f", verified through {_ago(state, found['through'])}"
    return Text(f"{found['verdict']} {_ago(state, found['at'])}{through}", "" if found["verdict"] == "pass" else "red")


def _list(title: str, lines: list[str], colour: str) -> RenderableType:
    return Panel(Text("\n".join(lines), overflow="ellipsis"), title=title, title_align="left", border_style=colour)


def _ago(state: dict[str, Any], at: float) -> str:
    return f"{_seconds(max(0.0, state['at'] - at))} ago"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:,.0f} {unit}" if unit in ("B", "kB", "MB") else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError


def _spark(values: list[float | None], width: int) -> str:
    """A line of bars, the newest at its right end; gaps where nothing was known.

    >>> _spark([0, 4, None, 8], 4)
    '▁▄ █'
    """
    shown = values[-width:]
    most = max((value for value in shown if value is not None), default=0) or 1
    bars = [" " if value is None else _BARS[min(7, int(value / most * 7.999))] for value in shown]
    return "".join(bars)
