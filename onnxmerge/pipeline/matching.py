"""The stages before merging: what is measured in the parents, and which of their units are alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.moments import Moments, Probe
from onnxmerge.activations.sample_size import LEAST, enough
from onnxmerge.activations.statistics import Gram, GramRequest, MomentRequest, Statistics
from onnxmerge.calibration.batches import takes_any
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread, cuts
from onnxmerge.errors import InputError
from onnxmerge.matching.method import MatchProblem, MatchResult
from onnxmerge.memory import room_for
from onnxmerge.merging.repair.choice import repair_step
from onnxmerge.merging.repair.in_graph import probe_of
from onnxmerge.merging.repair.plan import Which, plan_repair
from onnxmerge.merging.scales import ScalePlan, comparable, plan_scales
from onnxmerge.model.lazy_weights import LazyWeights
from onnxmerge.model.network import Network
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.options import MergeOptions, without
from onnxmerge.pipeline.resizing import kept_apart
from onnxmerge.types import Arrays

KEPT = 1 << 30
"""Bytes of each model's weights that are kept at most between visits of a group."""

PROBED = 1 << 26
"""Bytes of moments that are kept feed by feed at most."""

_AFTER_MATCHING = ("refine", "answer", "outputs", "output_mean", "output_type", "effort")
_AFTER_MEASURING = (*_AFTER_MATCHING, "method", "own", "repair", "rotate", "weights", "share", "width")
"""Options that change nothing of a stage's result, or only by what is requested of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """What is known of the parents. ``statistics`` are None where nothing was measured.

    ``moments`` are those of ``scales``: the layers whose units have no scale of their own (None: there are none).
    ``probed_on`` says on what of the data probes measured what repairs will want to know.
    ``parents`` fills as merges are repaired: the moments of each batch in each model, by models, data and tensors.
    ``origin`` says what was measured, and on which part of the data.
    """

    moments: tuple[MomentRequest, ...] = ()
    scales: ScalePlan | None = None
    statistics: Statistics | None = None
    parents: dict[Hashable, list[list[dict[str, Moments]]]] = field(default_factory=dict)
    origin: tuple[object, ...] = ()
    probed_on: tuple[object, ...] = ()

    def probed(self, tensors: Collection[str], data: CalibrationSource) -> Statistics | None:
        """The statistics, if probes measured these tensors on ``data``; else None."""
        found = self.statistics
        known = found is not None and {*found.probed}.issuperset(tensors) and self.probed_on == cuts(data)
        return found if known else None


def planned(job: Job) -> Measurements:
    """What statistics the scale of units needs."""
    graph, typing = job.prepared.models.template.graph, job.prepared.typing
    step = repair_step(graph, typing, job.options.repair)
    if job.source is None or step is None or job.options.task_vectors is not None:
        return Measurements()
    hidden = plan_repair(graph, typing, "free").layers if step.which == "all" else ()
    scales = plan_scales(graph, typing, hidden)
    return Measurements(scales.requests, scales if scales.layers else None)


def measured(job: Job, trials: Sequence[MergeOptions], repaired: Which | None = None) -> Measurements:
    """What all ways to merge that are to be tried need to know of the parents, in one pass over the data.

    ``repaired`` are the layers that will be repaired, of which more is to be known (None: none).
    """
    prepared, plans = job.prepared, planned(job)
    comparing = [trial.matcher for trial in trials if trial.compares_activations]
    grams = [GramRequest(space, taps) for space, taps in prepared.typing.taps.items()] if comparing else []
    requests: list[GramRequest | MomentRequest] = [*grams, *plans.moments]
    if job.source is None or not requests:
        return plans
    source = job.source
    if job.options.samples is None:
        source = Spread(source, enough(prepared.typing, grams, rows(prepared.trace.sample)))
    every = range(len(prepared.models.weights))
    together = any(matcher is not None and matcher.all_pairs for matcher in comparing)
    pairs = [(one, other) for other in every for one in every[: other + 1]] if together else None
    plans = replace(plans, origin=(cuts(source), requests, pairs))
    if prepared.traced is prepared.models.template or not grams:
        data, probes = Spread(job.source, LEAST), _probes(job, source, repaired)
        found = _gathered(job, prepared.models.template, requests, source, pairs, probes)
        return replace(plans, statistics=found, probed_on=cuts(data))
    seen = _seen_inside(job, grams, source, pairs)
    moments = _gathered(job, prepared.models.template, plans.moments, source, pairs) if plans.moments else seen
    return replace(plans, statistics=Statistics(seen.gram, moments.moments))


def _probes(job: Job, source: CalibrationSource, which: Which | None) -> tuple[Probe, ...]:
    """What repairs will want to know of the parents, if it is of the very samples that are measured anyway.

    Not where it would be much to keep, as it is kept feed by feed.
    """
    models, typing = job.prepared.models, job.prepared.typing
    graph = models.template.graph
    if which is None or job.source is None or not takes_any(models.template.model):
        return ()
    if len(source.sizes) != len(Spread(job.source, LEAST).sizes):
        return ()
    layers = plan_repair(graph, typing, which).layers
    channels = sum(layer.units for layer in layers)
    if 2 * channels * len(models.weights) * len(source.sizes) * np.dtype(np.float64).itemsize > PROBED:
        return ()
    return tuple(probe_of(graph, layer, typing) for layer in layers)


def compared(
    job: Job, grams: Sequence[GramRequest], source: CalibrationSource, pairs: Sequence[tuple[int, int]]
) -> Statistics:
    """The products between units, inside the bodies of Ifs and loops too, of these ``pairs`` of models."""
    prepared = job.prepared
    if prepared.traced is prepared.models.template:
        return _gathered(job, prepared.models.template, grams, source, pairs)
    return _seen_inside(job, grams, source, pairs)


def _seen_inside(
    job: Job, grams: Sequence[GramRequest], source: CalibrationSource, pairs: Sequence[tuple[int, int]] | None
) -> Statistics:
    """What units do that the bodies of Ifs and loops have too, in the network that was traced (see ``model.hoist``).

    It computes what the model skips, and loops as often as on the traced sample: where the data is not made for that,
    only what stands outside of bodies is seen.
    """
    prepared = job.prepared
    try:
        return _gathered(job, prepared.traced, grams, source, pairs)
    except InputError:
        outside = {value.name for node in prepared.models.template.graph for value in node.outputs}
        kept = [replace(each, tensors=tuple(name for name in each.tensors if name in outside)) for each in grams]
        return _gathered(job, prepared.models.template, [each for each in kept if each.tensors], source, pairs)


def _gathered(
    job: Job,
    network: Network,
    requests: Sequence[GramRequest | MomentRequest],
    source: CalibrationSource,
    pairs: Sequence[tuple[int, int]] | None,
    probes: Sequence[Probe] = (),
) -> Statistics:
    def statistics() -> Statistics:
        with job.progress("calibrating") as report:
            return measure_statistics(
                network,
                job.prepared.models.weights,
                job.prepared.typing,
                requests,
                source,
                provider=job.options.provider,
                progress=report,
                pairs=pairs,
                probes=probes,
                traced=rows(job.prepared.trace.sample),
                executor=job.executor,
            )

    inside = network is not job.prepared.models.template
    what = cuts(source), requests, pairs, inside, [probe.tensor for probe in probes]
    return job.store.kept("statistics", without(job.options, _AFTER_MEASURING), what, statistics)


def match(job: Job, measurements: Measurements) -> MatchResult:
    """Match the units of all models by the chosen method; task vectors are added up without any matching."""
    options, what = _determined(job.options, measurements)
    return job.store.kept("matching", options, what, lambda: _matched(job, measurements))


def match_each(
    job: Job, every: Sequence[MergeOptions], measurements: Measurements
) -> Iterator[MatchResult | InputError]:
    """The same by each of several methods; an error in place of the result where a method cannot match the models."""

    def results(places: Sequence[int]) -> Iterator[MatchResult | InputError]:
        matching = _Matching(replace(job, source=None), measurements)  # by what was measured: the data stays here
        return job.executor.map(matching, [every[place] for place in places])

    return job.store.kept_each("matching", [_determined(how, measurements) for how in every], results)


def _determined(options: MergeOptions, measurements: Measurements) -> tuple[MergeOptions, object]:
    """What a matching is determined by."""
    return without(options, _AFTER_MATCHING), measurements.origin


@dataclass(frozen=True, slots=True, eq=False)
class _Matching:
    """The work of matching by several methods: options go in."""

    job: Job
    measurements: Measurements

    def open(self) -> Callable[[MergeOptions], MatchResult | InputError]:
        """Nothing is to be got ready."""

        def result(how: MergeOptions) -> MatchResult | InputError:
            try:
                return _matched(replace(self.job, options=how), self.measurements)
            except InputError as error:
                return error

        return result


def _matched(job: Job, measurements: Measurements) -> MatchResult:
    options, models, typing = job.options, job.prepared.models, job.prepared.typing
    matcher = options.matcher
    if matcher is None:
        return MatchResult()
    weights: Sequence[Arrays] = models.weights
    if measurements.scales is not None and measurements.statistics is not None:
        weights, typing = comparable(models, typing, measurements.scales, measurements.statistics)
    statistics = measurements.statistics
    grams = statistics.gram if statistics is not None and options.compares_activations else {}
    widths = {} if job.resized is None else job.resized.widths
    kept = room_for(KEPT, 4 * len(weights))
    problem = MatchProblem(typing, weights, widths=widths, seed=options.seed, cache_bytes=kept, executor=job.executor)
    if matcher.all_pairs:
        seen = [space for space, gram in grams.items() if gram.cross]
        together = LazyWeights(seen, lambda space: grams[space].correlations(len(weights)))
        deviations = [LazyWeights(seen, _deviations(grams, model)) for model in range(len(weights))]
        problem = replace(problem, together=together, shares=job.shares, deviations=deviations)
    else:
        activations = [LazyWeights(grams, _with_first(grams, other)) for other in range(1, len(weights))]
        problem = replace(problem, activations=activations)
    found = matcher(problem, options.own_of(matcher))
    return found if options.share == 1 else kept_apart(job, found, measurements.statistics)


def _deviations(grams: Mapping[str, Gram], model: int) -> Callable[[str], NDArray[np.float64]]:
    """The deviations of one model's units, by space."""
    return lambda space: np.sqrt(grams[space].variance(model))


def _with_first(grams: Mapping[str, Gram], other: int) -> Callable[[str], NDArray[np.float64]]:
    """The correlations of the first model's units with another's, by space."""
    return lambda space: grams[space].correlation(0, other)
