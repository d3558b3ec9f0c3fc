"""What a target's name means: `local`, `containers`, `kind`, `existing`.

    with running_stack("local", load_settings()) as stack:
        stack.endpoints, stack.components["connect"].kill()

A target's own module is imported when it is asked for: none of them costs anything otherwise.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from cdcpipe.errors import SettingsError, StackNotRunning, UsageError
from cdcpipe.events import Listener, ignore
from cdcpipe.settings import Settings
from cdcpipe.stack.stack import Stack

__all__ = ["TARGETS", "ManagedStack", "open_stack", "running_stack"]

TARGETS = ("local", "containers", "kind", "existing")


class ManagedStack(Stack, Protocol):
    """A stack that can be brought up and down."""

    def up(self, *, tables: tuple[str, ...] = (), await_archive: bool = False) -> None:
        """Bring it up, with the topics of `tables`; or, where it isn't ours, make sure that it answers."""

    def down(self, *, purge: bool = False) -> None:
        """Take it down, or leave it alone where it isn't ours."""


def open_stack(
    target: str, settings: Settings, *, folder: Path | str | None = None, listener: Listener = ignore
) -> ManagedStack:
    """The stack of `target`; nothing runs and nothing is written until `up`. `folder` is where a stack of ours lives.

    Raises `UsageError` for an unknown target, `SettingsError` when its settings are missing, `MachineError` when the
    machine lacks what it needs.
    """
    where = Path(folder) if folder is not None else settings.stack
    if target == "local":
        from cdcpipe.stack.local.stack import LocalStack

        local = LocalStack(where, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
        return cast(ManagedStack, local)
    if target == "existing":
        from cdcpipe.stack.existing import ExistingStack

        if settings.endpoints is None:
            raise SettingsError(
                "`--target existing` needs to know where the pipeline is",
                hint="write [endpoints] into cdcpipe.toml, or set CDCPIPE_ENDPOINTS__*; see docs/conformance.md",
            )
        return ExistingStack(settings.endpoints)
    if target == "containers":
        from cdcpipe.stack.artefacts import Store
        from cdcpipe.stack.containers import ContainerStack

        store = Store(settings.cache, mirror=settings.maven_mirror, listener=listener)
        return ContainerStack(where, settings.containers, store=store, listener=listener)
    if target == "kind":
        from cdcpipe.stack.kind import open_kind

        return cast(ManagedStack, open_kind(where, settings, listener=listener))
    raise UsageError(f"there is no target `{target}`", hint=f"targets are {', '.join(TARGETS)}")


def _runs(stack: ManagedStack) -> bool:
    try:
        return len(stack.running()) == len(stack.components) > 0
    except StackNotRunning:
        return False


@contextlib.contextmanager
def running_stack(
    target: str,
    settings: Settings,
    *,
    folder: Path | str | None = None,
    tables: tuple[str, ...] = (),
    listener: Listener = ignore,
) -> Iterator[ManagedStack]:
    """A stack that runs. Without `folder`, a stack of ours is a new one, and gone afterwards; in `folder` it is brought
    up if need be, and left running. `CDCPIPE_TEST_STACK` names a folder too. An existing one is only looked at.
    """
    kept = folder or os.environ.get("CDCPIPE_TEST_STACK") or None
    if target == "existing" or kept is not None:
        stack = open_stack(target, settings, folder=kept, listener=listener)
        # One that runs is left as it is: `up` would put right what somebody may have set otherwise on purpose.
        if target == "existing" or not _runs(stack):
            stack.up(tables=tables, await_archive=True)
        yield stack
        return
    # Not below a home of mode 0700: a server that doesn't run as us must be able to reach it.
    parent = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="cdcpipe-stack-", dir=parent, ignore_cleanup_errors=True) as made:
        stack = open_stack(target, settings, folder=Path(made) / "stack", listener=listener)
        try:
            stack.up(tables=tables, await_archive=True)
            yield stack
        finally:
            stack.down(purge=True)
