"""What several criteria are judged by: tables made at once, one load, one schema that evolves under its consumers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cdcpipe.conformance.evolving import Evolution
    from cdcpipe.conformance.loading import Load
    from cdcpipe.conformance.pipeline import Pipeline
    from cdcpipe.conformance.watching import Watching

TABLES = {
    "dml": "id bigint PRIMARY KEY, name text, amount numeric(12,2), at timestamptz, tags text[], note text",
    "traced": "id int PRIMARY KEY, note text NOT NULL",
    "evolving": "id int PRIMARY KEY, a text NOT NULL, n int",
    "read": "id int PRIMARY KEY, word text NOT NULL, amount numeric(10,2), at timestamptz, flags boolean[]",
    "poisoned": "id int PRIMARY KEY, note text NOT NULL",
    "repaired": "id int PRIMARY KEY, note text NOT NULL",
    "audited": "id int PRIMARY KEY, note text NOT NULL",
    "encrypted": "id int PRIMARY KEY, note text NOT NULL",
    "quality": "id bigint PRIMARY KEY, amount bigint NOT NULL, note text",
}


@pytest.fixture(scope="session")
def tables(pipeline: Pipeline) -> dict[str, str]:
    """Short name -> table. All at once and before anything else: each new topic makes the sink rebalance."""
    pipeline.shop_tables()
    return pipeline.tables(TABLES)


@pytest.fixture(scope="session")
def watching(pipeline: Pipeline, tables: dict[str, str]) -> Iterator[Watching]:
    """The monitor beside the pipeline, for as long as the session."""
    from cdcpipe.conformance.watching import Watching

    with Watching(pipeline) as running:
        yield running


@pytest.fixture(scope="session")
def load(
    pipeline: Pipeline, tables: dict[str, str], watching: Watching, tmp_path_factory: pytest.TempPathFactory
) -> Load:
    """The load at the required rate, watched and verified. An error of it is told by every test that needs it."""
    from cdcpipe.conformance.loading import run_load

    wanted = pipeline.load
    return run_load(
        pipeline,
        tmp_path_factory.mktemp("load"),
        rate=wanted.rate,
        seconds=wanted.seconds,
        warm_up=wanted.warm_up,
        scrape=watching.scrape,
    )


@pytest.fixture(scope="session")
def evolution(pipeline: Pipeline, tables: dict[str, str]) -> Evolution:
    """A table that gets columns while rows are written and consumers of its first schema read."""
    from cdcpipe.conformance.evolving import evolve

    return evolve(pipeline, tables["evolving"])


@pytest.fixture(autouse=True)
def _pipeline_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Behind each test: what it has left FAILED is put in motion again, so that one failure stays one."""
    yield
    if "pipeline" in request.fixturenames:
        found: Any = request.getfixturevalue("pipeline")
        found.revive()
