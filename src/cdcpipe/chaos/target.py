"""Which stack a run breaks: a new local one, or the pipeline on a kind cluster; up, healed, and down again."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Protocol

from cdcpipe.chaos.bugs import BUGS, apply
from cdcpipe.chaos.loads import LOADS
from cdcpipe.chaos.plan import ChaosPlan
from cdcpipe.errors import CdcpipeError, UsageError
from cdcpipe.events import Listener, Notice
from cdcpipe.faults.journal import Journal, heal
from cdcpipe.settings import Settings
from cdcpipe.stack.local.stack import LocalStack
from cdcpipe.stack.stack import Stack

__all__ = ["TARGETS", "Breakable", "bring_up", "heal_left", "keep_logs", "local_of", "new_stack", "take_down"]

TARGETS = ("local", "kind")
_LOG_LINES = 20_000


class Breakable(Stack, Protocol):
    """A stack of ours, with a folder in which the journal of its faults lies."""

    folder: Path

    @property
    def exists(self) -> bool:
        """Whether it was ever brought up."""

    def down(self, *, purge: bool = False) -> None:
        """Stop it; `purge` removes it."""


def new_stack(settings: Settings, listener: Listener, target: str = "local") -> Breakable:
    """A stack of a run's own, not up yet. What an earlier run left there is healed, and a local one is removed.

    A local one lies beside the user's own, in a folder of a fixed name. On kind it is the cluster `cdcpipe`.
    """
    folder = settings.stack.with_name(f"{settings.stack.name}-chaos")
    if target == "kind":
        from cdcpipe.stack.kind import open_kind

        return open_kind(folder, settings, listener=listener)
    stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    if stack.exists or folder.exists():
        listener(Notice(f"removing the stack that an earlier run left in `{folder}`"))
        take_down(stack, listener)
        stack = LocalStack(folder, cache=settings.cache, maven_mirror=settings.maven_mirror, listener=listener)
    return stack


def bring_up(plan: ChaosPlan, stack: Breakable) -> None:
    """A stack as `plan` wants it, the bug put in. Raises `UsageError` for what can't be had on a cluster."""
    bug = None if plan.bug is None else BUGS[plan.bug]
    late = plan.snapshot > 0 or (bug is not None and bug.late_topics)
    tables = () if late else LOADS[plan.load](plan.seed).TABLES
    if not isinstance(stack, LocalStack):
        from cdcpipe.stack.kind.plan import KindPlan
        from cdcpipe.stack.kind.stack import KindStack

        assert isinstance(stack, KindStack)
        if bug is not None or plan.versions or plan.snapshot:
            raise UsageError("known bugs, other versions and snapshots are tried on a local stack only")
        stack.up(KindPlan(brokers=plan.brokers, chaos=True), tables=tables)
        return
    versions = {**(bug.versions if bug else {}), **plan.versions}
    options: dict[str, Any] = {"proxied": True} if plan.proxied else {}
    stack.up(brokers=plan.brokers, versions=versions, tables=tables, **options)
    if bug is not None:
        apply(bug, stack)


def local_of(stack: Breakable) -> LocalStack:
    """`stack`, where a plan needs a local one. Raises `UsageError`."""
    if not isinstance(stack, LocalStack):
        raise UsageError("this needs a local stack")
    return stack


def heal_left(stack: Breakable, listener: Listener) -> None:
    """Heal what an earlier run left broken on `stack`, by its journal."""
    for record in heal(stack, Journal.of_folder(stack.folder)):
        how = f"it did not heal: {record.error}" if record.error else "healed"
        listener(
            Notice(f"an earlier run left `{record.kind} {record.target}`: {how}", warning=record.error is not None)
        )


def take_down(stack: Breakable, listener: Listener) -> None:
    """Heal it, and remove it with its data."""
    if stack.exists:
        with contextlib.suppress(CdcpipeError):
            heal_left(stack, listener)
    stack.down(purge=True)


def keep_logs(stack: Breakable, folder: Path) -> None:
    """Each component's log in `folder`: whole from a local stack, else how it ended."""
    logs = stack.folder / "log"
    with contextlib.suppress(OSError, CdcpipeError):
        if logs.is_dir():
            shutil.copytree(logs, folder, dirs_exist_ok=True, ignore_dangling_symlinks=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, component in stack.components.items():
            (folder / f"{name}.log").write_text("\n".join(component.log_tail(_LOG_LINES)), encoding="utf-8")
