"""`cdcpipe doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from cdcpipe.cli._shared import echo_json


@click.command(
    epilog="""\b
Examples:
  cdcpipe doctor
  cdcpipe doctor --json
"""
)
@click.option("--offline", is_flag=True, help="Don't try whether the Maven repository answers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(offline: bool, as_json: bool) -> None:
    """Check whether this machine can run the local stack. Exit 2 when something is missing."""
    from cdcpipe.settings import load_settings
    from cdcpipe.stack.local.machine import examine

    findings = examine(load_settings(), offline=offline)
    ok = all(finding.state != "fail" for finding in findings)
    if as_json:
        echo_json({"schema": "cdcpipe.doctor/1", "ok": ok, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:<5} {finding.name:<12} {finding.found}")
            if finding.cure and finding.state != "ok":
                click.echo(f"      {'':<12} → {finding.cure}")
    if not ok:
        click.get_current_context().exit(2)
