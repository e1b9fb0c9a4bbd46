"""The stages after matching: average, and give back what averaging takes from the statistics of units."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from onnxmerge.activations.measuring import samples_at_once
from onnxmerge.activations.moments import Moments, by_batch, measured_batches, pooled
from onnxmerge.activations.sample_size import LEAST
from onnxmerge.calibration.batches import takes_any
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.subset import Spread, cuts
from onnxmerge.matching.method import MatchResult
from onnxmerge.memory import room_for
from onnxmerge.merging.alike import computed_alike
from onnxmerge.merging.closed_form.context import Kept, MergeContext, Refined
from onnxmerge.merging.combine import combine
from onnxmerge.merging.refinements.refinement import Refinement
from onnxmerge.merging.repair.batchnorm import reestimate
from onnxmerge.merging.repair.choice import RepairStep
from onnxmerge.merging.repair.in_graph import independent_moments, probe_of
from onnxmerge.merging.repair.plan import RepairPlan, Target, Which, plan_repair, targets
from onnxmerge.merging.repair.repair import repair
from onnxmerge.merging.scales import balanced
from onnxmerge.merging.task_vectors import TaskVectorMethod, add_task_vectors, memory_taken
from onnxmerge.model.digest import tensors_of
from onnxmerge.model.kept_weights import KeptWeights
from onnxmerge.model.lazy_weights import Overlay
from onnxmerge.model.network import ModelSet
from onnxmerge.model.normalisation import batchnorms
from onnxmerge.model.owned import laid_over
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.types import Array, Arrays
from onnxmerge.units.zips import Matchings

T = TypeVar("T")

_REESTIMATED = "BatchNorm re-estimated"

COMPUTED_AT_ONCE, COMPUTED_PART = 9 << 26, 4
"""Bytes that tensors take together at most while what was learnt in them is put together, and the part of the memory
that may be taken; one alone may take more."""

PARENT_ACTIVATIONS = 1 << 28
"""Bytes of measured activations in one run of a parent. Larger batches run in parts, whose moments are put together.
The merged network cannot run so, as repair makes the samples of a batch depend on each other."""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Merged weights, what was done to their statistics, and what the user should know about it."""

    weights: Arrays
    done: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def repaired(self) -> str:
        """What was done, for people."""
        return ", ".join(self.done) or "none"


def merged(job: Job, matched: MatchResult, measurements: Measurements, step: RepairStep | None) -> Merged:
    """Average the matched models and restore their statistics, by ``step`` or by the refinement of the options."""
    return Repairs(job, matched, measurements)(averaged(job, matched, measurements, step), step)


def averaged(job: Job, matched: MatchResult, measurements: Measurements, step: RepairStep | None) -> Merged:
    """The matched models averaged, or refined, with the statistics of kept BatchNorm measured anew.

    It is the same for every two steps of one ``basis``.
    """
    typing = job.prepared.typing
    if job.options.task_vectors is not None:
        return _task_vectors(job, job.options.task_vectors, measurements, step)
    if job.source is None:
        told = ("statistics were averaged, not repaired: there is no calibration data",)
        plain = combine(job.prepared.models, typing, matched.matchings, weights=job.shares)
        return Merged(plain, notes=told if step is not None else ())
    alike = tensors_alike(job, matched)
    models = in_one_scale(job, measurements, step, alike)
    weights: Arrays = combine(models, typing, matched.matchings, weights=job.shares)
    return _restored(job, matched.matchings, measurements, weights, step, alike)


def tensors_alike(job: Job, matched: MatchResult) -> frozenset[str]:
    """The tensors that all parents compute alike, which are left as they are (see ``merging.alike``)."""
    models = job.prepared.models
    average = combine(models, job.prepared.typing, matched.matchings, weights=job.shares)
    return computed_alike(job.network.model.graph, average, models.weights[0])


def basis(job: Job, step: RepairStep | None) -> tuple[bool, bool]:
    """What of a step the average depends on."""
    return _reestimates(job, step), _sets_scales(job, step)


