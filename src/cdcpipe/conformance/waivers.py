"""`waivers.toml`: criteria that are known not to hold yet, each with a reason, a link and a last day.

[[waiver]]
criterion = "R2.1"
reason = "the test cluster has one core"
link = "https://tracker.example/PLAT-17"
expires = 2027-01-31
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from cdcpipe.errors import UsageError

__all__ = ["Waiver", "load_waivers"]

_KEYS = {"criterion", "reason", "link", "expires"}


@dataclass(frozen=True, slots=True)
class Waiver:
    """One exception. It holds up to and including the day `expires`."""

    criterion: str
    reason: str
    link: str
    expires: date

    def to_json(self) -> dict[str, str]:
        """As plain JSON values."""
        return {"reason": self.reason, "link": self.link, "expires": self.expires.isoformat()}


def load_waivers(path: Path) -> tuple[Waiver, ...]:
    """The waivers of `path`. Raises `UsageError` that lists every finding."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` can't be read: {error}") from error
    findings = [f"`{key}` is unknown; waivers are `[[waiver]]` tables" for key in content if key != "waiver"]
    found = []
    raw_waivers = content.get("waiver", [])
    if not isinstance(raw_waivers, list):
        raw_waivers, findings = [], [*findings, "`waiver` is not a list of tables: write `[[waiver]]`"]
    for number, raw in enumerate(raw_waivers, start=1):
        wrong = _findings(raw)
        findings += [f"waiver {number}: {each}" for each in wrong]
        if not wrong:
            found.append(Waiver(raw["criterion"], raw["reason"], raw["link"], raw["expires"]))
    if findings:
        raise UsageError(f"`{path}` has waivers that can't be taken", detail="\n".join(findings))
    return tuple(found)


def _findings(raw: dict[str, Any]) -> list[str]:
    findings = [f"`{key}` is unknown" for key in raw if key not in _KEYS]
    for key in ("criterion", "reason", "link"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            findings.append(f"`{key}` is missing or empty")
    expires = raw.get("expires")
    if not isinstance(expires, date) or isinstance(expires, datetime):
        findings.append("`expires` is not a date such as 2027-01-31")
    return findings
