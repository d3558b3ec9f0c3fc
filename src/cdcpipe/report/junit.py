"""A verification as JUnit XML: a test case a check."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from cdcpipe.report.wording import facts_of
from cdcpipe.verify.outcome import Report
from cdcpipe.verify.verdict import CheckResult, Verdict

__all__ = ["render_report"]

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_report(report: Report, *, suite: str = "cdcpipe.verify") -> str:
    """`failure` for a refuted claim, `error` for an inconclusive one, `skipped` for one that doesn't apply."""
    root = ET.Element("testsuites", name=suite)
    failed = sum(each.applies and each.verdict is Verdict.FAIL for each in report.results)
    errors = sum(each.applies and each.verdict is Verdict.INCONCLUSIVE for each in report.results)
    skipped = sum(not each.applies for each in report.results)
    element = ET.SubElement(
        root,
        "testsuite",
        name=suite,
        tests=str(len(report.results)),
        failures=str(failed),
        errors=str(errors),
        skipped=str(skipped),
        time=f"{report.seconds:.3f}",
    )
    if report.made_at is not None:
        element.set("timestamp", report.made_at.isoformat())
    for result in report.results:
        case = ET.SubElement(
            element, "testcase", classname=f"{suite}.{result.group}", name=result.id, time=f"{result.seconds:.3f}"
        )
        if not result.applies:
            ET.SubElement(case, "skipped", message=_clean(result.reason or ""))
        elif result.verdict is Verdict.FAIL:
            message = f"{result.found} found" + (f", {result.explained} explained" if result.explained else "")
            ET.SubElement(case, "failure", type=result.name, message=message).text = _clean(_details(result))
        elif result.verdict is Verdict.INCONCLUSIVE:
            ET.SubElement(case, "error", type="inconclusive", message=_clean(result.reason or ""))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _details(result: CheckResult) -> str:
    lines = [result.claim]
    for witness in result.witnesses:
        lines.append(f"- {witness.note}" + (f" (consequence of {witness.cause})" if witness.cause else ""))
        lines.append("  " + ", ".join(f"{name}={value}" for name, value in facts_of(witness)))
    return "\n".join(lines)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
