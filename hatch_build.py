"""Puts the conformance suite into the wheel. Not into an editable install, which finds it in the source tree."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SuiteHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    """`conformance/` -> `cdcpipe/conformance/suite/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built; `version` is `editable` or `standard`."""
        if version != "editable":
            build_data["force_include"]["conformance"] = "cdcpipe/conformance/suite"
