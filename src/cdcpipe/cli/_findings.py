"""What `cdcpipe config lint` found, as text, JSON and SARIF. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cdcpipe.connect.guards import Finding, Guard, Report, Unanswered
from cdcpipe.connect.pipeline import Place

__all__ = ["as_json", "as_sarif", "as_text", "summary", "unanswered_text"]


def _where(place: Place) -> str:
    at = f":{place.line}:{place.column}" if place.line else ""
    return f"{place.file or '<pipeline>'}{at}"


def as_text(found: Finding) -> str:
    """One finding: what is wrong, where, who says so, what to do."""
    if found.value is not None:
        shown = f'{found.place.path} = "{found.value}"'
    else:
        shown = f"{found.place.path} (no `{found.key}`)" if found.key else found.place.path
    return "\n".join(
        [
            f"{found.severity}: {found.message}",
            f"  --> {_where(found.place)}: {shown}",
            f"  rule: {found.rule} ({found.source}) · profile {found.profile}",
            f"hint: {found.cure}",
        ]
    )


def unanswered_text(unanswered: Iterable[Unanswered]) -> list[str]:
    """A line for each reason, with the guards that it keeps from an answer."""
    reasons: dict[str, list[str]] = {}
    for one in unanswered:
        reasons.setdefault(one.reason, []).append(one.rule)
    return [f"not answered: {', '.join(rules)}: {reason}" for reason, rules in reasons.items()]


def summary(report: Report, guards: int) -> str:
    """One line: how many guards, findings and unanswered."""
    errors, warnings = len(report.errors), len(report.findings) - len(report.errors)
    if not report.findings:
        return f"{guards} guards asked, nothing found"
    parts = [f"{count} {word}{'s' if count != 1 else ''}" for count, word in ((errors, "error"), (warnings, "warning"))]
    return f"{guards} guards asked: {', '.join(part for part in parts if not part.startswith('0 '))}"


def as_json(report: Report, profile: str) -> dict[str, Any]:
    """The whole report as one object."""
    return {
        "profile": profile,
        "verdict": "fail" if report.errors else "pass",
        "findings": [
            {
                "rule": found.rule,
                "severity": found.severity,
                "message": found.message,
                "file": found.place.file,
                "line": found.place.line,
                "column": found.place.column,
                "path": found.place.path,
                "key": found.key,
                "value": found.value,
                "cure": found.cure,
                "source": found.source,
            }
            for found in report.findings
        ],
        "unanswered": [{"rule": one.rule, "reason": one.reason} for one in report.unanswered],
    }


def as_sarif(report: Report, guards: Iterable[Guard], version: str) -> dict[str, Any]:
    """The report in SARIF 2.1.0, which code hosts show beside the lines of a change."""
    used = {found.rule for found in report.findings}
    rules = [rule for rule in guards if rule.id in used]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "cdcpipe config lint",
                        "version": version,
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.sentence},
                                "help": {"text": rule.cure},
                                "helpUri": rule.source,
                                "defaultConfiguration": {"level": rule.severity},
                            }
                            for rule in rules
                        ],
                    }
                },
                "results": [_result(found) for found in report.findings],
            }
        ],
    }


def _result(found: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": found.place.file.replace("\\", "/") or "pipeline"}}
    if found.place.line:
        location["region"] = {"startLine": found.place.line, "startColumn": found.place.column}
    return {
        "ruleId": found.rule,
        "level": found.severity,
        "message": {"text": f"{found.message}. {found.cure}"},
        "locations": [{"physicalLocation": location}],
    }
