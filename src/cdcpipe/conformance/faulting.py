"""`Faults`: break a component within a block. Behind the fixture `faults`; the faults are those of `cdcpipe.faults`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cdcpipe.conformance.evidence import NotRun

if TYPE_CHECKING:
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.faults import Fault, RunningFault

__all__ = ["Faults"]


class Faults:
    """Faults of one test. Without `allowed`, asking for one ends the test as not run.

    with faults.kill("connect"):
        ...                          # it is dead in here, and ready again behind the block
    """

    def __init__(self, pipeline: Pipeline, *, allowed: bool) -> None:
        self._pipeline = pipeline
        self._allowed = allowed
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def demand(self, *components: str) -> None:
        """End the test as not run, unless faults are allowed and all of `components` can be managed."""
        if not self._allowed:
            raise NotRun("it breaks components: allow it with `--allow-faults`")
        missing = [name for name in components if name not in self._pipeline.stack.components]
        if missing:
            raise NotRun(
                f"this target doesn't tell how to manage {', '.join(missing)}: "
                "give commands in [endpoints.components.NAME]"
            )

    @contextlib.contextmanager
    def apply(self, fault: Fault) -> Iterator[RunningFault]:
        """`fault` in force within the block, healed behind it whatever happens."""
        from cdcpipe.faults import Journal

        self.demand()
        folder = getattr(self._pipeline.stack, "folder", None)
        if folder is None:
            if self._folder is None:
                self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="cdcpipe-faults-")))
            folder = self._folder
        with fault.applied(self._pipeline.stack, Journal.of_folder(Path(folder))) as running:
            yield running

    @contextlib.contextmanager
    def kill(self, component: str) -> Iterator[RunningFault]:
        """SIGKILL; started again, and awaited, behind the block."""
        from cdcpipe.faults import Kill

        self.demand(component)
        with self.apply(Kill(component)) as running:
            yield running

    @contextlib.contextmanager
    def stop(self, component: str) -> Iterator[RunningFault]:
        """An orderly end; started again, and awaited, behind the block."""
        from cdcpipe.faults import Stop

        self.demand(component)
        with self.apply(Stop(component)) as running:
            yield running

    @contextlib.contextmanager
    def pause(self, component: str) -> Iterator[RunningFault]:
        """SIGSTOP, and SIGCONT behind the block."""
        from cdcpipe.faults import Pause

        self.demand(component)
        with self.apply(Pause(component)) as running:
            yield running
