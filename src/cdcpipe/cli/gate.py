"""`cdcpipe gate`."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from cdcpipe.cli._shared import any_target_option


@click.command(
    epilog="""\b
Examples:
  cdcpipe gate                                        a new pipeline on this machine, judged by all criteria
  cdcpipe gate --target existing                      the pipeline that [endpoints] of cdcpipe.toml names
  cdcpipe gate --target existing --allow-faults       its components may be killed for it
  cdcpipe gate --junit gate.xml --markdown "$GITHUB_STEP_SUMMARY" --html gate.html

\b
Exit codes: 0 every criterion that applies holds (or is waived), 1 a criterion is refuted, or a waiver is expired or
needless, 2 usage or environment, 3 not everything could be judged.
"""
)
@any_target_option
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A settings file instead of ./cdcpipe.toml.",
)
@click.option("--stack", "stack_folder", metavar="FOLDER", help="With --target local: the stack in this folder.")
@click.option(
    "--level",
    type=click.Choice(["at_least_once", "effectively_once", "exactly_once"]),
    default="exactly_once",
    show_default=True,
    help="Which repetitions are allowed.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="Of every load and choice.")
@click.option("--allow-faults", is_flag=True, help="Components of an existing pipeline may be killed.")
@click.option(
    "--waivers",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Accepted failures (default: ./waivers.toml).",
)
@click.option(
    "--only",
    multiple=True,
    metavar="CRITERION",
    help="Only this criterion, such as R3.5; more than once. What is left out is `not run`, so it can't be a pass.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Append Markdown to this file.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else on stdout.")
def command(
    target: str,
    config: Path | None,
    stack_folder: str | None,
    level: str,
    seed: int,
    allow_faults: bool,
    waivers: Path | None,
    only: tuple[str, ...],
    junit: Path | None,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Judge a pipeline by the 35 criteria of R1-R7, each with figures as evidence."""
    from cdcpipe.conformance.criteria import load_criteria, suite_folder
    from cdcpipe.errors import MissingExtra, UsageError

    if importlib.util.find_spec("pytest") is None:
        raise MissingExtra("conformance", "the conformance suite")
    criteria, suite = load_criteria(), suite_folder()
    for id_ in only:
        _ = criteria[id_]
    if config is None and target == "existing" and not _has_endpoints():
        raise UsageError(
            "`--target existing` needs to know where the pipeline is",
            hint="write [endpoints] into cdcpipe.toml, or set CDCPIPE_ENDPOINTS__*; see docs/conformance.md",
        )
    with tempfile.TemporaryDirectory(prefix="cdcpipe-gate-") as made:
        command_line = [
            *(sys.executable, "-m", "pytest", str(suite)),
            # The suite's own settings, not those of the project that it is called in.
            *("-c", str(suite / "pytest.toml"), "--rootdir", str(suite), "-p", "no:cacheprovider", "-q"),
            *("--target", target, "--level", level, "--seed", str(seed)),
            *("--conformance-report", made, "--cdcpipe-replay", _again(sys.argv[1:], seed)),
        ]
        for option, value in (
            ("--cdcpipe-config", config),
            ("--cdcpipe-stack", stack_folder),
            ("--waivers", waivers or (Path("waivers.toml") if Path("waivers.toml").is_file() else None)),
            ("--junitxml", junit),
        ):
            if value is not None:
                command_line += [option, str(Path(value).absolute())]
        command_line += ["--allow-faults"] if allow_faults else []
        command_line += [part for id_ in only for part in ("--cdcpipe-only", id_)]
        # What pytest tells goes to stderr: data alone goes to stdout.
        done = subprocess.run(
            command_line, stdout=sys.stderr.fileno() if as_json else None, check=False, env=_environment()
        )
        found = _finished(Path(made), done.returncode)
        if markdown is not None:
            with markdown.open("a", encoding="utf-8") as file:
                file.write((Path(made) / "conformance-report.md").read_text(encoding="utf-8"))
        if html is not None:
            from cdcpipe.conformance.report import relocate

            html.write_text(relocate(Path(found["facts"]["run"]), html.absolute().parent), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    click.get_current_context().exit(int(found["exit_code"]))


def _has_endpoints() -> bool:
    from cdcpipe.settings import load_settings

    return load_settings().endpoints is not None


def _environment() -> dict[str, str]:
    """Ours, without what would change how pytest runs."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}


def _again(arguments: list[str], seed: int) -> str:
    seeded = any(each.startswith("--seed") for each in arguments)
    return f"cdcpipe {shlex.join(arguments)}" + ("" if seeded else f" --seed {seed}")


def _finished(folder: Path, code: int) -> dict[str, Any]:
    """The matrix that pytest left. Without one, or after an interruption, there is no verdict."""
    from cdcpipe.errors import CdcpipeError, MachineError

    path = folder / "conformance-report.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if found.get("facts", {}).get("interrupted"):
        raise KeyboardInterrupt
    if code < 0:
        raise CdcpipeError(
            f"the suite's process was ended by signal {-code}: there is no verdict",
            hint="a stack that it had made may still run: `cdcpipe down --purge --stack` with the folder "
            "/var/tmp/cdcpipe-stack-*/stack",
        )
    if code not in (0, 1) or not found:
        kind = CdcpipeError if code == 3 else MachineError
        raise kind(f"the suite did not come to its end (pytest's exit code {code})", hint="its own words are above")
    return found
