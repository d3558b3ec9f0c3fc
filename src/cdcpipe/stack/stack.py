"""What every kind of stack is, wherever it runs: endpoints, components and links, up and down.

Conformance tests, faults and monitors are written against `Stack` alone. `open_stack` in `stack.targets` finds the
kind that a target's name means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cdcpipe.stack.component import Component
from cdcpipe.stack.endpoints import Endpoints
from cdcpipe.stack.link import Link
from cdcpipe.stack.pipeline import PipelineSettings

__all__ = ["Stack"]


class Stack(Protocol):
    """A pipeline's servers, of one kind: `local`, `kind`, `containers`, `existing`."""

    @property
    def endpoints(self) -> Endpoints:
        """Where its servers are. Raises `StackNotRunning` when there is none."""

    @property
    def settings(self) -> PipelineSettings:
        """How its pipeline is set up."""

    @property
    def components(self) -> Mapping[str, Component]:
        """Name -> component, in the order in which they start; empty where nothing can be managed (`existing`)."""

    @property
    def links(self) -> Mapping[str, Link]:
        """Name -> link that can be broken; empty where no proxy stands in the links."""

    def running(self) -> Sequence[Component]:
        """The components that run now."""

    def memory_bytes(self) -> dict[str, int]:
        """Component -> proportional set size."""

    def plugin_versions(self) -> dict[str, str]:
        """`debezium`, `iceberg`, `avro-converter` -> version of what Connect runs."""
