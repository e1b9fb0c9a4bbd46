"""The page of a merge, section by section, in the order in which questions come.

How good is it, how is it made again, what was done to what, how does the network hang together, which units were
matched and how well, where does it part from its parents, what else was tried, what did it cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnxmerge.api.outcome import MergeReport, MergeResult
from onnxmerge.api.summary import SOUP_HEADS, listed_weights, soup_rows, tried, weights_found
from onnxmerge.checking.report import CheckReport
from onnxmerge.merging.answer.answer import AS_IT_WAS
from onnxmerge.model.paths import short_names
from onnxmerge.pipeline.details.behaviour import ENSEMBLE, MERGED, OutputAgreement
from onnxmerge.pipeline.details.merge import MergeDetails
from onnxmerge.pipeline.details.weights import Done
from onnxmerge.report.check_section import check_card, check_section
from onnxmerge.report.html import (
    bullets,
    cards,
    count,
    folded,
    key,
    link,
    meter,
    paragraph,
    preformatted,
    scrolled,
    short,
    similarity,
    table,
    text,
)
from onnxmerge.report.page_data import shades
from onnxmerge.report.picture import svg
from onnxmerge.report.section import Section
from onnxmerge.report.width_curve import widths_section
from onnxmerge.units.flow import Flow

_ASKED = (
    "The written file, held to the gates that a few samples answer. Agreement and size stand above, and groups were "
    "proved of the parents; onnxmerge check asks the file itself: --certify, --target, --labels and bounds."
)

DONE: Mapping[Done, str] = {
    "untouched": "equal in all parents, left as it was",
    "averaged": "the mean of the matched parents",
    "repaired": "the mean, with its scale or statistics set anew",
    "solved": "solved for what the parents compute",
    "answer": "solved for what the ensemble answers",
    "task vectors": "the base with task vectors added",
}


def merge_sections(
    result: MergeResult,
    names: Sequence[str],
    output: str,
    command: str | None = None,
    checked: CheckReport | None = None,
) -> Iterator[Section]:
    """Every section of a merge into ``output``; ``names`` are what its models are called, ``command`` repeats it.

    ``checked`` is what `check` says of the file.
    """
    report, details = result.report, result.details
    yield Section("answer", "The answer", _answer(report, details, names, checked))
    if checked is not None:
        hint = "" if command is None else _ASKED
        yield check_section(checked, hint)
    yield Section("again", "The same again", _again(report, names, output, command))
    if details is not None:
        yield Section("weights", "What was done to the weights", _weights(details))
    if result.flow is not None:
        yield network(result.flow, result)
    yield Section("groups", "Groups of units", _groups(report, details))
    if details is not None and details.layers:
        yield Section("drift", "Drift by layer", _drift(details, names))
    yield Section("tried", "Ways that were tried", _tried(report, names))
    if report.widening is not None:
        yield widths_section(report.widening)
    yield Section("times", "Time and memory", _times(report))


def network(flow: Flow, result: MergeResult | None) -> Section:
    """The picture of the network, blocks that repeat folded and unfolded, coloured by what merging came to."""
    shaded = {} if result is None else shades(result)
    plain, full = svg(flow, shaded), svg(flow, shaded, folded=False)
    about = paragraph(
        "Boxes are groups of units that are reordered together, in the order of the network. Lanes at the left are "
        "streams: groups that blocks read and add to. Dashed frames: blocks that repeat. Each box leads to its group.",
        "hint",
    )
    legend = ""
    if result is not None and result.details is not None:
        legend = (
            "<fieldset class=choice hidden><legend>Colour by</legend>"
            "<label><input type=radio name=colour value=similarity checked> similarity of matched units</label> "
            "<label><input type=radio name=colour value=done> what was done</label></fieldset>"
            '<p class="legend scales"><span class=scale></span> similarity from 0 to 1; grey: not known</p>'
            f'<p class="legend keys">{" ".join(f"<span>{key(done, done)}</span>" for done in DONE)}</p>'
        )
    body = about + legend + scrolled(plain, "The network, blocks folded")
    if full != plain:
        body += folded("Every block, unfolded", scrolled(full, "The network, every block"))
    return Section("network", "The network", f"<div id=pictures data-colour=similarity>{body}</div>")


def _answer(
    report: MergeReport, details: MergeDetails | None, names: Sequence[str], checked: CheckReport | None
) -> str:
    alpha = "" if report.alpha is None else f" with alpha {report.alpha:g}"
    summary = f"{len(report.models)} models merged by {report.method}{alpha}; statistics: {report.repair}."
    verdict = [] if checked is None else [check_card(checked)]
    shown = cards([*_agreement_cards(report, details), *verdict, *_cost_cards(report)])
    return paragraph(summary) + shown + _models(report, details, names) + bullets(report.notes)


def _agreement_cards(report: MergeReport, details: MergeDetails | None) -> Iterator[tuple[str, str, str]]:
    """How well the ensemble is met: as the merge itself judged it, or as it was looked at afterwards."""
    judged = [each for each in report.answers if each.after is not None]
    for each in judged:
        about = f"on {each.samples} held-out samples"
        if each.form != AS_IT_WAS and each.before is not None:
            about += f"; {each.before:.3f} before its last layer was solved for it"
        if each.parents:
            about += f"; the best parent alone {max(each.parents):.3f}"
        title = "Agreement with the ensemble" + (f", {each.meaning.output}" if len(judged) > 1 else "")
        yield title, f"{each.after:.3f} of 1", about
    for found in () if judged or details is None else details.outputs:
        if found.model == MERGED and found.other == ENSEMBLE:
            kind = "cosine of all answers" if found.top1 is None else "of samples get the same class"
            yield f"Agreement with the ensemble, {found.output}", _agreed(found), f"{kind}, on {_samples(details)}"
    if report.effort is not None and report.effort.ways:
        accuracy = report.effort.ways[report.effort.chosen].accuracy
        if accuracy is not None:
            yield "Accuracy", f"{accuracy:.1%}", f"by the labels, on {report.effort.samples} held-out samples"


def _cost_cards(report: MergeReport) -> Iterator[tuple[str, str, str]]:
    if report.footprints:
        *parents, merged = report.footprints
        share = merged.parameters / max(sum(each.parameters for each in parents), 1)
        yield "Parameters", count(merged.parameters), f"{share:.0%} of the {len(parents)} parents together"
    if report.certificates:
        passed = sum(each.passed for each in report.certificates)
        worst = max(each.max_relative_error for each in report.certificates)
        about = f"their units reordered at random, outputs alike to {worst:.1e}"
        yield "Groups proved", f"{passed} of {len(report.certificates)} parents", about
        yield "Free", f"{report.coverage.free_elements:.1%}", "of weight elements can be reordered, so be matched"
    else:
        yield "Groups proved", "none needed", "no unit was moved"


def _samples(details: MergeDetails | None) -> str:
    if details is None:
        return ""
    return f"{details.samples} {'held-out samples' if details.held_out else 'samples of the calibration data'}"


def _models(report: MergeReport, details: MergeDetails | None, names: Sequence[str]) -> str:
    """Parents and merge side by side: what they cost, how far their outputs are, and how they agree."""
    costs = report.footprints or (None,) * (len(names) + 1)
    errors = (*(report.reconstruction or (None,) * len(names)), None)
    rows = [
        (name, *(("-", "-") if cost is None else (count(cost.parameters), count(cost.flops))), short(error))
        for name, cost, error in zip((*names, "merged"), costs, errors, strict=True)
    ]
    heads = ("model", "parameters", "FLOPs a sample", "error in the merge")
    about = paragraph("Error in the merge: how far a parent's outputs are from the merged model's, relative.", "hint")
    return table(heads, rows, "Parents and merge", numbers=(1, 2, 3)) + about + _agreements(details, names)


def _agreements(details: MergeDetails | None, names: Sequence[str]) -> str:
    """How each output of the merged model, and of the parents alone, agrees with the parents and their ensemble."""
    if details is None or not details.outputs:
        return ""
    known = {(each.output, each.model, each.other): each for each in details.outputs}
    called = {**dict(enumerate(names)), ENSEMBLE: "the ensemble"}
    alone = any(each.model != MERGED for each in details.outputs)
    models = (MERGED, *range(len(names))) if alone else (MERGED,)
    rows = [
        (output, called[other], *(_agreed(known.get((output, model, other))) for model in models))
        for output, other in dict.fromkeys((each.output, each.other) for each in details.outputs)
    ]
    heads = ("output", "agrees with", "merged", *(f"{name} alone" for name in (names if alone else ())))
    about = (
        "Agreement in percent: samples that get the same class; from 0 to 1: the cosine of all answers (of embeddings "
        f"their directions, of logits their probabilities); on {_samples(details)}."
    )
    return table(heads, rows, "Agreement", numbers=range(2, len(heads))) + paragraph(about, "hint")


def _agreed(found: OutputAgreement | None) -> str:
    if found is None:
        return "-"
    return f"{found.cosine:.3f}" if found.top1 is None else f"{found.top1:.1%}"


def _again(report: MergeReport, names: Sequence[str], output: str, command: str | None) -> str:
    typed = ""
    if command is not None:
        typed = paragraph("This command makes the same file, byte by byte:") + preformatted(command, "command")
        typed += "<p><button type=button data-copy=command hidden>Copy the command</button></p>"
    rows = list(zip(names, report.sha256, strict=True))
    if report.base is not None:
        rows.append((f"base {short_names((report.base[0],))[0]}", report.base[1]))
    if report.calibration is not None:
        rows.append(("calibration data", report.calibration))
    read = table(("what was read", "SHA-256"), rows, "Digests", long=(1,))
    return typed + folded(f"Digests, and the recipe that {output} carries", read + preformatted(report.recipe))


def _weights(details: MergeDetails) -> str:
    numbers = dict.fromkeys(DONE, 0)
    counts = dict.fromkeys(DONE, 0)
    for each in details.weights:
        numbers[each.done] += math.prod(each.shape)
        counts[each.done] += 1
    total, shown = max(sum(numbers.values()), 1), [done for done in DONE if counts[done]]
    bar = "".join(
        f'<i class=part data-d="{done}" style="width:{100 * numbers[done] / total:.2f}%"></i>' for done in shown
    )
    rows = [
        (key(done, f"{done}: {DONE[done]}"), f"{counts[done]:,}", count(numbers[done]), f"{numbers[done] / total:.1%}")
        for done in shown
    ]
    heads = ("what was done", "initializers", "numbers", "share")
    every = [
        (each.name, "x".join(map(str, each.shape)) or "scalar", each.done, short(each.change))
        for each in details.weights
    ]
    listed = table(("initializer", "shape", "done", "change"), every, "Every initializer", numbers=(3,))
    about = paragraph("Change: how far it is from the mean of the matched parents, relative to that.", "hint")
    summary = table(heads, rows, "What was done", numbers=(1, 2, 3), bars=(0,))
    return f"<div class=bar aria-hidden=true>{bar}</div>{summary}{folded('Every initializer', about + listed)}"


def _groups(report: MergeReport, details: MergeDetails | None) -> str:
    known = set() if details is None else {each.space for each in details.groups}
    nested = any(group.varies_with for group in report.groups)
    rows = [
        (
            link(f"group-{group.id}", group.id) if group.id in known else text(group.id),
            f"{group.size:,}" if group.width == group.size else f"{group.size:,} to {group.width:,}",
            *((", ".join(group.varies_with) or "-",) if nested else ()),
            similarity(group.similarity_before),
            meter(group.similarity_after),
        )
        for group in report.groups
    ]
    panel = ""
    if known:
        panel = (
            "<div id=panel tabindex=-1 role=group aria-label='One group' hidden></div>"
            f"<noscript>{paragraph('The panel of a single group needs JavaScript.', 'hint')}</noscript>"
        )
    heads = ("group", "units", *(("varies with",) if nested else ()), "similarity before", "after matching")
    last = len(heads) - 1
    anchors = [f"group-{group.id}" for group in report.groups]
    return panel + table(heads, rows, "Groups", numbers=(1, last - 1), bars=(0, last), anchors=anchors)


def _drift(details: MergeDetails, names: Sequence[str]) -> str:
    every = [value for each in details.layers for value in (*each.parents, each.mean) if math.isfinite(value)]
    most = max([*every, 1e-9])
    rows = [
        (each.node, *(meter(value, most, ".3g") for value in (*each.parents, each.mean)), short(each.spread))
        for each in details.layers
    ]
    heads = ("layer", *(f"from {name}" for name in names), "from their mean", "spread")
    found = table(heads, rows, "Every layer", numbers=(len(heads) - 1,), bars=range(1, len(heads) - 1))
    about = (
        "How far what a layer gives is from what its parents give in the merged units, relative to that. Spread: the "
        "deviation of its units relative to the parents', which averaging shrinks (1: kept)."
    )
    return paragraph(about, "hint") + found


def _tried(report: MergeReport, names: Sequence[str]) -> str:
    parts = []
    if report.effort is not None:
        effort = report.effort
        parts += [paragraph(note) for note in effort.notes]
        if effort.ways:
            rows = [
                (" ".join(way.flags), f"{way.agreement:.4f}", short(way.accuracy), _mark(index, effort.chosen))
                for index, way in enumerate(effort.ways)
            ]
            parts.append(paragraph(f"Chosen by {effort.criterion} on {effort.samples} held-out samples."))
            parts.append(table(("way to merge", "agreement", "accuracy", ""), rows, "Ways to merge", numbers=(1, 2)))
    if report.weighing is not None:
        weighing = report.weighing
        weights = [
            (
                each.found,
                listed_weights(each.weights),
                f"{each.agreement:.4f}",
                short(each.accuracy),
                _mark(index, weighing.chosen),
            )
            for index, each in enumerate(weighing.candidates)
        ]
        parts.append(paragraph(f"Weights {weights_found(weighing)}."))
        parts += [paragraph(note) for note in weighing.notes]
        parts.append(paragraph(f"Chosen by {weighing.criterion} on {weighing.samples} held-out samples."))
        heads = ("weights", "", "agreement", "accuracy", "")
        parts.append(table(heads, weights, "Weights of the models", numbers=(2, 3)))
    if report.search is not None:
        search = report.search
        candidates = [
            (
                tried(each),
                "-" if each.alpha is None else f"{each.alpha:g}",
                f"{each.reconstruction:.4f}",
                short(each.accuracy),
                _mark(index, search.chosen),
            )
            for index, each in enumerate(search.candidates)
        ]
        parts.append(paragraph(f"Method and alpha by {search.criterion} on {search.samples} held-out samples."))
        heads = ("method", "alpha", "reconstruction", "accuracy", "")
        parts.append(table(heads, candidates, "Methods and alphas", numbers=(1, 2, 3)))
    if report.scales is not None:
        scales = [
            (f"{each.scale:g}", f"{each.depth:g}", f"{each.agreement:.4f}", _mark(index, report.scales.chosen))
            for index, each in enumerate(report.scales.candidates)
        ]
        parts.append(paragraph(f"Scale by what the parents learnt, on {report.scales.samples} held-out samples."))
        parts.append(table(("scale", "depth", "agreement", ""), scales, "Scales", numbers=(1, 2)))
    if report.soup is not None:
        soup = report.soup
        models = [
            (*row, "taken" if each.taken else "left out")
            for each, row in zip(soup.models, soup_rows(soup, names), strict=True)
        ]
        parts.append(paragraph(f"Models by {soup.criterion} on {soup.samples} held-out samples, in this order."))
        parts.append(table((*SOUP_HEADS, ""), models, "Models of the soup", numbers=(1, 2)))
    return "".join(parts)


def _mark(index: int, chosen: int) -> str:
    return "chosen" if index == chosen else ""


def _times(report: MergeReport) -> str:
    total = sum(report.seconds.values())
    rows = [(stage, meter(seconds, max(total, 1e-9), ".2f")) for stage, seconds in report.seconds.items()]
    peak = "" if report.peak_memory is None else f" At most {report.peak_memory / 2**20:,.0f} MiB of memory were held."
    about = (
        f"{total:.1f} seconds in all.{peak} This was measured, and is all in this page that differs from run to run."
    )
    return paragraph(about) + table(("stage", "seconds"), rows, "Seconds by stage", bars=(1,))
