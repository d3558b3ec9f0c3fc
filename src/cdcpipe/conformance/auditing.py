"""Things that are done to a pipeline, and looked for in its audit trail: the evidence of R7.5."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdcpipe.conformance.pipeline import Pipeline
from cdcpipe.errors import EvidenceError
from cdcpipe.observe.audit import Collector, Entry, Trail, verify
from cdcpipe.observe.audit.collect import Places
from cdcpipe.stack.component import wait_until

__all__ = ["Audited", "audited"]

_LOGGER = "org.apache.kafka.connect.runtime.rest.audited"
_AVRO = {"type": "record", "name": "Audited", "fields": [{"name": "id", "type": "int"}]}


@dataclass(frozen=True, slots=True)
class Audited:
    """Which of the things that were done stand in the trail, and whether the trail shows that it was altered."""

    found: Mapping[str, Entry | None]
    entries: int
    problems: Mapping[str, str]
    whole: bool
    tampering_found: bool
    told: list[dict[str, Any]]


def audited(pipeline: Pipeline, places: Places, table: str, folder: Path, *, timeout_seconds: float = 30) -> Audited:
    """Read and change something at each server, collect the trail into `folder`, and look for it by what and who."""
    trail = Trail(folder)
    with contextlib.closing(Collector(trail, places)) as collector:
        if not collector.hear() and places.s3_socket is not None:
            raise EvidenceError(
                "another process hears the S3 access log, so what is done to objects can't be looked for",
                hint="end `cdcpipe monitor --audit` or `cdcpipe audit collect --follow` while the gate runs",
            )
        collector.collect()  # what was before isn't ours
        subject = f"audited-{pipeline.token}"
        _do(pipeline, table, subject)
        wanted = _wanted(pipeline, table, subject, s3=places.s3_socket is not None)
        found: dict[str, Entry | None] = dict.fromkeys(wanted)
        problems: dict[str, str] = {}

        def all_there() -> bool:
            problems.clear()
            problems.update(collector.collect().problems)
            for entry in trail.entries():
                for what, is_it in wanted.items():
                    if found[what] is None and is_it(entry):
                        found[what] = entry
            return not problems and all(found.values())

        with contextlib.suppress(EvidenceError):  # what is missing is told by `found`
            wait_until(
                all_there, what="the trail", timeout_seconds=timeout_seconds, interval_seconds=1, error=EvidenceError
            )
    entries = list(trail.entries())
    return Audited(
        found,
        len(entries),
        dict(problems),
        verify(folder).intact,
        _shows_tampering(folder),
        [asdict(entry) for entry in entries],
    )


def _do(pipeline: Pipeline, table: str, subject: str) -> None:
    pipeline.execute(f"ALTER TABLE {table} ADD COLUMN audited text")
    pipeline.execute(f"SELECT count(*) FROM {table}", role="witness")
    with pipeline.registry() as registry:
        registry.register(subject, _AVRO)
        registry.delete(subject)
        registry.delete(subject, permanent=True)
    with pipeline.connect() as client:
        client.set_logger(_LOGGER, "INFO")
    pipeline.probe(archive=True)


def _wanted(pipeline: Pipeline, table: str, subject: str, *, s3: bool) -> dict[str, Callable[[Entry], bool]]:
    roles = pipeline.endpoints.postgres.roles
    owner, witness = roles["owner"].name, roles["witness"].name
    wanted: dict[str, Callable[[Entry], bool]] = {
        "a table was altered": lambda e: e.action == "ddl.applied" and e.actor == owner and table in e.object,
        "the database was read": lambda e: e.action == "session.opened" and e.actor == witness,
        "the registry was changed": lambda e: e.action.startswith("schema.") and subject in e.object,
        "Connect was changed": lambda e: e.action == "logger.changed" and e.object == _LOGGER,
    }
    if s3:
        wanted["objects were written"] = lambda e: e.source == "s3" and e.action == "object.written"
    return wanted


def _shows_tampering(folder: Path) -> bool:
    """Whether an altered copy of the trail is told from the trail."""
    copy = folder.with_name(f"{folder.name}-altered")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    for path in sorted(copy.glob("trail-*.jsonl")):
        text = path.read_text(encoding="utf-8")
        altered = text.replace('"outcome":"ok"', '"outcome":"failed"', 1)
        if altered != text:
            path.write_text(altered, encoding="utf-8")
            return not verify(copy).intact
    return False
