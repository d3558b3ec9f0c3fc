"""Rules over a whole pipeline: what is known to lose, repeat or misfile data is refused before it is deployed.

A guard has an id, a severity, a sentence that says what goes wrong, a cure and a source. `check` asks them all
and gives every finding at once, and every guard that could not be answered.
"""

from __future__ import annotations

from cdcpipe.connect.guards.rule import PROFILES, Finding, Guard, Profile, Report, Severity, Unanswered, check, guards

__all__ = ["PROFILES", "Finding", "Guard", "Profile", "Report", "Severity", "Unanswered", "check", "guards"]
