"""Does the data still look like itself? Profiles by table, column and hour, a baseline learned from them, anomalies.

    profiles   what a span of time looked like: rows, nulls, distinct values, range, length, delay, types; computed by
               DuckDB over the archive's Parquet files, or over the log, out of core
    baseline   for each measure its usual value by hour and weekday, and how far it usually strays: medians, and
               ranges of residuals, so that a few bad hours in the history don't spoil it
    check      what is further away than it ever is, with a score and a sentence
    expect     what must hold whatever was learned: pandera schemas, written by hand

Anomalies are results. A table without enough history is not judged, and says so: that is no pass.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdcpipe.observe.quality.baseline import Baseline, learn
    from cdcpipe.observe.quality.expectations import Unmet, expect
    from cdcpipe.observe.quality.history import History, quality_folder
    from cdcpipe.observe.quality.judge import Anomaly, Judgement, check
    from cdcpipe.observe.quality.profiling import profile
    from cdcpipe.observe.quality.run import QualityReport, check_archive, learn_archive, profile_archive
    from cdcpipe.observe.quality.sources import archive_rows, folder_rows, stream_rows

__all__ = [
    "Anomaly",
    "Baseline",
    "History",
    "Judgement",
    "QualityReport",
    "Unmet",
    "archive_rows",
    "check",
    "check_archive",
    "expect",
    "folder_rows",
    "learn",
    "learn_archive",
    "profile",
    "profile_archive",
    "quality_folder",
    "stream_rows",
]

_MODULES = {
    "baseline": ("Baseline", "learn"),
    "expectations": ("Unmet", "expect"),
    "history": ("History", "quality_folder"),
    "judge": ("Anomaly", "Judgement", "check"),
    "profiling": ("profile",),
    "run": ("QualityReport", "check_archive", "learn_archive", "profile_archive"),
    "sources": ("archive_rows", "folder_rows", "stream_rows"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
