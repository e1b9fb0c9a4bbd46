"""Results as tables on standard output (rich: plain text in a pipe)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from onnxmerge.api.inspection import FixedAxis, Inspection, UnitGroup
from onnxmerge.api.outcome import GroupReport, MergePlan, MergeReport
from onnxmerge.api.summary import (
    FORECAST_HEADS,
    SOUP_HEADS,
    certificate_told,
    coverage_told,
    expectations,
    facts,
    forecast_row,
    listed_weights,
    own_option,
    similarity_told,
    soup_rows,
    tried,
    vocabulary_told,
    width_heads,
    width_rows,
)
from onnxmerge.axes.explain import AxisReason
from onnxmerge.pipeline.selection.effort import EffortReport
from onnxmerge.pipeline.selection.ingredients import SoupReport
from onnxmerge.pipeline.selection.scaling import ScaleReport
from onnxmerge.pipeline.selection.search import SearchReport
from onnxmerge.pipeline.selection.weighing import WeightsReport
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.report.terminal import Terminal, terminal
from onnxmerge.text import counted
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage

_CHAIN = 8

_BAR = 10
"""Columns of a bar."""


def print_merge(report: MergeReport, written: Path, again: str | None = None, *, beside: Path | None = None) -> None:
    """The summary of a merge: groups, similarities, what was chosen and proved, costs, stages, how to repeat it.

    ``beside`` is a file that was written with the model.
    """
    console = terminal()
    alpha = "" if report.alpha is None else f", alpha {report.alpha:g}"
    _print_groups(console, report.groups, f"{len(report.models)} models, {report.method}{alpha}")
    if report.effort is not None and report.effort.ways:
        _print_effort(console, report.effort)
    if report.weighing is not None:
        _print_weighing(console, report.weighing)
    if report.widening is not None:
        _print_widening(console, report.widening)
    if report.search is not None:
        _print_search(console, report.search)
    if report.scales is not None:
        _print_scales(console, report.scales)
    if report.soup is not None:
        _print_soup(console, report.soup, report.models)
    for title, told in facts(report):
        console.say(f"{title:16} {told}")
    _print_costs(console, report)
    stages = "  ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items())
    console.say(f"seconds          {sum(report.seconds.values()):.1f}  ({stages})")
    if report.peak_memory is not None:
        console.say(f"peak memory      {report.peak_memory / 2**20:.0f} MiB")
    for note in report.notes:
        console.say(f"note             {note}")
    if again is not None:
        console.say(f"the same again   {again}")
    console.say(f"wrote            {written}{'' if beside is None else f', {beside}'}")


def print_plan(plan: MergePlan) -> None:
    """What a merge would do."""
    console = terminal()
    how = plan.options
    own = [own_option(name, value) for name, value in how.own if not isinstance(value, tuple)]
    way = ", ".join([how.method, *own]) if how.effort is None else f"--effort {how.effort}"
    _print_groups(console, plan.groups, f"{len(plan.models)} models, {way}")
    if plan.candidates > 1:
        console.say(f"to be tried      {plan.candidates} ways to merge, on held-out calibration data")
    if how.weighs:
        console.say("weights          to be found by what each model knows, on held-out calibration data")
    if how.chooses_models:
        console.say("models           to be taken by accuracy, on held-out calibration data and its labels")
    if plan.vocabulary is not None:
        console.say(f"vocabulary       {vocabulary_told(plan.vocabulary, [*plan.models, 'the base'])}")
    if how.widens:
        console.say(
            f"widths           to be found, within {counted(how.within, 'point')} of the ensemble on held-out data"
        )
    if plan.border is not None:
        console.say(f"merged up to     {', '.join(plan.border)}")
    _say_certificates(console, plan)
    console.say(f"free             {coverage_told(plan.coverage)}")
    for note in plan.notes:
        console.say(f"note             {note}")
    console.say("nothing was merged or written (--dry-run)")


def print_forecast(plan: MergePlan) -> None:
    """What a merge is expected to come to."""
    console, found = terminal(), plan.forecast
    if found is None:
        return
    table = Table(title=" + ".join(plan.models), title_justify="left", box=None)
    for index, title in enumerate(FORECAST_HEADS):
        table.add_column(title, justify="left" if index in (0, 3) else "right")
    for group in found.groups:
        table.add_row(*forecast_row(group))
    console.print(table)
    for title, told in expectations(found):
        console.say(f"{title:16} {told}")
    if plan.vocabulary is not None:
        console.say(f"vocabulary       {vocabulary_told(plan.vocabulary, [*plan.models, 'the base'])}")
    _say_certificates(console, plan)
    console.say(f"free             {coverage_told(plan.coverage)}")
    for note in (*plan.notes, *found.notes):
        console.say(f"note             {note}")
    console.say("nothing was merged or written; onnxmerge run does it")


def _say_certificates(console: Terminal, plan: MergePlan) -> None:
    if not plan.certificates:
        console.say("certificate      none needed as long as no unit is moved")
    for certificate, model in zip(plan.certificates, plan.models, strict=False):
        console.say(f"certificate      {certificate_told(certificate)}  {model}")


def _print_groups(console: Terminal, groups: Sequence[GroupReport], heading: str) -> None:
    table = Table(title=heading, title_justify="left", box=None)
    for title in ("group", "size", "varies with", "similarity before", "after"):
        table.add_column(title, justify="right" if title in ("size", "similarity before", "after") else "left")
    bars = console.is_terminal and any(group.similarity_after is not None for group in groups)
    if bars:  # for eyes alone: what reads a pipe has the number
        table.add_column("")
    full, rest = "#." if console.options.ascii_only else ("\u2588", "\u2591")
    for group in groups:
        table.add_row(
            group.id,
            str(group.size) if group.width == group.size else f"{group.size} -> {group.width}",
            ", ".join(group.varies_with),
            similarity_told(group.similarity_before),
            similarity_told(group.similarity_after),
            *([_bar(group.similarity_after, full, rest)] if bars else ()),
        )
    console.print(table)


def _bar(value: float | None, full: str, rest: str) -> str:
    """A similarity as a bar."""
    if value is None:
        return ""
    length = round(_BAR * max(0.0, min(1.0, value)))
    return full * length + rest * (_BAR - length)


def _print_effort(console: Terminal, effort: EffortReport) -> None:
    """The ways to merge that were tried, the chosen one marked."""
    title = f"{effort.asked}: chosen by {effort.criterion} on {effort.samples} held-out samples"
    table = Table(title=title, title_justify="left", box=None)
    labelled = any(way.accuracy is not None for way in effort.ways)
    for heading in ("", "way to merge", "agreement", *(("accuracy",) if labelled else ())):
        table.add_column(heading, justify="left" if heading in ("", "way to merge") else "right")
    for index, way in enumerate(effort.ways):
        accuracy = () if way.accuracy is None else (f"{way.accuracy:.4f}",)
        table.add_row("*" if index == effort.chosen else "", " ".join(way.flags), f"{way.agreement:.4f}", *accuracy)
    console.print(table)


def _print_weighing(console: Terminal, weighing: WeightsReport) -> None:
    """The weights that were tried, the chosen ones marked."""
    title = f"--weights auto: chosen by {weighing.criterion} on {weighing.samples} held-out samples"
    table = Table(title=title, title_justify="left", box=None)
    labelled = any(each.accuracy is not None for each in weighing.candidates)
    for heading in ("", "weights", "", "agreement", *(("accuracy",) if labelled else ())):
        table.add_column(heading, justify="right" if heading in ("agreement", "accuracy") else "left", overflow="fold")
    for index, each in enumerate(weighing.candidates):
        accuracy = () if each.accuracy is None else (f"{each.accuracy:.4f}",)
        mark = "*" if index == weighing.chosen else ""
        table.add_row(mark, each.found, listed_weights(each.weights), f"{each.agreement:.4f}", *accuracy)
    console.print(table)


def _print_widening(console: Terminal, widening: WidthsReport) -> None:
    """The widths that were tried, from small to large, the chosen ones marked."""
    title = f"--width auto: judged by {widening.criterion} on {widening.samples} held-out samples"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("", *width_heads(widening)):
        table.add_column(heading, justify="right" if heading else "left")
    for index, row in enumerate(width_rows(widening)):
        table.add_row("*" if index == widening.chosen else "", *row)
    console.print(table)


def _print_scales(console: Terminal, scales: ScaleReport) -> None:
    """The scales that were tried, the chosen one marked."""
    title = f"scale chosen by what the parents learnt, on {scales.samples} held-out samples"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("", "scale", "depth", "agreement"):
        table.add_column(heading, justify="left" if not heading else "right")
    for index, each in enumerate(scales.candidates):
        table.add_row(
            "*" if index == scales.chosen else "", f"{each.scale:g}", f"{each.depth:g}", f"{each.agreement:.4f}"
        )
    console.print(table)


def _print_soup(console: Terminal, soup: SoupReport, models: Sequence[str]) -> None:
    """The models from the most accurate on, those that are averaged marked."""
    title = f"greedy soup: taken by {soup.criterion} on {soup.samples} held-out samples"
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("", *SOUP_HEADS):
        table.add_column(heading, justify="left" if heading in ("", "model") else "right", overflow="fold")
    for each, row in zip(soup.models, soup_rows(soup, models), strict=True):
        table.add_row("*" if each.taken else "", *row)
    console.print(table)


def _print_search(console: Terminal, search: SearchReport) -> None:
    """What was tried, the chosen one marked."""
    table = Table(
        title=f"chosen by {search.criterion} on {search.samples} held-out samples", title_justify="left", box=None
    )
    decided = "accuracy" if search.criterion == "reconstruction" else search.criterion
    for title in ("", "candidate", "alpha", "reconstruction", decided):
        table.add_column(title, justify="left" if title in ("", "candidate") else "right")
    for index, candidate in enumerate(search.candidates):
        table.add_row(
            "*" if index == search.chosen else "",
            tried(candidate),
            "" if candidate.alpha is None else f"{candidate.alpha:g}",
            f"{candidate.reconstruction:.4f}",
            "" if candidate.accuracy is None else f"{candidate.accuracy:.4f}",
        )
    console.print(table)


def _print_costs(console: Terminal, report: MergeReport) -> None:
    """Parameters and arithmetic of parents and merged model, and how well it gives their outputs."""
    data = "held-out" if report.held_out else "calibration"
    table = Table(box=None)
    for title in ("model", "parameters", "FLOPs a sample", f"relative error on {data} data"):
        table.add_column(title, justify="left" if title == "model" else "right")
    found = report.reconstruction or (None,) * len(report.models)
    for model, cost, error in zip((*report.models, "merged"), report.footprints, (*found, None), strict=True):
        told = "" if error is None else f"{error:.3g}"
        table.add_row(model, f"{cost.parameters:,}", f"{cost.flops:,}", told)
    console.print(table)


def print_inspection(found: Inspection, *, every: bool = False) -> None:
    """Groups (repeated blocks folded unless ``every``), fixed axes by reason, coverage and certificate."""
    console = terminal()
    table = Table(
        title=f"{found.model}: {found.nodes} nodes, {len(found.groups)} groups", title_justify="left", box=None
    )
    for title in ("groups", "count", "size", "varies with", "initializers (axis)"):
        table.add_column(title, justify="right" if title in ("count", "size") else "left", overflow="fold")
    for folded in _fold(found.groups, every=every):
        first = folded[0]
        names = first.id if len(folded) == 1 else f"{first.id} ... {folded[-1].id}"
        table.add_row(names, str(len(folded)), str(first.size), ", ".join(first.varies_with), _places(first))
    console.print(table)
    _print_fixed(console, found.fixed)
    console.say(f"free         {coverage_told(found.coverage)}")
    if found.certificate is not None:
        console.say(f"certificate  {certificate_told(found.certificate)}")


def _print_fixed(console: Terminal, fixed: Sequence[FixedAxis]) -> None:
    reasons: dict[str, list[FixedAxis]] = {}
    for axis in fixed:
        reasons.setdefault(_general(axis.reason), []).append(axis)
    if not reasons:
        return
    table = Table(title="fixed axes of weights", title_justify="left", box=None)
    for title in ("axes", "because", "such as"):
        table.add_column(title, justify="right" if title == "axes" else "left", overflow="fold")
    for reason, axes in sorted(reasons.items(), key=lambda item: -len(item[1])):
        table.add_row(str(len(axes)), reason, f"{axes[0].initializer} ({axes[0].axis})")
    console.print(table)


def print_explanation(tensor: str, axes: Sequence[AxisReason]) -> None:
    """Each axis of a tensor: its layout, and the chain that joined or fixed each space."""
    console = terminal()
    console.say(tensor)
    for axis in axes:
        console.say(f"  axis {axis.axis} of {axis.size}: {axis.layout}")
        for reason in axis.spaces:
            space = reason.space
            shown = [
                *reason.chain[:_CHAIN],
                *([f"... {len(reason.chain) - _CHAIN} more"] if len(reason.chain) > _CHAIN else []),
            ]
            if space.free:
                varies = f", varies with {', '.join(space.varies_with)}" if space.varies_with else ""
                console.say(f"    {space.id}: {space.size} free units{varies}; joined by {' - '.join(shown)}")
            else:
                chain = " <- ".join(shown) if reason.chain else space.fixed
                console.say(f"    {space.id}: {space.size} fixed; {chain}")


def print_certificate(certificate: Certificate, coverage: Coverage) -> None:
    """One line each for the certificate and the share of weights that moved."""
    console = terminal()
    console.say(f"certificate  {certificate_told(certificate)}")
    console.say(f"free         {coverage_told(coverage)}")


def _general(text: str) -> str:
    """A name without its numbers: blocks 0 and 11 of a network look alike."""
    return re.sub(r"\d+", "#", text)


def _fold(groups: Sequence[UnitGroup], *, every: bool) -> list[list[UnitGroup]]:
    """Groups that differ only in numbers inside names, together."""
    folded: dict[object, list[UnitGroup]] = {}
    for group in groups:
        places = frozenset((_general(place.name), place.axis) for place in group.initializers)
        key = group.id if every else (group.size, len(group.varies_with), places)
        folded.setdefault(key, []).append(group)
    return list(folded.values())


def _places(group: UnitGroup, shown: int = 4) -> str:
    names = [f"{place.name} ({place.axis})" for place in group.initializers]
    more = [f"... {len(names) - shown} more"] if len(names) > shown else []
    return ", ".join([*names[:shown], *more])
