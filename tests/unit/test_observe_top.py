"""`cdcpipe top` as text: what it shows of a state, and that nothing is said by colour alone."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from cdcpipe.observe.exporter import Exporter
from cdcpipe.observe.monitor_state import Alert, History, Told, state_of
from cdcpipe.observe.top import render


def shown(exporter: Exporter, **more: Any) -> str:
    """The picture without any colour."""
    history = History(exporter)
    for step in range(4):
        exporter.set("cdcpipe_events_total", step * 2000.0, hop="log")
        history.step(now=1000.0 + 2 * step)
    given = {"anomalies": [], "lines": [], "alerts": None, **more}
    names: dict[str, Any] = {"components": ("postgres", "kafka-1"), "connectors": ("cdcpipe-source", "cdcpipe-sink")}
    state = state_of(exporter, history, **names, **given)
    out = io.StringIO()
    Console(file=out, width=110, color_system=None).print(render(state, width=110))
    return out.getvalue()


def exporter() -> Exporter:
    made = Exporter()
    made.set("cdcpipe_component_up", 1, component="postgres")
    made.set("cdcpipe_component_up", 0, component="kafka-1")
    made.set("cdcpipe_component_memory_bytes", 320e6, component="postgres")
    made.set("cdcpipe_throughput_target_events_per_second", 10_000)
    made.set("cdcpipe_connector_state", 1, connector="cdcpipe-sink", state="RUNNING")
    made.set("cdcpipe_task_state", 1, connector="cdcpipe-sink", task="0", state="FAILED")
    made.set("cdcpipe_slot_retained_bytes", 48e6, slot="s")
    made.set("cdcpipe_dead_letters_kept", 3, topic="dlq")
    made.set("cdcpipe_lag_seconds", 75, hop="commit_to_archive")
    made.set("cdcpipe_monitor_source_up", 0, source="jmx_connect")
    return made


def test_without_colour_everything_that_is_wrong_can_still_be_read() -> None:
    text = shown(exporter())
    for word in (
        "✗ down",
        "kafka-1 does not answer",
        "DOWN",
        "task 0 FAILED",
        "nobody reads it",
        "48 MB of WAL kept",
        "75 s",
        "can't be asked: jmx_connect",
    ):
        assert word in text, text


def test_rates_stand_against_the_target() -> None:
    line = next(line for line in shown(exporter()).splitlines() if "into Kafka" in line)
    assert line.split()[2:4] == ["1,000", "10%"]


def test_firing_alerts_and_anomalies_are_listed_and_pending_ones_are_not() -> None:
    def alert(state: str, summary: str) -> Alert:
        return Alert("A", "critical", state, "", summary, "", {})

    text = shown(
        exporter(),
        alerts=[alert("firing", "it burns"), alert("pending", "it smokes")],
        anomalies=[Told(1.0, "slot-loss", "slot s is gone")],
    )
    assert "it burns" in text
    assert "it smokes" not in text
    assert "slot-loss: slot s is gone" in text


def test_what_is_not_known_is_a_dash_and_no_zero() -> None:
    line = next(line for line in shown(Exporter()).splitlines() if line.startswith("commits"))
    assert line.split()[1] == "-"
