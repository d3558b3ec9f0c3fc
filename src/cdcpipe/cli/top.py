"""`cdcpipe top`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from cdcpipe.cli._shared import any_target_option, echo_json, stack_option


@click.command(
    epilog="""\b
Examples:
  cdcpipe top                                live, until Ctrl-C
  cdcpipe top --url http://monitor:9464      of a monitor elsewhere
  cdcpipe top --once                         one picture, for a file or a script
  cdcpipe top --once --json | jq .lags
"""
)
@stack_option
@any_target_option
@click.option("--url", metavar="URL", help="The page of a running `cdcpipe monitor`.")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print one JSON object.")
def command(stack_folder: Path | None, target: str, url: str | None, once: bool, as_json: bool) -> None:
    """Watch a running pipeline in the terminal: rates, lags, states, anomalies, alerts.

    Shows what a running `cdcpipe monitor` knows; when there is none, asks the pipeline itself.
    """
    if as_json and not once:
        raise click.UsageError("`--json` needs `--once`")
    with _states(stack_folder, target, url) as state:
        if as_json:
            echo_json(state())
            return
        from rich.console import Console

        from cdcpipe.observe.top import render

        console = Console()
        if once:
            console.print(render(state(), width=console.width))
            return
        _live(console, state)


def _live(console: Any, state: Callable[[], dict[str, Any]]) -> None:
    from rich.live import Live

    from cdcpipe.observe.top import render

    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                live.update(render(state(), width=console.width), refresh=True)
                time.sleep(2)  # the step of the monitor's own history


@contextlib.contextmanager
def _states(stack_folder: Path | None, target: str, url: str | None) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that gives the state of now: a running monitor's, or that of one which runs in this process."""
    from cdcpipe.observe.monitor_local import connector_names, surroundings
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.targets import open_stack

    if url is not None:
        yield lambda: _fetch(url)
        return
    settings = load_settings(stack=stack_folder)
    stack = open_stack(target, settings)
    _ = stack.endpoints  # `StackNotRunning` before anything else
    around, names = surroundings(stack, settings.monitor), connector_names(settings, target)
    running = f"http://{around.listen.replace('0.0.0.0', '127.0.0.1')}"
    if _answers(running):
        yield lambda: _fetch(running)
        return
    from cdcpipe.errors import StackError
    from cdcpipe.observe.monitor import Monitor
    from cdcpipe.stack.component import wait_until

    click.echo("no monitor runs: asking the pipeline itself", err=True)
    own = settings.monitor.model_copy(update={"verify_seconds": 0})
    with Monitor(stack, own, metrics=around.metrics, folders=around.folders, **names) as monitor:
        wait_until(lambda: monitor.ready, what="every source asked once", timeout_seconds=60, error=StackError)
        yield monitor.state


def _answers(url: str) -> bool:
    import httpx2

    try:
        return bool(
            httpx2.get(f"{url}/api/state", timeout=2, trust_env=False).json().get("schema") == "cdcpipe.monitor/1"
        )
    except (httpx2.HTTPError, ValueError, AttributeError):
        return False


def _fetch(url: str) -> dict[str, Any]:
    import httpx2

    from cdcpipe.errors import ServiceError

    try:
        answer = httpx2.get(f"{url.rstrip('/')}/api/state", timeout=5, trust_env=False)
        state: dict[str, Any] = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise ServiceError(
            f"the monitor at {url} doesn't answer: {type(error).__name__}", hint="start one with `cdcpipe monitor`"
        ) from error
    return state
