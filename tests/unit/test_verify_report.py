"""Reports: the same facts in every rendering, well-formed, self-contained, safe with hostile values."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from tests.quality.damage import delivery, values
from tests.quality.histories import history

from cdcpipe.report import junit
from cdcpipe.report.html import render_report
from cdcpipe.report.page import Page, Section, Table, Tile, render
from cdcpipe.report.terminal import print_report
from cdcpipe.report.wording import compare_images, key_text
from cdcpipe.verify import Report, events
from cdcpipe.verify.verdict import Image, Witness


@pytest.fixture(scope="module")
def bad() -> Report:
    made = history(8, transactions=60)
    delivery.drop_one_record(made)
    values.one_byte_of_a_value_in_the_archive(made)
    delivery.drop_a_file_of_a_partition(made)
    return events(*made.evidence())


@pytest.fixture(scope="module")
def good() -> Report:
    return events(*history(9).evidence())


class Balance(HTMLParser):
    """Whether every element is closed."""

    VOID = frozenset(("meta", "br", "rect", "path", "circle", "polyline"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_page_is_one_file_without_scripts(bad: Report) -> None:
    page = render_report(bad)
    assert parsed(page).loads == []
    assert "<script" not in page
    assert not re.search(r"@import|url\(", page)


def test_the_page_says_verdict_anomalies_and_witnesses(bad: Report, good: Report) -> None:
    page = render_report(bad)
    for text in (*bad.anomalies, "does not keep exactly_once", "offsets by partition", "changes per second"):
        assert text in page
    assert 'class="differs"' in page, "the images of the altered row are not set side by side"
    assert "arrived as committed" in render_report(good)


def test_values_are_escaped_in_the_page() -> None:
    hostile = "<script>alert('x')</script>"
    page = render(
        Page(
            hostile,
            hostile,
            tiles=[Tile(hostile, hostile)],
            sections=[Section(hostile, tables=[Table(["a"], [[hostile]])])],
        )
    )
    assert "<script" not in page
    parsed(page)


def test_json_is_plain_and_complete(bad: Report) -> None:
    content = json.loads(json.dumps(bad.to_json()))
    assert content["schema"] == "cdcpipe.verify/1"
    assert content["verdict"] == "fail"
    assert set(content["anomalies"]) == set(bad.anomalies)
    lost = next(each for each in content["checks"] if each["id"] == "lost-change@source")
    (witness,) = lost["witnesses"]
    assert {"table", "xid", "seq", "commit_lsn", "committed_at", "expected"} <= set(witness)
    assert re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", witness["commit_lsn"])


def test_junit_counts_what_it_lists(bad: Report) -> None:
    root = ET.fromstring(junit.render_report(bad))
    (suite,) = root
    assert int(suite.get("tests") or 0) == len(suite.findall("testcase")) == len(bad.results)
    for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(suite.findall(f"testcase/{kind}")) == int(suite.get(count) or 0)
    failed = {case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None}
    assert failed == {each.id for each in bad.failed}


def test_junit_takes_characters_that_xml_does_not() -> None:
    witness = Witness("bad \x00 note \x1b[31m \ud800", key="2:idn1:\x08")
    from dataclasses import replace

    report = events()
    first = replace(report.results[0], applies=True, witnesses=(witness,), verdict=type(report.verdict).FAIL, found=1)
    ET.fromstring(junit.render_report(replace(report, results=(first,))))


def test_the_terminal_shows_the_cause_first_and_the_verdict_last(bad: Report) -> None:
    out = io.StringIO()
    print_report(bad, file=out)
    text = out.getvalue()
    assert "\x1b" not in text, "colour where there is no terminal"
    assert text.index("lost-change@source") < text.index("explained by another anomaly")
    assert text.rstrip().splitlines()[-1].startswith("fail: The pipeline does not keep exactly_once")


def test_a_key_is_shown_as_people_write_it() -> None:
    assert key_text("1:an1:71:bs3:b12") == "a=7, b=b12"
    assert key_text("not canonical") == "not canonical"


def test_images_without_text_are_shown_by_hash() -> None:
    witness = Witness("x", expected={"after": Image("aa")}, found={"after": Image("bb")})
    assert compare_images(witness) == [
        ("expected after", [("hash", "aa", True)]),
        ("found after", [("hash", "bb", True)]),
    ]


def test_asking_a_report_for_a_check_gives_the_worse_place(bad: Report) -> None:
    assert bad["value-drift"].place == "sink"
    assert bad["lost-change@sink"].place == "sink"
    with pytest.raises(KeyError):
        bad["no-such-check"]
