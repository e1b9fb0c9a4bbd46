"""What a merge came to, unit by unit, layer by layer and output by output: for those who look at it, not for the file.

A merge needs none of this, so it is measured only where it is asked for. Weights are compared with the plain mean of
the matched parents, which says what was done to each; layers and outputs are compared with the parents' on samples that
were held out where some were, and on those of the calibration otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import scipy

from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import Spread
from onnxmerge.matching.cache import CachedWeights
from onnxmerge.matching.matched_units import (
    Pairing,
    UnitSimilarity,
    all_paired,
    outer_similarities,
    pairing,
    unit_similarities,
)
from onnxmerge.matching.method import MatchResult
from onnxmerge.matching.overrides import overrides
from onnxmerge.merging.alike import equal
from onnxmerge.merging.answer.answer import AS_IT_WAS, Answered
from onnxmerge.merging.answer.meaning import Meaning
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_layers
from onnxmerge.merging.combine import combine
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.session import open_session, run
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import Measurements
from onnxmerge.pipeline.separation import MergedModel, Parents, inputs_of
from onnxmerge.types import Array, Arrays, Floats
from onnxmerge.units.alignment import align_units, reordered
from onnxmerge.units.groups import Plan, make_plan
from onnxmerge.units.permutations import composite, composite_shape
from onnxmerge.units.zips import identity_zip

Done: TypeAlias = Literal["untouched", "averaged", "repaired", "solved", "answer", "task vectors"]
"""What was done to an initializer: it is equal in all parents, or their mean, or that with its scale or statistics set
anew, or solved for what the parents compute, or for what their ensemble answers, or a base with task vectors."""

MERGED, ENSEMBLE = -1, -2
"""In the place of a parent's."""

LAYER_SAMPLES = 32
"""Samples on which layers are compared, at most."""

LAYER_VALUES = 1 << 24
"""Values of all layers' outputs of one network that are held at once, about."""

OUTPUT_SAMPLES = 256
"""Samples on which outputs are compared, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupDetails:
    """The matched units of one space: ``similarity[m - 1]`` of the first model's with those of model m.

    ``to_parents`` [units of the first] is how alike the weights of the merged unit are to its parents', the mean over
    them; ``outer`` [m - 1] [n, n] compares any two outer units (heads). Either is None where it is not known.
    """

    space: str
    similarity: tuple[UnitSimilarity, ...]
    to_parents: Floats | None
    outer: tuple[Floats, ...] | None


@dataclass(frozen=True, slots=True)
class WeightDetails:
    """One initializer: what was done to it, and how far it is from the parents' mean (relative, Euclidean)."""

    name: str
    shape: tuple[int, ...]
    done: Done
    change: float


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """How far a layer's output is from that of each parent in the merged units, and from their mean.

    All are relative (Euclidean). ``spread`` is the deviation of its units relative to that of the parents': what
    averaging shrinks. ``parents`` has nan for a parent that gives no unit of the layer.
    """

    node: str
    tensor: str
    parents: tuple[float, ...]
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How one output of one model agrees with another's answers, by their places among the parents.

    ``model`` may also be MERGED, ``other`` ENSEMBLE, the mean of all parents' answers. Of logits the probabilities are
    compared, of embeddings the directions. ``relative`` is the Euclidean error, ``cosine`` that of all values, ``top1``
    the share of samples whose largest score is of one class (None: the output has no scores of classes).
    """

    output: str
    model: int
    other: int
    relative: float
    cosine: float
    top1: float | None


@dataclass(frozen=True, slots=True, eq=False)
class MergeDetails:
    """All of it. ``layers`` and ``outputs`` are empty without data; ``samples`` are those that outputs were run on."""

    groups: tuple[GroupDetails, ...]
    weights: tuple[WeightDetails, ...]
    layers: tuple[LayerDrift, ...]
    outputs: tuple[OutputAgreement, ...]
    samples: int
    held_out: bool


def details_of(
    job: Job,
    matched: MatchResult,
    measurements: Measurements,
    weights: Arrays,
    answers: Sequence[Answered],
    *,
    parents: Parents,
    product: MergedModel,
    held: CalibrationSource | None,
) -> MergeDetails:
    """Look at a merge whose trunk has these ``weights``. ``held`` is data that was held out, where some was.

    Raises InputError where the merged model does not run on the data.
    """
    data = job.source if held is None else held
    outputs, samples = ((), 0) if data is None else _outputs(job, parents, product, Spread(data, OUTPUT_SAMPLES))
    return MergeDetails(
        _groups(job, matched, measurements, weights),
        tuple(_weights(job, matched, weights, answers)),
        () if data is None else tuple(_layers(job, matched, weights, data)),
        outputs,
        samples,
        held is not None,
    )


def _groups(job: Job, matched: MatchResult, measurements: Measurements, weights: Arrays) -> tuple[GroupDetails, ...]:
    """The groups that were matched; none where task vectors were added without any matching."""
    if job.options.task_vectors is not None:
        return ()
    typing, models = job.prepared.typing, job.prepared.models
    plan = make_plan(typing, overrides(job.options.groups, typing).pinned)
    cached = [CachedWeights(own, 1 << 28) for own in models.weights]
    grams = {} if measurements.statistics is None else measurements.statistics.gram
    pairs = _pairings(matched, plan)
    found: list[dict[str, UnitSimilarity]] = []
    heads: list[dict[str, Floats]] = []
    for other, paired in enumerate(pairs, start=1):
        seen = {name: gram.correlation(0, other) for name, gram in grams.items()}
        found.append(unit_similarities(plan, cached[0], cached[other], paired, seen))
        every = {root: outer_similarities(plan, group, seen) for root, group in plan.groups.items()}
        heads.append({root: own for root, own in every.items() if own is not None})
    near = _to_parents(job, matched, plan, weights, cached)
    return tuple(
        GroupDetails(
            name,
            tuple(own[name] for own in found),
            near.get(name),
            tuple(own[name] for own in heads) if all(name in own for own in heads) else None,
        )
        for name in (found[0] if found else ())
    )


def _pairings(matched: MatchResult, plan: Plan) -> list[Pairing]:
    """For each model but the first, which of its units were matched with the first's."""
    if matched.zipped is None:
        return [all_paired(permutations, plan) for permutations in matched.permutations]
    first, *others = matched.zipped.models
    return [pairing(first, other, plan) for other in others]


