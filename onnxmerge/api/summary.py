"""What a merge has to say in words, line by line: for terminals, pages, cards and notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxmerge.matching.methods import MATCHERS
from onnxmerge.merging.answer.answer import Answered
from onnxmerge.model.training import ROLES
from onnxmerge.pipeline.details.layers import DEPARTS, LayersReport
from onnxmerge.pipeline.details.weights import Done
from onnxmerge.pipeline.forecasting import ENOUGH, Forecast, GroupForecast
from onnxmerge.pipeline.quantising import QuantisedReport
from onnxmerge.pipeline.selection.ingredients import SoupReport
from onnxmerge.pipeline.selection.search import Candidate
from onnxmerge.pipeline.selection.weighing import WeightsReport
from onnxmerge.pipeline.selection.widening import WidthsReport
from onnxmerge.pipeline.vocabulary import VocabularyReport
from onnxmerge.text import counted
from onnxmerge.validation.certificate import Certificate
from onnxmerge.validation.coverage import Coverage

if TYPE_CHECKING:
    from onnxmerge.api.outcome import GroupReport, MergeReport


DONE: Mapping[Done, str] = {
    "solved": "solved for what the parents compute",
    "answer": "solved for what the ensemble answers",
    "averaged": "averaged",
    "repaired": "averaged and repaired",
    "task vectors": "the base with task vectors",
    "untouched": "untouched",
}
"""What was done to layers, in words of the summary."""

_NAMED = 3
"""So many layers to which one thing was done are named."""


def facts(report: MergeReport, names: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Lines of title and text, those that say nothing about this merge left out.

    ``names`` are what the models are called, by default as they were given.
    """
    called = names or report.models
    if report.soup is not None:
        yield "soup", soup_told(report.soup, called)
    yield from _weights(report)
    yield from _matching(report)
    if report.rotated:
        yield "rotated", f"{len(report.rotated)} spaces: {', '.join(report.rotated)}"
    among = f"; the best of {len(report.repairs)} on held-out samples" if report.repairs else ""
    for told in () if report.effort is None else report.effort.notes:
        yield "effort", told
    yield "statistics", f"{report.repair}{among}"
    own = [own_option(name, value) for name, value in report.method_options.items() if value not in (None, ())]
    if own:
        yield "options", ", ".join(own)
    yield from _layers(report.layers)
    for answer in report.answers:
        yield "output", _answer(answer)
    if report.share < 1:
        yield "shared", f"{report.share:.0%} of the units of each group that can be widened"
    yield from _widths(report)
    if report.vocabulary is not None:
        yield "vocabulary", vocabulary_told(report.vocabulary, [*called, "the base"])
    if report.heads is not None:
        yield "merged up to", ", ".join(report.heads.border)
        for outputs, model in zip(report.heads.outputs, called, strict=True):
            yield "outputs", f"{', '.join(outputs)}  {model}"
    yield from _checked(report, called)
    yield "free", coverage_told(report.coverage)


def _matching(report: MergeReport) -> Iterator[tuple[str, str]]:
    """How alike units are that were matched, and how the search for them ended."""
    before, after = _mean(report.groups)
    if after is not None:
        yield "mean similarity", f"{similarity_told(before)} -> {similarity_told(after)}"
    elif report.method in MATCHERS and not MATCHERS[report.method].moves:
        yield "mean similarity", f"not measured: {report.method} matches nothing"
    if any(report.sweeps):
        ended = "converged" if report.converged else "stopped at the limit"
        yield "sweeps", f"{', '.join(map(str, report.sweeps))} ({ended})"


def _weights(report: MergeReport) -> Iterator[tuple[str, str]]:
    """How much each model counts, where that is not alike or was found."""
    if report.weighing is not None:
        yield "weights", weights_found(report.weighing)
        for told in report.weighing.notes:
            yield "weights", told
    elif len(set(report.weights)) > 1:
        yield "weights", ", ".join(f"{weight:.4g}" for weight in report.weights)


def soup_told(soup: SoupReport, called: Sequence[str]) -> str:
    """Which models were taken, in which order, and how accurate their mean became."""
    taken, left = soup.taken, [called[each.model] for each in soup.models if not each.taken]
    told = ", then ".join(f"{called[each.model]} ({each.together:.4f})" for each in taken)
    out = f"; left out: {', '.join(left)}" if left else ""
    return f"{len(taken)} of {len(soup.models)} models: {told}{out}"


SOUP_HEADS = ("model", "alone", "mean with it")


