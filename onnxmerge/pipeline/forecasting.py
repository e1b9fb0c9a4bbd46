"""What a merge will come to, before it is made and without labels: how much of its parents fits into its width.

A merged group has room for as many directions as it has units. What the parents do there are their units side by side,
each scaled to a variance of 1; of this, so many principal directions hold the share s_g, and nothing linear of that
width passes on more. Layers are solved one after another for what the parents compute, on what arrives of it, so what
has no room in one group does not add up with what has none in the others: it is the mean over groups that tells. Of
what the parents say, the share that arrives is taken to be

    q = exp(-LOSS mean_g (1 - s_g)).

What that does to answers depends on how near to each other these are, which the parents tell. With t(x) their common
answer to sample x (``merging.answer.ensemble``), m its mean, and x' another sample,

    m + q^1/2 (t(x) - m) + (1 - q)^1/2 (t(x') - m)

are answers of the same mean and covariance of which the share q is about x. How well these agree with the ensemble is
the forecast. One number was fitted, LOSS: by ``tools/forecast.py``, on merges that it makes, and the tool says how far
off the forecast of each is by the others. The law is our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmerge.activations.joint import joint_variance
from onnxmerge.activations.sample_size import needed
from onnxmerge.activations.statistics import Gram, GramRequest
from onnxmerge.calibration.chunks import rows
from onnxmerge.calibration.subset import Spread
from onnxmerge.errors import UsageError
from onnxmerge.merging.answer.answer import agreement, forms_of, reading_of
from onnxmerge.merging.answer.last_layer import LastLayer
from onnxmerge.merging.answer.meaning import OutputMeaning
from onnxmerge.pipeline.answering import answered_together, asked_parents
from onnxmerge.pipeline.job import Job
from onnxmerge.pipeline.matching import compared
from onnxmerge.types import Rows
from onnxmerge.units.flow import flow_of
from onnxmerge.units.permutations import composite_shape


@dataclass(frozen=True, slots=True)
class Law:
    """The ``loss`` that was fitted on so many ``merges``, of so many ``models`` each, and how far off forecasts were.

    ``error`` and ``worst`` are the mean and the largest distance of forecast and outcome, in agreement, each for a
    merge that the loss was not fitted on.
    """

    loss: float
    merges: int
    models: int
    error: float
    worst: float


LAW = Law(loss=1.755, merges=21, models=2, error=0.016, worst=0.050)

ENOUGH = 0.99
"""The share of the variance for which it is said how many directions hold it."""

FEWEST, MOST = 128, 2048
"""Samples on which units are compared: at least, and at most."""

ANSWERED = 384
"""Samples that the parents answer."""

WIDEST = 4096
"""Units of all models in a group that is taken apart into directions, at most: more take minutes."""

OTHERS = 8
"""Other samples that each sample's answer is mixed with, one after another."""