def _to_parents(
    job: Job, matched: MatchResult, plan: Plan, weights: Arrays, parents: Sequence[Arrays]
) -> dict[str, Floats]:
    """How alike each unit of the first's becomes in the merged network to all its parents, in weights.

    Nothing is known where the merged network has other widths.
    """
    if job.resized is not None:
        return {}
    merged = identity_zip(plan.spaces)
    labels = None if matched.zipped is None else matched.zipped.models
    if labels is None:
        every = [all_paired(each, plan) for each in ({}, *matched.permutations)]
    else:
        every = [pairing(merged, own, plan) for own in labels]
    ours = CachedWeights(weights, 1 << 28)
    found = [unit_similarities(plan, ours, own, pairs, {}) for own, pairs in zip(parents, every, strict=True)]
    near: dict[str, Floats] = {}
    for name in found[0]:
        known = [own.weights for each in found if (own := each[name]).weights is not None]
        if known:
            means = _mean(np.array(known))
            near[name] = means if labels is None else means[_merged_places(labels[0], name, plan)]
    return near


def _merged_places(labels: Mapping[str, Array], name: str, plan: Plan) -> Array:
    """The flat place in the merged network of each unit of the first model, outer units in its own order."""
    names, shape = composite(name, plan.spaces), composite_shape(name, plan.spaces)
    own = dict(zip(names, np.indices(shape), strict=True))
    places = [
        labels[each][tuple(own[outer] for outer in composite(each, plan.spaces))] if each in labels else own[each]
        for each in names
    ]
    return np.asarray(np.ravel_multi_index(places, shape)).reshape(-1)


def _mean(rows: Floats) -> Floats:
    """The mean over rows of what is no nan; nan where all is."""
    known = ~np.isnan(rows)
    total = np.where(known, rows, 0.0).sum(axis=0)
    found: Floats = np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
    return found


