"""Puts the conformance suite and the kind deployment into the wheel.

Not into an editable install, which finds them in the source tree.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SuiteHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """`conformance/` -> `cdcpipe/conformance/suite/`, `deploy/kind/` and the lock -> `cdcpipe/_deploy/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built; `version` is `editable` or `standard`."""
        if version != "editable":
            build_data["force_include"]["conformance"] = "cdcpipe/conformance/suite"
            build_data["force_include"]["deploy/kind"] = "cdcpipe/_deploy/kind"
            build_data["force_include"]["requirements.lock"] = "cdcpipe/_deploy/requirements.lock"