@dataclass(frozen=True, slots=True)
class GroupForecast:
    """One group: ``kept`` is the share of the parents' variance that as many directions hold as it is to have units.

    ``size`` is the number of units in each parent, ``width`` in the merged model, with those of all outer units (heads)
    together; ``stream`` says that blocks read it and add to it. ``needed`` directions hold ENOUGH.
    """

    id: str
    size: int
    width: int
    stream: bool
    kept: float
    needed: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a merge, found on so many ``samples``.

    ``arriving`` is the share of what the parents say that the outputs are expected to say. ``agreement`` is what the
    merge is expected to report, ``ensemble`` what the parents' common answer itself reaches, ``chance`` what answers to
    other samples reach; the mean over outputs, None where outputs have no common answer. ``law`` is what it rests on.
    """

    groups: tuple[GroupForecast, ...]
    samples: int
    arriving: float
    agreement: float | None
    ensemble: float | None
    chance: float | None
    law: Law
    notes: tuple[str, ...] = ()


def forecast(job: Job) -> Forecast:
    """Forecast the merge of a job by its default way; runs the parents on a few samples.

    Raises UsageError where there is no calibration data, InputError where the models do not run on it.
    """
    if job.source is None:
        raise UsageError("a forecast compares what the models do: give calibration data (--calib)")
    groups, samples, notes = group_forecasts(job)
    if len(job.prepared.models.weights) > LAW.models:
        notes.append(f"the law was fitted on merges of {LAW.models} models, so of more it knows less")
    arriving = math.exp(-LAW.loss * lost(groups))
    together = answered_together(job)
    expected: list[list[float]] = []
    if together and groups:
        answered = Spread(job.source, ANSWERED)
        asked = asked_parents(job, [layer for layer, _ in together], answered)
        for (layer, meaning), own in zip(together, asked, strict=True):
            expected.append(expected_agreement(job, layer, meaning, own.parents, (arriving, 1.0, 0.0)))
        if sum(answered.sizes) < FEWEST:
            notes.append(f"calibration samples are few, and tell little of how answers agree: give {FEWEST} or more")
    elif together:
        notes.append("no agreement is forecast: there is no group in which units of the models can be compared")
    else:
        notes.append("no agreement is forecast: the models have no output that they answer together")
    agreed, ensemble, chance = np.mean(expected, axis=0).tolist() if expected else (None, None, None)
    return Forecast(tuple(groups), samples, arriving, agreed, ensemble, chance, LAW, tuple(notes))


def lost(groups: Sequence[GroupForecast]) -> float:
    """The share that does not fit, the mean over groups."""
    return float(np.mean([1 - group.kept for group in groups])) if groups else 0.0


def expected_agreement(
    job: Job, layer: LastLayer, meaning: OutputMeaning, answers: Sequence[Rows], shares: Sequence[float]
) -> list[float]:
    """For each of some ``shares`` that arrive, how well an output agrees with the ensemble, by the best of its forms.

    ``answers`` are the parents', [n, u].
    """
    vectors, rng = job.outputs.vectors_of(meaning), np.random.default_rng(job.options.seed)
    reading = reading_of(meaning, answers, vectors, job.options.seed)
    agrees = agreement(layer, reading, job.shares)
    others = [rng.permutation(len(answers[0])) for _ in range(OTHERS)]
    best = [0.0] * len(shares)
    for form in forms_of(layer, answers, tuple(job.shares), reading, job.options.output_mean):
        common = form(answers)
        mean = common.mean(axis=0)
        about = common - mean
        for index, share in enumerate(shares):
            own, other = np.float32(math.sqrt(share)), np.float32(math.sqrt(1 - share))
            every = [agrees(mean + own * about + other * about[order], answers).mean() for order in others]
            best[index] = max(best[index], float(np.mean(every)))
    return best


def group_forecasts(job: Job) -> tuple[list[GroupForecast], int, list[str]]:
    """Every group that has room for less than all of its parents' units, the samples it was seen on, and notes."""
    models, typing = len(job.prepared.models.weights), job.prepared.typing
    sizes = {name: math.prod(composite_shape(name, typing.spaces)) for name in typing.taps}
    wide = [name for name, size in sizes.items() if models * size > WIDEST]
    grams, samples = compared_together(job)
    streams = set(_streams(job))
    widths = {} if job.resized is None else job.resized.widths
    found, few = list[GroupForecast](), list[str]()
    for name, gram in grams.items():
        if gram.count < models * sizes[name]:
            few.append(name)
        joint = joint_variance(gram, models)
        if joint is not None:
            width = widths.get(name, sizes[name])
            kept, directions = joint.share(width), joint.needed(ENOUGH)
            found.append(GroupForecast(name, sizes[name], width, name in streams, kept, directions))
    return found, samples, [*_left(wide, sizes), *_few(few)]


def compared_together(job: Job) -> tuple[Mapping[str, Gram], int]:
    """The products between the units of all models in every group that is not too wide, and on how many samples."""
    typing, source, models = job.prepared.typing, job.source, len(job.prepared.models.weights)
    requests = [
        GramRequest(name, taps)
        for name, taps in typing.taps.items()
        if models * math.prod(composite_shape(name, typing.spaces)) <= WIDEST
    ]
    if source is None or not requests:
        return {}, 0
    traced = rows(job.prepared.trace.sample)
    wanted = max(needed(typing, each, traced, 2 * models) for each in requests)
    seen = Spread(source, min(max(wanted, FEWEST), MOST))
    pairs = [(one, other) for other in range(models) for one in range(other + 1)]
    return compared(job, requests, seen, pairs).gram, sum(seen.sizes)


def _streams(job: Job) -> Iterator[str]:
    """The spaces that blocks read and add to, one after another."""
    for group in flow_of(job.prepared.traced.graph, job.prepared.typing).streams:
        yield group.id
        yield from (name for name, _ in group.inner)


def _left(wide: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    if not wide:
        return []
    told = ", ".join(f"{name} ({sizes[name]:,} units)" for name in wide)
    return [f"too wide to be taken apart in seconds, and taken to fit: {told}"]


def _few(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"fewer rows of activations than units, so what fits is overrated: {', '.join(names)}; give more data"]
