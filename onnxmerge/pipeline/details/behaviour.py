"""How the merged network behaves: its layers and outputs beside the parents', on a few samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.sources import CalibrationSource
from onnxmerge.calibration.specs import fixed_batch, input_specs, is_batched
from onnxmerge.calibration.subset import Spread
from onnxmerge.matching.method import MatchResult
from onnxmerge.merging.answer.meaning import Meaning
from onnxmerge.merging.closed_form.targets import LayerTarget, plan_layers
from onnxmerge.model.arrays import is_floating
from onnxmerge.model.session import open_session
from onnxmerge.pipeline.details.errors import known_error, known_mean
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.separation import MergedModel, Parents, inputs_of
from onnxmerge.types import Array, Arrays, Floats
from onnxmerge.units.alignment import align_units, reordered

MERGED, ENSEMBLE = -1, -2
"""In the place of a parent's."""

LAYER_SAMPLES = 32
"""Samples on which layers are compared, at most."""

LAYER_VALUES = 1 << 24
"""Values of all layers' outputs of one network that are held at once, about."""

OUTPUT_SAMPLES = 256
"""Samples on which outputs are compared, at most."""


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


def layer_drift(
    job: Job, matched: MatchResult, weights: Arrays, data: CalibrationSource, samples: int = LAYER_SAMPLES
) -> Iterator[LayerDrift]:
    """The drift of each linear layer of the trunk, in topological order, on so many samples at most."""
    typing, models = job.prepared.typing, job.prepared.models
    graph = models.template.graph
    layers = [layer for layer in plan_layers(graph, typing)[0] if _computed(layer, job)]
    feed = _few(job, layers, data, samples)
    if not layers or feed is None:
        return
    tensors, provider = [layer.output for layer in layers], job.options.provider
    merged = open_session(job.network.model, weights=weights, outputs=tensors, provider=provider).run(feed)
    parents = [
        open_session(models.template.model, weights=own, outputs=tensors, provider=provider).run(feed)
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
        spreads = known_mean(np.array([each.reshape(-1, each.shape[-1]).std(axis=0) for each in own]))
        yield LayerDrift(
            layer.layer.node or layer.output,
            layer.output,
            tuple(known_error(ours, each) for each in own),
            known_error(ours, units.mean(given)),
            float(ours.reshape(-1, ours.shape[-1]).std(axis=0).sum() / max(float(np.nansum(spreads)), 1e-30)),
        )


def _computed(layer: LayerTarget, job: Job) -> bool:
    """Whether the merged trunk has the layer's output too."""
    return any(value.name == layer.output for node in job.network.graph for value in node.outputs)


def few_of(job: Job, data: CalibrationSource) -> Arrays:
    """The first samples of the data, no more than layers are compared on; a whole feed where its size is fixed."""
    feed = next(iter(data), {})
    specs = input_specs(job.prepared.models.template.model)
    if not is_batched(specs) or fixed_batch(specs) is not None:
        return feed
    return {name: array[:LAYER_SAMPLES] for name, array in feed.items()}


def values_of(job: Job, layers: Sequence[LayerTarget]) -> int:
    """How many values the layers' outputs have in one network: of a sample, or of a batch of the only size there is."""
    values = sum(int(np.prod(job.prepared.typing.activations[layer.output].shape)) for layer in layers)
    specs = input_specs(job.prepared.models.template.model)
    return values // rows(job.prepared.trace.sample) if is_batched(specs) and fixed_batch(specs) is None else values


def _few(job: Job, layers: Sequence[LayerTarget], data: CalibrationSource, samples: int) -> Arrays | None:
    """The first samples of the data, so many at most: as many as keep what the layers give within bounds."""
    feed = next(iter(data), None)
    specs = input_specs(job.prepared.models.template.model)
    if feed is None or not is_batched(specs) or fixed_batch(specs) is not None:
        return feed
    count = min(samples, max(1, LAYER_VALUES // max(values_of(job, layers), 1)))
    return {name: array[:count] for name, array in feed.items()}


def output_agreement(
    job: Job, parents: Parents, product: MergedModel, data: CalibrationSource
) -> tuple[tuple[OutputAgreement, ...], int]:
    """How each output of the merged model, and of each parent, agrees with the parents and their ensemble."""
    provider, inputs = job.options.provider, [str(value.name) for value in product.model.graph.inputs]
    merged = open_session(product.model, weights=product.weights, provider=provider, optimise=True, alternating=True)
    sessions = [open_session(own.model, provider=provider, optimise=True, alternating=True) for own in parents.networks]
    sums: dict[tuple[str, int, int], _Sums] = {}
    samples = 0
    for feed in Spread(data, OUTPUT_SAMPLES):
        ours = merged.run({name: feed[name] for name in inputs})
        samples += rows(feed)
        theirs = [session.run(inputs_of(own, feed)) for own, session in zip(parents.networks, sessions, strict=True)]
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
