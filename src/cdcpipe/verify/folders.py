"""Which hour an object's path promises."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = ["promised_hour"]

_HIVE = re.compile(r"year=(\d{4})/month=(\d{1,2})/day=(\d{1,2})(?:/hour=(\d{1,2}))?/")
_ICEBERG = re.compile(r"_(hour|day)=(\d{4})-(\d{2})-(\d{2})(?:-(\d{2}))?/")
_DATE_HOUR = re.compile(r"(?:dt|date)=(\d{4})-(\d{2})-(\d{2})(?:/(?:hour|hr)=(\d{1,2}))?/")


def promised_hour(path: str) -> tuple[int, int] | None:
    """Begin and end of the hour (or day) in the folders of `path`, microseconds UTC; None when they name none.

    >>> promised_hour("shop/orders/data/event_time_hour=2026-11-24-13/00001.parquet")
    (1795525200000000, 1795528800000000)
    >>> promised_hour("topics/shop/year=2026/month=11/day=24/hour=13/shop+0+0000000000.parquet")
    (1795525200000000, 1795528800000000)
    >>> promised_hour("data/00001.parquet")
    """
    if found := _HIVE.search(path) or _DATE_HOUR.search(path):
        year, month, day, hour = found[1], found[2], found[3], found[4]
    elif found := _ICEBERG.search(path):
        year, month, day, hour = found[2], found[3], found[4], found[5]
    else:
        return None
    try:
        begin = datetime(int(year), int(month), int(day), int(hour or 0), tzinfo=UTC)
    except ValueError:
        return None
    end = begin + (timedelta(hours=1) if hour else timedelta(days=1))
    return int(begin.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000
