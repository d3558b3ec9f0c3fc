"""Profile, learn and check a pipeline's archive: what `cdcpipe quality` and the monitor call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
from pyiceberg.exceptions import NoSuchNamespaceError

from cdcpipe.errors import CdcpipeError, EvidenceError
from cdcpipe.observe.quality.baseline import Baseline, learn
from cdcpipe.observe.quality.expectations import Unmet, expect, load_expectations
from cdcpipe.observe.quality.history import History
from cdcpipe.observe.quality.judge import Judgement, check
from cdcpipe.observe.quality.profiling import profile
from cdcpipe.observe.quality.sources import archive_rows, floor
from cdcpipe.settings import QualitySettings
from cdcpipe.stack.catalog import open_catalog
from cdcpipe.stack.endpoints import Endpoints

__all__ = ["QualityReport", "check_archive", "learn_archive", "profile_archive"]

GRACE_SECONDS = 60.0
"""How long after its end a span is closed: what was committed in it is archived by then, while the pipeline works."""


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Judgements by table, and expectations that don't hold. `problems` says what could not be looked at."""

    judgements: tuple[Judgement, ...]
    unmet: tuple[Unmet, ...]
    problems: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`fail` over `inconclusive` over `pass`; nothing looked at is inconclusive."""
        if self.unmet or any(each.verdict == "fail" for each in self.judgements):
            return "fail"
        silent = not self.judgements or any(each.verdict != "pass" for each in self.judgements)
        return "inconclusive" if self.problems or silent else "pass"


@contextmanager
def _engine(temp_folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with bounded memory: what doesn't fit is spilled to `temp_folder`."""
    connection = duckdb.connect(
        config={"memory_limit": "512MB", "temp_directory": str(temp_folder / "tmp"), "threads": 2}
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def archived_tables(endpoints: Endpoints, settings: QualitySettings) -> list[str]:
    """Captured tables that have rows in the archive, those to be ignored left out."""
    found: list[str] = []
    with closing(open_catalog(endpoints)) as catalog:
        for schema in endpoints.captured_schemas:
            with suppress(NoSuchNamespaceError):
                found += [f"{schema}.{name[-1]}" for name in catalog.list_tables(endpoints.topic_of(schema))]
    return sorted(table for table in found if table not in settings.ignore_tables)


def profile_archive(
    endpoints: Endpoints,
    history: History,
    settings: QualitySettings | None = None,
    *,
    tables: Sequence[str] | None = None,
    begin: datetime | None = None,
    now: datetime | None = None,
    problems: list[str] | None = None,
) -> dict[str, int]:
    """Profile every span that is closed and not profiled yet (or all from `begin` on), and keep it. Table -> spans.

    The newest span that is known is profiled again: a late row may have come. With `problems`, a table that can't be
    profiled is said there, and the others are profiled; without, it is an error.
    """
    settings = settings or QualitySettings()
    seconds = settings.bucket_seconds
    end = floor((now or datetime.now(UTC)) - timedelta(seconds=GRACE_SECONDS), seconds)
    counts: dict[str, int] = {}
    with _engine(history.folder) as connection:
        for table in tables if tables is not None else archived_tables(endpoints, settings):
            first = begin if begin is not None else history.last(table)
            first = None if first is None else floor(first, seconds)
            try:
                counts[table] = 0
                if first is None or first < end:
                    counts[table] = _profile_table(connection, endpoints, history, settings, table, first, end)
            except CdcpipeError as error:
                if problems is None:
                    raise
                problems.append(f"`{table}` can't be profiled: {error.message}")
    return counts


def _profile_table(
    connection: duckdb.DuckDBPyConnection,
    endpoints: Endpoints,
    history: History,
    settings: QualitySettings,
    table: str,
    begin: datetime | None,
    end: datetime,
) -> int:
    """Profile one table and keep it; how many spans that were."""
    try:
        with archive_rows(connection, endpoints, table, begin=begin, end=end) as rows:
            if rows is None:
                return 0
            found = profile(
                connection,
                rows,
                table=table,
                bucket_seconds=settings.bucket_seconds,
                late_seconds=settings.late_seconds,
                begin=begin,
                end=end,
            )
    except (duckdb.Error, pa.ArrowException) as error:
        raise EvidenceError(f"its rows can't be read: {str(error)[:300]}") from error
    history.add(found)
    return len(found["bucket"].unique())


def learn_archive(
    history: History, settings: QualitySettings | None = None, *, until: datetime | None = None
) -> Baseline:
    """Learn from the profiles in `history` and keep what was learned. `EvidenceError` when there are none."""
    settings = settings or QualitySettings()
    profiles = history.load()
    if not profiles.num_rows:
        raise EvidenceError("there are no profiles to learn from", hint="`cdcpipe quality profile` makes them")
    baseline = learn(profiles, bucket_seconds=settings.bucket_seconds, until=until)
    baseline.save(history.baseline)
    return baseline


def check_archive(
    endpoints: Endpoints,
    history: History,
    settings: QualitySettings | None = None,
    *,
    begin: datetime | None = None,
    now: datetime | None = None,
) -> QualityReport:
    """Profile what is new, then judge the spans from `begin` on (default: the newest of each table) by the baseline in
    `history`, and by the expectations in the settings' file.
    """
    settings = settings or QualitySettings()
    problems: list[str] = []
    profile_archive(endpoints, history, settings, now=now, problems=problems)
    judgements: tuple[Judgement, ...] = ()
    try:
        baseline = Baseline.load(history.baseline)
        if baseline.bucket_seconds != settings.bucket_seconds:
            raise EvidenceError(
                f"the baseline was learned of spans of {baseline.bucket_seconds} s, and they are now "
                f"{settings.bucket_seconds} s",
                hint="`cdcpipe quality learn` again",
            )
        judgements = check(history.load(), baseline, settings, begin=begin)
    except EvidenceError as error:
        problems.append(error.message)
    unmet = tuple(_expectations(endpoints, history, settings, begin, problems))
    return QualityReport(judgements, unmet, tuple(problems))


def _expectations(
    endpoints: Endpoints, history: History, settings: QualitySettings, begin: datetime | None, problems: list[str]
) -> Iterator[Unmet]:
    with _engine(history.folder) as connection:
        for table, schema in load_expectations(settings.expectations).items():
            first = begin if begin is not None else history.last(table)
            try:
                with archive_rows(connection, endpoints, table, begin=first) as rows:
                    if rows is None:
                        problems.append(f"nothing of `{table}` is archived, of which something is expected")
                        continue
                    yield from expect(connection, rows, table, schema)
            except CdcpipeError as error:
                problems.append(f"`{table}` can't be held against its expectations: {error.message}")
