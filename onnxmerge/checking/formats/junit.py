"""A check as JUnit XML: a test suite for each model, a test case for each finding."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from onnxmerge.checking.formats.words import place, sentence, why_nothing
from onnxmerge.checking.report import CheckReport
from onnxmerge.text import printable


def junit(reports: Sequence[CheckReport]) -> str:
    """The XML that CI systems read. What could not be told is an error, what failed a failure, a warning passes."""
    root = ET.Element("testsuites", name="onnxmerge check")
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for report in reports:
        suite = ET.SubElement(root, "testsuite", name=_text(place(report.model)))
        counts = dict.fromkeys(totals, 0)
        for finding in report.findings:
            name = f"{finding.id} {finding.where}".strip()
            case = ET.SubElement(suite, "testcase", classname=f"onnxmerge.{finding.family}", name=_text(name), time="0")
            counts["tests"] += 1
            said = _text(sentence(finding))
            if finding.verdict == "skipped":
                counts["skipped"] += 1
                ET.SubElement(case, "skipped", message=said)
            elif finding.blocks:
                kind = "failure" if finding.verdict == "fail" else "error"
                counts[f"{kind}s"] += 1
                ET.SubElement(case, kind, message=said, type=finding.id).text = said
            else:
                ET.SubElement(case, "system-out").text = said
        if report.exit_code == 4:  # else a CI system would show a suite in which nothing failed
            case = ET.SubElement(suite, "testcase", classname="onnxmerge", name="something was checked", time="0")
            counts["tests"], counts["errors"] = counts["tests"] + 1, counts["errors"] + 1
            ET.SubElement(
                case, "error", message=f"nothing was checked: {printable(why_nothing(report))}", type="nothing"
            )
        for name, count in counts.items():
            suite.set(name, str(count))
            totals[name] += count
    for name, count in totals.items():
        root.set(name, str(count))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _text(text: str) -> str:
    return printable(text)
