"""A check as a table on the terminal."""

from __future__ import annotations

from rich.table import Table

from onnxmerge.api.compare import ModelComparison
from onnxmerge.checking.finding import Finding, Measured
from onnxmerge.checking.formats.words import counted, outcome, place
from onnxmerge.checking.gate import UNSELECTED
from onnxmerge.checking.report import FAILED, NOTHING_CHECKED, CheckReport
from onnxmerge.report.terminal import terminal
from onnxmerge.text import clamped

_WORST = 10
"""Weights that are listed."""

_LONGEST = 60
"""Characters of a cell."""


def print_check(report: CheckReport, *, every: bool = False) -> None:
    """One row for each finding, and the verdict; skipped ones are counted.

    They are listed with ``every``, where they measured something, and why where nothing was checked.
    """
    console = terminal()
    table = Table(title=place(report.model), title_justify="left", box=None)
    for title in ("verdict", "gate", "where", "measured", "threshold"):
        table.add_column(title)
    shown = [each for each in report.findings if every or each.verdict != "skipped" or each.measured is not None]
    for finding in shown:
        measured, threshold = written(finding.measured), written(finding.threshold)
        table.add_row(told(finding), finding.id, clamped(finding.where, _LONGEST), measured, threshold)
    idle = report.exit_code == NOTHING_CHECKED
    console.print(table) if shown else console.say(place(report.model))
    for finding in report.findings if idle else shown:
        reasoned = every or finding.verdict in ("fail", "unsupported") or (idle and finding.remedy != UNSELECTED)
        if reasoned and finding.remedy:
            where = f"{clamped(finding.where, _LONGEST)}: " if finding.where else ""
            console.say(f"{finding.id}  {where}{finding.remedy}")
    console.say(verdict(report))


def verdict(report: CheckReport) -> str:
    """The outcome in one line."""
    found = outcome(report)
    return f"{found.upper() if report.exit_code == FAILED else found}: {counted(report)}"


def told(finding: Finding) -> str:
    """A verdict as a reader meets it."""
    if finding.verdict in ("fail", "unsupported"):
        return "warning" if finding.severity == "warning" else finding.verdict.upper()
    return finding.verdict


def written(value: Measured) -> str:
    """A measured value or threshold, short."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else clamped(str(value), _LONGEST)


def print_comparison(found: ModelComparison) -> None:
    """Structure, function, outputs, and the layers and weights that are farthest apart."""
    console = terminal()
    console.say(f"structure        {'the same' if found.structure is None else found.structure}")
    order = ", units in another order (layers and weights are compared in the order of the first)"
    console.say(f"same function    {'yes' if found.same else 'no'}{order if found.reordered else ''}")
    if found.failure is not None:
        console.say(f"outputs          {found.failure}")
    for output in found.outputs:
        top1 = "" if output.top1 is None else f", the same class for {output.top1:.1%} of {found.samples} samples"
        told = f"largest error {output.relative:.1e}, cosine {output.cosine:.6f}{top1}"
        console.say(f"output           {output.name}: {told}")
    first = found.first_difference
    if first is not None:
        by_name = "" if found.structure is None else ", of the tensors that both have by name"
        console.say(f"they part at     {first.tensor} ({first.operator}), error {first.relative:.1e}{by_name}")
    worst = sorted(found.weights, key=lambda each: -each.relative)[:_WORST]
    for weight in worst if worst and worst[0].relative else ():
        console.say(f"weight           {weight.name}: {weight.relative:.1e}")
