"""Folders by date and hour, in UTC: one vocabulary, written the way each sink reads it.

Only a time that is stored with the record gives the same folder on every attempt. A sink's own clock does not,
so there is no word for it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cdcpipe.errors import ConfigError

__all__ = [
    "AivenPartitioning",
    "ConfluentPartitioning",
    "Daily",
    "HourOrDay",
    "Hourly",
    "IcebergPartitioning",
    "iceberg_spec",
    "record_time_only",
]

_FIELD = re.compile(r"[^\s(),]+")


def _demand_a_name(field: str | None) -> None:
    if field is not None and not _FIELD.fullmatch(field):
        raise ConfigError(f"{field!r} can't be the name of a time field", hint="no blanks, commas or parentheses")


@dataclass(frozen=True, slots=True)
class Hourly:
    """A folder an hour, by the record's own timestamp (`field=None`) or by a field of its value."""

    field: str | None = None

    def __post_init__(self) -> None:
        _demand_a_name(self.field)


@dataclass(frozen=True, slots=True)
class Daily:
    """A folder a day, by the record's own timestamp (`field=None`) or by a field of its value."""

    field: str | None = None

    def __post_init__(self) -> None:
        _demand_a_name(self.field)


HourOrDay = Hourly | Daily

_HOUR_PATH = "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH"
_DAY_PATH = "'year'=YYYY/'month'=MM/'day'=dd"
_TIME_PARTITIONER = "io.confluent.connect.storage.partitioner.TimeBasedPartitioner"


def iceberg_spec(value: object) -> object:
    """A validator for Iceberg: `hour(f)` and `day(f)` as text become `Hourly` and `Daily`, which need a field."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(hour|day)\(([^\s(),]+)\)\s*", value)
        if found:
            return (Hourly if found[1] == "hour" else Daily)(found[2])
    if isinstance(value, Hourly | Daily) and not value.field:
        raise ValueError("Iceberg partitions by a field: name it, and let InsertField write the timestamp into it")
    return value


def record_time_only(value: HourOrDay | None) -> HourOrDay | None:
    """A validator for sinks that know the record's timestamp only."""
    if value is not None and value.field is not None:
        raise ValueError("this sink partitions by the record's timestamp only: leave the field out")
    return value


class IcebergPartitioning:
    """`iceberg.tables.default-partition-by=hour(field)`, or any other spec as text."""

    __slots__ = ()
    key = "iceberg.tables.default-partition-by"

    def render(self, value: object) -> dict[str, str]:
        if isinstance(value, Hourly | Daily):
            return {self.key: f"{'hour' if isinstance(value, Hourly) else 'day'}({value.field})"}
        return {self.key: str(value)}

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        return remaining.pop(self.key, None)

    def keys(self) -> Iterator[str]:
        yield self.key


class ConfluentPartitioning:
    """TimeBasedPartitioner in UTC with extractor `Record` or `RecordField`."""

    __slots__ = ()

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, Hourly | Daily)
        hourly = isinstance(value, Hourly)
        config = {
            "partitioner.class": _TIME_PARTITIONER,
            "path.format": _HOUR_PATH if hourly else _DAY_PATH,
            "partition.duration.ms": "3600000" if hourly else "86400000",
            "timezone": "UTC",
            "locale": "en-US",
            "timestamp.extractor": "Record" if value.field is None else "RecordField",
        }
        return config if value.field is None else {**config, "timestamp.field": value.field}

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        for unit in (Hourly, Daily):
            field = remaining.get("timestamp.field")
            if field is not None and not _FIELD.fullmatch(field):
                return None
            value = unit(field)
            rendered = self.render(value)
            if rendered.items() <= remaining.items():
                for key in rendered:
                    del remaining[key]
                return value
        return None

    def keys(self) -> Iterator[str]:
        yield from self.render(Hourly("field"))


class AivenPartitioning:
    """`file.name.template` of Hive-style folders by the record's timestamp in UTC."""

    __slots__ = ()
    _folders = "{{topic}}/year={{timestamp:unit=yyyy}}/month={{timestamp:unit=MM}}/day={{timestamp:unit=dd}}"
    _file = "/{{topic}}-{{partition}}-{{start_offset}}.parquet"

    def render(self, value: object) -> dict[str, str]:
        assert isinstance(value, Hourly | Daily)
        hour = "/hour={{timestamp:unit=HH}}" if isinstance(value, Hourly) else ""
        return {
            "file.name.template": self._folders + hour + self._file,
            "file.name.timestamp.timezone": "UTC",
            "file.name.timestamp.source": "EVENT",
        }

    def take(self, remaining: dict[str, str], keep_unknown: bool) -> object | None:
        for value in (Hourly(), Daily()):
            rendered = self.render(value)
            if rendered.items() <= remaining.items():
                for key in rendered:
                    del remaining[key]
                return value
        return None

    def keys(self) -> Iterator[str]:
        yield from self.render(Hourly())