def _weights(job: Job, matched: MatchResult, weights: Arrays, answers: Sequence[Answered]) -> Iterator[WeightDetails]:
    """What was done to each float initializer of the merged trunk."""
    models, typing, vectors = job.prepared.models, job.prepared.typing, job.options.task_vectors is not None
    average = models.weights[0] if vectors else combine(models, typing, matched.matchings, weights=job.shares)
    answered = {found.meaning.output for found in answers if found.form != AS_IT_WAS}
    solved = {
        name
        for layer in job.outputs.layers
        if str(layer.output.name) in answered
        for name in (layer.target.layer.weight, layer.target.layer.bias)
    }
    for name, first in models.weights[0].items():
        if not is_floating(first.dtype) or name not in weights:
            continue
        final, mean = weights[name], average[name]
        alike = equal(mean, first) and all(_alike(first, own[name]) for own in models.weights[1:])
        done: Done
        if equal(final, mean):
            done = "untouched" if vectors or alike else "averaged"
        elif name in solved:
            done = "answer"
        elif vectors:
            done = "task vectors"
        else:
            done = "solved" if job.options.refinement is not None and name not in typing.statistics else "repaired"
        yield WeightDetails(name, tuple(final.shape), done, _relative(final, mean))


def _alike(one: Array, other: Array) -> bool:
    """Whether two parents' tensors hold the same values, in whatever order of units."""
    return one.shape == other.shape and bool(np.array_equal(np.sort(one, axis=None), np.sort(other, axis=None)))


def _relative(found: Array, wanted: Array) -> float:
    if found.shape != wanted.shape:
        return float("nan")
    new, old = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(new) & np.isfinite(old)
    return _error(new[finite], old[finite])


def _error(found: Floats, wanted: Floats) -> float:
    """The Euclidean distance of two arrays, relative to the length of the second."""
    size, error = float(np.linalg.norm(wanted)), float(np.linalg.norm(found - wanted))
    return error / size if size else (0.0 if not error else float("inf"))


def _layers(job: Job, matched: MatchResult, weights: Arrays, data: CalibrationSource) -> Iterator[LayerDrift]:
    """The drift of each linear layer of the trunk, in topological order, on a few samples."""
    typing, models = job.prepared.typing, job.prepared.models
    graph = models.template.graph
    layers = [layer for layer in plan_layers(graph, typing)[0] if _computed(layer, job)]
    feed = _few(job, layers, data)
    if not layers or feed is None:
        return
    tensors, provider = [layer.output for layer in layers], job.options.provider
    merged = run(open_session(job.network.model, weights=weights, outputs=tensors, provider=provider), feed)
    parents = [
        run(open_session(models.template.model, weights=own, outputs=tensors, provider=provider), feed)
        for own in models.weights
    ]
    matchings = matched.matchings if job.options.task_vectors is None else ({},) * (len(parents) - 1)
    for layer in layers:
        units = align_units(typing.activations[layer.output], layer.axis, typing, matchings, job.shares)
        if units is None:
            continue
        given = [
            np.moveaxis(reordered(found[layer.output], order), layer.axis, -1).astype(np.float64)
            for found, order in zip(parents, units.before, strict=True)
        ]
        ours = np.moveaxis(merged[layer.output], layer.axis, -1).astype(np.float64)
        own: list[Floats] = [units.of(index, array) for index, array in enumerate(given)]
        spreads = _mean(np.array([each.reshape(-1, each.shape[-1]).std(axis=0) for each in own]))
        yield LayerDrift(
            layer.layer.node or layer.output,
            layer.output,
            tuple(_distance(ours, each) for each in own),
            _distance(ours, units.mean(given)),
            float(ours.reshape(-1, ours.shape[-1]).std(axis=0).sum() / max(float(np.nansum(spreads)), 1e-30)),
        )


def _computed(layer: LayerTarget, job: Job) -> bool:
    """Whether the merged trunk has the layer's output too."""
    return any(value.name == layer.output for node in job.network.graph for value in node.outputs)