@dataclass(frozen=True, slots=True, eq=False)
class Repairs:
    """The ways to repair the linear layers of one average, each measured once for all that can share it.

    ``which`` names the layers that any of these repairs changes: parents are measured at all of them in one pass, if
    they were not while they were compared. What a repair measured is kept, so to do it again, after it was tried, runs
    nothing.
    """

    job: Job
    matched: MatchResult
    measurements: Measurements
    which: Which = "fixed"
    _alike: list[frozenset[str]] = field(default_factory=list)
    _known: dict[tuple[tuple[bool, bool], str], dict[str, Moments] | None] = field(default_factory=dict)
    _measured: dict[tuple[tuple[bool, bool], RepairStep], dict[str, Moments]] = field(default_factory=dict)

    def __call__(self, before: Merged, step: RepairStep | None) -> Merged:
        """``before`` (see ``averaged``) repaired by ``step``, where there is data to do it by."""
        if step is None:
            return before
        what = *depends(self.job, self.measurements, step), step.which, step.mode.name
        options, store = self.job.options, self.job.store
        changed = store.kept("repair", options, what, lambda: self.changes(before, step))
        if changed is None:
            return before
        owned = self.job.prepared.models.owned
        return Merged(laid_over(owned, before.weights, changed), (*before.done, step.label), before.notes)

    def changes(self, before: Merged, step: RepairStep | None) -> Arrays | None:
        """The weights that ``step`` changes; None where it does not apply."""
        job = self.job
        refinement = job.options.refinement
        restored = (refinement is not None and refinement.restores) or job.options.task_vectors is not None
        if step is None or job.source is None or restored:
            return None
        model, typing, provider = job.network.model, job.prepared.typing, job.options.provider
        if job.apart:  # the parents stand side by side, so hidden statistics are right as they are
            step = replace(step, which="fixed")
        if not self._alike:
            self._alike.append(tensors_alike(job, self.matched))
        plan = plan_repair(model.graph, typing, step.which).without(self._alike[0])
        if not plan.layers:
            return None
        key, data = (basis(job, step), step.which), Spread(job.source, LEAST)
        if key not in self._known:
            self._known[key] = independent_moments(model, typing, before.weights, plan, data, provider)
        known = self._known[key]
        measured = self._measured.setdefault((basis(job, step), step), {})
        every = self._parents(plan)
        probes = [probe_of(model.graph, layer, typing) for layer in plan.layers]

        def aims(moments: Sequence[Mapping[str, Moments]]) -> dict[str, Target]:
            return targets(plan, typing, moments, self.matched.matchings, shares=job.shares)

        return repair(
            model,
            typing,
            before.weights,
            plan,
            aims([pooled(probes, own) for own in every]),
            data,
            mode=step.mode,
            batches=[aims(batch) for batch in zip(*every, strict=True)],
            provider=provider,
            known=known or dict(measured) or None,
            measured=measured,
        )

    def _parents(self, plan: RepairPlan) -> list[list[dict[str, Moments]]]:
        """The moments that each parent has in each batch: measured where and as those of the merged network are."""
        job, measurements = self.job, self.measurements
        models, known = job.prepared.models, measurements.parents
        graph, typing = models.template.model, job.prepared.typing
        every = plan_repair(job.network.graph, typing, self.which).without(self._alike[0])
        layers = {layer.output: layer for layer in (*every.layers, *plan.layers)}
        key = models, job.source, frozenset(layers)
        if job.source is None or key in known:
            return known[key]
        data, traced = Spread(job.source, LEAST), rows(job.prepared.trace.sample)
        statistics = measurements.probed(layers, data)
        if statistics is not None:
            known[key] = [statistics.by_batch(model) for model in range(len(models.weights))]
            return known[key]
        probes = [probe_of(graph.graph, layer, typing) for layer in layers.values()]
        most = samples_at_once(typing, layers, traced, size=PARENT_ACTIVATIONS) if takes_any(graph) else None
        known[key] = [
            list(by_batch(graph, own, probes, batches, provider=job.options.provider, most=most))
            for own in models.weights
            for batches in [measured_batches(graph, data)]
        ]
        return known[key]


def _task_vectors(
    job: Job, method: TaskVectorMethod[Any], measurements: Measurements, step: RepairStep | None
) -> Merged:
    """The base with the merged task vector, refined; of statistics only those of kept BatchNorm are measured anew."""
    origin = "the base" if "base" in method.needs else "one network"
    notes = [f"units are taken in the order of {origin}: {method.name} takes the models to be fine-tuned from it"]
    added, job = task_vectors_added(job, method), job.averaged
    if job.options.refinement is None or job.source is None:
        found = with_statistics(job, added, step)
    else:
        alike = computed_alike(job.network.model.graph, added, job.prepared.models.weights[0])
        still: Matchings = [{}] * (len(job.prepared.models.weights) - 1)
        found = _restored(job, still, measurements, added, step, alike)
        notes += found.notes
    if job.prepared.typing.statistics and not _reestimates(job, step):
        notes.append("running statistics were averaged, not re-estimated")
    return replace(found, notes=tuple(notes))


