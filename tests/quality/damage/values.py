"""Values, keys and hours that are not what was written."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.quality.damage.drawing import (
    alive,
    damages,
    pick,
)
from tests.quality.histories import History, Row, value


def values_of(h: History, hashed: bytes) -> dict[str, str]:
    from cdcpipe.verify.images import columns_of

    return columns_of(h.images[hashed])


def altered(h: History, hashed: bytes, column: str) -> bytes:
    values = values_of(h, hashed)
    family, payload = values[column][0], values[column].partition(":")[2]
    digit = payload[-1]
    values[column] = value(family, payload[:-1] + ("1" if digit == "2" else "2"))
    made = h.image(values)
    assert made is not None
    return made


def with_image(h: History, rows: list[Row]) -> Row:
    row: Row = pick(h, [row for row in rows if row["op"] in ("c", "u") and row["after"] is not None])
    return row


@damages("value-drift")
def one_byte_of_a_value_in_the_log(h: History) -> set[str]:
    row = with_image(h, alive(h))
    row["after"] = altered(h, row["after"], h.rng.choice(["amount", "version"]))
    h.file()
    return {"value-drift@source"}


@damages("value-drift")
def one_byte_of_a_value_in_the_archive(h: History) -> set[str]:
    row = with_image(h, h.archive)
    row["after"] = altered(h, row["after"], h.rng.choice(["amount", "version", "state"]))
    return {"value-drift@sink"}


@damages("value-drift")
def change_filed_under_another_key(h: History) -> set[str]:
    row = pick(h, [row for row in h.archive if row["key"] is not None])
    row["key"] = b"2:idn6:777777"
    return {"value-drift@sink"}


@damages("value-drift")
def value_that_became_null(h: History) -> set[str]:
    row = with_image(h, h.archive)
    values = values_of(h, row["after"])
    del values["city"]
    row["after"] = h.image(values)
    return {"value-drift@sink"}


@damages("toast-hole")
def placeholder_for_a_value_in_the_log(h: History) -> set[str]:
    rows = [row for row in alive(h) if row["op"] == "u" and row["after"] and not row["unknown"]]
    row = pick(h, [row for row in rows if "large" in values_of(h, row["after"])])
    row["after"] = h.image(values_of(h, row["after"]) | {"large": "?"})
    row["unknown"] = ["after.large: toast"]
    h.file()
    return {"toast-hole@source"}


@damages("toast-hole")
def placeholder_for_a_value_in_the_archive(h: History) -> set[str]:
    row = pick(
        h, [row for row in h.archive if row["after"] and not row["unknown"] and "large" in values_of(h, row["after"])]
    )
    row["after"] = h.image(values_of(h, row["after"]) | {"large": "?"})
    row["unknown"] = ["after.large: toast"]
    return {"toast-hole@sink"}


@damages("toast-hole")
def null_for_an_unchanged_value(h: History) -> set[str]:
    row = pick(h, [row for row in alive(h) if row["unknown"]])
    values = values_of(h, row["after"])
    del values["large"]
    row["after"], row["unknown"] = h.image(values), None
    h.file()
    return {"toast-hole@source"}


@damages("wrong-schema-decode")
def columns_in_each_others_place(h: History) -> set[str]:
    row = with_image(h, h.archive)
    values = values_of(h, row["after"])
    values["city"], values["state"] = values["state"], values["city"]
    row["after"] = h.image(values)
    return {"wrong-schema-decode@sink"}


@damages("wrong-schema-decode")
def value_of_another_type(h: History) -> set[str]:
    row = with_image(h, alive(h))
    values = values_of(h, row["after"])
    values["amount"] = value("s", values["amount"].partition(":")[2])
    row["after"] = h.image(values)
    h.file()
    return {"wrong-schema-decode@source"}


def in_hour(row: Row, hours: int) -> str:
    folder, _, name = row["object"].rpartition("/")
    base, _, hour = folder.rpartition("=")
    at = datetime.strptime(hour, "%Y-%m-%d-%H") + timedelta(hours=hours)
    return f"{base}={at:%Y-%m-%d-%H}/moved-{name}"


@damages("misfiled-row")
def row_in_an_earlier_hour(h: History) -> set[str]:
    row = pick(h, h.archive)
    row["object"] = in_hour(row, -h.rng.randrange(2, 6))
    return {"misfiled-row@sink"}


@damages("misfiled-row")
def row_in_a_later_hour(h: History) -> set[str]:
    rows = [
        row
        for row in h.archive
        if any(
            (each["topic"], each["partition"]) == (row["topic"], row["partition"]) and each["offset"] > row["offset"]
            for each in h.archive
        )
    ]
    row = pick(h, rows)
    row["object"] = in_hour(row, 48)
    return {"misfiled-row@sink"}
