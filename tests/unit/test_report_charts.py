"""Charts: well-formed SVG that shows every point, also at the edges."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from cdcpipe.report.charts import Band, Coverage, Mark, bars, columns, coverage, line

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def titles(svg: str) -> list[str]:
    return [each.text or "" for each in parsed(svg).iter(f"{SVG}title")]


def test_a_line_breaks_where_a_value_is_missing_and_names_its_series() -> None:
    svg = line({"in <log>": [(0, 1), (1, 2), (2, math.nan), (3, 4), (4, 5)]}, title="rate")
    lines = list(parsed(svg).iter(f"{SVG}polyline"))
    assert [len((each.get("points") or "").split()) for each in lines] == [2, 2]
    assert "in <log>" in titles(svg)


def test_bands_and_marks_are_labelled() -> None:
    svg = line({"a": [(0, 1), (9, 1)]}, title="t", bands=[Band(2, 3, "kill worker")], marks=[Mark(5, "lost-change")])
    assert {"kill worker", "lost-change"} <= set(titles(svg))


def test_nothing_to_show_says_so() -> None:
    for svg in (line({}, title="t"), bars({}, title="t"), columns({}, title="t"), coverage([], title="t")):
        assert "nothing to show" in svg
        parsed(svg)


def test_one_point_zero_and_equal_values_are_drawn() -> None:
    assert list(parsed(line({"a": [(5, 0)]}, title="t")).iter(f"{SVG}circle"))
    assert "nan" not in line({"a": [(0, 0), (1, 0)]}, title="t")
    assert len(list(parsed(bars({"x": 0, "y": 0}, title="t")).iter(f"{SVG}rect"))) == 2


def test_stacked_columns_are_as_high_as_their_sum() -> None:
    svg = columns({"10": {"a": 1, "b": 3}, "11": {"a": 4}}, title="rows by hour")
    bars_ = [each for each in parsed(svg).iter(f"{SVG}rect") if each.find(f"{SVG}title") is not None]
    heights = [float(each.get("height") or 0) for each in bars_]
    assert math.isclose(heights[0] + heights[1], heights[2] + heights[3], abs_tol=0.2)


def test_a_hole_of_one_offset_in_a_million_is_still_seen() -> None:
    svg = coverage([Coverage("shop.public.orders/0", 0, 1_000_000, [(500, 501, "offset 500")])], title="offsets")
    hole = next(
        each for each in parsed(svg).iter(f"{SVG}rect") if (each.findtext(f"{SVG}title") or "").startswith("offset 500")
    )
    assert float(hole.get("width") or 0) >= 2