def _few(job: Job, layers: Sequence[LayerTarget], data: CalibrationSource) -> Arrays | None:
    """The first samples of the data: as many as keep what the layers give within bounds."""
    feed = next(iter(data), None)
    specs = input_specs(job.prepared.models.template.model)
    if feed is None or not is_batched(specs) or fixed_batch(specs) is not None:
        return feed
    traced = rows(job.prepared.trace.sample)
    values = sum(int(np.prod(job.prepared.typing.activations[layer.output].shape)) for layer in layers)
    count = min(LAYER_SAMPLES, max(1, LAYER_VALUES * traced // max(values, 1)))
    return {name: array[:count] for name, array in feed.items()}


def _distance(found: Floats, wanted: Floats) -> float:
    """The Euclidean distance where ``wanted`` is known, relative to its length; nan where it is not at all."""
    known = ~np.isnan(wanted)
    return _error(found[known], wanted[known]) if known.any() else float("nan")


def _outputs(
    job: Job, parents: Parents, product: MergedModel, data: CalibrationSource
) -> tuple[tuple[OutputAgreement, ...], int]:
    """How each output of the merged model, and of each parent, agrees with the parents and their ensemble."""
    provider, inputs = job.options.provider, [str(value.name) for value in product.model.graph.inputs]
    merged = open_session(product.model, weights=product.weights, provider=provider, optimise=True, alternating=True)
    sessions = [open_session(own.model, provider=provider, optimise=True, alternating=True) for own in parents.networks]
    sums: dict[tuple[str, int, int], _Sums] = {}
    samples = 0
    for feed in data:
        ours = run(merged, {name: feed[name] for name in inputs})
        samples += rows(feed)
        theirs = [run(session, inputs_of(own, feed)) for own, session in zip(parents.networks, sessions, strict=True)]
        for output, found in ours.items():
            known = _answering(output, theirs, product.outputs)
            meaning = job.outputs.meanings.get(output)
            kind = None if meaning is None else meaning.meaning
            if not is_floating(found.dtype) or any(answer.shape != found.shape for _, answer in known):
                continue
            read = [(model, _read(answer, kind)) for model, answer in ((MERGED, found), *known)]
            together = [*read[1:], *_together([answer for _, answer in read[1:]], job.shares, kind)]
            for model, answer in read:
                for other, wanted in together:
                    if MERGED in (model, other) or ENSEMBLE in (model, other):
                        sums.setdefault((output, model, other), _Sums()).add(answer, wanted, kind)
    return tuple(OutputAgreement(*names, *own.agreement) for names, own in sums.items()), samples


def _answering(output: str, theirs: Sequence[Arrays], names: Sequence[Sequence[str]]) -> list[tuple[int, Array]]:
    """The parents that have an output of the merged model, and what they answer there."""
    pairs = enumerate(zip(theirs, names, strict=True))
    return [(model, list(answers.values())[own.index(output)]) for model, (answers, own) in pairs if output in own]


def _read(answer: Array, meaning: Meaning | None) -> Floats:
    """What of an answer counts: probabilities of logits, the direction of an embedding, else its values."""
    wide = answer.astype(np.float64)
    if meaning == "logits" and wide.ndim == 2:
        return np.asarray(scipy.special.softmax(wide, axis=-1))
    if meaning == "embedding":
        return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-30))
    return wide


def _together(answers: Sequence[Floats], shares: Sequence[float], meaning: Meaning | None) -> list[tuple[int, Floats]]:
    """What all parents answer together, where that means something: their mean."""
    if meaning in (None, "features") or len(answers) < 2 or len(answers) != len(shares):
        return []
    return [(ENSEMBLE, np.asarray(np.average(answers, axis=0, weights=shares)))]


class _Sums:
    """Sums over all values and samples of one output of two models."""

    def __init__(self) -> None:
        self.wrong = self.ours = self.theirs = self.product = 0.0
        self.same = self.rows = 0

    def add(self, new: Floats, old: Floats, meaning: Meaning | None) -> None:
        """Take in a batch; scores of classes are compared where the output may hold some."""
        if new.ndim == 2 and new.shape[1] > 1 and meaning in ("logits", "probabilities", None):
            self.same += int((new.argmax(axis=1) == old.argmax(axis=1)).sum())
            self.rows += len(new)
        finite = np.isfinite(new) & np.isfinite(old)
        new, old = new[finite], old[finite]
        self.wrong += float(np.square(new - old).sum())
        self.ours += float(np.square(new).sum())
        self.theirs += float(np.square(old).sum())
        self.product += float((new * old).sum())

    @property
    def agreement(self) -> tuple[float, float, float | None]:
        """Relative error, cosine, top-1."""
        norm = (self.ours * self.theirs) ** 0.5
        relative = (self.wrong / self.theirs) ** 0.5 if self.theirs else float("inf" if self.wrong else 0)
        return relative, self.product / norm if norm else 1.0, self.same / self.rows if self.rows else None
