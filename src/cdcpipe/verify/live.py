"""Verification of a running pipeline: take the ledgers, wait until they have settled, compare.

Nothing is paused. The log is read up to its end first and the WAL last, so that the wal ledger covers all that the log
holds; what was committed after the watermark is `unsettled`.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdcpipe.connect.rest import ConnectClient
from cdcpipe.errors import EvidenceError
from cdcpipe.ledger.canonical import Modes
from cdcpipe.ledger.room import ROOMY, Room
from cdcpipe.ledger.store import Ledger
from cdcpipe.ledger.wal import WalWitness
from cdcpipe.stack.endpoints import SINK, SOURCE, Endpoints
from cdcpipe.verify.cut import StateRead, read_state
from cdcpipe.verify.evidence import Cut
from cdcpipe.verify.fold import compare_state
from cdcpipe.verify.judge import events
from cdcpipe.verify.outcome import Report, VerifiedThrough
from cdcpipe.verify.reading import Captured
from cdcpipe.verify.schema import SchemaFacts
from cdcpipe.verify.schemafacts import of_registry
from cdcpipe.verify.settle import Marker, captured_topics, end_offsets, mark, settle
from cdcpipe.verify.verdict import Verdict

__all__ = ["events_of", "judge_run", "state", "verified_through"]

Tell = Callable[[str], None]
"""Is told what is being waited for."""


def _quiet(_: str) -> None:
    return


def events_of(
    endpoints: Endpoints,
    *,
    seconds: float = 30.0,
    folder: Path | None = None,
    modes: Modes | None = None,
    source: str = SOURCE,
    sink: str = SINK,
    tell: Tell = _quiet,
    stop: threading.Event | None = None,
    timeout_seconds: float = 120.0,
    **terms: Any,
) -> Report:
    """Witness the pipeline for `seconds` from now on, and compare what the WAL, the log and the archive have of it.

    Ledgers are left in `folder` (default: thrown away) as those of a run. `stop` ends the witnessing early. `terms` are
    those of `events` (`level`, …). Value modes and skipped operations are those of the source connector's config.
    Raises the `ServiceError` of a server that can't be asked.
    """
    config = _config(endpoints, source)
    modes = modes or Modes.from_config(config)
    terms.setdefault("skipped_operations", _skipped(config))
    with _run_folder(folder) as run:
        begun = datetime.now(UTC)
        # Before the slot is opened: nothing that it witnesses lies below these offsets.
        begin = end_offsets(endpoints, captured_topics(endpoints))
        witness = WalWitness(
            endpoints.postgres,
            run / "ledgers" / "wal",
            publication=endpoints.publication,
            modes=modes,
            images=True,
        )
        with witness:
            tell(f"witnessing the WAL for {seconds:g} s")
            (stop or threading.Event()).wait(seconds)
            tell("waiting until what was committed is archived")
            settled = settle(endpoints, source=source, sink=sink, timeout_seconds=timeout_seconds)
            settled.cut.save(run / "ledgers" / "cut.json")
            captured = Captured.of(endpoints, modes)
            tell("reading the log")
            log = captured.log(run / "ledgers" / "log", begin=begin, images=True)
            tell("reading the archive")
            archive = captured.archive(run / "ledgers" / "archive", since=begun, images=True)
            tell("reading the rest of the WAL")
            wal = witness.stop(timeout_seconds=timeout_seconds)
        tell("comparing")
        if endpoints.registry_url:
            written = log.manifest.schemas
            versions = of_registry(endpoints.registry_url, captured.topics.values(), written)
            terms.setdefault("schemas", SchemaFacts(versions=versions or None))
        return events(wal, log, archive, cut=settled.cut, temp_folder=run, **terms)


def state(
    endpoints: Endpoints,
    *,
    tables: Iterable[str] | None = None,
    folder: Path | None = None,
    modes: Modes | None = None,
    source: str = SOURCE,
    sink: str = SINK,
    attempts: int = 3,
    tell: Tell = _quiet,
    timeout_seconds: float = 120.0,
    room: Room = ROOMY,
) -> Report:
    """Whether the archive is equal to the tables as they are now. Writers go on; see `cdcpipe.verify.cut`.

    `tables` default to all captured ones. A cut that a TRUNCATE ran into is taken again, `attempts` times in all.
    `room` bounds the memory that it takes.
    Raises the `ServiceError` of a server that can't be asked, `UsageError` for a table that is not captured.
    """
    wanted = None if tables is None else list(tables)
    modes = modes or Modes.from_config(_config(endpoints, source))
    for attempt in range(attempts):
        with _run_folder(folder if attempt == 0 else None) as run:
            report, read = _state_once(endpoints, wanted, run, modes, source, sink, tell, timeout_seconds, room)
        if not read.rewritten:
            break
        tell(f"{', '.join(read.rewritten)} was truncated meanwhile; taking another cut")
    return report


def _state_once(
    endpoints: Endpoints,
    tables: list[str] | None,
    run: Path,
    modes: Modes | None,
    source: str,
    sink: str,
    tell: Tell,
    timeout_seconds: float,
    room: Room,
) -> tuple[Report, StateRead]:
    wanted = Captured.of(endpoints).tables if tables is None else tables
    markers: list[Marker] = []
    tell("reading the tables in one snapshot")
    read = read_state(
        endpoints.postgres,
        run / "state",
        publication=endpoints.publication,
        tables=wanted,
        modes=modes,
        on_snapshot=lambda _: markers.append(mark(endpoints)),
        room=room,
    )
    tell("waiting until the cut is archived")
    settled = settle(endpoints, source=source, sink=sink, marker=markers[0], timeout_seconds=timeout_seconds)
    tell("reading the archive")
    # Only now: the topic of a new table comes with its first change.
    archive = Captured.of(endpoints, modes, tables=read.tables).archive(run / "ledgers" / "archive", room=room)
    tell("comparing")
    cut = settled.cut
    report = compare_state(
        read,
        archive,
        reached=cut.reached,
        waiting_for=cut.waiting_for,
        threads=room.threads,
        temp_folder=run,
    )
    return report, read


def judge_run(run: Path | str, **terms: Any) -> Report:
    """Judge the ledgers of an old run again: `<run>/ledgers/{wal,log,archive}`, with its `cut.json` if it left one.

    EvidenceError when the folder has no ledger, or one that was not finished.
    """
    folder = Path(run)
    ledgers = folder / "ledgers"
    found = {kind: ledgers / kind for kind in ("wal", "log", "archive") if (ledgers / kind).is_dir()}
    if not found:
        raise EvidenceError(
            f"{folder} has no ledgers", hint="name the folder of a run, such as `runs/latest` or `runs/demo/<time>`"
        )
    path = ledgers / "cut.json"
    cut = Cut.load(path) if path.exists() else None
    given: dict[str, Any] = {kind: Ledger.open(each) for kind, each in found.items()}
    return events(**given, cut=cut, **terms)


def verified_through(reports: Iterable[Report]) -> Iterator[tuple[Report, VerifiedThrough | None]]:
    """The gauge over a series of verifications: each report with how far everything is verified.

    It moves with each pass. A `fail` or `inconclusive` holds it where it was: what lies behind it stays unverified
    until a state at a later cut passes, since that covers all that came before.
    """
    through: VerifiedThrough | None = None
    for report in reports:
        if report.verdict is Verdict.PASS and report.verified_through is not None:
            through = report.verified_through
        yield report, through


# --- what there is -------------------------------------------------------------


@contextlib.contextmanager
def _run_folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cdcpipe-verify-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _config(endpoints: Endpoints, source: str) -> dict[str, str]:
    """The source connector's config: it says how values are written, and what is skipped."""
    with ConnectClient(endpoints.connect_url, timeout_seconds=10) as client:
        return client.config(source)


def _skipped(config: dict[str, str]) -> tuple[str, ...]:
    """Operations that the connector doesn't publish. Debezium's default is to skip truncates."""
    given = config.get("skipped.operations", "t")
    return tuple(op for op in (each.strip() for each in given.split(",")) if op and op != "none")
