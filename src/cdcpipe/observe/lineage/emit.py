"""Makes events of facts and sends them: START with a job's first run, RUNNING with each commit, FAIL and COMPLETE when
a connector fails or is stopped. What was told is kept in a file, so that nothing is told twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import httpx2

from cdcpipe.errors import MachineError, MissingExtra, ServiceError
from cdcpipe.observe.lineage.facts import Connector, Dataset, PipelineFacts, Snapshot
from cdcpipe.observe.lineage.validate import problems

__all__ = ["Emitter", "FileTarget", "HttpTarget", "Target", "target_of"]

_PRODUCER = "https://pypi.org/project/cdcpipe"
_ENDED = {"FAILED": "FAIL", "STOPPED": "COMPLETE", "PAUSED": "COMPLETE"}


class Target(Protocol):
    """Where events go."""

    def send(self, event: dict[str, Any]) -> None:
        """Send one. Raises a `CdcpipeError` when it doesn't arrive."""


class FileTarget:
    """A file, a line an event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def send(self, event: dict[str, Any]) -> None:
        """As `Target.send`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event, separators=(",", ":")) + "\n")
        except OSError as error:
            raise MachineError(f"`{self.path}` can't be written: {error.strerror or error}") from error


class HttpTarget:
    """An endpoint that takes events by POST, such as Marquez' `/api/v1/lineage`. `OPENLINEAGE_API_KEY` is its key."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        self.url = url
        self._timeout_seconds = timeout_seconds

    def send(self, event: dict[str, Any]) -> None:
        """As `Target.send`."""
        key = os.environ.get("OPENLINEAGE_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            answer = httpx2.post(self.url, json=event, headers=headers, timeout=self._timeout_seconds)
        except httpx2.HTTPError as error:
            raise ServiceError(f"the lineage endpoint {self.url} doesn't answer: {type(error).__name__}") from error
        if not answer.is_success:
            raise ServiceError(f"the lineage endpoint {self.url} refuses an event: HTTP {answer.status_code}",
                               detail=answer.text[:500])  # fmt: skip


def target_of(text: str) -> Target:
    """A URL as an endpoint, anything else as a file."""
    return HttpTarget(text) if text.startswith(("http://", "https://")) else FileTarget(Path(text))


@dataclass(slots=True)
class _Told:
    """Job -> its run and state, archive -> the last snapshot that was told."""

    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)


class Emitter:
    """Tells `target` of a pipeline. `state` is a file that says what was told."""

    def __init__(self, target: Target, state: Path) -> None:
        try:
            import openlineage.client  # noqa: F401
        except ImportError as error:
            raise MissingExtra("observe", "`cdcpipe lineage`") from error
        self._target = target
        self._state = state
        self._told = self._load()

    def emit(self, facts: PipelineFacts) -> int:
        """Send what `facts` have that was not told yet, and give how many events that were.

        An event counts as told when it has arrived; one that the target refuses is sent again next time.
        """
        count = 0
        for event, told in self._events(facts):
            wrong = problems(event)
            if wrong:
                raise ServiceError(f"an event of ours is not OpenLineage: {wrong[0]}", detail="\n".join(wrong))
            self._target.send(event)
            told()
            self._save()
            count += 1
        return count

    def _events(self, facts: PipelineFacts) -> Iterator[tuple[dict[str, Any], Any]]:
        for dataset in [*facts.tables, *facts.topics, *(each for each in facts.archives if each is not None)]:
            name = f"{dataset.namespace} {dataset.name}"
            columns = [list(column) for column in dataset.columns]
            if self._told.datasets.get(name) != columns:
                yield (
                    _dataset_event(dataset),
                    lambda name=name, columns=columns: self._told.datasets.update({name: columns}),
                )
        archives = [each for each in facts.archives if each is not None]
        if facts.source is not None:
            yield from self._job(facts, facts.source, facts.tables, facts.topics)
        if facts.sink is not None:
            yield from self._job(facts, facts.sink, facts.topics, archives)
            yield from self._commits(facts, facts.sink)

    def _job(
        self, facts: PipelineFacts, connector: Connector, inputs: Sequence[Dataset], outputs: Sequence[Dataset]
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """START of a new run, or the end of one."""
        known = self._told.runs.get(connector.name)
        ended = _ENDED.get(connector.state)
        if ended is None:
            if known is not None and known["state"] == "RUNNING":
                return
            run = {"id": str(uuid.uuid4()), "state": "RUNNING"}
            event = _run_event(facts, connector, run["id"], "START", inputs, [(each, None) for each in outputs])
        else:
            if known is None or known["state"] != "RUNNING":
                return
            run = {"id": known["id"], "state": ended}
            event = _run_event(facts, connector, run["id"], ended, inputs, [(each, None) for each in outputs])
        yield event, lambda: self._told.runs.update({connector.name: run})

    def _commits(self, facts: PipelineFacts, sink: Connector) -> Iterator[tuple[dict[str, Any], Any]]:
        """An event for each snapshot that was not told, table by table."""
        for topic, archive in zip(facts.topics, facts.archives, strict=True):
            run = self._told.runs.get(sink.name)
            if archive is None or run is None:
                continue
            snapshots = facts.snapshots.get(archive.name, ())
            last = self._told.snapshots.get(archive.name)
            numbers = [each.number for each in snapshots]
            fresh = snapshots[numbers.index(last) + 1 :] if last in numbers else snapshots
            for snapshot in fresh:
                event = _run_event(facts, sink, run["id"], "RUNNING", [topic], [(archive, snapshot)])
                yield (
                    event,
                    lambda name=archive.name, number=snapshot.number: self._told.snapshots.update({name: number}),
                )

    def _load(self) -> _Told:
        try:
            return _Told(**json.loads(self._state.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return _Told()
        except (OSError, ValueError, TypeError) as error:
            raise MachineError(f"`{self._state}` doesn't say what was told: {error}", hint="remove it") from error

    def _save(self) -> None:
        content = {"runs": self._told.runs, "snapshots": self._told.snapshots, "datasets": self._told.datasets}
        try:
            self._state.parent.mkdir(parents=True, exist_ok=True)
            staging = self._state.with_name(f".{self._state.name}.new")
            staging.write_text(json.dumps(content), encoding="utf-8")
            staging.replace(self._state)
        except OSError as error:
            raise MachineError(f"`{self._state}` can't be written: {error.strerror or error}") from error


def _schema_facet(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields

    if not dataset.columns:
        return {}
    fields = [
        SchemaDatasetFacetFields(name=name, type=type_, ordinal_position=place)
        for place, (name, type_) in enumerate(dataset.columns, 1)
    ]
    return {"schema": SchemaDatasetFacet(fields=fields, producer=_PRODUCER)}


def _dataset_event(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.generated.base import DatasetEvent, StaticDataset

    static = StaticDataset(dataset.namespace, dataset.name, facets=_schema_facet(dataset))
    return _to_json(DatasetEvent(eventTime=_now(), producer=_PRODUCER, dataset=static))


def _run_event(
    facts: PipelineFacts,
    connector: Connector,
    run_id: str,
    kind: str,
    inputs: Sequence[Dataset],
    outputs: Sequence[tuple[Dataset, Snapshot | None]],
) -> dict[str, Any]:
    from openlineage.client.generated.base import EventType, InputDataset, Job, OutputDataset, Run, RunEvent
    from openlineage.client.generated.error_message_run import ErrorMessageRunFacet
    from openlineage.client.generated.job_type_job import JobTypeJobFacet
    from openlineage.client.generated.processing_engine_run import ProcessingEngineRunFacet

    run_facets: dict[str, Any] = {
        "processing_engine": ProcessingEngineRunFacet(
            version=metadata.version("cdcpipe"), name="cdcpipe", producer=_PRODUCER
        )
    }
    if kind == "FAIL":
        run_facets["errorMessage"] = ErrorMessageRunFacet(
            message=connector.failure or "failed", programmingLanguage="JAVA", producer=_PRODUCER
        )
    job_type = JobTypeJobFacet(
        processingType="STREAMING", integration="KAFKA_CONNECT", jobType="CONNECTOR", producer=_PRODUCER
    )
    snapshot = next((each for _, each in outputs if each is not None), None)
    event = RunEvent(
        eventTime=_now() if snapshot is None else snapshot.at.isoformat(),
        producer=_PRODUCER,
        eventType=EventType(kind),
        run=Run(run_id, facets=run_facets),
        job=Job(facts.namespace, connector.name, facets={"jobType": job_type}),
        inputs=[InputDataset(each.namespace, each.name, facets=_schema_facet(each)) for each in inputs],
        outputs=[
            OutputDataset(
                each.namespace,
                each.name,
                facets=_schema_facet(each) | _version_facet(commit),
                outputFacets=_statistics_facet(commit),
            )
            for each, commit in outputs
        ],
    )
    return _to_json(event)


def _version_facet(snapshot: Snapshot | None) -> dict[str, Any]:
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    if snapshot is None:
        return {}
    return {"version": DatasetVersionDatasetFacet(datasetVersion=str(snapshot.number), producer=_PRODUCER)}


def _statistics_facet(snapshot: Snapshot | None) -> dict[str, Any]:
    from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

    if snapshot is None:
        return {}
    facet = OutputStatisticsOutputDatasetFacet(
        rowCount=snapshot.rows_added, size=snapshot.bytes_added, fileCount=snapshot.files_added, producer=_PRODUCER
    )
    return {"outputStatistics": facet}


def _to_json(event: Any) -> dict[str, Any]:
    from openlineage.client.serde import Serde

    made: dict[str, Any] = json.loads(Serde.to_json(event))
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