def task_vectors_added(job: Job, method: TaskVectorMethod[Any]) -> Arrays:
    """The origin with the merged task vector; each tensor is computed once, several at a time."""
    prepared, part, own = job.prepared, job.averaged, job.options.own_of(method)
    models, base = part.prepared.models, None if job.base is None else job.base.weights
    found = add_task_vectors(models, base, prepared.typing, method, own, part.shares, seed=job.options.seed)
    tensors = tensors_of(models.template.model)
    kept = KeptWeights(found, sum(tensors[name].nbytes for name in found))
    kept.compute(memory_taken(models, method), most=room_for(COMPUTED_AT_ONCE, COMPUTED_PART))
    owned = prepared.models.owned
    if owned is None:
        return kept
    still: Matchings = [{}] * (len(prepared.models.weights) - 1)
    return owned.keeping(combine(prepared.models, prepared.typing, still, weights=job.shares), kept)


def with_statistics(job: Job, added: Arrays, step: RepairStep | None) -> Merged:
    """The same with the statistics of kept BatchNorm measured anew, where ``step`` includes that."""
    alike = computed_alike(job.network.model.graph, added, job.prepared.models.weights[0])
    found = _reestimated(job, added, step, alike)
    return Merged(added) if found is None else Merged(Overlay(added, found), (_REESTIMATED,))


def _restored(
    job: Job,
    matchings: Matchings,
    measurements: Measurements,
    weights: Arrays,
    step: RepairStep | None,
    alike: Collection[str],
) -> Merged:
    """An average refined as the options say, and with kept BatchNorm measured anew where that does not do it."""
    refinement, source = job.options.refinement, job.source
    what = depends(job, measurements, step)

    def kept(layer: int, compute: Callable[[], T], /) -> T:
        return job.store.kept("layer", job.options, (*what, layer), compute)

    def changes() -> tuple[Arrays, tuple[str, ...], tuple[str, ...]]:
        changed, done, notes = dict[str, Array](), [], list[str]()
        if refinement is not None and source is not None:
            refined = _refined(job, refinement, matchings, weights, source, alike, kept=kept)
            changed, notes = refined.weights, refined.notes
            done.append(refinement.label)
        if refinement is None or not refinement.restores:
            found = _reestimated(job, Overlay(weights, changed), step, alike)
            if found is not None:
                changed |= found
                done.append(_REESTIMATED)
        return changed, tuple(done), tuple(notes)

    changed, done, notes = job.store.kept("average", job.options, what, changes)
    return Merged(laid_over(job.prepared.models.owned, weights, changed), done, notes)


def depends(job: Job, measurements: Measurements, step: RepairStep | None) -> tuple[object, ...]:
    """What an average depends on beside the options."""
    return measurements.origin, None if job.source is None else cuts(job.source), basis(job, step)


def _reestimated(job: Job, weights: Arrays, step: RepairStep | None, alike: Collection[str]) -> dict[str, Array] | None:
    """The statistics of kept BatchNorm, measured anew but for what is ``alike``; None where that is not to be done."""
    if job.source is None or not _reestimates(job, step):
        return None
    data, provider = Spread(job.source, LEAST), job.options.provider
    return reestimate(job.network.model, job.prepared.typing, weights, data, alike, provider=provider)


def _reestimates(job: Job, step: RepairStep | None) -> bool:
    """Whether ``step`` includes measuring the statistics of kept BatchNorm anew."""
    return job.source is not None and step is not None and not job.apart and bool(batchnorms(job.network.model.graph))


def _refined(
    job: Job,
    refinement: Refinement[Any],
    matchings: Matchings,
    weights: Arrays,
    source: CalibrationSource,
    alike: Collection[str],
    *,
    kept: Kept,
) -> Refined:
    """What a refinement makes of the average."""
    prepared, options = job.prepared, job.options
    context = MergeContext(
        prepared.models,
        prepared.typing,
        prepared.trace.dtypes,
        weights,
        source,
        own=job.own,
        base=None if job.base is None else job.base.weights,
        shares=tuple(job.shares),
        provider=options.provider,
        seed=options.seed,
        traced=rows(prepared.trace.sample),
        whole=options.samples is not None,
        network=job.network,
        alike=alike,
        directions=job.outputs.directions,
        kept=kept,
    )
    with job.progress(refinement.label) as report:
        return refinement.refine(context, matchings, options.own_of(refinement), report)


def in_one_scale(job: Job, measurements: Measurements, step: RepairStep | None, alike: Collection[str]) -> ModelSet:
    """The models as they are averaged: where ``step`` sets the scale of hidden units anew, by what these compute.

    Layers keep theirs whose outputs are ``alike`` in all parents.
    """
    models, typing = job.prepared.models, job.prepared.typing
    if measurements.scales is None or measurements.statistics is None or not _sets_scales(job, step):
        return models
    return balanced(models, typing, measurements.scales.without(alike), measurements.statistics)


def _sets_scales(job: Job, step: RepairStep | None) -> bool:
    if step is None or job.options.refinement is not None or job.apart:
        return False
    kept = bool(batchnorms(job.prepared.models.template.graph))
    return kept or (step.which == "all" and step.mode.mean and step.mode.std)