def soup_rows(soup: SoupReport, called: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """How accurate each model is, and the mean with it, in the order in which they were tried."""
    for each in soup.models:
        yield called[each.model], f"{each.accuracy:.4f}", f"{each.together:.4f}"


def _widths(report: MergeReport) -> Iterator[tuple[str, str]]:
    """How wide the merged groups are, where that was asked for or found."""
    width = report.width
    if isinstance(width, str):
        yield "width", f"times that of a parent, of single groups: {width}"
    elif width is not None:
        yield "width", f"{width:g} times that of a parent, of each group that can have another one"
    if report.widening is not None:
        yield "widths", widths_found(report.widening)
        for told in report.widening.notes:
            yield "widths", told


def widths_found(found: WidthsReport) -> str:
    """What the smallest network costs that is good enough, and what it had to reach."""
    small, chosen = found.candidates[0], found.candidates[found.chosen]
    size = getattr(chosen, found.smallest_in) / max(getattr(small, found.smallest_in), 1)
    named = {"parameters": "parameters", "flops": "FLOPs"}[found.smallest_in]
    aim = "the ensemble" if found.reached else "the better one of the narrowest and the widest"
    return (
        f"{size:.2f} times the {named} of a parent, the least of {len(found.candidates)} tried within "
        f"{counted(found.within, 'point')} of {aim}: {found.criterion} {chosen.score:.4f}, {found.least:.4f} wanted"
    )


def width_heads(found: WidthsReport) -> tuple[str, ...]:
    """The heads of ``width_rows``: with labels, the last is the accuracy."""
    heads = "parameters", "of a parent", "FLOPs a sample", "groups widened", "agreement"
    return heads if found.candidates[0].accuracy is None else (*heads, "accuracy")


def width_rows(found: WidthsReport) -> Iterator[tuple[str, ...]]:
    """What each network that was tried costs, and how it did."""
    for each in found.candidates:
        size = each.parameters / max(found.candidates[0].parameters, 1)
        widened = each.widths.count("=") if "=" in each.widths else len(found.groups) * (each.widths != "1")
        row = f"{each.parameters:,}", f"{size:.2f}x", f"{each.flops:,}", f"{widened} of {len(found.groups)}"
        accuracy = () if each.accuracy is None else (f"{each.accuracy:.4f}",)
        yield (*row, f"{each.agreement:.4f}", *accuracy)


def _answer(found: Answered) -> str:
    """What an output is, how that is known, and what its layer was solved for."""
    meaning = found.meaning
    kind = f"{meaning.output}: {meaning.meaning} ({'a guess: ' if meaning.guessed else ''}{meaning.why}"
    kind += "; --outputs says otherwise)" if meaning.guessed else ")"
    mean = "" if found.mean is None else f", its mean {found.mean}"
    if found.before is None or found.after is None:
        return f"{kind}; {found.form}{mean}"
    agreed = f"agreement with the ensemble {found.before:.4f} -> {found.after:.4f} on {found.samples} held-out samples"
    return f"{kind}; {found.form}{mean}; {agreed}"


def vocabulary_told(found: VocabularyReport, called: Sequence[str]) -> str:
    """How many tokens the merged model has, and who lacks how many of them."""
    kept = "all that a model has" if found.kept == "union" else "those of the first model"
    told = f"{found.tokens:,} tokens, {kept}"
    lacking = [f"{name} {count:,}" for name, count in zip(called, found.lacking, strict=False) if count]
    return f"{told}; lacking: {', '.join(lacking)} (each is the mean of the models that have it)" if lacking else told


def _checked(report: MergeReport, called: Sequence[str]) -> Iterator[tuple[str, str]]:
    """How the merged model was quantised, or can be trained, and what was proved of its parents."""
    if report.quantised is not None:
        yield "quantised", _quantised(report.quantised)
    if report.training is not None:
        roles = report.training
        told = f"{len(roles.learned)} learned, {len(roles.statistics)} running statistics, {len(roles.fixed)} fixed"
        yield "for training", f"{told} (metadata {ROLES})"
    if not report.certificates:
        yield "certificate", "none needed: no unit was moved"
    for certificate, model in zip(report.certificates, called, strict=False):
        yield "certificate", f"{certificate_told(certificate)}  {model}"


def _quantised(found: QuantisedReport) -> str:
    """How the merged model was quantised, and what that changed."""
    told = f"as the first model ({', '.join(found.operators)}), {found.weights} weights"
    if found.ranges is not None:
        told += f", {found.activations} ranges of activations: {found.ranges}"
    return told if found.change is None else f"{told}; outputs differ from the float merge by {found.change:.2%}"


def _layers(found: LayersReport | None) -> Iterator[tuple[str, str]]:
    if found is not None and found.layers:
        yield "layers", layers_told(found)
        if found.compared:
            yield "departs", departure_told(found)


def layers_told(found: LayersReport) -> str:
    """How many of the layers were solved, averaged, untouched; by name where they are few."""
    told = []
    for done, means in DONE.items():
        nodes = found.nodes(done)
        named = f" ({', '.join(nodes)})" if 0 < len(nodes) <= _NAMED < len(found.layers) else ""
        told += [f"{len(nodes)} {means}{named}"] if nodes else []
    return ", ".join(told)


def departure_told(found: LayersReport) -> str:
    """The first layer where the merged network departs from its parents."""
    first = found.departs
    if first is None:
        return f"no layer from its parents: each is nearer to their mean than {DEPARTS:.0%} of that"
    return f"first at {first.node}, {first.mean:.0%} from the parents' mean; from each: " + ", ".join(
        f"{far:.0%}" for far in first.parents
    )


FORECAST_HEADS = ("group", "units of a parent", "merged", "", "both kept", f"directions for {ENOUGH:.0%}")


def forecast_row(group: GroupForecast) -> tuple[str, ...]:
    """What of the parents fits into one group."""
    kind = "stream" if group.stream else ""
    return group.id, f"{group.size:,}", f"{group.width:,}", kind, f"{group.kept:.1%}", f"{group.needed:,}"


def expectations(found: Forecast) -> Iterator[tuple[str, str]]:
    """Lines of title and text: what a merge is expected to come to, and what that rests on."""
    if found.groups:
        least = min(found.groups, key=lambda group: group.kept)
        yield "least room", f"{least.id}: {least.kept:.1%} of what the parents do there fits into {least.width:,} units"
    if found.agreement is None or found.ensemble is None or found.chance is None:
        return
    law = found.law
    yield "forecast", f"agreement with the ensemble {found.agreement:.3f}, give or take {law.worst:.3f}"
    yield "", f"the parents' common answer itself reaches {found.ensemble:.3f}, answers by chance {found.chance:.3f}"
    basis = f"the variance that fits, on {found.samples:,} samples, and a law with one number"
    yield "rests on", f"{basis}, fitted on {law.merges} merges (docs/forecast.md)"
    off = f"by {law.error:.3f} on average, and {law.worst:.3f} at most"
    yield "", f"each of these merges forecast by the law of the others, that was off {off}"


def own_option(name: str, value: object) -> str:
    """An option of the method's own, and its value."""
    if isinstance(value, tuple):
        return f"{name} {', '.join(map(str, value))}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def tried(candidate: Candidate) -> str:
    """The method of a candidate, and those of its options that tell it from others; alpha has a column of its own."""
    return ", ".join([candidate.method, *(own_option(*pair) for pair in candidate.own if pair[0] != "alpha")])


def listed_weights(weights: Sequence[float]) -> str:
    """Weights of models, one after the other."""
    return ", ".join(f"{weight:g}" for weight in weights)


def weights_found(weighing: WeightsReport) -> str:
    """The weights that were found, and what the models know by what they were found."""
    found = weighing.candidates[weighing.chosen].found
    known = ", ".join(f"{accuracy:.1%}" for accuracy in weighing.parents)
    return f"{listed_weights(weighing.weights)} ({found}; the models are right on {known}, by their own lights)"


def certificate_told(certificate: Certificate) -> str:
    """Whether a proof holds, and what it compared."""
    verdict = "passed" if certificate.passed else "FAILED"
    return (
        f"{verdict}: {certificate.values_compared:,} values in {certificate.tensors_compared} tensors, "
        f"max relative error {certificate.max_relative_error:.1e}, absolute {certificate.max_absolute_error:.1e}"
    )


def coverage_told(coverage: Coverage) -> str:
    """How much of the weights can be reordered."""
    return f"{coverage.free_elements:.1%} of weight elements, {coverage.free_axes:.1%} of weight axes"


def similarity_told(value: float | None) -> str:
    """A similarity, or that there is none."""
    return "-" if value is None else f"{value:.3f}"


def _mean(groups: Sequence[GroupReport]) -> tuple[float | None, float | None]:
    """Mean over units, for groups whose similarity is known."""
    known = [(g.size, g.similarity_before, g.similarity_after) for g in groups]
    rows = [(size, before, after) for size, before, after in known if before is not None and after is not None]
    total = sum(size for size, _, _ in rows)
    if not total:
        return None, None
    return (
        sum(size * before for size, before, _ in rows) / total,
        sum(size * after for size, _, after in rows) / total,
    )
